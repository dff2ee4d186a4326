"""The same build as an Apache Beam pipeline, for corpora beyond one machine.

Beam moves the data; what happens to a sample is what happens on one machine: the same
functions judge, decide, align and render it, and records land in the same shards in the
same order, so the corpus is the same to the byte. Beam is the engine of SeqIO's own
caching: the runners are the same (Dataflow, Flink, Spark; `DirectRunner` here).

    files --lines--> samples, judged --by question--> decided --one DoFn--> records
      --by shard--> sorted, compressed files --launcher--> corpus folder

Workers open completions and vocabulary by their paths, so these must be where every
worker finds them. Finished shards go to a staging folder that workers and launcher
share; the launcher makes the corpus folder of them. A shard is sorted in one worker's
memory: choose as many shards as that takes.
"""

# pyright: basic, reportMissingImports=false
# Beam is not in the environment that the type checker reads.

import contextlib
import functools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from specialize.corpus.building.decisions import (
    DROP,
    KEEP_FIRST,
    Verdict,
    check_limits,
    decide_question,
    nothing_kept,
)
from specialize.corpus.building.passes import Sources
from specialize.corpus.building.rendering import (
    HUMAN,
    Renderer,
    Settings,
    human_completion,
)
from specialize.corpus.building.verification import verify
from specialize.corpus.completions import (
    Questions,
    Sample,
    completion_to_json,
    parse_line,
)
from specialize.corpus.lines import Line, read_lines
from specialize.corpus.records import Fingerprint, Problem
from specialize.corpus.storage import cards, shards, tfrecord
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.storage.record_order import compressed, order_of, place_of
from specialize.corpus.storage.statistics import FormatStatistics
from specialize.corpus.storage.stored_record import encode_record
from specialize.errors import InputError
from specialize.outputs import make_parent

try:
    import apache_beam as ab
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms.window import GlobalWindow
    from apache_beam.utils.windowed_value import WindowedValue
except ModuleNotFoundError as missing:
    if missing.name != "apache_beam":
        raise
    raise InputError(
        "building on Beam needs the extra 'beam': pip install 'specialize[beam]'."
    ) from missing

Path = str | os.PathLike[str]

_SUMMARY = "summary.json"
_REFUSAL = re.compile(r"InputError: (.*?)(?: \[while running|\n|$)", re.DOTALL)


class Judged(NamedTuple):
    """A sample on its way to its question's others.

    Attributes:
        verdict: what the judge says.
        payload: the completion as a line of an export; "" for a human rationale, and
            for what is not right.
    """

    verdict: Verdict
    payload: str


class Kept(NamedTuple):
    """A sample that stays."""

    problem_id: str
    where: str
    payload: str
    first: bool


class Summary:
    """Counts of some samples and records, which can be added up in any order."""

    def __init__(self) -> None:
        self.funnel = Funnel()
        self.statistics: dict[str, FormatStatistics] = {}

    def merge(self, other: "Summary") -> None:
        """Adds the counts of another worker."""
        self.funnel.merge(other.funnel)
        for name, part in other.statistics.items():
            self.statistics.setdefault(name, FormatStatistics()).merge(part)


