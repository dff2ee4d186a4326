"""Two passes over all samples, each spread over processes: judge, then render.

Two decisions need all samples of a question: which right sample is its first, and
which repeat another. So the first pass judges, `decisions.decide` decides, and the
second pass aligns and renders what stays. Only unparsed lines, verifications and a few
finished chunks are in memory at any moment, and the order of the results is the order
of the input, whatever the number of processes.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specialize.corpus.building.aligned import aligned_completion, parse_aligned
from specialize.corpus.building.decisions import DROP, KEEP_FIRST, Verification
from specialize.corpus.building.parallel import ordered_map
from specialize.corpus.building.rendering import Renderer, human_completion
from specialize.corpus.building.verification import verify
from specialize.corpus.completions import Questions, Sample, parse_line
from specialize.corpus.lines import Line, read_lines
from specialize.corpus.records import AlignedTarget, DistillRecord, Fingerprint, Problem
from specialize.corpus.spec import AlignmentSpec, RecordsSpec
from specialize.corpus.storage.cards import Card
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.record_order import Spooled, SpoolWriter
from specialize.judging.spec import JudgeSpec
from specialize.progress import track

Path = str | os.PathLike[str]

_CHUNK_BYTES = 1 << 20
_CHUNK_PROBLEMS = 256


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples of the files, not yet read.

    Attributes:
        rationales: problems whose human rationale is a sample.
        files: completions files, or files that `align` wrote.
        aligned: which of the two.
    """

    rationales: Sequence[Problem]
    files: Sequence[Path]
    aligned: bool = False

    def chunks(self) -> Iterator["Chunk"]:
        """Pieces of work: the rationales first, then the files' lines in order."""
        for begin in range(0, len(self.rationales), _CHUNK_PROBLEMS):
            yield Chunk(
                list(self.rationales[begin : begin + _CHUNK_PROBLEMS]), [], False
            )
        for path in self.files:
            lines: list[Line] = []
            size = 0
            for line in read_lines(path):
                lines.append(line)
                size += len(line.data)
                if size >= _CHUNK_BYTES:
                    yield Chunk([], lines, self.aligned)
                    lines, size = [], 0
            if lines:
                yield Chunk([], lines, self.aligned)


@dataclasses.dataclass(frozen=True)
class Material:
    """What a corpus is made from, once the problems are read.

    Attributes:
        questions: the problems.
        pool: problems to draw demonstrations from; None draws from `questions`.
        samples: completions, or aligned samples, and rationales.
        card: origin of the data.
        earlier: the funnel of earlier stages, where samples were aligned before.
    """

    questions: Sequence[Problem]
    pool: Sequence[Problem] | None
    samples: Samples
    card: Card
    earlier: Funnel | None = None


class Chunk(NamedTuple):
    """A piece of work: problems whose rationales are samples, or lines of a file."""

    rationales: list[Problem]
    lines: list[Line]
    aligned: bool


class VerifiedChunk(NamedTuple):
    """What was found out about the samples of a chunk.

    Attributes:
        verifications: one per sample.
        counts: number of samples of each line.
    """

    verifications: list[Verification]
    counts: list[int]


class Part(NamedTuple):
    """What became of a chunk's samples.

    Attributes:
        spooled: the records, serialised; see `mixing`.
        aligned: samples whose text the student can be taught.
        kept: samples that stand in at least one record.
        rejected: reasons of the others.
        dropped: (format, reason) of records that were too long.
        verified: samples found right, where that was not decided before.
    """

    spooled: Spooled
    aligned: int
    kept: int
    rejected: list[str]
    dropped: list[tuple[str, str]]
    verified: int = 0


class Task(NamedTuple):
    """A chunk whose samples were decided upon."""

    chunk: Chunk
    decisions: list[int]
    counts: list[int]


def verify_all(
    samples: Samples,
    problems: Sequence[Problem],
    judging: JudgeSpec,
    *,
    thorough: bool,
    processes: int,
) -> list[VerifiedChunk]:
    """Judges every sample.

    Args:
        samples: where they come from.
        problems: the questions.
        judging: the judge. Aligned samples were verified before.
        thorough: whether right samples may still be rejected: then verifications carry
            the text, to find near-duplicates, and all tokens are checked now.
        processes: how many work.

    Returns:
        One `VerifiedChunk` a chunk.

    Raises:
        InputError: a malformed file.
    """
    work = ordered_map(
        _verify,
        samples.chunks(),
        processes=processes,
        prepare=_prepare_verify,
        arguments=(list(problems), judging, thorough),
    )
    return list(track(work, "verify samples"))


def decided(
    samples: Samples, verified: Sequence[VerifiedChunk], decisions: Sequence[int]
) -> Iterator[Task]:
    """The chunks again, those that keep something, with what was decided.

    Args:
        samples: as given to `verify_all`.
        verified: what it returned.
        decisions: what `decide` returned for all verifications in a row.
    """
    begin = 0
    for chunk, (verifications, counts) in zip(samples.chunks(), verified, strict=True):
        end = begin + len(verifications)
        mine = list(decisions[begin:end])
        begin = end
        if any(mine):
            yield Task(chunk, mine, counts)


