"""Finds in files what `inspect` and `stats` show."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.building.rendering import Renderer, human_completion
from specialize.corpus.choices import REASONING
from specialize.corpus.completions import Questions, Sample, read_completions
from specialize.corpus.inspection.view import View, view, view_record
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.plain_text.writer import of_description
from specialize.corpus.records import Problem, RecordId
from specialize.corpus.spec import AlignmentSpec, RecordsSpec
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.vocabulary import read_vocabulary
from specialize.errors import InputError

Path = str | os.PathLike[str]


def look_at_record(
    corpus: Path,
    vocabulary_path: Path,
    *,
    identity: str | None = None,
    index: int = 0,
    completions: Sequence[Path] = (),
    problems: Sequence[Problem] = (),
) -> View:
    """The view of one record of a corpus.

    Args:
        corpus: folder of the corpus.
        vocabulary_path: the vocabulary that it was built with.
        identity: id of the record, "<problem>/<sample>/<format>".
        index: number of the record; used if no id is given.
        completions: the files it was built from, to show the teacher's tokens.
        problems: the problems that they answer.

    Raises:
        InputError: there is no such record, or the vocabulary is another one.
    """
    manifest = Manifest.load(corpus)
    given = read_vocabulary(vocabulary_path)
    if given.sha256 != manifest.fingerprint.vocabulary_sha256:
        raise InputError(
            f"{vocabulary_path} is not the vocabulary of {corpus}. Name the one that "
            "it was built with."
        )
    spelling = of_description(manifest.fingerprint.spelling)
    writer = writer_of(
        AlignmentSpec(
            vocabulary_path,
            manifest.fingerprint.vocabulary_rows,
            unwritable=spelling["unwritable"],
            digits=spelling["digits"],
        )
    )
    vocabulary = writer.vocabulary
    record = _record(corpus, identity, index, vocabulary.sha256)
    problem_id, sample, _ = RecordId.read(record.id)
    completion = None
    if completions and sample.isdecimal() and record.format.endswith("_cot"):
        policy = manifest.fingerprint.sampling.get("reasoning")
        completion = _sample(
            completions, problems, problem_id, int(sample), policy
        ).completion
    return view_record(record, vocabulary, completion, writer.machine)


def look_at_completion(
    completions: Sequence[Path],
    problems: Sequence[Problem],
    alignment: AlignmentSpec,
    identity: str,
) -> View:
    """The view of one completion, which is aligned for it.

    Args:
        completions: files of completions.
        problems: the problems that they answer.
        alignment: vocabulary, K and method.
        identity: "<problem>/<sample>", or "<problem>/human" for the rationale.

    Raises:
        InputError: there is no such sample, or it cannot be aligned.
    """
    renderer = Renderer(alignment, RecordsSpec(), problems)
    problem_id, _, sample = identity.rpartition("/")
    if sample == "human":
        problem = Questions(problems).get(problem_id, identity)
        if problem.rationale is None or not problem.answers:
            raise InputError(f"{identity}: the problem has no rationale or no answer.")
        completion = human_completion(problem)
    elif problem_id and sample.isdecimal():
        found = _sample(completions, problems, problem_id, int(sample))
        if found.rejection is not None:
            raise InputError(f"{found.where}: {found.rejection}, so it has no rows.")
        completion = found.completion
    else:
        raise InputError(
            f"{identity!r} names no sample. Write '<problem id>/<number>', for example "
            "gsm8k-train-0/3, or '<problem id>/human'."
        )
    target = renderer.align(completion)
    if target is None:
        raise InputError(f"{identity} cannot be aligned: its text has no tokens.")
    tokens = completion.tokens or ()
    writer = renderer.writer
    return view(
        identity,
        writer.text(completion.text),
        target,
        renderer.vocabulary,
        tokens=tokens,
        machine=writer.machine,
    )


def summary(corpus: Path) -> dict[str, Any]:
    """The numbers that `stats` shows, as JSON values.

    `teacher_bytes_per_token` counts ids, log-probabilities and tail before compression
    (4K + 2); `bytes_per_token` is the size on disk per target token, including text,
    inputs and compression.

    Raises:
        InputError: the folder is not a corpus, or a shard is missing.
    """
    manifest = shards.open_corpus(corpus)
    formats: dict[str, Any] = {}
    for name, part in manifest.formats.items():
        tokens = round(part.targets.mean * part.records)
        size = sum(shard.bytes for shard in manifest.shards_of(name))
        formats[name] = {
            "records": part.records,
            "inputs": vars(part.inputs),
            "targets": vars(part.targets),
            "soft_share": round(part.soft_share, 6),
            "origins": part.origins,
            "kept_mass": part.kept_mass,
            "sampled_mass": part.sampled_mass,
            "teacher_bytes_per_token": 4 * manifest.fingerprint.k + 2,
            "bytes_per_token": round(size / tokens, 2) if tokens else None,
        }
    return {
        "fingerprint": manifest.fingerprint.to_json(),
        "digest": manifest.fingerprint.digest(),
        "funnel": manifest.funnel,
        "formats": formats,
    }


def tables(corpus: Path) -> RenderableType:
    """`summary` as tables for a terminal."""
    manifest = Manifest.load(corpus)
    value = summary(corpus)
    table = _table("Teacher", "records", "soft", "kept mass", "B/token", "on disk")
    lengths = _table("Lengths in tokens", "mean", "median", "99 %", "longest")
    for name, part in value["formats"].items():
        table.add_row(
            name,
            f"{part['records']:,}",
            f"{100 * part['soft_share']:.1f} %",
            f"{part['kept_mass']:.4f}",
            str(part["teacher_bytes_per_token"]),
            "-"
            if part["bytes_per_token"] is None
            else f"{part['bytes_per_token']:.1f}",
        )
        for side in ("inputs", "targets"):
            found = part[side]
            rest = (f"{found[key]:,}" for key in ("median", "p99", "max"))
            lengths.add_row(f"{name} {side}", f"{found['mean']:,.0f}", *rest)
    table.caption = "bytes per target token: teacher rows, and the record on disk"
    names = dict.fromkeys(n for p in value["formats"].values() for n in p["origins"])
    origins = _table("Why target positions are soft or one-hot", *names)
    for name, part in value["formats"].items():
        total = sum(part["origins"].values()) or 1
        shares = (100 * part["origins"].get(n, 0) / total for n in names)
        origins.add_row(name, *(f"{share:.1f} %" for share in shares))
    parts: list[RenderableType] = [table, lengths, origins]
    if manifest.funnel:
        funnel = Funnel.from_json(manifest.funnel, corpus)
        parts.insert(0, funnel.table(judged=manifest.judged))
    return Group(*parts)


def _table(title: str, *heads: str) -> Table:
    """A table with one row per format, whose name is never cut."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("format", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _record(
    corpus: Path, identity: str | None, index: int, vocabulary_sha256: str
) -> DistillRecord:
    formats = None
    if identity is not None:
        name = RecordId.read(identity).format
        known = Manifest.load(corpus).formats
        if name not in known:
            raise InputError(
                f"{identity!r} names no format of {corpus}. A record is called "
                f"'<problem id>/<sample>/<format>', its formats are {list(known)}."
            )
        formats = [name]
    count = 0
    for record in shards.read_shards(
        corpus, formats=formats, vocabulary_sha256=vocabulary_sha256
    ):
        if record.id == identity or (identity is None and count == index):
            return record
        count += 1
    wanted = f"record {index}" if identity is None else repr(identity)
    raise InputError(
        f"{pathlib.Path(corpus)} has no {wanted} among {count} records. 'specialize "
        "corpus stats' says what it holds."
    )


def _sample(
    paths: Sequence[Path],
    problems: Sequence[Problem],
    problem_id: str,
    number: int,
    policy: str | None = None,
) -> Sample:
    """A sample, with its reasoning treated as `policy` or the file's card says."""
    for path in paths:
        wanted = policy or cards.stated_reasoning(path) or REASONING[0]
        for sample in read_completions(path, problems, wanted):
            completion = sample.completion
            if (completion.problem_id, completion.sample) == (problem_id, number):
                return sample
    raise InputError(
        f"no sample {number} of {problem_id!r} in {', '.join(map(str, paths))}. Name "
        "the file that holds it."
    )
