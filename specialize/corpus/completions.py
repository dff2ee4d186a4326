r"""Files of teacher completions -> `Completion`, and back.

Two layouts are read, both as JSON lines (one object per line, optionally gzipped) or as
one JSON object in a file:

* our export, which is OpenAI's completions layout with the question's id beside it:
  `{"problem_id" | "question", "sample", "text", "tokens": ["If", ...],
  "token_logprobs": [-2.3, ...], "top_logprobs": [{"If": -2.3, ...} | [["If", -2.3],
  ...], ...], "finish_reason"}`. A token that is not valid UTF-8 by itself is written
  as OpenAI writes it, `"bytes:\\xe2\\x80"`. `tokens` may be missing: then the teacher
  reports no probabilities.
* the dump of the paper's notebooks: `{"question": "Question 0: ...\n", "samples":
  [{"text", "steps": [[[token, probability], ...], ...]}]}`; entry 0 of a step is the
  sampled token, the others are what the API reported. The teacher's prompt ended in
  "Let's think step by", so the first two tokens finish it, and generation stopped
  after an empty line.

A malformed line is an `InputError` with file and line. A sample that cannot be used
gets a `rejection`, which the funnel counts.
"""

import dataclasses
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from specialize import typed_json
from specialize.corpus.choices import REASONING
from specialize.corpus.lines import Line, read_lines, staged_lines
from specialize.corpus.reasoning import set_apart, thinks
from specialize.corpus.records import (
    PROBABILITY_SLACK,
    Completion,
    Problem,
    TeacherToken,
)
from specialize.corpus.spelling import spell, teacher_token, token_bytes, token_text
from specialize.errors import InputError

Path = str | os.PathLike[str]
T = TypeVar("T")

_DUMP_PREFIX = re.compile(r"Question \d+: ")
_DUMP_HEAD = (b" step", b"\n")
_DUMP_TAIL = (b"\n", b"\n")


class Sample(NamedTuple):
    """One completion of a file, ready to be verified, or the reason why it is not.

    Attributes:
        completion: its text and tokens, without those that belong to the prompt or to
            the end of generation. The tokens spell the text.
        where: "file:line" or "file:line#sample", for messages.
        rejection: why the sample cannot be used, or None.
        reasoned: whether reasoning was set apart from its answer.
    """

    completion: Completion
    where: str
    rejection: str | None = None
    reasoned: bool = False


class UnknownQuestion(InputError):
    """A completion answers none of the problems."""


class Questions:
    """Finds the problem that a completion answers, by id or by the question's text.

    Attributes:
        reasoning: what is done with reasoning before an answer, one of
            `choices.REASONING`.
    """

    def __init__(self, problems: Sequence[Problem], reasoning: str = REASONING[0]):
        self.reasoning = reasoning
        self._by_id = {problem.id: problem for problem in problems}
        self._by_text = {_folded(p.question): p for p in reversed(problems)}
        self._source = problems[0].source.rpartition(":")[0] if problems else ""

    def get(self, identity: str, where: str) -> Problem:
        """The problem with this id; otherwise as `find`."""
        return self.find(_Question(problem_id=identity), where)

    def find(self, record: "_Question", where: str) -> Problem:
        """The problem that `problem_id`, or else `question`, names.

        Raises:
            InputError: the record names no problem, or an unknown one.
        """
        identity, question = record.problem_id, record.question
        if identity is None and question is None:
            raise InputError(
                f"{where}: neither 'problem_id' nor 'question' says which problem this "
                f"answers. {_REMEDY}"
            )
        if identity is not None:
            found = self._by_id.get(str(identity))
        else:
            text = _folded(_DUMP_PREFIX.sub("", str(question), count=1))
            found = self._by_text.get(text) or self._by_text.get(_folded(str(question)))
        if found is None:
            named = repr(identity if identity is not None else str(question)[:80])
            raise UnknownQuestion(
                f"{where}: answers {named}, which is not among the "
                f"{len(self._by_id)} problems of {self._source or 'this run'}. Name "
                "the problem file the teacher was given."
            )
        return found

    def unknown(self, paths: Iterable[Path]) -> InputError:
        """One error about all completions of some files that answer no problem."""
        messages: list[str] = []  # the first ones
        unknown = lines = 0
        for line in itertools.chain.from_iterable(map(read_lines, paths)):
            lines += 1
            try:
                self.find(_decode(line, _Question), line.where)
            except UnknownQuestion as error:
                unknown += 1
                if len(messages) < 3:
                    messages.append(str(error))
        first, *others = messages
        if not others:
            return InputError(first)
        more = "; ".join(text.partition(", which")[0] for text in others)
        return InputError(
            f"{first} So do {unknown - 1:,} more of {lines:,} lines: {more}"
            f"{' ...' if unknown > 3 else ''}."
        )


