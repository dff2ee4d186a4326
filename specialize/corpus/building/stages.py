"""The stages of `build` as separate commands, each from a file to a file.

    completions --verify--> correct ones --align--> aligned samples --write--> corpus

Every file has a card beside it (`cards`) with the origin, the funnel so far and, after
`align`, the student's vocabulary, so that the next stage can refuse a file that does
not fit. The records at the end are those that `build` writes.
"""

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

from specialize import outputs, typed_json
from specialize.corpus.building.aligned import aligned_to_json
from specialize.corpus.building.decisions import DROP
from specialize.corpus.building.parallel import default_processes, ordered_map
from specialize.corpus.building.passes import (
    Chunk,
    Material,
    Samples,
    Task,
    decided,
    kept_samples,
    verify_all,
)
from specialize.corpus.building.pipeline import (
    assemble,
    demonstration_pool,
    with_rationale,
)
from specialize.corpus.building.rendering import Renderer
from specialize.corpus.building.verdicts import Verdicts
from specialize.corpus.completions import Questions, completion_to_json, parse_line
from specialize.corpus.lines import staged_lines
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.round_trip import as_spelt, writer_of
from specialize.corpus.plain_text.writer import AS_IT_IS
from specialize.corpus.records import Problem
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
    Sources,
)
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec
from specialize.progress import track

Path = str | os.PathLike[str]


def verify(
    sources: Sources,
    out: Path,
    *,
    acceptance: AcceptanceSpec = AcceptanceSpec(),
    alignment: AlignmentSpec | None = None,
    rejected: Path | None = None,
    processes: int | None = None,
) -> Funnel:
    """Writes the correct completions of some files to one file.

    Args:
        sources: problems and completions. Only `write` uses rationales.
        out: file of JSON lines, gzipped if its name ends in `.gz`.
        acceptance: which samples are kept.
        alignment: how the student writes a sample, which must then be right too; None
            leaves that to `align`.
        rejected: file of JSON lines for the other samples with their reasons, or None.
        processes: number of processes; does not change the result.

    Returns:
        The funnel, which is also in the card.

    Raises:
        InputError: a file is malformed, or no sample is kept. `out` is unchanged; in
            the second case `rejected` gives the reasons.
    """
    if not sources.completions:
        raise InputError("no completions were named. Name one or more files.")
    cards.check_name(out)
    workers = default_processes() if processes is None else processes
    problems = sources.read()
    card = cards.corpus_card(sources, problems=False)
    policy = cards.reasoning_of(sources)
    samples = Samples([], sources.completions, reasoning=policy)
    judge = acceptance.judge_of(sources)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(outputs.spool(out))
        verdicts = verify_all(
            samples,
            problems,
            judge,
            alignment=alignment,
            thorough=True,
            folder=place,
            processes=workers,
        )
        if rejected is not None and not verdicts.right:
            # Written before `decide` raises: this list says why nothing is kept.
            with outputs.staged_file(rejected) as listing:
                _write_rejections(listing, verdicts)
        funnel = verdicts.decide(acceptance)
        funnel.kept = verdicts.kept
        work = ordered_map(
            _export,
            decided(samples, verdicts),
            processes=workers,
            prepare=Questions,
            arguments=(problems, policy),
        )
        if rejected is not None:
            listing = stack.enter_context(outputs.staged_file(rejected))
            _write_rejections(listing, verdicts)
        stream = stack.enter_context(staged_lines(out))
        for lines in track(work, "write correct completions", total=len(verdicts)):
            stream.write(lines)
    card = dataclasses.replace(
        card,
        funnel=funnel.to_json(),
        judge=dataclasses.asdict(judge),
        spelling={} if alignment is None else _spelling(alignment),
    )
    cards.write_card(out, card)
    return funnel


