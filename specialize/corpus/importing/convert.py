"""Foreign files -> one file of our export, with its card."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from specialize import checks, typed_json
from specialize.corpus.building.verification import verify_as_spelt
from specialize.corpus.choices import LAYOUTS
from specialize.corpus.completions import Sample, apart, completion_to_json
from specialize.corpus.importing.layouts import (
    Clues,
    Fields,
    Lost,
    clues_of,
    layout_of,
    read,
)
from specialize.corpus.importing.matching import Finder
from specialize.corpus.importing.numbering import Numbers
from specialize.corpus.importing.report import EXAMPLES, Example, Report
from specialize.corpus.lines import (
    Line,
    read_lines,
    refuse_stream,
    staged_lines,
    unzipped,
)
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.plain_text.writer import Writer
from specialize.corpus.records import Completion, Problem
from specialize.corpus.sampling.spec import CONVENTIONS
from specialize.corpus.sampling.wire import sound
from specialize.corpus.spec import AlignmentSpec, Sources
from specialize.corpus.spelling import spell
from specialize.corpus.storage import cards
from specialize.corpus.tasks.rows import read_rows
from specialize.digests import dataset_files
from specialize.errors import InputError
from specialize.judging.segments import END_TOKENS
from specialize.judging.spec import JudgeSpec
from specialize.progress import track

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class ImportSpec:
    """How foreign files are read.

    Attributes:
        layout: one of `LAYOUTS`; None finds out for every object.
        fields: names of the fields of rows.
        requests: files of the requests of a batch, with the question of each id.
        without_logprobs: whether completions without log-probabilities are written;
            their teacher rows are one-hot.
        logprobs: whether log-probabilities are before or after temperature, as far as
            it is known: one of `CONVENTIONS` except "auto".

    Raises:
        InputError: an unknown layout or convention.
    """

    layout: str | None = None
    fields: Fields = Fields()
    requests: Sequence[Path] = ()
    without_logprobs: bool = False
    logprobs: str = "unknown"

    def __post_init__(self) -> None:
        if self.layout is not None:
            checks.one_of("layout", self.layout, LAYOUTS)
        checks.one_of("logprobs_are", self.logprobs, CONVENTIONS[1:])


def convert(
    sources: Sources,
    out: Path | None,
    spec: ImportSpec = ImportSpec(),
    *,
    judge: JudgeSpec | None = None,
    student: AlignmentSpec | None = None,
) -> Report:
    """Writes the completions of foreign files as one export.

    Samples of a question are numbered in the order of the files, unless they have
    numbers of their own. Every completion that can be read is written, also one that
    is wrong or was cut: `verify` counts it. Reasoning is treated as `sources` says.

    Args:
        sources: problems, files, teacher and what is done with reasoning.
        out: file of JSON lines, gzipped if its name ends in `.gz`; None writes nothing.
        spec: how the files are read.
        judge: the judge of the report; None takes that of the task.
        student: the vocabulary and spelling of the student: the report then counts what
            it cannot write. Does not change what is written.

    Returns:
        What was kept and lost.

    Raises:
        InputError: a file cannot be read, or no completion can be used. `out` is
            unchanged.
    """
    if not sources.completions:
        raise InputError("no completions were named. Name one or more files.")
    if out is not None:
        cards.check_name(out)
    problems = sources.read()
    card = cards.corpus_card(sources, problems=False)
    policy = cards.reasoning_of(sources)
    finder = Finder(problems, sources.spec.name, _requests(spec.requests))
    report = Report()
    writer = student and writer_of(student)
    judge = judge or sources.judge
    work = _Work(spec, finder, policy, judge, writer, report)
    with contextlib.ExitStack() as stack:
        stream = None if out is None else stack.enter_context(staged_lines(out))
        for path in sources.completions:
            for line, record in track(_records(path), f"import {path}"):
                for completion in work.of(line, record):
                    if stream is not None:
                        stream.write(_line(completion))
        if not report.written:
            files = ", ".join(map(str, sources.completions))
            raise InputError(
                f"none of {report.read:,} completions of {files} can be used: "
                f"{report.losses()}. Name the problem file that the teacher was given, "
                "and the --layout or the fields of the file."
            )
    if out is not None:
        cards.write_card(out, _card(card, sources, spec, policy, report))
    return report


class _Work:
    """Reads objects one after the other, and numbers samples."""

    def __init__(
        self,
        spec: ImportSpec,
        finder: Finder,
        policy: str,
        judge: JudgeSpec,
        writer: Writer | None,
        report: Report,
    ):
        self._spec, self._finder, self._policy = spec, finder, policy
        self._judge, self._writer, self._report = judge, writer, report
        self._taken: dict[str, Numbers] = collections.defaultdict(Numbers)

    def of(self, line: Line, record: dict[str, Any]) -> Iterator[Completion]:
        """The completions of one object, as they are written."""
        report, spec = self._report, self._spec
        layout = spec.layout or layout_of(record, spec.fields)
        if layout is None:
            names = ", ".join(list(record)[:12])
            report.lose("unknown_layout", f"{line.where}: fields {names}")
            return
        report.layouts[layout] += 1
        found = read(line, record, layout, spec.fields)
        if found.model:
            report.models.add(found.model)
        problem = None
        if any(isinstance(one, Completion) for one in found.found):
            problem = self._finder.find(found.clues)
        for one in found.found:
            if isinstance(one, Lost):
                detail = one.detail
                if line.where not in detail:
                    detail = f"{line.where}: {detail}"
                report.lose(one.reason, detail)
            elif problem is None:
                names = [*found.clues.ids[:2], *found.clues.texts[:1]]
                report.lose("no_match", f"{line.where}: {' | '.join(names)}")
            elif (
                one.tokens is None and one.answer.strip() and not spec.without_logprobs
            ):
                report.lose("no_logprobs", line.where)
            else:
                numbered = layout in ("ours", "notebook")
                number = self._number(problem.id, one.sample if numbered else None)
                yield self._kept(line, problem, one, number)

    def _number(self, problem_id: str, wanted: int | None) -> int:
        taken = self._taken[problem_id]
        if wanted is None or wanted in taken:
            wanted = taken.first_free()
        taken.add(wanted)
        return wanted

    def _kept(
        self, line: Line, problem: Problem, one: Completion, number: int
    ) -> Completion:
        report = self._report
        before = dataclasses.replace(one, problem_id=problem.id, sample=number)
        sample = apart(Sample(_ended(before), line.where), self._policy)
        after = sample.completion
        verdict, spelling = verify_as_spelt(sample, problem, self._judge, self._writer)
        report.written += 1
        report.spelling.add(spelling or SpellingCounts())
        report.reasoned += sample.reasoned
        report.one_hot += after.tokens is None
        report.divided += any(token.is_unknown for token in after.tokens or ())
        report.judged[verdict or ""] += 1
        if len(report.examples) < EXAMPLES:
            found = Example(line.where, problem, before, after, verdict)
            report.examples.append(found)
        return after


def _ended(completion: Completion) -> Completion:
    """The completion without the end marks of a tokenizer after its text."""
    marks = _END.search(completion.text)
    if marks is None:
        return completion
    text, tokens = completion.text[: marks.start()], completion.tokens
    tokens = None if tokens is None else spell(text, tokens)
    border = min(completion.reasoning, len(text))
    return dataclasses.replace(completion, text=text, tokens=tokens, reasoning=border)


_END = re.compile(rf"\s*(?:(?:{END_TOKENS.pattern})\s*)+\Z")


def _records(path: Path) -> Iterator[tuple[Line, dict[str, Any]]]:
    for raw in _lines(path):
        line = Line(raw.where, sound(raw.data))
        record = typed_json.decode(
            line.data, dict[str, Any], line.where, remedy=_REMEDY, infinities=True
        )
        yield line, record


def _lines(path: Path) -> Iterator[Line]:
    """The objects of JSON lines, of one JSON object, of a JSON list, or of a table."""
    file = pathlib.Path(path)
    name = file.name.lower().removesuffix(".gz")
    if name.endswith(_TABLES) or dataset_files(file):
        for where, row in read_rows(file):
            yield Line(where, json.dumps(row, default=str).encode())
        return
    if not (data := _list(file)):
        yield from read_lines(file)
        return
    parts = typed_json.decode(data, list[msgspec.Raw], file, remedy=_REMEDY)
    if not parts:
        raise InputError(f"{file} is an empty list. {_REMEDY}")
    for number, part in enumerate(parts):
        yield Line(f"{file}#{number}", bytes(part))


def _list(file: pathlib.Path) -> bytes:
    """The content of a file that begins as a JSON list; b"" if it does not."""
    refuse_stream(file)
    with unzipped(file) as stream:
        head = stream.read(4096)
        if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"[":
            return b""
        data = head + stream.read(typed_json.MOST_BYTES)
    if len(data) > typed_json.MOST_BYTES:
        raise InputError(f"{file} is a list over 1 GiB. Write JSON lines instead.")
    return data


def _requests(paths: Sequence[Path]) -> dict[str, Clues]:
    """What was asked, by the id of a request."""
    found: dict[str, Clues] = {}
    for path in paths:
        for line, record in _records(path):
            clues = clues_of(record)
            identity = record.get("custom_id", record.get("key"))
            if not isinstance(identity, str):
                raise InputError(
                    f"{line.where}: 'custom_id' is missing. --requests takes the file "
                    "of requests that a batch was given."
                )
            found[identity] = clues
    return found


def _line(completion: Completion) -> bytes:
    return json.dumps(completion_to_json(completion)).encode() + b"\n"


def _card(
    card: cards.Card, sources: Sources, spec: ImportSpec, policy: str, report: Report
) -> cards.Card:
    """The card of the files, with what the import found in them."""
    models = "" if sources.teacher else "+".join(sorted(report.models))
    logprobs = "none" if report.one_hot == report.written else spec.logprobs
    return dataclasses.replace(
        card,
        teacher=models or card.teacher,
        sampling={"logprobs": logprobs, **card.sampling, "reasoning": policy},
        imported={
            "layouts": dict(sorted(report.layouts.items())),
            "read": report.read,
            "written": report.written,
            "lost": dict(sorted(report.lost.items())),
            "reasoning_set_apart": report.reasoned,
            "one_hot": report.one_hot,
            "with_unknown_tokens": report.divided,
        },
    )


_TABLES = (".csv", ".tsv", ".parquet")
_REMEDY = (
    "Expected one JSON object per line, a JSON object, or a list of objects, gzipped "
    "or not; or a table (.parquet, .csv, .tsv, a folder of 'datasets')."
)
