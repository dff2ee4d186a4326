"""Two passes over all samples, each in several processes: judge, then render.

Two decisions need all samples of a question: which correct sample is its first, and
which ones repeat another. So the first pass judges, `decisions.decide` decides, and the
second pass aligns and renders the kept samples. Only unparsed lines and a few finished
chunks are in memory at any moment; verifications are in files (`verdicts`). Results
come in the order of the input, whatever the number of processes.
"""

import dataclasses
import functools
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specialize.corpus.alignment.targets import AlignedTarget, DistillRecord
from specialize.corpus.building.aligned import aligned_completion, parse_aligned
from specialize.corpus.building.decisions import DROP, KEEP_FIRST, Verification
from specialize.corpus.building.parallel import ordered_map
from specialize.corpus.building.rendering import Renderer, human_completion
from specialize.corpus.building.verdicts import Verdicts, VerifiedChunk
from specialize.corpus.building.verification import verify_as_spelt
from specialize.corpus.choices import REASONING
from specialize.corpus.completions import (
    Questions,
    Sample,
    UnknownQuestion,
    parse_line,
)
from specialize.corpus.lines import Line, read_lines
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.plain_text.writer import Writer
from specialize.corpus.records import Fingerprint, Problem
from specialize.corpus.spec import AlignmentSpec, RecordsSpec
from specialize.corpus.storage.cards import Card
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.record_order import Spooled, SpoolWriter
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec
from specialize.progress import track

Path = str | os.PathLike[str]

