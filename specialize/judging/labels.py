"""Labels as final answers: choices, booleans, yes/no, words, brackets, free text.

| type | an answer is | one spelling |
|---|---|---|
| choice | a letter: "(B)", "B.", "option B", "(B) the falcon" | "(B)" |
| boolean | the word true or false | "True" |
| yes_no | the word yes or no | "yes" |
| valid_invalid | the word valid or invalid ("not valid" is invalid) | "valid" |
| words | the whole list, in order | words in lower case, one space |
| brackets | the whole run of brackets | brackets, one space |
| text | the whole sentence or line | lower case, one space |

Words are compared as words and lists as lists: `valid` is not in `invalid`, and part
of a list is not the list.

Without a mark: a text that begins with the label means it ("Yes, because no one ...",
"(B) the falcon"); otherwise its last sentence does if it holds one label only. A chain
of thought that was cut off while it weighed the options has no answer: its last label
is chance. Lists, brackets and free text must be the whole text or its last line.
"""

import itertools
import re
from collections.abc import Callable, Iterator

from specialize.judging.marks_and_boxes import Passage, first_sentence, last_sentence

_EDGE = " \t\r\n*_`\"'“”‘’.,;:!$\\"

_LETTER = (
    r"(?:\((?:[Oo]ption\s|[Cc]hoice\s)?(?P<round>[A-Z])\)"
    r"|\[(?P<square>[A-Z])\]|\{(?P<curly>[A-Z])\})"
)
_PARENTHESISED = re.compile(_LETTER)
_LEADING_LETTER = re.compile(
    r"[\s*_`\"'“$:-]*(?:\\[(\[]\s*)?(?:\\(?:text|mathrm|mathbf|textbf)\s*\{)?"
    r"(?:(?:most\s+)?(?:likely|probably|definitely|clearly)\s+(?:to\s+be\s+)?)?"
    r"(?:(?:[Tt]he\s+)?(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)\s*:?\s*[*_`]*)?"
    rf"(?:{_LETTER}|\((?P<lower>[a-z])\)|(?P<tiny>[a-z])(?=[.)]?\s*$)"
    r"|(?P<bare>[A-Z])(?=\s*(?:$|[\n().:,;!\]}*_`\"'”\\$]|[-–—]\s"
    r"|(?:because|since|as|is|which|and|or|for|given|explanation)\b))"
    r"|(?P<named>[B-HJ-Z])(?=\s))"
)
# "(A) or (B)", and with the options' texts: "(A) wall (E) table", "A) sea and B) salt".
_MORE_LETTERS = re.compile(
    rf"[\s).,*]*(?:\b(?:or|and)\b|/|&|,)\s*(?:{_LETTER}|(?P<bare>[A-Z])(?=[\s.,)]|$))"
)
_MORE_OPTIONS = re.compile(
    r"[\s):*]*(?:(?!(?:is|are|was|not|because|since|as|than|over|but|while|so)\b)"
    r"[A-Za-z'-]+,?[ ]+){1,6}?"
    rf"(?:{_LETTER}|(?P<bare>[A-Z])\))"
    r"(?!\s*(?:is|are|was|cannot|can't|does|would|says)\b)"
)
_POINTS_TO = re.compile(r"\b(?:is|be|was)\s+[*_`]*$")
_ENDS_WITH = re.compile(r"[*_`]*\s*(?:[.!]|$)")
_CONCLUSION = re.compile(r"(?:so|therefore|thus|hence|then|finally)\b", re.IGNORECASE)
_LABELS = {
    "boolean": re.compile(r"\b(?P<label>true|false)\b", re.IGNORECASE),
    "yes_no": re.compile(r"\b(?P<label>yes|no)\b", re.IGNORECASE),
    "valid_invalid": re.compile(
        r"\b(?P<not>not\s+(?:\w+\s+)?|n't\s+)?(?P<label>valid|invalid)\b", re.IGNORECASE
    ),
}
_STANDING = re.compile(r"[*_`\"'”)\]}]*(?:[.,;:!?\n]|\s*\n|\s+[-–—]\s|\s*$)")
_OPENING = re.compile(
    r"(?:^|\n|[.!?:]\s)[\s*_`\"(\[]*(?:\d+[.)]\s+)?(?:(?:so|therefore|thus|hence),?\s+)?",
    re.IGNORECASE,
)
_ITEM = re.compile(r"\s*(?:\d+[.)]|[-*•])\s")
_WORD_LIST = re.compile(
    r"[\"'`]?[^\W\d][^?()\[\]\".:]*(?:[\"'`],?\s*[\"'`]?[^?()\[\]\".:]*)*"
)
_BRACKETS = re.compile(r"[()\[\]{}<>]")
_BRACKET_RUN = re.compile(
    r"[\s\"'`*:$]*(?P<run>[()\[\]{}<>](?:[\s,\"'`]*[()\[\]{}<>])*)"
)