def align(
    sources: Sources,
    alignment: AlignmentSpec,
    out: Path,
    *,
    processes: int | None = None,
) -> Funnel:
    """Writes verified completions as student tokens with teacher rows.

    Args:
        sources: problems, and the file that `verify` wrote or another file of
            completions, all of which then count as verified.
        alignment: how teacher rows are made.
        out: file of JSON lines (see `aligned`), gzipped if its name ends in `.gz`.
        processes: number of processes; does not change the result.

    Returns:
        The funnel so far, which is also in the card.

    Raises:
        InputError: a file is malformed, or no sample aligns. `out` is unchanged.
    """
    cards.check_name(out)
    workers = default_processes() if processes is None else processes
    problems = sources.read()
    completions = _only(sources)
    card = cards.read_card(completions) or cards.Card(cards.UNKNOWN)
    description = _description(alignment)
    spelling = _spelling(alignment)
    if card.spelling and card.spelling != spelling:
        raise InputError(
            f"{completions} was verified with other settings: the spelling is "
            f"{card.spelling}, now {spelling}. Align with the settings of 'verify', or "
            "verify again."
        )
    # Without a funnel, all completions count as verified.
    judge = None
    if card.funnel and not card.spelling:
        judge = _judge(card, sources, completions)
    work = ordered_map(
        functools.partial(_align, judge=judge),
        Samples([], [completions]).chunks(),
        processes=workers,
        prepare=_prepare_align,
        arguments=(alignment, problems, cards.reasoning_of(sources)),
    )
    funnel = Funnel.from_json(card.funnel, completions)
    read = 0
    aligned = 0
    rejected: collections.Counter[str] = collections.Counter()
    with staged_lines(out) as stream:
        for part in track(work, "align completions"):
            stream.write(part.lines)
            read += part.read
            aligned += part.aligned
            rejected.update(part.rejected)
            funnel.spelling.add(part.spelling)
        if not aligned:
            raise InputError(
                f"none of {read} completions in {completions} aligned: "
                f"{dict(rejected) or 'they have no text'}."
            )
    if not card.funnel:
        funnel = dataclasses.replace(funnel, read=read, verified=read)
    funnel.aligned = funnel.kept = aligned
    funnel.verified -= rejected.total()
    for reason, count in rejected.items():
        funnel.reject(reason, count)
    if read > aligned + rejected.total():
        funnel.reject("unaligned", read - aligned - rejected.total())
    card = dataclasses.replace(card, funnel=funnel.to_json(), alignment=description)
    cards.write_card(out, card)
    return funnel


def write(
    sources: Sources,
    alignment: AlignmentSpec,
    folder: FolderSpec,
    *,
    records: RecordsSpec = RecordsSpec(),
    processes: int | None = None,
) -> Manifest:
    """Writes aligned samples and human rationales as a corpus.

    Args:
        sources: problems, and the file that `align` wrote.
        alignment: the same as in `align`.
        folder: the corpus folder.
        records: which records are written.
        processes: number of processes; does not change the result.

    Raises:
        InputError: the alignment differs from that of `align`, a file is malformed, or
            there is nothing to write. The folder is unchanged.
    """
    shards.check_output(folder.path, replace=folder.replace)
    questions = sources.read()
    aligned = _only(sources)
    card = cards.read_card(aligned)
    if card is None or not card.alignment:
        raise InputError(
            f"{aligned} has no card of 'specialize corpus align' beside it. Name a "
            f"file that 'align' wrote, and keep its {cards.SUFFIX} beside it."
        )
    # Aligned samples of version 0.1 do not say how they were spelled.
    before = AS_IT_IS | card.alignment
    if "unwritable" not in card.alignment:
        alignment = dataclasses.replace(alignment, **AS_IT_IS)
    wanted = _description(alignment)
    differing = [
        f"{name} is {found!r}, now {wanted.get(name)!r}"
        for name, found in before.items()
        if wanted.get(name) != found
    ]
    if differing:
        raise InputError(
            f"{aligned} was aligned with other settings: {'; '.join(differing)}. Write "
            "with the settings of 'align', or align again."
        )
    rationales = with_rationale(questions) if sources.rationales else []
    names = ([cards.HUMAN] if rationales else []) + [card.teacher]
    licences = card.licences | sources.licences()
    final = cards.Card(
        teacher="+".join(names),
        prompt_sha256=card.prompt_sha256,
        sampling=card.sampling,
        licences=licences,
        task=sources.label,
        sources=[cards.source(sources.problems), *card.sources],
    )
    material = Material(
        questions,
        demonstration_pool(sources, records),
        Samples(rationales, [aligned], aligned=True),
        final,
        _judge(card, sources, aligned),
        earlier=Funnel.from_json(card.funnel, aligned),
    )
    return assemble(
        material, alignment, records, AcceptanceSpec(), folder, processes=processes
    )


