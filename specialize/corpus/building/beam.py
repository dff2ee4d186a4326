"""The same build as an Apache Beam pipeline, for corpora beyond one machine.

Beam only moves the data. The same functions judge, decide, align and render as on one
machine, and records get the same shards and order, so the corpus is the same to the
byte. SeqIO caches with Beam too; the runners are the same (Dataflow, Flink, Spark;
`DirectRunner` in the tests).

    files --lines--> samples, judged --by question--> decided --one DoFn--> records
      --by shard--> sorted, compressed files --launcher--> corpus folder

Workers open completions and vocabulary by their paths, so every worker must be able to
read them. Finished shards go to a staging folder that workers and launcher share; the
launcher makes the corpus folder from them. A shard is sorted in one worker's memory:
choose enough shards for that.
"""

# pyright: basic, reportMissingImports=false
# Beam is not installed where the type checker runs.

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from specialize.corpus.building.decisions import (
    DROP,
    KEEP_FIRST,
    Member,
    Verification,
    count,
    decide_question,
    nothing_kept,
)
from specialize.corpus.building.passes import Material
from specialize.corpus.building.pipeline import fingerprint_of
from specialize.corpus.building.rendering import Renderer, human_completion
from specialize.corpus.building.verification import verify_as_spelt
from specialize.corpus.completions import (
    Questions,
    Sample,
    completion_to_json,
    parse_line,
)
from specialize.corpus.lines import Line, read_lines
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.records import HUMAN, Fingerprint, Problem
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
)
from specialize.corpus.storage import shards, tfrecord
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.storage.record_order import order_of, place_of
from specialize.corpus.storage.statistics import FormatStatistics
from specialize.corpus.storage.stored_record import encode_record
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec

try:
    import apache_beam as ab
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms.window import GlobalWindow
    from apache_beam.utils.windowed_value import WindowedValue
except ModuleNotFoundError as missing:
    if missing.name != "apache_beam":
        raise
    raise InputError(
        "building on Beam needs the extra 'beam': pip install 'specialize[beam]'."
    ) from missing

from specialize.corpus.building.beam_staging import (
    Summary,
    blocks,
    read_summary,
    shared_folder,
    write_shard,
    write_summary,
)

_REFUSAL = re.compile(
    r"(?:InputError|UnknownQuestion): (.*?)(?: \[while running|\n|$)", re.DOTALL
)


class VerifiedSample(NamedTuple):
    """A judged sample, before samples are grouped by question.

    Attributes:
        verification: the result of judging it.
        payload: the completion as a line of an export; "" for a human rationale or an
            incorrect sample.
    """

    verification: Verification
    payload: str


class Kept(NamedTuple):
    """A sample that is kept."""

    problem_id: str
    where: str
    payload: str
    first: bool


def assemble(
    material: Material,
    alignment: AlignmentSpec,
    records: RecordsSpec,
    acceptance: AcceptanceSpec,
    out: FolderSpec,
    *,
    options: Sequence[str] = (),
    staging: str | None = None,
) -> Manifest:
    """Builds a corpus on a Beam runner.

    Args:
        material: what the corpus is made from.
        alignment: how teacher rows are made.
        records: which records are written.
        acceptance: which samples are kept.
        out: the corpus folder; the launcher must be able to write it.
        options: pipeline options, for example ["--runner=FlinkRunner"].
        staging: folder that workers and launcher share, in any of Beam's file systems
            (default: a temporary one beside `out`).

    Raises:
        InputError: as `pipeline.build`. The folder is unchanged.
    """
    fingerprint = fingerprint_of(alignment, records, material)
    shards.check_fingerprint(fingerprint)
    questions = list(material.questions)
    samples, judging = material.samples, material.judge
    render = _Render(alignment, records, questions, material, fingerprint, out)
    decide = functools.partial(_decide, acceptance=acceptance)
    with shared_folder(out.path, staging) as folder:
        pipeline = ab.Pipeline(options=PipelineOptions(list(options)))
        humans = (
            pipeline
            | "rationales" >> ab.Create(list(samples.rationales))
            | "judge rationales" >> ab.ParDo(_VerifyRationales(judging, alignment))
        )
        completions = (
            pipeline
            | "files" >> ab.Create([os.fspath(path) for path in samples.files])
            | "lines" >> ab.FlatMap(read_lines)
            | "spread lines" >> ab.Reshuffle()
            | "judge" >> ab.ParDo(_VerifyLines(material, alignment, questions))
        )
        decided = (
            (humans, completions)
            | "all samples" >> ab.Flatten()
            | "by question" >> ab.GroupByKey()
            | "decide" >> ab.FlatMap(decide).with_outputs("counts", main="kept")
        )
        rendered = (
            decided["kept"]
            | "spread samples" >> ab.Reshuffle()
            | "align and render"
            >> ab.ParDo(render).with_outputs("counts", main="records")
        )
        files = (
            rendered["records"]
            | "by shard" >> ab.GroupByKey()
            | "write shards" >> ab.Map(write_shard, folder)
        )
        counts = (
            (decided["counts"], rendered["counts"])
            | "all counts" >> ab.Flatten()
            | "add up" >> ab.CombineGlobally(_AddUp())
        )
        _ = (
            pipeline
            | "once" >> ab.Create([folder])
            | "write summary"
            >> ab.Map(
                write_summary, ab.pvalue.AsSingleton(counts), ab.pvalue.AsList(files)
            )
        )
        _run(pipeline)
        funnel, statistics, written = read_summary(folder)
        if not funnel.total().kept:
            raise nothing_kept(funnel)
        return shards.write_shards(
            blocks(folder, statistics, written, out.num_shards),
            out.path,
            fingerprint,
            num_shards=out.num_shards,
            card=material.card.to_json(),
            funnel=funnel.to_json(),
            replace=out.replace,
        )