_CHUNK_BYTES = 1 << 20
_CHUNK_PROBLEMS = 256


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples that are not yet read.

    Attributes:
        rationales: problems whose human rationale is a sample.
        files: files of completions, or files that `align` wrote.
        aligned: whether `align` wrote the files.
        reasoning: what is done with reasoning before an answer.
    """

    rationales: Sequence[Problem]
    files: Sequence[Path]
    aligned: bool = False
    reasoning: str = REASONING[0]

    def chunks(self) -> Iterator["Chunk"]:
        """Yields the rationales first, then the lines of the files in order."""
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
    """What a corpus is made from, after the problems were read.

    Attributes:
        questions: the problems.
        pool: problems to draw demonstrations from; None draws from `questions`.
        samples: rationales, and completions or aligned samples.
        card: origin of the data.
        judge: the judge of the samples, and of answers as the student spells them.
        earlier: the funnel of earlier stages, if the samples are already aligned.
    """

    questions: Sequence[Problem]
    pool: Sequence[Problem] | None
    samples: Samples
    card: Card
    judge: JudgeSpec
    earlier: Funnel | None = None


class Chunk(NamedTuple):
    """A piece of work: problems whose rationales are samples, or lines of a file."""

    rationales: list[Problem]
    lines: list[Line]
    aligned: bool


class Part(NamedTuple):
    """The records made from a chunk's samples, and counts.

    Attributes:
        spooled: the serialised records; see `record_order`.
        aligned: number of samples whose text could be aligned.
        kept: number of samples with at least one record.
        rejected: reasons for rejecting the other samples.
        dropped: (format, reason) of records that were too long.
        verified: number of correct samples, if they were not counted before.
        human: whether the samples are human rationales.
        spelling: what was not counted before of the samples' spelling.
    """

    spooled: Spooled
    aligned: int
    kept: int
    rejected: list[str]
    dropped: list[tuple[str, str]]
    verified: int = 0
    human: bool = False
    spelling: SpellingCounts | None = None


class Task(NamedTuple):
    """A chunk with the decision about each sample and the samples of each line."""

    chunk: Chunk
    decisions: list[int]
    counts: list[int]


def verify_all(
    samples: Samples,
    problems: Sequence[Problem],
    judging: JudgeSpec,
    *,
    alignment: AlignmentSpec | None,
    thorough: bool,
    folder: Path,
    processes: int,
) -> Verdicts:
    """Judges every sample.

    Args:
        samples: where the samples come from.
        problems: the questions.
        judging: the judge; not used for aligned samples, which were verified before.
        alignment: how the student writes a sample, which must then be right too; None
            judges only the teacher's text.
        thorough: whether correct samples may still be rejected: then verifications have
            the text, to find near-duplicates, and all tokens are checked now.
        folder: an empty folder for the verifications, which stays until they are used.
        processes: number of processes.

    Returns:
        The verifications of every chunk.

    Raises:
        InputError: a file is malformed.
    """
    work = ordered_map(
        functools.partial(_verify, judging=judging, thorough=thorough),
        samples.chunks(),
        processes=processes,
        prepare=_prepare_verify,
        arguments=(alignment, list(problems), samples.reasoning),
    )
    verdicts = Verdicts(folder)
    try:
        for chunk in track(work, "verify samples"):
            verdicts.add(chunk)
    except UnknownQuestion:
        raise Questions(problems).unknown(samples.files) from None
    return verdicts


def decided(samples: Samples, verdicts: Verdicts) -> Iterator[Task]:
    """The chunks with kept samples, and the decisions about them.

    Args:
        samples: as given to `verify_all`.
        verdicts: what it returned, after `decide`.

    Raises:
        InputError: A file is not as it was when `verify_all` read it.
    """
    for chunk, judged in itertools.zip_longest(samples.chunks(), verdicts):
        if not chunk or not judged or _checksum(chunk) != judged[0].checksum:
            raise InputError(
                f"{' or '.join(map(str, samples.files))} changed while it was read. "
                "Run the same command again when nothing writes to it."
            )
        before, decisions = judged
        if any(decisions):
            yield Task(chunk, decisions, before.counts)


def render_all(
    material: Material,
    alignment: AlignmentSpec,
    records: RecordsSpec,
    verdicts: Verdicts,
    fingerprint: Fingerprint,
    *,
    spool: str,
    num_shards: int,
    processes: int,
) -> Iterator[Part]:
    """Aligns and renders the kept samples.

    Args:
        material: whose samples were given to `verify_all`.
        alignment: how teacher rows are made.
        records: which records are written.
        verdicts: what `verify_all` returned, after `decide`.
        fingerprint: the corpus fingerprint.
        spool: folder for the records.
        num_shards: number of file shards per format.
        processes: number of processes.

    Yields:
        One `Part` per chunk with kept samples, in order.
    """
    work = ordered_map(
        functools.partial(_render, fingerprint=fingerprint, num_shards=num_shards),
        decided(material.samples, verdicts),
        processes=processes,
        prepare=_prepare_render,
        arguments=(
            alignment,
            records,
            list(material.questions),
            None if material.pool is None else list(material.pool),
            material.judge,
            spool,
            material.samples.reasoning,
        ),
    )
    yield from track(work, "align and write", total=len(verdicts))


def _prepare_verify(
    alignment: AlignmentSpec | None, problems: list[Problem], reasoning: str
) -> tuple[Questions, Writer | None]:
    writer = None if alignment is None else writer_of(alignment)
    return Questions(problems, reasoning), writer


def _prepare_render(
    alignment: AlignmentSpec,
    records: RecordsSpec,
    problems: list[Problem],
    pool: list[Problem] | None,
    judge: JudgeSpec,
    spool: str,
    reasoning: str,
) -> tuple[Renderer, Questions, SpoolWriter]:
    renderer = Renderer(alignment, records, problems, pool, judge)
    return renderer, Questions(problems, reasoning), SpoolWriter(spool)


def _verify(
    prepared: tuple[Questions, Writer | None],
    chunk: Chunk,
    *,
    judging: JudgeSpec,
    thorough: bool,
) -> VerifiedChunk:
    questions, writer = prepared
    verifications: list[Verification] = []
    counts: list[int] = []

    def look_at(sample: Sample, problem: Problem) -> None:
        reason = spelling = None
        if not chunk.aligned:
            reason, spelling = verify_as_spelt(sample, problem, judging, writer)
        completion = sample.completion
        text = completion.text if thorough and reason is None else ""
        verifications.append(
            Verification(
                problem.id,
                completion.sample,
                reason,
                sample.where,
                text,
                sample.reasoned,
                spelling,
            )
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
        if thorough or any(one.reason for one in verifications[-len(samples) :]):
            # The second pass reads only the tokens of kept samples, but an error in
            # the other tokens is an error in the file too.
            parse_line(line, questions)
    return VerifiedChunk(verifications, counts, _checksum(chunk))


def _checksum(chunk: Chunk) -> int:
    checksum = 0
    for line in chunk.lines:
        checksum = zlib.crc32(line.data, checksum)
    return checksum


def _render(
    prepared: tuple[Renderer, Questions, SpoolWriter],
    task: Task,
    *,
    fingerprint: Fingerprint,
    num_shards: int,
) -> Part:
    renderer, questions, spool = prepared
    records: list[DistillRecord] = []
    rejected: list[str] = []
    dropped: list[tuple[str, str]] = []
    aligned = kept = 0
    spelling = SpellingCounts()
    for sample, target, decision in kept_samples(task, questions, renderer.alignment.k):
        done = renderer.render(
            sample.completion,
            first=decision == KEEP_FIRST,
            target=target,
            where=sample.where,
        )
        records.extend(done.records)
        dropped.extend(done.dropped)
        spelling.add(done.spelling)
        aligned += done.aligned
        kept += bool(done.records)
        if done.rejection is not None:
            rejected.append(done.rejection)
    spooled = spool.append(records, fingerprint, num_shards)
    human = bool(task.chunk.rationales)
    return Part(
        spooled, aligned, kept, rejected, dropped, human=human, spelling=spelling
    )


def kept_samples(
    task: Task, questions: Questions, k: int
) -> Iterator[tuple[Sample, AlignedTarget | None, int]]:
    """Yields the kept samples of a chunk: (sample, target if aligned, decision).

    Args:
        task: the chunk.
        questions: the problems.
        k: number of entries per teacher row, for aligned samples.
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
