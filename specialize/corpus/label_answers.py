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
"(B) the falcon"); otherwise the last label of the text that stands as an answer does
(a choice in parentheses; yes or no at a stop). Lists and free text must be the whole
text or its last line.
"""

import re
from collections.abc import Callable

from specialize.corpus.passages import Passage, first_sentence

_EDGE = " \t\r\n*_`\"'“”‘’.,;:!$\\"

_LETTER = r"(?:\((?P<round>[A-Z])\)|\[(?P<square>[A-Z])\]|\{(?P<curly>[A-Z])\})"
_PARENTHESISED = re.compile(_LETTER)
_LEADING_LETTER = re.compile(
    r"[\s*_`\"'“$:-]*(?:\\[(\[]\s*)?(?:\\(?:text|mathrm|mathbf|textbf)\s*\{)?"
    r"(?:(?:the\s+)?(?:option|choice|letter|answer)\s*:?\s*[*_`]*)?"
    rf"(?:{_LETTER}|\((?P<lower>[a-z])\)"
    r"|(?P<bare>[A-Z])(?=\s*(?:$|[\n).:,;!\]}*_`\"'”\\$]"
    r"|(?:because|since|as|is|which|and|or|for|given|explanation)\b))"
    r"|(?P<named>[B-HJ-Z])(?=\s))",
    re.IGNORECASE if False else 0,
)
_MORE_LETTERS = re.compile(
    rf"[\s).,*]*(?:\b(?:or|and)\b|/|&|,)\s*(?:{_LETTER}|(?P<bare>[A-Z])(?=[\s.,)]|$))"
)
_LABELS = {
    "boolean": re.compile(r"\b(?P<label>true|false)\b", re.IGNORECASE),
    "yes_no": re.compile(r"\b(?P<label>yes|no)\b", re.IGNORECASE),
    "valid_invalid": re.compile(
        r"\b(?P<not>not\s+(?:\w+\s+)?|n't\s+)?(?P<label>valid|invalid)\b", re.IGNORECASE
    ),
}
_STANDING = re.compile(r"[*_`\"'”)]*(?:[.,;:!?\n]|\s*$)")
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
        more = _MORE_LETTERS.match(text, leading.end())
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
    """The letter a text begins with or is, else its last letter in parentheses."""
    found = [_letter(match) for match in _PARENTHESISED.finditer(text)]
    leading = _LEADING_LETTER.match(text)
    if leading and leading["named"] is None:
        # "(A) says ... \n(B) says ..." discusses the options one by one.
        others = re.findall(r"(?:\n|[.;]\s+)\s*\(([A-Z])\)", text[leading.end() :])
        if f"({''.join(others[:1])})" in ("()", _letter(leading)):
            return _letter(leading)
    return found[-1] if found else None


def label_marked(answer_type: str) -> Callable[[Passage], str | None]:
    """Reader of a boolean, yes/no or valid/invalid label behind a mark."""
    pattern = _LABELS[answer_type]

    def read(passage: Passage) -> str | None:
        sentence = first_sentence(passage.text.lstrip(_EDGE + "(["))
        found = list(pattern.finditer(sentence))
        if not found:
            return None
        if sentence[: found[0].start()].strip(_EDGE + "(["):
            if passage.kind == "colon":
                return None
            labels = {_label(answer_type, match) for match in found}
            return labels.pop() if len(labels) == 1 else None
        if answer_type == "boolean" and "=" in sentence:
            return _label(answer_type, found[-1])
        return _label(answer_type, found[0])

    return read


def label_unmarked(answer_type: str) -> Callable[[str], str | None]:
    """Reader of a boolean, yes/no or valid/invalid label of a whole text."""
    pattern = _LABELS[answer_type]

    def read(text: str) -> str | None:
        stripped = text.lstrip(_EDGE + "([-")
        leading = pattern.match(stripped)
        if leading and (
            answer_type != "boolean" or _STANDING.match(stripped, leading.end())
        ):
            if answer_type != "yes_no" or _STANDING.match(stripped, leading.end()):
                return _label(answer_type, leading)
        found = list(pattern.finditer(text))
        if answer_type == "yes_no":
            found = [match for match in found if _STANDING.match(text, match.end())]
        return _label(answer_type, found[-1]) if found else None

    return read


def words_marked(passage: Passage) -> str | None:
    """The list of words behind a mark, to the end of its line."""
    return spelled_words(first_sentence(passage.text)) or None


def words_unmarked(text: str) -> str | None:
    """The list of words of a text: its last line, behind a colon if there is one."""
    lines = [line for line in text.split("\n") if line.strip(_EDGE)]
    if not lines:
        return None
    if len(lines) > 1 and all(
        re.match(r"\s*(?:\d+[.)]|[-*•])\s", line) for line in lines
    ):
        return spelled_words(" ".join(lines))
    return spelled_words(first_sentence(lines[-1].rpartition(": ")[2])) or None


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
