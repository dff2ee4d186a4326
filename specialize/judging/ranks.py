r"""Which candidate of a text is its final answer.

A text is read in segments (`segments`), a segment for candidates, and the candidate of
the highest rank is the answer:

1. **end mark**: what follows `####`. The first one counts, because GSM8K's texts end
   there; where later ones differ they are headings of sections, except for numbers.
2. **mark**: what follows "the answer is", "Answer:" and the like, or what `\boxed{}`
   holds. The last one with an answer counts, so that a correction counts.
3. **statement**: what the type's own reader finds in a text without a mark: a
   conclusion ("So it is (B)"), the beginning of a text, its last sentence.

"The answer is unknown" is the last word of a segment. "The answer is not 5" is no
candidate, and only a statement after it counts.

The reply comes before the thought, and the thought is read where the reply states
nothing: it has no candidate, or was cut off before it reached a mark. A thought that
was cut off states only what a mark in its last sentence says.
Before all this, a reply ends where the model goes on to a next question (`Q:`) after
its answer: what it says there is not about this question.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Generic, TypeVar

from specialize.judging import segments, sentences
from specialize.judging.marks import Passage, hashes, marks

Answer = TypeVar("Answer")

_QUESTION = (
    r"(?:\*\*|\#+\x20?)?(?:Q|Question|Problem|Exercise)\x20?\#?(?P<n>\d{0,3})"
    r"\*{0,2}\s?:"
)
_TURN = r"(?:\*\*|\#+\x20?)?(?:Human|User|Input|Instruction|Example\x20\d+)\*{0,2}\s?:"
# After an empty line, at a line's begin, or anywhere for vocabularies without breaks.
_NEXT_BLOCK = re.compile(rf"\n\n ?(?:{_QUESTION}|{_TURN})")
_NEXT_LINE = re.compile(rf"(?:^|\n)\s?(?:{_QUESTION}|{_TURN})")
_NEXT_INLINE = re.compile(r"\s(?:Q|Question)\s?(?P<n>\d{0,3}):\s")
_MOST_QUESTIONS = 8
# "Given: ... Question: ... Plan: ..." repeats its own question before it solves it.
_RESTATED = re.compile(
    r"[\s*#]*(?:given|known|relevant|variables?|facts?|data|information)\b[^\n]{0,40}:",
    re.IGNORECASE,
)
# "Answer: Not washed = 66" denies nothing.
_DENIED = re.compile(
    r"[\s:*(]*(?:that\s+it\s+is\s+)?(?:not|isn't)\b(?![^.=\n]{0,40}=)", re.IGNORECASE
)
_WITHHELD = re.compile(
    r"[\s:*(]*(?:that\s+(?:it\s+is\s+)?)?"
    r"(?:not\s+(?:clear|known|given|enough|possible|determin|among|listed|provided"
    r"|definitive|certain|(?:as|so|that)\s+(?:simple|clear|easy|straightforward))"
    r"|un(?:known|clear|determined|certain)\b|none\b|neither\b|cannot\b|can't\b"
    r"|can\s+not\b|could\s+not\b|(?:it\s+is\s+)?impossible\b|insufficient\b"
    r"|undefined\b|n/a\b|inconclusive\b|debatable\b|subjective\b|both\s+yes\b"
    r"|(?:it\s+)?depend(?:s|ent|ing)?\b)",
    re.IGNORECASE,
)

_FINISHED = re.compile(r"[.!?*_`)}\]$\"”'|>]\s*$")


@dataclasses.dataclass(frozen=True)
class Reader(Generic[Answer]):
    """How one type of answer is read.

    Attributes:
        marked: reads the answer after a mark; None if there is none.
        unmarked: reads the answer that a text without a mark states.
        prepared: what is done to a text before it is read.
        first_end: whether the first of several different end marks counts.
        deniable: whether "the answer is not ..." withholds an answer; for labels it
            can be one ("not valid", "not True = False").
        withholdable: whether "the answer is unknown" withholds an answer; for a list
            of words or a free text it can be one.
    """

    marked: Callable[[Passage], Answer | None]
    unmarked: Callable[[str], Answer | None]
    prepared: Callable[[str], str] = str
    first_end: bool = False
    deniable: bool = True
    withholdable: bool = True


def locate(text: str, reader: Reader[Answer]) -> tuple[Answer | None, str]:
    """Finds the final answer of a text by the rules at the head of this module.

    Args:
        text: a model's output.
        reader: how its type of answer is read.

    Returns:
        (answer, how): `how` is "marked", "last" or "none"; the answer is None exactly
        where it is "none".
    """
    parts = segments.split(text, reader.prepared)
    if parts.thought and _NEXT_LINE.match(parts.reply):
        parts = dataclasses.replace(parts, reply="")
    reply = _before_next_question(parts.reply, reader)
    answer, how, spoke = _read(reply, reader)
    if not parts.thought or spoke and (how != "last" or _is_finished(reply)):
        return answer, how
    if parts.finished:
        second = _read(_before_next_question(parts.thought, reader), reader)
    else:
        said = sentences.introduced(parts.thought)
        second = _read(said[-1] if said else "", reader)
        second = second if second[1] == "marked" else (None, "none", False)
    return (answer, how) if second[0] is None else second[:2]


def _read(text: str, reader: Reader[Answer]) -> tuple[Answer | None, str, bool]:
    """(answer, how, whether the segment says anything, if only that it knows none)."""
    answer = _end_mark(text, reader)
    if answer is not None:
        return answer, "marked", True
    denied = 0
    for passage in reversed(marks(text)):
        if reader.withholdable and _WITHHELD.match(passage.text):
            return None, "none", True
        if reader.deniable and _DENIED.match(passage.text):
            denied = denied or passage.end + len(sentences.first(passage.text))
            continue
        answer = reader.marked(passage)
        if answer is not None:
            return answer, "marked", True
    answer = reader.unmarked(text[denied:])
    if answer is None:
        return None, "none", denied > 0
    return answer, "last", True


def _end_mark(text: str, reader: Reader[Answer]) -> Answer | None:
    found = [reader.marked(passage) for passage in hashes(text)]
    answers = [answer for answer in found if answer is not None]
    if (
        not answers
        or not reader.first_end
        and any(one != answers[0] for one in answers)
    ):
        return None
    return answers[0]


def _is_finished(text: str) -> bool:
    """Whether a text is one line or ends as sentences do."""
    return "\n" not in text.strip() or bool(_FINISHED.search(text))


def _before_next_question(text: str, reader: Reader[Answer]) -> str:
    for pattern, needs_mark in (
        (_NEXT_BLOCK, False),
        (_NEXT_LINE, True),
        (_NEXT_INLINE, True),
    ):
        for index, match in enumerate(pattern.finditer(text)):
            if index == _MOST_QUESTIONS:
                break
            before = text[: match.start()]
            if not _is_part(before, match["n"]) and _answered(
                before, needs_mark, reader
            ):
                text = before
                break
    return text


def _is_part(before: str, number: str | None) -> bool:
    """Whether "Q3:" goes on from a "Q2:" or "A2:" of the same solution."""
    if not number or int(number) < 2:
        return False
    previous = rf"\b(?:Q|A|question|answer|problem|part|step)\s?#?{int(number) - 1}\b"
    return re.search(previous, before, re.IGNORECASE) is not None


def _answered(text: str, needs_mark: bool, reader: Reader[Answer]) -> bool:
    """Whether a text that a next question follows has given its answer.

    A question inside a chain of thought ("Q: how many eggs? A: 9. Q: ...") does not
    end it; one after a marked or bare answer does.
    """
    if not text.strip() or _NEXT_LINE.match(text):
        return False
    restated = _RESTATED.match(text)
    if not restated and (not needs_mark or len(text.split()) <= 4):
        if reader.unmarked(text) is not None:
            return True
    return any(
        reader.marked(passage) is not None for passage in (*hashes(text), *marks(text))
    )
