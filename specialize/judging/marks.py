r"""Marks: the places where a text says that its answer follows.

| kind | mark |
|---|---|
| hashes | `####`, GSM8K's end mark; a "heading" if text is below it |
| enclosed | `\boxed{...}`, `<answer>...</answer>`, the JSON field "answer" |
| phrase | "the answer is", "the correct option is" and the like |
| final | "Final answer:", "Correct option:" |
| colon | "Answer:", "A:", a heading "Answer" |

"Answer:" and "A:" also open a chain of thought ("A: 9 eggs are left. She ..."), so that
each answer type reads them with more care.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterator

# A passage ends after so many characters; of each kind of mark the last ones count.
PASSAGE = 1_000
MOST_MARKS = 20

_EMPHASIS = r"[*_`]{0,3}"
# "Answer (in dollars):", "the answer (Yes or No) is"; "option (C) is" has no aside.
_ASIDE = r"(?:\s?\((?![A-Za-z]\))[^()\n]{1,40}\))?"
_APT = (
    r"final|correct|right|overall|best|most\s[a-z]{1,20}|chosen|proper|appropriate"
    r"|accurate|suitable|closest|likeliest|only\s[a-z]{1,20}"
)
_OTHER = r"(?:other|another|first|second|third|fourth|last|next|remaining|same|given)\b"
_SUBJECT = (
    rf"(?:(?:(?P<final>{_APT})\s)?(?:[\w-]{{1,20}}\s)?(?:answers?|ans)\b"
    rf"|(?:(?:{_APT})\s(?:[\w-]{{1,20}}\s)?|the\s(?!{_OTHER})[\w-]{{1,20}}\s)"
    r"(?:option|choice)\b)"
)
_ABOUT = r"(?:\s(?:to|for|of|here|in|as)\b[^.?!:=\n]{0,80}?)?"
_VERB = (
    r"(?:(?=\s?(?:cannot|can't|can\s+not|could\s+not|isn't)\b)"
    r"|\b(?:is|are|was|will\s+be|would\s+be|should\s+be|must\s+be|has\s+to\s+be|"
    r"comes\s+(?:out\s+)?to(?:\s+be)?|equals)\b\s?:?|=|->|→|⇒|⟹)"
)
_PHRASE = re.compile(
    rf"\b{_SUBJECT}{_EMPHASIS}{_ASIDE}{_ABOUT}\s{{0,2}}{_EMPHASIS}\s{{0,2}}{_VERB}",
    re.IGNORECASE,
)
_COLON = re.compile(
    rf"(?:(?P<final>\b(?:final|correct|right)\s(?:answer|option|choice)){_ASIDE}"
    rf"\s?{_EMPHASIS}\s?(?::|(?=\s[$\d]))"
    rf"|\b(?:answer(?:\schoice)?{_ASIDE}|ans\b\.?)\s?{_EMPHASIS}\s?:"
    rf"|(?:(?<=\n)|^) ?[#*]{{1,6}} ?(?:final )?answer ?{_EMPHASIS} ?(?=\n)"
    rf"|(?:(?<=\n)|^|(?<=[.!?]\s))A\s?{_EMPHASIS}\s?:|\bAns\.)\s?{_EMPHASIS}",
    re.IGNORECASE,
)
_HASHES = re.compile(r"#{4,}\s?:?")
_FIELD = re.compile(
    r"[\"'](?:final_)?answer[\"']\s?:\s?([\"']?)(.{0,400}?)(?:\1\s?[,}\n]|\1\s?$)"
)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\f?boxed\s?\{")
_BRACE = re.compile(r"[{}]")


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A place where a mark says that the answer is.

    Attributes:
        text: what follows the mark, or what the enclosure holds; at most `PASSAGE`
            characters.
        kind: "hashes", "heading" (`####` with text below), "enclosed", "phrase",
            "final" or "colon".
        begin: offset of the mark.
        end: offset after the mark.
    """

    text: str
    kind: str
    begin: int
    end: int


def hashes(text: str) -> Iterator[Passage]:
    """Passages after `####`, in the order of the text; each is one line."""
    for match in itertools.islice(_HASHES.finditer(text), MOST_MARKS):
        begin = match.end() + (text[match.end() : match.end() + 1] == "\n")
        line, _, below = text[begin : begin + PASSAGE].partition("\n")
        kind = "heading" if below.strip() else "hashes"
        yield Passage(line, kind, match.start(), match.end())


def marks(text: str) -> list[Passage]:
    """Passages after every other mark, in the order of the text."""
    found = [*_enclosed(text)]
    enclosures = [(passage.begin, passage.end) for passage in found]
    for match in _last(_PHRASE, text):
        found.append(_after(text, match, "phrase"))
    taken = {passage.end for passage in found}
    for match in _last(_COLON, text):
        begin = match.start()
        if match.end() in taken or any(a <= begin < b for a, b in enclosures):
            continue
        found.append(_after(text, match, "final" if match["final"] else "colon"))
    return sorted(found, key=lambda passage: (passage.begin, passage.end))


def _after(text: str, match: re.Match[str], kind: str) -> Passage:
    begin, end = match.span()
    return Passage(text[end : end + PASSAGE], kind, begin, end)


def _last(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The last matches of a pattern: a text with more marks repeats itself."""
    yield from collections.deque(pattern.finditer(text), maxlen=MOST_MARKS)


def _enclosed(text: str) -> Iterator[Passage]:
    for match in _last(_TAG, text):
        yield Passage(match[1][:PASSAGE], "enclosed", match.start(), match.end())
    for match in _last(_FIELD, text):
        yield Passage(match[2], "enclosed", match.start(), match.end())
    for match in _last(_BOX, text):
        begin, end = match.end(), min(len(text), match.end() + PASSAGE)
        depth, close = 1, end
        for brace in _BRACE.finditer(text, begin, end):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                end, close = brace.end(), brace.start()
                break
        yield Passage(text[begin:close], "enclosed", match.start(), end)
