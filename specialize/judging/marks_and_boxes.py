r"""Where in a text the final answer stands.

A model's output is read in this order:

1. **Ends.** The text stops at an end-of-text token (`</s>`, `<|im_end|>`, ...), and
   where the model went on to a next question (`Q:`, `Question:` ... behind its
   answer): what it says there is not about this question.
2. **Marks.** The answer stands behind `####` (the first that holds one ends the text:
   it is GSM8K's own end mark), inside `\boxed{}`, `<answer></answer>` or a JSON
   field "answer", or behind
   "the answer is", "the correct option is", "Answer:", "A:" and the like. Of several
   the last one counts that holds an answer, so that a correction counts.
3. **No mark.** Each answer type says which candidate of the whole text counts.

"Answer:" and "A:" also open a chain of thought ("A: 9 eggs are left. She ..."); they
are marks only where the answer follows at once and nothing but an explanation comes
behind it. "The answer is not 5" and "the answer is unknown" hold no answer.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

Answer = TypeVar("Answer")

_END_TOKENS = re.compile(
    r"</s>|<eos>|<\|(?:im_end|endoftext|end_of_text|eot_id|eot|end)\|>|<end_of_turn>"
)
_IDLE_TOKENS = re.compile(r"<pad>|<s>|<bos>|<\|im_start\|>(?:assistant)?")

_QUESTION = r"(?:\*\*|\#+\x20?)?(?:Q|Question|Problem|Exercise)\x20?\#?\d*\*{0,2}\s?:"
_TURN = r"(?:\*\*|\#+\x20?)?(?:Human|User|Input|Instruction|Example\x20\d+)\*{0,2}\s?:"
# Behind a blank line, at a line's begin, or anywhere for vocabularies without breaks.
_NEXT_BLOCK = re.compile(rf"\n\s*\n\s*(?:{_QUESTION}|{_TURN})")
_NEXT_LINE = re.compile(rf"(?:^|\n)\s*(?:{_QUESTION}|{_TURN})")
# "Given: ... Question: ... Plan: ..." repeats its own question before it solves it.
_RESTATED = re.compile(
    r"[\s*#]*(?:given|known|relevant|variables?|facts?|data|information)\b[^\n]{0,40}:",
    re.IGNORECASE,
)
_NEXT_INLINE = re.compile(r"\s(?:Q|Question)\s?\d*:\s")

_EMPHASIS = r"[*_`]{0,3}"
_ASIDE = (
    r"(?:\s?\([^()\n]{1,40}\))?"  # "Answer (in dollars):", "the answer (Yes or No) is"
)
_SUBJECT = (
    r"(?:(?P<final>final|correct|right|overall)\s+)?(?:[\w-]+\s+){0,1}?"
    r"(?:answers?|ans\b|option|choice)"
)
_ABOUT = r"(?:\s+(?:to|for|of|here|in|as)\b[^.?!:=\n]{0,80}?)?"
_VERB = (
    r"(?:(?=\s?(?:cannot|can't|can\s+not|could\s+not|isn't)\b)"
    r"|\b(?:is|are|was|will\s+be|would\s+be|should\s+be|must\s+be|has\s+to\s+be|"
    r"comes\s+(?:out\s+)?to(?:\s+be)?|equals)\b\s*:?|=|->|→|⇒|⟹)"
)
_PHRASE = re.compile(
    rf"\b{_SUBJECT}{_EMPHASIS}{_ASIDE}{_ABOUT}\s*{_EMPHASIS}\s*{_VERB}", re.IGNORECASE
)
_COLON = re.compile(
    rf"(?:(?P<final>\b(?:final|correct|right)\s+(?:answer|option|choice)){_ASIDE}"
    rf"\s*{_EMPHASIS}\s*(?::|(?=\s[$\d]))"
    rf"|\b(?:answer(?:\s+choice)?{_ASIDE}|ans\b\.?)\s*{_EMPHASIS}\s*:"
    rf"|(?:(?<=\n)|^)[ ]*[#*]{{1,6}}[ ]*(?:final[ ]+)?answer[ ]*{_EMPHASIS}[ ]*(?=\n)"
    rf"|(?:(?<=\n)|^|(?<=[.!?]\s))A\s*{_EMPHASIS}\s*:|\bAns\.)\s*{_EMPHASIS}",
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
_HASHES = re.compile(r"#{4,}\s*:?")
_FIELD = re.compile(
    r"[\"'](?:final_)?answer[\"']\s*:\s*([\"']?)(.*?)(?:\1\s*[,}\n]|\1\s*$)"
)
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_BOX = re.compile(r"\\f?boxed\s*\{")

_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\bi\.e)(?<!\be\.g)"
    r"(?<!\b[ap]\.m)[.!?]+[\"'”’)\]*_`$]*(?=\s|$)|\n"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Passage:
    """A place where a mark says that the answer stands.

    Attributes:
        text: what follows the mark, to the end of the text or of the enclosure.
        kind: "hashes", "enclosed", "phrase" ("the answer is"), "final" ("Final
            answer:") or "colon" ("Answer:", "A:").
        begin: offset of the mark.
        end: offset behind the mark.
    """

    text: str
    kind: str
    begin: int
    end: int


def without_tokens(text: str) -> str:
    """Drops a tokenizer's padding marks and what stands behind its end mark."""
    text = _IDLE_TOKENS.sub(" ", text)
    end = _END_TOKENS.search(text)
    while end and not text[: end.start()].strip():
        text = text[end.end() :]
        end = _END_TOKENS.search(text)
    return text[: end.start()] if end else text


def first_sentence(text: str) -> str:
    """The text up to its first sentence end or, behind its first word, line end."""
    text = text.lstrip()
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def last_sentence(text: str) -> str:
    """The last sentence or line of a text, whether or not it was finished."""
    text = text.rstrip()
    begin = 0
    for end in _SENTENCE_END.finditer(text):
        if end.end() < len(text):
            begin = end.end()
    return text[begin:].strip()


def locate(
    text: str,
    read_marked: Callable[[Passage], Answer | None],
    read_unmarked: Callable[[str], Answer | None],
    *,
    deniable: bool = True,
    withholdable: bool = True,
) -> tuple[Answer | None, str]:
    """Finds the final answer of a text by the rules at the head of this module.

    Args:
        text: a model's output.
        read_marked: reads the answer behind a mark; None if there is none.
        read_unmarked: reads the answer of a whole text that has no mark.
        deniable: whether "the answer is not ..." withholds an answer; for labels it
            can be one ("not valid", "not True = False").
        withholdable: whether "the answer is unknown" withholds an answer; for a list
            of words or a free text it can be one.

    Returns:
        (answer, how): `how` is "marked", "last" or "none"; the answer is None exactly
        where it is "none".
    """
    text = _before_next_question(without_tokens(text), read_marked, read_unmarked)
    for passage in hashes(text):
        answer = read_marked(passage)
        if answer is not None:
            return answer, "marked"
    denied = False
    for passage in reversed(list(marks(text))):
        if withholdable and _WITHHELD.match(passage.text):
            return None, "none"
        if deniable and _DENIED.match(passage.text):
            denied = True
            continue
        answer = read_marked(passage)
        if answer is not None:
            return answer, "marked"
    if denied:
        return None, "none"
    answer = read_unmarked(text)
    return (None, "none") if answer is None else (answer, "last")


def hashes(text: str) -> Iterator[Passage]:
    """Passages behind `####`, in the order of the text."""
    for match in _HASHES.finditer(text):
        yield Passage(text[match.end() :], "hashes", match.start(), match.end())


def marks(text: str) -> Iterator[Passage]:
    """Passages behind every other mark, in the order of the text."""
    found = list(_enclosed(text))
    enclosures = [(passage.begin, passage.end) for passage in found]
    for match in _PHRASE.finditer(text):
        found.append(Passage(text[match.end() :], "phrase", match.start(), match.end()))
    taken = {passage.end for passage in found}
    for match in _COLON.finditer(text):
        if match.end() in taken or any(
            begin <= match.start() < end for begin, end in enclosures
        ):
            continue
        kind = "final" if match["final"] else "colon"
        found.append(Passage(text[match.end() :], kind, match.start(), match.end()))
    yield from sorted(found, key=lambda passage: (passage.begin, passage.end))


def _enclosed(text: str) -> Iterator[Passage]:
    for match in _TAG.finditer(text):
        yield Passage(match[1], "enclosed", match.start(), match.end())
    for match in _FIELD.finditer(text):
        yield Passage(match[2], "enclosed", match.start(), match.end())
    for match in _BOX.finditer(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        content = text[match.end() : end - 1] if not depth else text[match.end() : end]
        yield Passage(content, "enclosed", match.start(), end)


def _before_next_question(
    text: str,
    read_marked: Callable[[Passage], object | None],
    read_unmarked: Callable[[str], object | None],
) -> str:
    for pattern, needs_mark in (
        (_NEXT_BLOCK, False),
        (_NEXT_LINE, True),
        (_NEXT_INLINE, True),
    ):
        for match in pattern.finditer(text):
            before = text[: match.start()]
            if _answered(before, needs_mark, read_marked, read_unmarked):
                text = before
                break
    return text


def _answered(
    text: str,
    needs_mark: bool,
    read_marked: Callable[[Passage], object | None],
    read_unmarked: Callable[[str], object | None],
) -> bool:
    """Whether a text that a next question follows has given its answer.

    A question inside a chain of thought ("Q: how many eggs? A: 9. Q: ...") does not
    end it; one behind a marked or bare answer does.
    """
    if not text.strip() or _NEXT_LINE.match(text):
        return False
    restated = _RESTATED.match(text)
    if not restated and (not needs_mark or len(text.split()) <= 4):
        if read_unmarked(text) is not None:
            return True
    passages = [*hashes(text), *marks(text)]
    return any(read_marked(passage) is not None for passage in passages)