def parse_line(
    line: Line, questions: Questions, *, with_tokens: bool = True
) -> list[Sample]:
    """Reads the completions of one JSON object.

    Args:
        line: one object of a file.
        questions: the problems that are answered.
        with_tokens: False leaves the tokens out, which is many times faster; texts
            and rejections are the same, and probabilities are not checked.

    Returns:
        One sample for a line of an export, all of them for a dump.

    Raises:
        InputError: the line is not JSON, a field is missing or has another type, the
            problem is unknown, or a probability is NaN or above 1.
    """
    named = _decode(line, _Question)
    problem = questions.find(named, line.where)
    dumped = not isinstance(named.samples, msgspec.UnsetType)
    found = samples_of(line, problem.id, dumped=dumped, with_tokens=with_tokens)
    return [apart(sample, questions.reasoning) for sample in found]


def samples_of(
    line: Line, problem_id: str, *, dumped: bool, with_tokens: bool = True
) -> list[Sample]:
    """The completions of a JSON object, with their reasoning as the teacher wrote it.

    Args:
        line: one object of a file.
        problem_id: id of the problem that they answer.
        dumped: whether it is an object of a notebook's dump.
        with_tokens: as for `parse_line`.

    Raises:
        InputError: as `parse_line`.
    """
    if dumped:
        return [
            _read_dump(sample, index, problem_id, f"{line.where}#{index}", with_tokens)
            for index, sample in enumerate(_decode(line, _Dump).samples)
        ]
    return [_read_export(_decode(line, _Export), problem_id, line.where, with_tokens)]


def read_completions(
    path: Path, problems: Sequence[Problem], reasoning: str = REASONING[0]
) -> Iterator[Sample]:
    """Yields every completion of a file, in order; unusable ones have a `rejection`.

    Raises:
        InputError: as `read_lines` and `parse_line`.
    """
    questions = Questions(problems, reasoning)
    for line in read_lines(path):
        yield from parse_line(line, questions)


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """One line of our export; `parse_line` reads it back exactly.

    The log-probability of an impossible token (-inf) is written as null.
    """
    record: dict[str, Any] = {
        "problem_id": completion.problem_id,
        "sample": completion.sample,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
    }
    if completion.reasoning:
        record["reasoning"] = completion.reasoning
    if completion.tokens is not None:
        record["tokens"] = [token_text(token.token) for token in completion.tokens]
        record["token_logprobs"] = [_finite(t.logprob) for t in completion.tokens]
        record["top_logprobs"] = [
            [[token_text(text), _finite(logprob)] for text, logprob in token.top]
            for token in completion.tokens
        ]
    return record


def write_completions(path: Path, completions: Iterable[Completion]) -> int:
    """Writes an export atomically, gzipped if `path` ends in `.gz`.

    Returns:
        Number of completions that were written.
    """
    count = 0
    with staged_lines(path) as stream:
        for completion in completions:
            text = json.dumps(completion_to_json(completion), ensure_ascii=False)
            stream.write(text.encode() + b"\n")
            count += 1
    return count


def _decode(line: Line, kind: type[T]) -> T:
    # Python writes the logarithm of 0 as -Infinity.
    return typed_json.decode(
        line.data, kind, line.where, remedy=_REMEDY, infinities=True
    )


def _read_export(
    record: "_Export", problem_id: str, where: str, with_tokens: bool
) -> Sample:
    text = record.text
    reason = record.finish_reason or "stop"
    border = record.reasoning
    if border > len(text):
        raise InputError(
            f"{where}: reasoning is {border}, expected at most the {len(text)} "
            f"characters of the text. {_REMEDY}"
        )
    completion = Completion(problem_id, record.sample, text, None, reason, border)
    if record.tokens is None:
        return Sample(_stripped(completion), where)
    if not with_tokens and "".join(record.tokens) == text:
        return Sample(completion, where)
    tokens = spell(text, _export_tokens(record, where))
    if tokens is None:
        return Sample(completion, where, "tokens_do_not_spell_the_text")
    return Sample(_trimmed(completion, tokens), where)