def render_all(
    material: Material,
    alignment: AlignmentSpec,
    records: RecordsSpec,
    verified: Sequence[VerifiedChunk],
    decisions: Sequence[int],
    fingerprint: Fingerprint,
    *,
    spool: str,
    num_shards: int,
    processes: int,
) -> Iterator[Part]:
    """Aligns and renders the samples that stay.

    Args:
        material: whose samples were given to `verify_all`.
        alignment: how teacher rows are made.
        records: which records are written.
        verified: what `verify_all` returned.
        decisions: what `decide` returned for all verifications in a row.
        fingerprint: of the corpus.
        spool: folder for the records.
        num_shards: files a format.
        processes: how many work.

    Yields:
        One `Part` a chunk that keeps something, in order.
    """
    work = ordered_map(
        _render,
        decided(material.samples, verified, decisions),
        processes=processes,
        prepare=_prepare_render,
        arguments=(
            alignment,
            records,
            list(material.questions),
            None if material.pool is None else list(material.pool),
            fingerprint,
            spool,
            num_shards,
        ),
    )
    yield from track(work, "align and write", total=len(verified))


# What a process prepared before its first chunk.
_verifying: tuple[Questions, JudgeSpec, bool] | None = None
_rendering: tuple[Renderer, Questions, Fingerprint, SpoolWriter, int] | None = None


def _prepare_verify(
    problems: list[Problem], judging: JudgeSpec, thorough: bool
) -> None:
    global _verifying
    _verifying = (Questions(problems), judging, thorough)


def _prepare_render(
    alignment: AlignmentSpec,
    records: RecordsSpec,
    problems: list[Problem],
    pool: list[Problem] | None,
    fingerprint: Fingerprint,
    spool: str,
    num_shards: int,
) -> None:
    global _rendering
    renderer = Renderer(alignment, records, problems, pool)
    writer = SpoolWriter(spool)
    _rendering = (renderer, Questions(problems), fingerprint, writer, num_shards)


def _verify(chunk: Chunk) -> VerifiedChunk:
    assert _verifying is not None
    questions, judging, thorough = _verifying
    verifications: list[Verification] = []
    counts: list[int] = []

    def look_at(sample: Sample, problem: Problem) -> None:
        reason = None
        if not chunk.aligned:
            reason = verify(sample, problem, judging)
        completion = sample.completion
        text = completion.text if thorough and reason is None else ""
        verifications.append(
            Verification(problem.id, completion.sample, reason, sample.where, text)
        )

    for problem in chunk.rationales:
        look_at(Sample(human_completion(problem), problem.source), problem)
    for line in chunk.lines:
        if chunk.aligned:
            samples = [Sample(aligned_completion(line), line.where)]
        else:
            samples = parse_line(line, questions, with_tokens=False)
        counts.append(len(samples))
        for sample in samples:
            look_at(sample, questions.get(sample.completion.problem_id, sample.where))
        if chunk.aligned:
            continue
        if thorough or any(
            verification.reason for verification in verifications[-len(samples) :]
        ):
            # The second pass reads the tokens of what stays. A fault in the others
            # is a fault of the file all the same.
            parse_line(line, questions)
    return VerifiedChunk(verifications, counts)


def _render(task: Task) -> Part:
    assert _rendering is not None
    renderer, questions, fingerprint, spool, num_shards = _rendering
    records: list[DistillRecord] = []
    rejected: list[str] = []
    dropped: list[tuple[str, str]] = []
    aligned = kept = 0
    for sample, target, decision in kept_samples(task, questions, renderer.alignment.k):
        done = renderer.render(
            sample.completion,
            first=decision == KEEP_FIRST,
            target=target,
            where=sample.where,
        )
        records.extend(done.records)
        dropped.extend(done.dropped)
        aligned += done.aligned
        kept += bool(done.records)
        if done.rejection is not None:
            rejected.append(done.rejection)
    spooled = spool.append(records, fingerprint, num_shards)
    return Part(spooled, aligned, kept, rejected, dropped)


def kept_samples(
    task: Task, questions: Questions, k: int
) -> Iterator[tuple[Sample, AlignedTarget | None, int]]:
    """The samples of a chunk that stay, with what was decided about each.

    Args:
        task: the chunk.
        questions: the problems.
        k: entries of a teacher row, for aligned samples.

    Yields:
        (sample, its target where it was aligned before, decision).
    """
    if task.chunk.rationales:
        for problem, decision in zip(
            task.chunk.rationales, task.decisions, strict=True
        ):
            if decision != DROP:
                yield Sample(human_completion(problem), problem.source), None, decision
        return
    begin = 0
    for line, count in zip(task.chunk.lines, task.counts, strict=True):
        decisions = task.decisions[begin : begin + count]
        begin += count
        if not any(decisions):
            continue
        if task.chunk.aligned:
            completion, target = parse_aligned(line, k)
            yield Sample(completion, line.where), target, decisions[0]
            continue
        for sample, decision in zip(
            parse_line(line, questions), decisions, strict=True
        ):
            if decision != DROP:
                yield sample, None, decision
