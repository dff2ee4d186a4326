"""Builds a corpus from local files in one call: read, verify, align, write."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from specialize import outputs
from specialize.corpus.building.decisions import nothing_kept
from specialize.corpus.building.parallel import default_processes, ordered_map
from specialize.corpus.building.passes import (
    Material,
    Part,
    Samples,
    render_all,
    verify_all,
)
from specialize.corpus.choices import FORMATS
from specialize.corpus.plain_text.round_trip import writer_of
from specialize.corpus.plain_text.writer import description
from specialize.corpus.records import Fingerprint, Problem
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
from specialize.corpus.storage.record_order import Collected, gather
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.wording import PAPER
from specialize.progress import track


def build(
    sources: Sources,
    alignment: AlignmentSpec,
    folder: FolderSpec,
    *,
    acceptance: AcceptanceSpec = AcceptanceSpec(),
    records: RecordsSpec = RecordsSpec(),
    processes: int | None = None,
    beam_options: Sequence[str] | None = None,
) -> Manifest:
    """Writes a corpus from local files: reads, verifies, aligns and renders.

    Args:
        sources: the files that samples come from.
        alignment: how teacher rows are made.
        folder: the corpus folder.
        acceptance: which samples are kept.
        records: which records are written.
        processes: number of processes (default: one per core). Does not change the
            result.
        beam_options: options of a Beam runner, which then does the work instead of
            local processes (see `beam`); the corpus is the same.

    Returns:
        The manifest, as written to the folder.

    Raises:
        InputError: the input is invalid, or no sample is kept. The folder is unchanged.
    """
    shards.check_output(folder.path, replace=folder.replace)
    questions = sources.read()
    rationales = with_rationale(questions) if sources.rationales else []
    extra = records.demonstrations_from
    material = Material(
        questions,
        demonstration_pool(sources, records),
        Samples(rationales, sources.completions, reasoning=cards.reasoning_of(sources)),
        cards.corpus_card(
            sources,
            rationales=bool(rationales),
            more_sources=() if extra is None else (extra,),
        ),
        acceptance.judge_of(sources),
    )
    if beam_options is not None:
        from specialize.corpus.building import beam

        return beam.assemble(
            material, alignment, records, acceptance, folder, options=beam_options
        )
    return assemble(
        material, alignment, records, acceptance, folder, processes=processes
    )


def assemble(
    material: Material,
    alignment: AlignmentSpec,
    records: RecordsSpec,
    acceptance: AcceptanceSpec,
    folder: FolderSpec,
    *,
    processes: int | None = None,
) -> Manifest:
    """Judges, decides, renders and writes; `build` and `stages.write` share this.

    Arguments, result and errors are those of `build`, with the files already read.
    """
    fingerprint = fingerprint_of(alignment, records, material)
    shards.check_fingerprint(fingerprint)
    workers = default_processes() if processes is None else processes
    with outputs.spool(folder.path) as place:
        verdicts = verify_all(
            material.samples,
            material.questions,
            material.judge,
            alignment=alignment,
            thorough=acceptance.compares_samples,
            folder=place,
            processes=workers,
        )
        funnel = verdicts.decide(acceptance)
        if material.earlier is not None:
            funnel.follow(material.earlier)
        return write(
            lambda spool: render_all(
                material,
                alignment,
                records,
                verdicts,
                fingerprint,
                spool=spool,
                num_shards=folder.num_shards,
                processes=workers,
            ),
            folder,
            fingerprint,
            material.card,
            funnel,
            processes=workers,
        )


def write(
    render: Callable[[str], Iterator[Part]],
    folder: FolderSpec,
    fingerprint: Fingerprint,
    card: cards.Card,
    funnel: Funnel,
    *,
    processes: int,
) -> Manifest:
    """Spools records, sorts them by `record_order`, and writes them as shards.

    Args:
        render: yields the `Part` of each chunk; its argument is the spool folder.
        folder: the corpus folder.
        fingerprint: the corpus fingerprint.
        card: origin of the data.
        funnel: the funnel up to "verified"; the later counts are added to it.
        processes: number of processes that compress.

    Raises:
        InputError: no sample is kept, or the folder is not a corpus of ours.
    """
    with outputs.spool(folder.path) as spool:
        return shards.write_shards(
            _blocks(render, str(spool), funnel, folder.num_shards, processes),
            folder.path,
            fingerprint,
            num_shards=folder.num_shards,
            card=card.to_json(),
            funnel=funnel.to_json,
            replace=folder.replace,
        )


def fingerprint_of(
    alignment: AlignmentSpec, records: RecordsSpec, material: Material
) -> Fingerprint:
    """The corpus fingerprint, which readers compare with what they expect."""
    card, wording = material.card, material.questions[0].wording
    demonstrations: dict[str, Any] = {
        "count": records.demonstrations,
        "seed": records.seed,
    }
    if wording != PAPER:
        # For readers that drop demonstrations from an input that is too long.
        demonstrations["boundaries"] = {
            name: list(wording.boundary(name))
            for name in FORMATS
            if "in_context" in name
        }
    writer = writer_of(alignment)
    vocabulary = writer.vocabulary
    return Fingerprint(
        vocabulary_sha256=vocabulary.sha256,
        vocabulary_rows=vocabulary.rows,
        k=alignment.k,
        teacher=card.teacher,
        alignment=alignment.method,
        prompt_sha256=card.prompt_sha256,
        sampling=card.sampling,
        demonstrations=demonstrations,
        task=card.task,
        spelling=description(writer),
    )


def demonstration_pool(sources: Sources, records: RecordsSpec) -> list[Problem] | None:
    """The problems of another file to draw demonstrations from, or None."""
    file = records.demonstrations_from
    return None if file is None else read_problems(file, sources.spec)


def with_rationale(questions: Sequence[Problem]) -> list[Problem]:
    """The problems whose human rationale can be a sample."""
    return [p for p in questions if p.rationale is not None and p.answers]


def _blocks(
    render: Callable[[str], Iterator[Part]],
    spool: str,
    funnel: Funnel,
    num_shards: int,
    processes: int,
) -> Iterator[shards.Block]:
    """Completes the funnel, then yields one block per shard."""
    collected = Collected(spool, num_shards)
    for part in render(spool):
        counts = funnel.of(human=part.human)
        counts.verified += part.verified
        counts.aligned += part.aligned
        counts.kept += part.kept
        if part.spelling is not None:
            counts.spelling.add(part.spelling)
        for reason in part.rejected:
            counts.reject(reason)
        for name, reason in part.dropped:
            counts.drop(name, reason)
        collected.add(part.spooled)
    if not funnel.total().kept:
        raise nothing_kept(funnel)
    yield collected.statistics()
    total = len(collected)
    work = ordered_map(gather, collected.tasks(), processes=processes)
    yield from track(work, "mix and compress shards", total=total)