def choice_marked(passage: Passage) -> str | None:
    """The letter behind a mark, "(B)"; several offered letters stay several."""
    text = passage.text
    leading = _LEADING_LETTER.match(text)
    if leading:
        letter = _letter(leading)
        more = _MORE_LETTERS.match(text, leading.end()) or _MORE_OPTIONS.match(
            text, leading.end()
        )
        if more and _letter(more) != letter:
            return f"{letter} {_letter(more)}"
        return letter
    if passage.kind == "colon":
        return None
    letters = {
        _letter(match) for match in _PARENTHESISED.finditer(first_sentence(text))
    }
    return letters.pop() if len(letters) == 1 else None


def choice_unmarked(text: str) -> str | None:
    """The letter a text begins with, else the one letter of its last sentence."""
    last = last_sentence(text)
    letters = {_letter(match) for match in _PARENTHESISED.finditer(last)}
    if len(letters) == 1 and _CONCLUSION.match(last):
        return letters.pop()
    leading = _LEADING_LETTER.match(text)
    if leading and leading["named"] is None:
        # "(A) says ... \n(B) says ..." discusses the options one by one.
        others = re.findall(r"(?:\n|[.;]\s+)\s*\(([A-Z])\)", text[leading.end() :])
        if all(f"({other})" == _letter(leading) for other in others):
            return _letter(leading)
    return letters.pop() if len(letters) == 1 else _only_letter(text)


def _only_letter(text: str) -> str | None:
    """The one letter a text speaks of, where a sentence says or ends with it."""
    found = list(_PARENTHESISED.finditer(text))
    if len({_letter(match) for match in found}) == 1 and any(
        _POINTS_TO.search(text, 0, match.start()) or _ENDS_WITH.match(text, match.end())
        for match in found
    ):
        return _letter(found[0])
    return None


def label_marked(answer_type: str) -> Callable[[Passage], str | None]:
    """Reader of a boolean, yes/no or valid/invalid label behind a mark."""
    pattern = _LABELS[answer_type]

    def read(passage: Passage) -> str | None:
        sentence = first_sentence(passage.text.lstrip(_EDGE + "(["))
        found = list(pattern.finditer(sentence))
        if not found:
            return None
        if answer_type == "boolean" and "=" in sentence:
            return _label(answer_type, found[-1])
        if sentence[: found[0].start()].strip(_EDGE + "(["):
            if passage.kind == "colon":
                return None
            labels = {_label(answer_type, match) for match in found}
            return labels.pop() if len(labels) == 1 else None
        return _label(answer_type, found[0])

    return read


