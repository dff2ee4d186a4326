"""Local files -> a corpus: read, verify, align, write; the whole way in one call."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

from specialize.corpus.benchmarks.gsm8k import read_gsm8k
from specialize.corpus.benchmarks.table import read_problems
from specialize.corpus.building.decisions import decide, nothing_kept
from specialize.corpus.building.parallel import default_processes, ordered_map
from specialize.corpus.building.passes import Part, Sources, judge_all, render_all
from specialize.corpus.building.rendering import Settings
from specialize.corpus.records import FORMATS, Fingerprint, Problem
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.storage.record_order import Collected, gather
from specialize.corpus.vocabulary import Vocabulary
from specialize.outputs import make_parent
from specialize.progress import track

Path = str | os.PathLike[str]


def build(
    problems_path: Path,
    vocabulary_path: Path,
    out: Path,
    *,
    completions_paths: Sequence[Path] = (),
    dataset: str = "gsm8k",
    teacher: str | None = None,
    rationales: bool = True,
    formats: Sequence[str] = FORMATS,
    demonstrations: int = 4,
    demonstrations_from: Path | None = None,
    seed: int = 0,
    k: int = 5,
    alignment: str = "bytes",
    rows: int | None = None,
    answer_type: str = "number",
    rule: str = "exact",
    near_duplicate: float | None = None,
    max_samples: int | None = None,
    max_input_tokens: int | None = None,
    max_target_tokens: int | None = None,
    num_shards: int = 4,
    processes: int | None = None,
    replace: bool = False,
    beam_options: Sequence[str] | None = None,
) -> Manifest:
    """Writes a corpus from local files: `read`, `verify`, `align`, `write` in one.

    Args:
        problems_path: the benchmark's own file.
        vocabulary_path: the student's SentencePiece model.
        out: the corpus folder: new, empty, or an earlier corpus if `replace`.
        completions_paths: files of teacher completions; see `completions`.
        dataset: whose layout `problems_path` has, one of `BENCHMARKS`.
        teacher: who wrote the completions; by default what their cards say.
        rationales: whether human rationales are samples too (one-hot rows).
        formats: which of the four to write.
        demonstrations: in-context demonstrations a record.
        demonstrations_from: GSM8K file to draw them from; by default the problems.
        seed: of the demonstrations.
        k: teacher alternatives a target position.
        alignment: "bytes" or "dtw".
        rows: rows of the student's embedding; None for the vocabulary's default.
        answer_type: how answers are judged; see `answers`.
        rule: "exact", or "reference" for the paper's way to read an answer.
        near_duplicate: similarity (0, 1] from which a question's later sample goes.
        max_samples: right samples to keep a question.
        max_input_tokens: longer encoder texts are left out.
        max_target_tokens: longer decoder texts are left out.
        num_shards: files a format.
        processes: how many work; by default one a core. Does not change the result.
        replace: whether an earlier corpus in `out` may be replaced.
        beam_options: options of a Beam runner, which then does the work instead of
            local processes (see `beam`); the corpus is the same.

    Returns:
        The manifest, as written to `out`.

    Raises:
        InputError: bad input, or a run that would keep nothing. `out` is as before.
    """
    settings = Settings(
        vocabulary=os.fspath(vocabulary_path),
        rows=rows,
        k=k,
        alignment=alignment,
        formats=tuple(formats),
        demonstrations=demonstrations,
        seed=seed,
        answer_type=answer_type,
        rule=rule,
        max_input_tokens=max_input_tokens,
        max_target_tokens=max_target_tokens,
    )
    shards.check_output(out, replace=replace)
    questions = read_problems(problems_path, dataset)
    pool = None if demonstrations_from is None else read_gsm8k(demonstrations_from)
    card = cards.corpus_card(
        problems_path,
        completions_paths,
        teacher=teacher,
        dataset=dataset,
        with_human=rationales,
        more_sources=() if demonstrations_from is None else (demonstrations_from,),
    )
    samples = Sources(
        with_rationale(questions) if rationales else [], completions_paths
    )
    if beam_options is not None:
        from specialize.corpus.building import beam

        return beam.assemble(
            samples,
            settings,
            questions,
            pool,
            card,
            fingerprint_of(settings, card),
            out,
            options=beam_options,
            near_duplicate=near_duplicate,
            max_samples=max_samples,
            num_shards=num_shards,
            replace=replace,
        )
    return assemble(
        samples,
        settings,
        questions,
        pool,
        card,
        out,
        near_duplicate=near_duplicate,
        max_samples=max_samples,
        num_shards=num_shards,
        processes=processes,
        replace=replace,
    )


def assemble(
    samples: Sources,
    settings: Settings,
    questions: Sequence[Problem],
    pool: Sequence[Problem] | None,
    card: cards.Card,
    out: Path,
    *,
    earlier: Funnel | None = None,
    near_duplicate: float | None = None,
    max_samples: int | None = None,
    num_shards: int = 4,
    processes: int | None = None,
    replace: bool = False,
) -> Manifest:
    """Judges, decides, renders and writes: what `build` and `write` have in common.

    Args:
        samples: completions, or aligned samples, and rationales.
        settings: what to write and how.
        questions: the problems.
        pool: problems to draw demonstrations from; see `Renderer`.
        card: origin of the data.
        out: the corpus folder.
        earlier: the funnel of earlier stages, where samples were aligned before.
        near_duplicate: see `build`.
        max_samples: see `build`.
        num_shards: see `build`.
        processes: see `build`.
        replace: see `build`.

    Returns:
        The manifest, as written to `out`.

    Raises:
        InputError: as `build`.
    """
    fingerprint = fingerprint_of(settings, card)
    shards.check_fingerprint(fingerprint)
    workers = default_processes() if processes is None else processes
    judged = judge_all(
        samples,
        questions,
        answer_type=settings.answer_type,
        rule=settings.rule,
        thorough=near_duplicate is not None or max_samples is not None,
        processes=workers,
    )
    decisions, funnel = decide(
        [verdict for chunk in judged for verdict in chunk.verdicts],
        near_duplicate=near_duplicate,
        max_samples=max_samples,
    )
    if earlier is not None:
        funnel.follow(earlier)
    return write(
        lambda spool: render_all(
            samples,
            settings,
            questions,
            pool,
            judged,
            decisions,
            fingerprint,
            spool=spool,
            num_shards=num_shards,
            processes=workers,
        ),
        out,
        fingerprint,
        card,
        funnel,
        num_shards=num_shards,
        processes=workers,
        replace=replace,
    )


def write(
    render: Callable[[str], Iterator[Part]],
    out: Path,
    fingerprint: Fingerprint,
    card: cards.Card,
    funnel: Funnel,
    *,
    num_shards: int,
    processes: int,
    replace: bool,
) -> Manifest:
    """Spools records, mixes them, and writes them as shards.

    Args:
        render: yields what became of the chunks, given the folder of the spool.
        out: the corpus folder.
        fingerprint: of every record.
        card: origin of the data.
        funnel: up to "verified"; completed on the way.
        num_shards: files a format.
        processes: how many compress.
        replace: whether an earlier corpus in `out` may be replaced.

    Returns:
        The manifest.

    Raises:
        InputError: nothing is kept, or `out` is not ours.
    """
    target = pathlib.Path(out).absolute()
    make_parent(target)
    with tempfile.TemporaryDirectory(
        ".spool", f".{target.name}.", target.parent
    ) as spool:
        return shards.write_shards(
            _blocks(render, spool, funnel, num_shards, processes),
            out,
            fingerprint,
            num_shards=num_shards,
            card=card.to_json(),
            funnel=funnel.to_json,
            replace=replace,
        )


def fingerprint_of(settings: Settings, card: cards.Card) -> Fingerprint:
    """What the records of these settings must agree in with whoever reads them."""
    vocabulary = Vocabulary(settings.vocabulary, rows=settings.rows)
    return Fingerprint(
        vocabulary_sha256=vocabulary.sha256,
        vocabulary_rows=vocabulary.rows,
        k=settings.k,
        teacher=card.teacher,
        alignment=settings.alignment,
        prompt_sha256=card.prompt_sha256,
        sampling=card.sampling,
        demonstrations={"count": settings.demonstrations, "seed": settings.seed},
    )


def with_rationale(questions: Sequence[Problem]) -> list[Problem]:
    """Those whose human rationale can be a sample."""
    return [p for p in questions if p.rationale is not None and p.answers]


def _blocks(
    render: Callable[[str], Iterator[Part]],
    spool: str,
    funnel: Funnel,
    num_shards: int,
    processes: int,
) -> Iterator[shards.Block]:
    """Completes the funnel, then passes on one block a shard."""
    collected = Collected(spool, num_shards)
    for part in render(spool):
        funnel.verified += part.verified
        funnel.aligned += part.aligned
        funnel.kept += part.kept
        for reason in part.rejected:
            funnel.reject(reason)
        for name, reason in part.dropped:
            funnel.drop(name, reason)
        collected.add(part.spooled)
    if not funnel.kept:
        raise nothing_kept(funnel)
    yield collected.statistics()
    total = len(collected)
    work = ordered_map(
        gather, collected.tasks(), processes=processes, prepare=_prepare_nothing
    )
    yield from track(work, "mix and compress shards", total=total)


def _prepare_nothing() -> None:
    """Gathering needs nothing but its task."""