def _export_tokens(record: "_Export", where: str) -> tuple[TeacherToken, ...]:
    tokens, logprobs, tops = record.tokens, record.token_logprobs, record.top_logprobs
    sizes = [None if part is None else len(part) for part in (tokens, logprobs, tops)]
    if tokens is None or logprobs is None or tops is None or len(set(sizes)) > 1:
        raise InputError(
            f"{where}: the numbers of tokens, token_logprobs and top_logprobs are "
            f"{sizes}, expected equal numbers. {_REMEDY}"
        )
    read: list[TeacherToken] = []
    for index, (token, logprob, top) in enumerate(
        zip(tokens, logprobs, tops, strict=True)
    ):
        pairs = top.items() if isinstance(top, dict) else top or ()
        read.append(
            teacher_token(
                token_bytes(token),
                _logarithm(logprob),
                [(token_bytes(text), _logarithm(value)) for text, value in pairs],
                f"{where}, token {index}",
            )
        )
    return tuple(read)


def _read_dump(
    sample: "_DumpedSample", index: int, problem_id: str, where: str, with_tokens: bool
) -> Sample:
    text, steps = sample.text, sample.steps
    completion = Completion(problem_id, index, text)
    sampled = [token_bytes(step[0][0]) for step in steps]
    if b"".join(sampled) != text.encode():
        return Sample(completion, where, "tokens_do_not_spell_the_text")
    if tuple(sampled[:2]) != _DUMP_HEAD:
        return Sample(completion, where, "unexpected_beginning")
    if tuple(sampled[-2:]) != _DUMP_TAIL or len(sampled) < 5:
        return Sample(completion, where, "unfinished")
    inner = b"".join(sampled[2:-2]).decode()
    completion = dataclasses.replace(completion, text=inner)
    if with_tokens:
        tokens = tuple(
            _dump_token(step, f"{where}, step {number}")
            for number, step in enumerate(steps)
        )
        completion = dataclasses.replace(completion, tokens=tokens[2:-2])
    return Sample(completion, where)


def _dump_token(step: list[tuple[str, float]], where: str) -> TeacherToken:
    for text, p in step:
        if math.isnan(p) or p < 0 or p > 1 + PROBABILITY_SLACK:
            raise InputError(
                f"{where}: the probability of {text!r} is {p}, expected 0 to 1."
            )
    (token, probability), *reported = [(token_bytes(text), p) for text, p in step]
    logs = ((text, math.log(p)) for text, p in reported if p > 0)
    logprob = math.log(probability) if probability > 0 else -math.inf
    return teacher_token(token, logprob, logs, where)


def apart(sample: Sample, policy: str) -> Sample:
    """The sample with its reasoning set apart, if it has any."""
    if sample.rejection is not None:
        return sample
    found, rejection = set_apart(sample.completion, policy)
    if found is sample.completion:
        return sample._replace(rejection=rejection)
    tokens = found.tokens
    found = _stripped(found) if tokens is None else _trimmed(found, tokens)
    return Sample(found, sample.where, rejection, thinks(sample.completion))


def _stripped(completion: Completion) -> Completion:
    text = completion.text.lstrip()
    border = max(0, completion.reasoning - len(completion.text) + len(text))
    return dataclasses.replace(completion, text=text.rstrip(), reasoning=border)


def _trimmed(completion: Completion, tokens: tuple[TeacherToken, ...]) -> Completion:
    """Drops the whitespace tokens at both ends, which belong to no student piece."""
    begin, end = 0, len(tokens)
    border = completion.reasoning
    while begin < end and not tokens[begin].token.strip():
        border = max(0, border - len(tokens[begin].token))
        begin += 1
    while end > begin and not tokens[end - 1].token.strip():
        end -= 1
    tokens = tokens[begin:end]
    data = b"".join(token.token for token in tokens)
    text = data.decode("utf-8", "surrogatepass")
    return dataclasses.replace(
        completion, text=text, tokens=tokens, reasoning=min(border, len(text))
    )


def _logarithm(value: float | None) -> float:
    return -math.inf if value is None else value


def _finite(logprob: float) -> float | None:
    return None if logprob == -math.inf else logprob


def _folded(text: str) -> str:
    return " ".join(text.split())


_REMEDY = (
    "Expected one JSON object per line, as 'specialize corpus export' writes it; a cut "
    "last line comes from a copy that was cut. 'specialize corpus import' reads files "
    "that were made elsewhere."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Question:
    """The part of a line that says which problem it answers."""

    problem_id: str | int | None = None
    question: str | None = None
    samples: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Export:
    """A line of our export."""

    text: str
    sample: typed_json.Count
    finish_reason: str | None = None
    reasoning: typed_json.Count = 0
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: (
        list[dict[str, float | None] | list[tuple[str, float | None]] | None] | None
    ) = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _DumpedSample:
    text: str
    steps: list[Annotated[list[tuple[str, float]], msgspec.Meta(min_length=1)]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Dump:
    """A line of a notebook's dump."""

    samples: list[_DumpedSample]
