"""Reasoning apart from the answer: what a teacher thinks, and what it says.

Reasoning is what `<think>` and its siblings enclose (either tag may be missing: a
server eats the first one, a limit cuts the last one), what precedes the final channel
of Harmony's format, and what a server sends in a field of its own. `set_apart` applies
the policy of a corpus:

* "drop": the completion is the answer alone;
* "keep": reasoning and answer, without tags; `Completion.reasoning` is their border;
* "refuse": a completion with reasoning is rejected.

An empty pair of tags, as a teacher writes it that was told not to think, is dropped.

Tokens are cut where the text is. A token that a cut divides keeps its place, but the
distribution of its rest is unknown (`TeacherToken.is_unknown`).
"""

import bisect
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specialize.corpus.records import Completion, TeacherToken, is_whole
from specialize.judging.segments import CHANNEL, END_TOKENS, THOUGHT, closes

Span = tuple[int, int]

_CHANNEL_END = re.compile(r"<\|(?:end|return|start|call|channel)\|>")
# What is left of Harmony's format where a server removes the special tokens.
_BARE = re.compile(r"\s*analysis(.*?)assistant\s?final(.*)", re.DOTALL)
_BARE_UNFINISHED = re.compile(r"\s*analysis(?=[A-Z])(.*)", re.DOTALL)
# What some models write around their answers, beside the tags around reasoning.
_WRAPPERS = re.compile(
    r"</?answer>|<\|(?:begin|end)_of_solution\|>|<\|start\|>(?:assistant)?",
    re.IGNORECASE,
)
# Texts are joined with a line break of ours, which no distribution is about.
_BREAK = TeacherToken(b"\n", 0.0, ((b"\n", 0.0),))


class Parts(NamedTuple):
    """The characters of a text that are reasoning, and those that are the answer."""

    reasoning: list[Span]
    answer: list[Span]


def set_apart(completion: Completion, policy: str) -> tuple[Completion, str | None]:
    """Applies a policy to one completion.

    Args:
        completion: its tokens, if any, spell its text.
        policy: one of `choices.REASONING`.

    Returns:
        The completion, and why it cannot be used (one of `funnel.REASONS`) or None. It
        is the same object if it holds no reasoning.
    """
    parts = parts_of(completion.text, completion.reasoning)
    if parts is None:
        return completion, None
    text = completion.text
    said = [begin for begin, end in parts.answer if text[begin:end].strip()]
    if not said:
        whole = is_whole(completion.finish_reason)
        return completion, "only_reasoning" if whole else "cut_off"
    if policy == "refuse" and _thinks(parts, text):
        return completion, "reasoning"
    first: list[Span] = []
    if policy == "keep":
        # What is thought after the answer is no rationale of it.
        before = [span for span in parts.reasoning if span[0] < said[-1]]
        first = [(b, e) for b, e in before if text[b:e].strip()]
        # What is said between two thoughts stays where it was said.
        last = max((end for _, end in first), default=0)
        first = sorted(first + [span for span in parts.answer if span[0] < last])
        parts = Parts([], [span for span in parts.answer if span[0] >= last])
    pieces = [_joined(completion, spans) for spans in (first, parts.answer)]
    (before, earlier), (after, later) = pieces
    if needs := _needs_break(before, after):
        before += "\n"
    tokens = None
    if completion.tokens is not None:
        tokens = (*earlier, *([_BREAK] if needs else []), *later)
    return (
        dataclasses.replace(
            completion, text=before + after, tokens=tokens, reasoning=len(before)
        ),
        None,
    )


def thinks(completion: Completion) -> bool:
    """Whether a completion holds reasoning; an empty pair of tags does not count."""
    parts = parts_of(completion.text, completion.reasoning)
    return parts is not None and _thinks(parts, completion.text)


def answer_of(completion: Completion) -> str:
    """What a judge reads: the answer alone; "" if there is only reasoning."""
    found, reason = set_apart(completion, "drop")
    return "" if reason is not None else found.answer


