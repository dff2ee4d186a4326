r"""Labels as final answers: true or false, yes or no, valid or invalid.

A label counts where it is said on its own. "valid" is not in "invalid", "not valid" is
invalid, and "True" in `not True or False` is an operand, not an answer.

After a mark the first sentence says it; "yes if Ana lies and no otherwise" says none.

Without a mark, in this order: the label a text begins with; the last conclusion that
says one ("So the argument is valid"); the last sentence; for yes and no, what sentences
begin with ("2. No, the estimate does not ...") where all agree. A calculation counts by
its result.
"""

import re
from collections.abc import Callable, Iterator

from specialize.judging import sentences
from specialize.judging.marks import Passage

EDGE = " \t\r\n*_`\"'“”‘’.,;:!$\\"

_LABELS = {
    "boolean": re.compile(r"\b(?P<label>true|false)\b", re.IGNORECASE),
    "yes_no": re.compile(r"\b(?P<label>yes|no)\b", re.IGNORECASE),
    "valid_invalid": re.compile(
        r"\b(?P<not>not\s+(?:\w+\s+)?|n't\s+)?(?P<label>valid|invalid)\b", re.IGNORECASE
    ),
}
_STANDING = re.compile(r"[*_`\"'”)\]}$]*(?:[.,;:!?\n]|\s*\n|\s+[-–—]\s|\s*$)")
_CONDITION = re.compile(
    r"[*_`\"]*,?\s(?:if|unless|when|only|provided|and\sno|or\sno|and\syes|or\syes)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"(?:^|\n|[.!?]\s)[\s*_`\"(\[]*+(?:\d+[.)]\s)?(?:(?:so|therefore|thus|hence),?\s)?",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"[\W_]*(?:\d+\.\s)?(?:so|therefore|thus|hence|finally|consequently|accordingly|overall"
    r"|in\s(?:conclusion|summary|short|the\send)|conclusion|as\sa\sresult|based\son"
    r"|given|considering|final|(?:we|i)\s(?:\w+\s)?conclude)\b",
    re.IGNORECASE,
)
_JOINS = re.compile(r"\b(?:and|or)\s[*_`\"]*$", re.IGNORECASE)
# "We conclude that the argument is invalid", but not "whether the argument is valid".
_ARGUMENT = re.compile(
    r"^(?!.*\b(?:whether|if)\b).*\b(?:argument|reasoning)\sis\b", re.I
)
_SUPPOSES = re.compile(r"\b(?:would|could|might|if|whether|unless)\b", re.IGNORECASE)
_OPERAND_AFTER = re.compile(
    r"(?:not|and|or|¬|∧|∨|\\(?:neg|land|lor))[\s(\[*_`]*$", re.I
)
_OPERAND_BEFORE = re.compile(
    r"[\s)\]*_`]*(?:\b(?:and|or)\s+(?:not|true|false|\(|`)|∧|∨|\\(?:land|lor)|==)", re.I
)
_RESULT = re.compile(
    r"(?:=|\bis|\bequals?|\bto|\bbecomes?|\breturns?|\byields?|\bgives?|\bin|→|:)"
    r"[\s*_`\"'“$(\[]*$",
    re.IGNORECASE,
)


def marked(answer_type: str) -> Callable[[Passage], str | None]:
    """Reader of a boolean, yes/no or valid/invalid label after a mark."""

    def read(passage: Passage) -> str | None:
        text = passage.text
        sentence = sentences.first(text.lstrip(EDGE + "(["))
        if passage.kind in ("hashes", "heading"):
            sentence = text
        found = list(_said(answer_type, sentence))
        if not found:
            return None
        alone = not sentence[: found[0].start()].strip(EDGE + "([")
        if passage.kind == "heading" and not (
            alone and not sentence[found[0].end() :].strip(EDGE + ")]")
        ):
            return None
        if answer_type == "boolean":
            return _result(sentence, found)
        if alone:
            if _CONDITION.match(sentence, found[0].end()) or _offers_both(
                answer_type, sentence, found
            ):
                return None
            return _spelled(answer_type, found[0])
        if passage.kind == "colon" and answer_type == "yes_no":
            found = [one for one in found if _STANDING.match(sentence, one.end())]
        return _agreed(answer_type, found)

    return read


def unmarked(answer_type: str) -> Callable[[str], str | None]:
    """Reader of the label that a text without a mark states."""
    pattern = _LABELS[answer_type]

    def read(text: str) -> str | None:
        stripped = text.lstrip(EDGE + "([-")
        leading = pattern.match(stripped)
        if leading and _STANDING.match(stripped, leading.end()):
            return _spelled(answer_type, leading)
        said = sentences.split(text)
        if not said:
            return None
        for sentence in reversed(said):
            concludes = _CONCLUDES.match(sentence) or _ARGUMENT.search(sentence)
            last = sentence is said[-1] and not _SUPPOSES.search(sentence)
            if (last or concludes) and (label := _stated(answer_type, sentence)):
                return label
        if answer_type == "yes_no":
            return _agreed(answer_type, list(_openings(text, pattern)))
        return _stated(answer_type, said[-1])

    return read


def _stated(answer_type: str, sentence: str) -> str | None:
    found = list(_said(answer_type, sentence))
    if answer_type == "boolean":
        if "=" in sentence:
            # A calculation counts by its result, if it was written to its end.
            result = _LABELS["boolean"].fullmatch(
                sentence.rpartition("=")[2].strip(EDGE)
            )
            return _spelled(answer_type, result) if result else None
        return _result(sentence, found)
    if answer_type == "yes_no":
        found = [one for one in found if _STANDING.match(sentence, one.end())]
    return _agreed(answer_type, found)


def _said(answer_type: str, sentence: str) -> Iterator[re.Match[str]]:
    """The labels of a sentence that are no operands."""
    for match in _LABELS[answer_type].finditer(sentence):
        if answer_type != "boolean" or not (
            _OPERAND_AFTER.search(sentence, max(0, match.start() - 12), match.start())
            or _OPERAND_BEFORE.match(sentence, match.end())
        ):
            yield match


def _result(sentence: str, found: list[re.Match[str]]) -> str | None:
    """The label that a sentence calls the result, else its only one."""
    results = [
        match
        for match in found
        if _RESULT.search(sentence, max(0, match.start() - 20), match.start())
    ]
    if results:
        return _spelled("boolean", results[-1])
    return _agreed("boolean", found)


def _offers_both(answer_type: str, sentence: str, found: list[re.Match[str]]) -> bool:
    """Whether a sentence says "yes here and no there"."""
    return any(
        _spelled(answer_type, one) != _spelled(answer_type, found[0])
        and _JOINS.search(sentence, max(0, one.start() - 6), one.start())
        for one in found[1:]
    )


def _openings(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Labels that a sentence begins with: "2. No, the estimate does not ..."."""
    for opening in _OPENING.finditer(text):
        label = pattern.match(text, opening.end())
        if label and _STANDING.match(text, label.end()):
            yield label


def _agreed(answer_type: str, found: list[re.Match[str]]) -> str | None:
    labels = {_spelled(answer_type, match) for match in found}
    return labels.pop() if len(labels) == 1 else None


def _spelled(answer_type: str, match: re.Match[str]) -> str:
    label = match["label"].lower()
    if answer_type == "boolean":
        return label.capitalize()
    if answer_type == "valid_invalid" and match["not"]:
        return "invalid" if label == "valid" else "valid"
    return label