def _judge(card: cards.Card, sources: Sources, where: Path) -> JudgeSpec:
    """The judge of `verify`, or that of the task."""
    if not card.judge:
        return sources.judge
    return typed_json.convert(
        card.judge, JudgeSpec, f"{where}: judge", remedy="Verify again."
    )


def _only(sources: Sources) -> Path:
    """The file that the previous stage wrote."""
    if len(sources.completions) != 1:
        raise InputError(
            f"{len(sources.completions)} files were named. Name the one file that the "
            "previous stage wrote."
        )
    return sources.completions[0]


def _description(alignment: AlignmentSpec) -> dict[str, Any]:
    """The settings in the card of aligned samples, which `write` compares."""
    vocabulary = writer_of(alignment).vocabulary
    return {
        "method": alignment.method,
        "k": alignment.k,
        "vocabulary_sha256": vocabulary.sha256,
        "vocabulary_rows": vocabulary.rows,
        "unwritable": alignment.unwritable,
        "digits": alignment.digits,
    }


def _spelling(alignment: AlignmentSpec) -> dict[str, Any]:
    """The settings in the card of verified samples, which `align` compares."""
    value = _description(alignment)
    return {name: value[name] for name in ("vocabulary_sha256", "unwritable")}


class _Aligned(NamedTuple):
    lines: bytes
    read: int
    aligned: int
    rejected: list[str]
    spelling: SpellingCounts


def _prepare_align(
    alignment: AlignmentSpec, problems: list[Problem], reasoning: str
) -> tuple[Renderer, Questions]:
    renderer = Renderer(alignment, RecordsSpec(), problems)
    return renderer, Questions(problems, reasoning)


def _export(questions: Questions, task: Task) -> bytes:
    lines = [
        json.dumps(completion_to_json(sample.completion), ensure_ascii=False)
        for sample, _, _ in kept_samples(task, questions, 1)
    ]
    return "".join(line + "\n" for line in lines).encode()


def _align(
    prepared: tuple[Renderer, Questions], chunk: Chunk, *, judge: JudgeSpec | None
) -> _Aligned:
    renderer, questions = prepared
    writer = renderer.writer
    lines: list[str] = []
    rejected: list[str] = []
    spelling = SpellingCounts()
    read = 0
    for line in chunk.lines:
        for sample in parse_line(line, questions):
            read += 1
            if sample.rejection is not None:
                rejected.append(sample.rejection)
                continue
            completion = sample.completion
            if judge is not None:
                problem = questions.get(completion.problem_id, sample.where)
                reason, counts = as_spelt(
                    completion.text,
                    problem.answers,
                    judge,
                    writer,
                    answer=completion.answer,
                )
                spelling.add(counts)
                if reason is not None:
                    rejected.append(reason)
                    continue
            target = renderer.align(completion, sample.where)
            if target is not None:
                text = writer.text(completion.text)
                completion = dataclasses.replace(completion, text=text)
                lines.append(aligned_to_json(completion, target) + "\n")
    return _Aligned("".join(lines).encode(), read, len(lines), rejected, spelling)


def _write_rejections(file: pathlib.Path, verdicts: Verdicts) -> None:
    with open(file, "w", encoding="utf-8") as stream:
        for chunk, decisions in verdicts:
            for one, decision in zip(chunk.verifications, decisions, strict=True):
                if decision != DROP:
                    continue
                # A correct sample is left out as a near-duplicate or over the budget.
                line = {
                    "problem_id": one.problem_id,
                    "sample": one.sample,
                    "reason": one.reason or "near_duplicate_or_over_budget",
                    "where": one.where,
                }
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