def assemble(
    samples: Sources,
    settings: Settings,
    questions: Sequence[Problem],
    pool: Sequence[Problem] | None,
    card: cards.Card,
    fingerprint: Fingerprint,
    out: Path,
    *,
    options: Sequence[str] = (),
    staging: str | None = None,
    near_duplicate: float | None = None,
    max_samples: int | None = None,
    num_shards: int = 4,
    replace: bool = False,
) -> Manifest:
    """Builds a corpus on a Beam runner.

    Args:
        samples: completions files and rationales.
        settings: what to write and how.
        questions: the problems.
        pool: problems to draw demonstrations from; see `Renderer`.
        card: origin of the data.
        fingerprint: of the corpus.
        out: the corpus folder, where the launcher can write.
        options: of the pipeline, for example ["--runner=FlinkRunner"].
        staging: folder that workers and launcher share, anything that Beam's file
            systems know; by default a temporary one beside `out`.
        near_duplicate: similarity from which a question's later sample goes.
        max_samples: right samples to keep a question.
        num_shards: files a format.
        replace: whether an earlier corpus in `out` may be replaced.

    Returns:
        The manifest, as written to `out`.

    Raises:
        InputError: as `pipeline.build`. `out` is as before.
    """
    check_limits(near_duplicate, max_samples)
    shards.check_fingerprint(fingerprint)
    if not 1 <= num_shards <= shards.MAX_SHARDS:
        raise InputError(
            f"num_shards is {num_shards}, expected 1 to {shards.MAX_SHARDS}."
        )
    decide = functools.partial(
        _decide, near_duplicate=near_duplicate, max_samples=max_samples
    )
    with _staging(out, staging) as folder:
        pipeline = ab.Pipeline(options=PipelineOptions(list(options)))
        humans = (
            pipeline
            | "rationales" >> ab.Create(list(samples.rationales))
            | "judge rationales" >> ab.ParDo(_JudgeRationales(settings))
        )
        completions = (
            pipeline
            | "files" >> ab.Create([os.fspath(path) for path in samples.files])
            | "lines" >> ab.FlatMap(read_lines)
            | "spread lines" >> ab.Reshuffle()
            | "judge" >> ab.ParDo(_JudgeLines(settings, list(questions)))
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
            >> ab.ParDo(
                _Render(settings, list(questions), pool, fingerprint, num_shards)
            ).with_outputs("counts", main="records")
        )
        files = (
            rendered["records"]
            | "by shard" >> ab.GroupByKey()
            | "write shards" >> ab.Map(_write_shard, folder)
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
                _write_summary, ab.pvalue.AsSingleton(counts), ab.pvalue.AsList(files)
            )
        )
        _run(pipeline)
        funnel, statistics, written = _read_summary(folder)
        if not funnel.kept:
            raise nothing_kept(funnel)
        return shards.write_shards(
            _blocks(folder, statistics, written, num_shards),
            out,
            fingerprint,
            num_shards=num_shards,
            card=card.to_json(),
            funnel=funnel.to_json(),
            replace=replace,
        )


class _JudgeRationales(ab.DoFn):
    def __init__(self, settings: Settings):
        self._settings = settings

    def process(
        self, element: Problem, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[str, Judged]]:
        sample = Sample(human_completion(element), element.source)
        settings = self._settings
        reason = verify(
            sample, element, answer_type=settings.answer_type, rule=settings.rule
        )
        text = sample.completion.text
        verdict = Verdict(element.id, HUMAN, reason, element.source, text)
        yield element.id, Judged(verdict, "")


class _JudgeLines(ab.DoFn):
    def __init__(self, settings: Settings, problems: list[Problem]):
        self._settings = settings
        self._problems = problems

    def setup(self) -> None:
        self._questions = Questions(self._problems)

    def process(
        self, element: Line, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[str, Judged]]:
        settings = self._settings
        for sample in parse_line(element, self._questions):
            completion = sample.completion
            problem = self._questions.get(completion.problem_id, sample.where)
            reason = verify(
                sample, problem, answer_type=settings.answer_type, rule=settings.rule
            )
            payload = ""
            if reason is None:
                payload = json.dumps(completion_to_json(completion))
            verdict = Verdict(
                problem.id, completion.sample, reason, sample.where, completion.text
            )
            yield problem.id, Judged(verdict, payload)


def _decide(
    group: tuple[str, Iterable[Judged]],
    *,
    near_duplicate: float | None,
    max_samples: int | None,
) -> Iterator[Any]:
    problem_id, members = group
    judged = list(members)
    decisions, funnel = decide_question(
        [member.verdict for member in judged],
        near_duplicate=near_duplicate,
        max_samples=max_samples,
    )
    summary = Summary()
    summary.funnel = funnel
    yield ab.pvalue.TaggedOutput("counts", summary)
    for member, decision in zip(judged, decisions, strict=True):
        if decision != DROP:
            where, payload = member.verdict.where, member.payload
            yield Kept(problem_id, where, payload, decision == KEEP_FIRST)