class _VerifyRationales(ab.DoFn):
    def __init__(self, judging: JudgeSpec, alignment: AlignmentSpec):
        self._judging = judging
        self._alignment = alignment

    def setup(self) -> None:
        self._writer = writer_of(self._alignment)

    def process(
        self, element: Problem, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[str, VerifiedSample]]:
        sample = Sample(human_completion(element), element.source)
        reason, spelling = verify_as_spelt(sample, element, self._judging, self._writer)
        text = sample.completion.text
        verification = Verification(
            element.id, HUMAN, reason, element.source, text, spelling=spelling
        )
        yield element.id, VerifiedSample(verification, "")


class _VerifyLines(ab.DoFn):
    def __init__(
        self, material: Material, alignment: AlignmentSpec, problems: list[Problem]
    ):
        self._judging = material.judge
        self._alignment = alignment
        self._problems = problems
        self._reasoning = material.samples.reasoning

    def setup(self) -> None:
        self._questions = Questions(self._problems, self._reasoning)
        self._writer = writer_of(self._alignment)

    def process(
        self, element: Line, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[str, VerifiedSample]]:
        for sample in parse_line(element, self._questions):
            completion = sample.completion
            problem = self._questions.get(completion.problem_id, sample.where)
            reason, spelling = verify_as_spelt(
                sample, problem, self._judging, self._writer
            )
            payload = ""
            if reason is None:
                payload = json.dumps(completion_to_json(completion))
            verification = Verification(
                problem.id,
                completion.sample,
                reason,
                sample.where,
                completion.text,
                sample.reasoned,
                spelling,
            )
            yield problem.id, VerifiedSample(verification, payload)


def _decide(
    group: tuple[str, Iterable[VerifiedSample]],
    *,
    acceptance: AcceptanceSpec,
) -> Iterator[Any]:
    problem_id, verified = group[0], list(group[1])
    summary = Summary()
    for member in verified:
        count(summary.funnel, member.verification)
    members = [
        Member(one.verification.sample, one.verification.reason is None, index)
        for index, one in enumerate(verified)
    ]
    decisions = dict(
        decide_question(
            sorted(members, key=lambda one: one.sample),
            lambda index: verified[index].verification,
            acceptance,
            summary.funnel,
        )
    )
    yield ab.pvalue.TaggedOutput("counts", summary)
    for index, member in enumerate(verified):
        if decisions[index] != DROP:
            where, payload = member.verification.where, member.payload
            yield Kept(problem_id, where, payload, decisions[index] == KEEP_FIRST)


class _Render(ab.DoFn):
    """Renders samples with `Renderer.render`; yields each record's place and order."""

    def __init__(
        self,
        alignment: AlignmentSpec,
        records: RecordsSpec,
        problems: list[Problem],
        material: Material,
        fingerprint: Fingerprint,
        out: FolderSpec,
    ):
        self._alignment = alignment
        self._records = records
        self._problems = problems
        self._pool = None if material.pool is None else list(material.pool)
        self._judge = material.judge
        self._fingerprint = fingerprint
        self._num_shards = out.num_shards
        self._reasoning = material.samples.reasoning

    def setup(self) -> None:
        self._renderer = Renderer(
            self._alignment, self._records, self._problems, self._pool, self._judge
        )
        self._questions = Questions(self._problems, self._reasoning)

    def start_bundle(self) -> None:
        self._summary = Summary()

    def process(
        self, element: Kept, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[tuple[str, int], tuple[int, bytes]]]:
        if element.payload:
            line = Line(element.where, element.payload.encode())
            (sample,) = parse_line(line, self._questions)
            completion = sample.completion
        else:
            problem = self._questions.get(element.problem_id, element.where)
            completion = human_completion(problem)
        done = self._renderer.render(
            completion, first=element.first, where=element.where
        )
        funnel = self._summary.funnel.of(human=completion.sample == HUMAN)
        statistics = self._summary.statistics
        funnel.aligned += done.aligned
        funnel.kept += bool(done.records)
        funnel.spelling.add(done.spelling)
        if done.rejection is not None:
            funnel.reject(done.rejection)
        for name, reason in done.dropped:
            funnel.drop(name, reason)
        for record in done.records:
            statistics.setdefault(record.format, FormatStatistics()).add(record)
            frame = tfrecord.frame(encode_record(record, self._fingerprint))
            place = place_of(record.id, record.format, self._num_shards)
            yield place, (order_of(record.id), frame)

    def finish_bundle(self) -> Iterator[Any]:
        window = GlobalWindow()
        value = WindowedValue(self._summary, window.max_timestamp(), [window])
        yield ab.pvalue.TaggedOutput("counts", value)


class _AddUp(ab.CombineFn):
    def create_accumulator(self, *args: Any, **kwargs: Any) -> Summary:
        return Summary()

    def add_input(
        self, mutable_accumulator: Summary, element: Summary, *args: Any, **kwargs: Any
    ) -> Summary:
        mutable_accumulator.merge(element)
        return mutable_accumulator

    def merge_accumulators(
        self, accumulators: Iterable[Summary], *args: Any, **kwargs: Any
    ) -> Summary:
        total = Summary()
        for accumulator in accumulators:
            total.merge(accumulator)
        return total

    def extract_output(
        self, accumulator: Summary, *args: Any, **kwargs: Any
    ) -> Summary:
        return accumulator


def _run(pipeline: ab.Pipeline) -> None:
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        # Runners add the step's name to a worker's exception, or pass only its text.
        text = f"InputError: {error}" if isinstance(error, InputError) else str(error)
        found = _REFUSAL.search(text)
        if found is None:
            raise
        raise InputError(found[1]) from error