def label_unmarked(answer_type: str) -> Callable[[str], str | None]:
    """Reader of a boolean, yes/no or valid/invalid label of a whole text."""
    pattern = _LABELS[answer_type]

    def read(text: str) -> str | None:
        stripped = text.lstrip(_EDGE + "([-")
        leading = pattern.match(stripped)
        if leading and _STANDING.match(stripped, leading.end()):
            return _label(answer_type, leading)
        sentence = last_sentence(text)
        found = list(pattern.finditer(sentence))
        if answer_type == "boolean" and "=" in sentence:
            # A calculation counts by its result, if it was written to its end.
            sentence = sentence.rpartition("=")[2]
            result = pattern.fullmatch(sentence.strip(_EDGE))
            return _label(answer_type, result) if result else None
        if answer_type == "yes_no":
            found = [match for match in found if _STANDING.match(sentence, match.end())]
            found = found or list(_opening_labels(text, pattern))
        labels = {_label(answer_type, match) for match in found}
        return labels.pop() if len(labels) == 1 else None

    return read


def _opening_labels(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Labels that a sentence opens with: "2. No, the estimate does not ..."."""
    for opening in _OPENING.finditer(text):
        label = pattern.match(text, opening.end())
        if label and _STANDING.match(text, label.end()):
            yield label


def words_marked(passage: Passage) -> str | None:
    """The list of words behind a mark: its items, or to the end of its line."""
    lines = passage.text.lstrip(" \t\r\n:*").split("\n")
    if _ITEM.match(lines[0]):
        return _items(lines) or None
    return spelled_words(first_sentence(passage.text)) or None


def words_unmarked(text: str) -> str | None:
    """The list of words that a text ends with: its items, or its last line."""
    lines = [line for line in text.split("\n") if line.strip(_EDGE)]
    first = len(lines)
    while first and _ITEM.match(lines[first - 1]):
        first -= 1
    if len(lines) - first > 1:
        return _items(lines[first:]) or None
    if lines:
        listed = lines[-1].rpartition(": ")[2].strip(_EDGE).strip("[]()").strip(_EDGE)
        if _WORD_LIST.fullmatch(listed):
            return spelled_words(listed)
    return None


def _items(lines: list[str]) -> str:
    """The words of the list items that lines begin with."""
    listed = list(itertools.takewhile(_ITEM.match, lines))
    return spelled_words(" ".join(listed))


def spelled_words(text: str) -> str:
    """Words in lower case with one space; numbering, commas and quotes dropped."""
    text = re.sub(r"(?:^|\s)(?:\d+[.)]|[-*•])(?=\s)", " ", text)
    words = [word.strip(_EDGE + "()[]{}<>") for word in re.split(r"[\s,;]+|\\n", text)]
    return " ".join(word.lower() for word in words if word.strip("<>=-→–"))


def brackets_marked(passage: Passage) -> str | None:
    """The run of brackets behind a mark."""
    run = _BRACKET_RUN.match(passage.text)
    return spelled_brackets(run["run"]) if run else None


def brackets_unmarked(text: str) -> str | None:
    """The run of brackets that is a text or its last line."""
    lines = [line for line in text.split("\n") if line.strip()]
    for line in (lines[0], lines[-1]) if lines else ():
        run = _BRACKET_RUN.match(line)
        if run and not line[run.end() :].strip(_EDGE):
            return spelled_brackets(run["run"])
    return None


def spelled_brackets(text: str) -> str:
    """Brackets with one space between two."""
    return " ".join(_BRACKETS.findall(text))


def text_marked(passage: Passage) -> str | None:
    """The sentence behind a mark."""
    return spelled_text(first_sentence(passage.text)) or None


def text_unmarked(text: str) -> str | None:
    """The last line of a text."""
    lines = [line for line in text.split("\n") if line.strip(_EDGE)]
    return (spelled_text(lines[-1]) or None) if lines else None


def spelled_text(text: str) -> str:
    """Lower case, one space, no punctuation or emphasis at the edges."""
    return " ".join(text.lower().split()).strip(_EDGE)


def _letter(match: re.Match[str]) -> str:
    letter = next(value for value in match.groupdict().values() if value)
    return f"({letter.upper()})"


def _label(answer_type: str, match: re.Match[str]) -> str:
    label = match["label"].lower()
    if answer_type == "boolean":
        return label.capitalize()
    if answer_type == "valid_invalid" and match["not"]:
        return "invalid" if label == "valid" else "valid"
    return label
