"""The stages of `build` one by one, each from a file to a file.

    completions --verify--> right ones --align--> aligned samples --write--> corpus

Every file has a card beside it (`cards`), which carries the origin, the funnel so far
and, behind `align`, the student's vocabulary, so that the next stage can refuse what
does not fit. The records at the end are those that `build` writes.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from specialize import outputs
from specialize.corpus.benchmarks.table import licence_of
from specialize.corpus.building.aligned import aligned_to_json
from specialize.corpus.building.decisions import DROP, Verdict, decide
from specialize.corpus.building.parallel import default_processes, ordered_map
from specialize.corpus.building.passes import (
    Chunk,
    Sources,
    Task,
    decided,
    judge_all,
    kept_samples,
)
from specialize.corpus.building.pipeline import assemble, with_rationale
from specialize.corpus.building.rendering import Renderer, Settings
from specialize.corpus.completions import Questions, completion_to_json, parse_line
from specialize.corpus.lines import staged_lines
from specialize.corpus.records import Problem
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.errors import InputError
from specialize.progress import track

Path = str | os.PathLike[str]


def verify(
    problems: Sequence[Problem],
    completions: Sequence[Path],
    out: Path,
    *,
    dataset: str = "gsm8k",
    teacher: str | None = None,
    answer_type: str = "number",
    rule: str = "exact",
    near_duplicate: float | None = None,
    max_samples: int | None = None,
    rejected: Path | None = None,
    processes: int | None = None,
) -> Funnel:
    """Writes the right completions of some files to one file.

    Args:
        problems: the questions.
        completions: files of completions.
        out: JSON lines, gzipped where it ends in `.gz`.
        dataset: the benchmark, for the card.
        teacher: who wrote the completions; by default what their cards say.
        answer_type: how answers are judged; see `answers`.
        rule: "exact", or "reference" for the paper's way to read an answer.
        near_duplicate: similarity (0, 1] from which a question's later sample goes.
        max_samples: right samples to keep a question.
        rejected: where to list the others with their reason, as JSON lines; None for
            nowhere.
        processes: how many work; does not change the result.

    Returns:
        The funnel, also in the card.

    Raises:
        InputError: a malformed file, or nothing stays. `out` is as before; in the
            second case `rejected` says why.
    """
    if not completions:
        raise InputError("no completions were named. Give one file or more.")
    workers = default_processes() if processes is None else processes
    card = cards.corpus_card(
        None, completions, teacher=teacher, dataset=dataset, with_human=False
    )
    sources = Sources([], completions)
    judged = judge_all(
        sources,
        problems,
        answer_type=answer_type,
        rule=rule,
        thorough=True,
        processes=workers,
    )
    verdicts = [verdict for chunk in judged for verdict in chunk.verdicts]
    if rejected is not None and all(verdict.reason for verdict in verdicts):
        # Why nothing stays is what the list is read for.
        everything = _rejections(verdicts, [DROP] * len(verdicts))
        outputs.write_text(rejected, "".join(everything))
    decisions, funnel = decide(
        verdicts, near_duplicate=near_duplicate, max_samples=max_samples
    )
    funnel.kept = sum(decision != DROP for decision in decisions)
    work = ordered_map(
        _export,
        decided(sources, judged, decisions),
        processes=workers,
        prepare=_prepare_export,
        arguments=(list(problems),),
    )
    with contextlib.ExitStack() as stack:
        if rejected is not None:
            listing = stack.enter_context(outputs.staged_file(rejected))
            listing.write_text("".join(_rejections(verdicts, decisions)), "utf-8")
        stream = stack.enter_context(staged_lines(out))
        for lines in track(work, "write right completions", total=len(judged)):
            stream.write(lines)
    cards.write_card(out, dataclasses.replace(card, funnel=funnel.to_json()))
    return funnel


def align(
    problems: Sequence[Problem],
    completions: Path,
    out: Path,
    settings: Settings,
    *,
    processes: int | None = None,
) -> Funnel:
    """Writes verified completions in student tokens with the teacher's rows.

    Args:
        problems: the questions.
        completions: what `verify` wrote; other files are taken as they are.
        out: JSON lines, gzipped where it ends in `.gz`; see `aligned`.
        settings: vocabulary, K and method.
        processes: how many work; does not change the result.

    Returns:
        The funnel so far, also in the card.

    Raises:
        InputError: a malformed file, or nothing stays. `out` is as before.
    """
    workers = default_processes() if processes is None else processes
    card = cards.read_card(completions) or cards.Card(cards.UNKNOWN)
    renderer = Renderer(settings, problems)
    work = ordered_map(
        _align,
        Sources([], [completions]).chunks(),
        processes=workers,
        prepare=_prepare_align,
        arguments=(settings, list(problems)),
    )
    funnel = Funnel.from_json(card.funnel)
    read = 0
    aligned = 0
    with staged_lines(out) as stream:
        for part in track(work, "align completions"):
            stream.write(part.lines)
            read += part.read
            aligned += part.aligned
        if not aligned:
            raise InputError(f"none of {read} completions in {completions} aligned.")
    if not card.funnel:
        funnel = Funnel(read=read, verified=read)
    funnel.aligned = funnel.kept = aligned
    if read > aligned:
        funnel.reject("unaligned", read - aligned)
    vocabulary = renderer.vocabulary
    card = dataclasses.replace(
        card,
        funnel=funnel.to_json(),
        alignment={
            "method": settings.alignment,
            "k": settings.k,
            "vocabulary_sha256": vocabulary.sha256,
            "vocabulary_rows": vocabulary.rows,
        },
    )
    cards.write_card(out, card)
    return funnel


def write(
    problems_path: Path,
    problems: Sequence[Problem],
    aligned: Path,
    out: Path,
    settings: Settings,
    *,
    pool: Sequence[Problem] | None = None,
    rationales: bool = True,
    dataset: str = "gsm8k",
    num_shards: int = 4,
    processes: int | None = None,
    replace: bool = False,
) -> Manifest:
    """Writes aligned samples, and human rationales, as a corpus.

    Args:
        problems_path: the benchmark's own file, for the card.
        problems: its problems.
        aligned: what `align` wrote.
        out: the corpus folder.
        settings: formats, demonstrations and limits; vocabulary, K and method must be
            those of `align`.
        pool: problems to draw demonstrations from; by default `problems`.
        rationales: whether human rationales are samples too.
        dataset: the benchmark, for its licence.
        num_shards: files a format.
        processes: how many work; does not change the result.
        replace: whether an earlier corpus in `out` may be replaced.

    Returns:
        The manifest.

    Raises:
        InputError: another vocabulary or K than that of `align`, a malformed file, or
            nothing to write. `out` is as before.
    """
    shards.check_output(out, replace=replace)
    card = cards.read_card(aligned)
    if card is None or not card.alignment:
        raise InputError(
            f"{aligned} has no card of 'specialize corpus align' beside it. Name a "
            "file that 'align' wrote, and keep its .card.json with it."
        )
    vocabulary = Renderer(settings, problems).vocabulary
    wanted = {
        "method": settings.alignment,
        "k": settings.k,
        "vocabulary_sha256": vocabulary.sha256,
        "vocabulary_rows": vocabulary.rows,
    }
    differing = [
        f"{name} is {found!r}, now {wanted.get(name)!r}"
        for name, found in card.alignment.items()
        if wanted.get(name) != found
    ]
    if differing:
        raise InputError(
            f"{aligned} was aligned otherwise: {'; '.join(differing)}. Write with the "
            "settings of 'align', or align again."
        )
    names = ([cards.HUMAN] if rationales else []) + [card.teacher]
    final = cards.Card(
        teacher="+".join(names),
        prompt_sha256=card.prompt_sha256,
        sampling=card.sampling,
        licences={dataset: licence_of(dataset)} | card.licences,
        sources=[cards.source(problems_path), *card.sources],
    )
    return assemble(
        Sources(with_rationale(problems) if rationales else [], [aligned], True),
        settings,
        problems,
        pool,
        final,
        out,
        earlier=Funnel.from_json(card.funnel),
        num_shards=num_shards,
        processes=processes,
        replace=replace,
    )


class _Aligned(NamedTuple):
    lines: bytes
    read: int
    aligned: int


# What a process prepared before its first chunk.
_exporting: Questions | None = None
_aligning: tuple[Renderer, Questions] | None = None


def _prepare_export(problems: list[Problem]) -> None:
    global _exporting
    _exporting = Questions(problems)


def _prepare_align(settings: Settings, problems: list[Problem]) -> None:
    global _aligning
    _aligning = (Renderer(settings, problems), Questions(problems))


def _export(task: Task) -> bytes:
    assert _exporting is not None
    lines = [
        json.dumps(completion_to_json(sample.completion), ensure_ascii=False)
        for sample, _, _ in kept_samples(task, _exporting, 1)
    ]
    return "".join(line + "\n" for line in lines).encode()


def _align(chunk: Chunk) -> _Aligned:
    assert _aligning is not None
    renderer, questions = _aligning
    lines: list[str] = []
    read = 0
    for line in chunk.lines:
        for sample in parse_line(line, questions):
            read += 1
            if sample.rejection is not None:
                continue
            target = renderer.align(sample.completion, sample.where)
            if target is not None:
                lines.append(aligned_to_json(sample.completion, target) + "\n")
    return _Aligned("".join(lines).encode(), read, len(lines))


def _rejections(verdicts: Sequence[Verdict], decisions: Sequence[int]) -> Iterator[str]:
    for verdict, decision in zip(verdicts, decisions, strict=True):
        if decision == DROP:
            # A right sample that goes repeats another, or is one too many.
            line = {
                "problem_id": verdict.problem_id,
                "sample": verdict.sample,
                "reason": verdict.reason or "near_duplicate_or_over_budget",
                "where": verdict.where,
            }
            yield json.dumps(line, ensure_ascii=False) + "\n"