class _Render(ab.DoFn):
    """The one DoFn of a record: `Renderer.render`, then its place and order."""

    def __init__(
        self,
        settings: Settings,
        problems: list[Problem],
        pool: Sequence[Problem] | None,
        fingerprint: Fingerprint,
        num_shards: int,
    ):
        self._settings = settings
        self._problems = problems
        self._pool = None if pool is None else list(pool)
        self._fingerprint = fingerprint
        self._num_shards = num_shards

    def setup(self) -> None:
        self._renderer = Renderer(self._settings, self._problems, self._pool)
        self._questions = Questions(self._problems)

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
        funnel, statistics = self._summary.funnel, self._summary.statistics
        funnel.aligned += done.aligned
        funnel.kept += bool(done.records)
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


def _write_shard(
    group: tuple[tuple[str, int], Iterable[tuple[int, bytes]]], folder: str
) -> tuple[str, int, int]:
    (name, shard), records = group
    ordered = sorted(records)
    data = compressed(frame for _, frame in ordered)
    # A worker that is tried again writes the same bytes to the same place.
    with FileSystems.create(
        FileSystems.join(folder, f"{name}-{shard}"),
        compression_type=ab.io.filesystem.CompressionTypes.UNCOMPRESSED,
    ) as stream:
        stream.write(data)
    return name, shard, len(ordered)


def _write_summary(
    folder: str, summary: Summary, files: list[tuple[str, int, int]]
) -> None:
    statistics = {
        name: {
            "inputs": part.inputs.tolist(),
            "targets": part.targets.tolist(),
            "origins": part.origins.tolist(),
            "kept": part.kept,
            "sampled": part.sampled,
        }
        for name, part in summary.statistics.items()
    }
    value = {
        "funnel": summary.funnel.to_json(),
        "statistics": statistics,
        "files": sorted(files),
    }
    with FileSystems.create(FileSystems.join(folder, _SUMMARY)) as stream:
        stream.write(json.dumps(value).encode())


def _read_summary(
    folder: str,
) -> tuple[Funnel, dict[str, FormatStatistics], list[tuple[str, int, int]]]:
    with FileSystems.open(FileSystems.join(folder, _SUMMARY)) as stream:
        value = cast(dict[str, Any], json.loads(stream.read()))
    statistics = {
        name: FormatStatistics(
            np.asarray(part["inputs"], np.int64),
            np.asarray(part["targets"], np.int64),
            np.asarray(part["origins"], np.int64),
            part["kept"],
            part["sampled"],
        )
        for name, part in value["statistics"].items()
    }
    files = [(str(n), int(shard), int(count)) for n, shard, count in value["files"]]
    return Funnel.from_json(value["funnel"]), statistics, files


def _blocks(
    folder: str,
    statistics: dict[str, FormatStatistics],
    files: list[tuple[str, int, int]],
    num_shards: int,
) -> Iterator[shards.Block]:
    yield shards.Block(num_shards, {}, statistics)
    for name, shard, count in files:
        path = FileSystems.join(folder, f"{name}-{shard}")
        uncompressed = ab.io.filesystem.CompressionTypes.UNCOMPRESSED
        with FileSystems.open(path, compression_type=uncompressed) as stream:
            data = stream.read()
        yield shards.Block(num_shards, {(name, shard): (count, data)}, {})


def _run(pipeline: ab.Pipeline) -> None:
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        # Runners add the step to a worker's exception, or pass it on as text.
        text = f"InputError: {error}" if isinstance(error, InputError) else str(error)
        found = _REFUSAL.search(text)
        if found is None:
            raise
        raise InputError(found[1]) from error


@contextlib.contextmanager
def _staging(out: Path, staging: str | None) -> Generator[str]:
    if staging is not None:
        yield staging
        return
    target = pathlib.Path(out).absolute()
    make_parent(target)
    with tempfile.TemporaryDirectory(
        ".staging", f".{target.name}.", target.parent
    ) as folder:
        yield folder