def parts_of(text: str, border: int = 0) -> Parts | None:
    """The parts of a text; None if it holds no reasoning.

    Args:
        text: a completion.
        border: number of characters that are known to be reasoning; 0 if none are.
    """
    if border:
        before = _between_tags([(0, border)], text)
        return Parts(before, [(border, len(text))])
    if (bare := _BARE.fullmatch(text)) is not None:
        return Parts([bare.span(1)], [bare.span(2)])
    if "<|channel|>" in text:
        return _channels(text)
    if THOUGHT.search(text):
        return _thoughts(text)
    if (bare := _BARE_UNFINISHED.fullmatch(text)) is not None:
        return Parts([bare.span(1)], [])
    return None


def _thinks(parts: Parts, text: str) -> bool:
    return any(text[begin:end].strip() for begin, end in parts.reasoning)


def _channels(text: str) -> Parts:
    found = list(CHANNEL.finditer(text))
    reasoning: list[Span] = [(0, found[0].start())]  # its own channel was eaten
    answer: list[Span] = []
    for channel in found:
        end = _CHANNEL_END.search(text, channel.end())
        span = (channel.end(), end.start() if end else len(text))
        if channel[1] == "final":
            reasoning += answer  # only the last one is said to the reader
            answer = [span]
        else:
            reasoning.append(span)
    return Parts(_between_tags(reasoning, text), _between_tags(answer, text))


def _thoughts(text: str) -> Parts:
    outside: list[Span] = []
    inside: list[Span] = []
    begin, thinking = 0, False
    for tag in THOUGHT.finditer(text):
        ends, piece = closes(tag), (begin, tag.start())
        begin = tag.end()
        if ends and not thinking:
            inside += [*outside, piece]  # the prompt opened it, or the server ate it
            outside = []
        else:
            (inside if thinking else outside).append(piece)
        thinking = not ends
    (inside if thinking else outside).append((begin, len(text)))
    return Parts(_between_tags(inside, text), _between_tags(outside, text))


def _between_tags(spans: Sequence[Span], text: str) -> list[Span]:
    """The spans without tags and marks inside them; none is empty."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        marks = sorted(
            mark.span()
            for pattern in (_WRAPPERS, THOUGHT, CHANNEL, END_TOKENS)
            for mark in pattern.finditer(text, begin, end)
        )
        for first, last in (*marks, (end, end)):
            if first > begin:
                found.append((begin, first))
            begin = max(begin, last)
    return found


def _joined(
    completion: Completion, spans: Sequence[Span]
) -> tuple[str, list[TeacherToken]]:
    """The text of some spans, and its tokens if the completion has any."""
    text = ""
    tokens: list[TeacherToken] = []
    offsets = _byte_offsets(completion.text, spans)
    cut = None if completion.tokens is None else _Cutter(completion.tokens)
    for (begin, end), place in zip(spans, offsets, strict=True):
        piece = completion.text[begin:end]
        if _needs_break(text, piece):
            text += "\n"
            tokens.append(_BREAK)
        text += piece
        if cut is not None:
            tokens += cut.between(*place)
    return text, tokens


def _needs_break(before: str, after: str) -> bool:
    return bool(before and after) and not (before[-1].isspace() or after[0].isspace())


def _byte_offsets(text: str, spans: Sequence[Span]) -> list[Span]:
    found: list[Span] = []
    place = byte = 0
    for begin, end in spans:
        byte += len(text[place:begin].encode("utf-8", "surrogatepass"))
        size = len(text[begin:end].encode("utf-8", "surrogatepass"))
        found.append((byte, byte + size))
        place, byte = end, byte + size
    return found


class _Cutter:
    """Cuts the tokens of a text at bytes."""

    def __init__(self, tokens: Sequence[TeacherToken]):
        self._tokens = tokens
        sizes = (len(token.token) for token in tokens)
        self._starts = [*itertools.accumulate(sizes, initial=0)]

    def between(self, begin: int, end: int) -> Iterator[TeacherToken]:
        """The tokens from byte `begin` to byte `end`."""
        first = max(0, bisect.bisect_left(self._starts, begin) - 1)
        for index in range(first, len(self._tokens)):
            token, start = self._tokens[index], self._starts[index]
            stop = start + len(token.token)
            if start > end:
                break
            if start >= begin and stop <= end:
                if token.token or begin < start < end:
                    yield token
            elif stop > begin and start < end:
                part = token.token[max(0, begin - start) : end - start]
                # No piece of a student is about the number of blanks.
                known = part.isspace()
                yield (
                    TeacherToken(part, 0.0, ((part, 0.0),))
                    if known
                    else TeacherToken(part, -float("inf"), ())
                )
