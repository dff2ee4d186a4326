"""Two passes over all samples, each spread over processes: judge, then render.

Two decisions need all samples of a question: which right sample is its first, and
which repeat another. So the first pass judges, `decisions.decide` decides, and the
second pass aligns and renders what stays. Only unparsed lines, verdicts and a few
finished chunks are in memory at any moment, and the order of the results is the order
of the input, whatever the number of processes.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specialize.corpus.completions import (
    Line,
    Questions,
    Sample,
    parse_line,
    read_lines,
)
from specialize.corpus.decisions import DROP, KEEP_FIRST, Verdict
from specialize.corpus.parallel import ordered_map
from specialize.corpus.records import DistillRecord, Fingerprint, Problem
from specialize.corpus.rendering import Renderer, Settings, human_completion
from specialize.corpus.shards import Block, encode_block
from specialize.corpus.verification import verify
from specialize.progress import track

Path = str | os.PathLike[str]

_CHUNK_BYTES = 1 << 20
_CHUNK_PROBLEMS = 256


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where samples come from.

    Attributes:
        rationales: problems whose human rationale is a sample.
        files: completions files.
    """

    rationales: Sequence[Problem]
    files: Sequence[Path]

    def chunks(self) -> Iterator["Chunk"]:
        """Pieces of work: the rationales first, then the files' lines in order."""
        for begin in range(0, len(self.rationales), _CHUNK_PROBLEMS):
            yield Chunk(list(self.rationales[begin : begin + _CHUNK_PROBLEMS]), [])
        for path in self.files:
            lines: list[Line] = []
            size = 0
            for line in read_lines(path):
                lines.append(line)
                size += len(line.data)
                if size >= _CHUNK_BYTES:
                    yield Chunk([], lines)
                    lines, size = [], 0
            if lines:
                yield Chunk([], lines)


class Chunk(NamedTuple):
    """A piece of work: problems whose rationales are samples, or lines of a file."""

    rationales: list[Problem]
    lines: list[Line]


class Judged(NamedTuple):
    """The verdicts of a chunk, and how many samples each of its lines holds."""

    verdicts: list[Verdict]
    counts: list[int]


class Part(NamedTuple):
    """What became of a chunk's samples.

    Attributes:
        block: the records, serialised and compressed.
        aligned: samples whose text the student can be taught.
        kept: samples that stand in at least one record.
        rejected: reasons of the others.
        dropped: (format, reason) of records that were too long.
    """

    block: Block
    aligned: int
    kept: int
    rejected: list[str]
    dropped: list[tuple[str, str]]


class _Task(NamedTuple):
    chunk: Chunk
    decisions: list[int]
    counts: list[int]


def judge_all(
    sources: Sources,
    settings: Settings,
    problems: Sequence[Problem],
    *,
    thorough: bool,
    processes: int,
) -> list[Judged]:
    """Judges every sample.

    Args:
        sources: where the samples come from.
        settings: how answers are judged.
        problems: the questions.
        thorough: whether right samples may still be dropped: then verdicts carry the
            text, to find near-duplicates, and all tokens are checked now.
        processes: how many work.

    Returns:
        One `Judged` a chunk.

    Raises:
        InputError: a malformed file.
    """
    work = ordered_map(
        _judge,
        sources.chunks(),
        processes=processes,
        prepare=_prepare_judge,
        arguments=(settings, list(problems), thorough),
    )
    return list(track(work, "verify samples"))


def render_all(
    sources: Sources,
    settings: Settings,
    problems: Sequence[Problem],
    pool: Sequence[Problem] | None,
    judged: Sequence[Judged],
    decisions: Sequence[int],
    fingerprint: Fingerprint,
    *,
    num_shards: int,
    processes: int,
) -> Iterator[Part]:
    """Aligns and renders the samples that stay.

    Args:
        sources: as given to `judge_all`.
        settings: what to write.
        problems: the questions.
        pool: problems to draw demonstrations from; see `Renderer`.
        judged: what `judge_all` returned.
        decisions: what `decide` returned for all verdicts in a row.
        fingerprint: of the corpus.
        num_shards: files a format.
        processes: how many work.

    Yields:
        One `Part` a chunk that keeps something, in order.
    """

    def tasks() -> Iterator[_Task]:
        begin = 0
        for chunk, (verdicts, counts) in zip(sources.chunks(), judged, strict=True):
            end = begin + len(verdicts)
            mine = list(decisions[begin:end])
            begin = end
            if any(mine):
                yield _Task(chunk, mine, counts)

    work = ordered_map(
        _render,
        tasks(),
        processes=processes,
        prepare=_prepare_render,
        arguments=(
            settings,
            list(problems),
            None if pool is None else list(pool),
            fingerprint,
            num_shards,
        ),
    )
    yield from track(work, "align and write", total=len(judged))


# What a process prepared before its first chunk.
_judging: tuple[Settings, Questions, bool] | None = None
_rendering: tuple[Renderer, Questions, Fingerprint, int] | None = None


def _prepare_judge(settings: Settings, problems: list[Problem], full: bool) -> None:
    global _judging
    _judging = (settings, Questions(problems), full)


def _prepare_render(
    settings: Settings,
    problems: list[Problem],
    pool: list[Problem] | None,
    fingerprint: Fingerprint,
    num_shards: int,
) -> None:
    global _rendering
    renderer = Renderer(settings, problems, pool)
    _rendering = (renderer, Questions(problems), fingerprint, num_shards)


def _judge(chunk: Chunk) -> Judged:
    assert _judging is not None
    settings, questions, thorough = _judging
    verdicts: list[Verdict] = []
    counts: list[int] = []

    def judge(sample: Sample, problem: Problem) -> None:
        reason = verify(
            sample, problem, answer_type=settings.answer_type, rule=settings.rule
        )
        completion = sample.completion
        text = completion.text if thorough and reason is None else ""
        verdicts.append(
            Verdict(problem.id, completion.sample, reason, sample.where, text)
        )

    for problem in chunk.rationales:
        judge(Sample(human_completion(problem), problem.source), problem)
    for line in chunk.lines:
        samples = parse_line(line, questions, with_tokens=False)
        counts.append(len(samples))
        for sample in samples:
            judge(sample, questions.by_id(sample.completion.problem_id))
        if thorough or any(verdict.reason for verdict in verdicts[-len(samples) :]):
            # The second pass reads the tokens of what stays. A fault in the others
            # is a fault of the file all the same.
            parse_line(line, questions)
    return Judged(verdicts, counts)


def _render(task: _Task) -> Part:
    assert _rendering is not None
    renderer, questions, fingerprint, num_shards = _rendering
    records: list[DistillRecord] = []
    rejected: list[str] = []
    dropped: list[tuple[str, str]] = []
    aligned = kept = 0
    for sample, decision in _kept(task, questions):
        done = renderer.render(
            sample.completion, first=decision == KEEP_FIRST, where=sample.where
        )
        records.extend(done.records)
        dropped.extend(done.dropped)
        aligned += done.aligned
        kept += bool(done.records)
        if done.rejection is not None:
            rejected.append(done.rejection)
    block = encode_block(records, fingerprint, num_shards=num_shards)
    return Part(block, aligned, kept, rejected, dropped)


def _kept(task: _Task, questions: Questions) -> Iterator[tuple[Sample, int]]:
    begin = 0
    if task.chunk.rationales:
        for problem, decision in zip(
            task.chunk.rationales, task.decisions, strict=True
        ):
            if decision != DROP:
                yield Sample(human_completion(problem), problem.source), decision
        return
    for line, count in zip(task.chunk.lines, task.counts, strict=True):
        decisions = task.decisions[begin : begin + count]
        begin += count
        if not any(decisions):
            continue
        for sample, decision in zip(
            parse_line(line, questions), decisions, strict=True
        ):
            if decision != DROP:
                yield sample, decision
