"""The origin of a student: its corpus, its training and its settings."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from specialize.corpus.choices import FORMATS
from specialize.corpus.plain_text.counting import SpellingCounts, shown
from specialize.evaluation.report import figures
from specialize.evaluation.report.figures import Series
from specialize.evaluation.report.runs import Corpus, Counts, Funnel, Measured, Run
from specialize.evaluation.report.section import Section
from specialize.student.loss.spec import parts_with

# Diagnostics of the loss, with their units.
DIAGNOSTICS = {
    "loss": "loss (nats per target token)",
    "kl": "KL to the teacher (nats per token)",
    "ce": "cross-entropy (nats per token)",
    "student_mass": "student's mass on the teacher's K",
    "top1_agreement": "top-1 agreement with the teacher",
    "topk_overlap": "top-K overlap with the teacher",
}
# Drawings of the texts that a student wrote in training: title, unit, curves.
OWN_TEXTS = (
    (
        "texts that the student wrote",
        "share",
        {
            "on_policy/share": "of the examples",
            "on_policy/ended": "ended",
            "on_policy/right": "right",
            "on_policy/left_out": "did not fit",
            "on_policy/unscored": "not scored",
        },
    ),
    (
        "tokens of the texts that the student wrote",
        "tokens",
        {"on_policy/length": "written", "on_policy/teacher_tokens": "scored"},
    ),
)
_CURVE_POINTS = 300


def funnel(runs: Sequence[Run]) -> Section:
    """How many samples of the corpus each stage kept, and why others were rejected."""
    title = "Samples kept and rejected"
    corpora = next((run.corpora for run in runs if run.corpora), {})
    if not corpora:
        return Section(title, missing="the corpus has no manifest (CORPUS_DIR).")
    drawn: list[tuple[str, Markup]] = []
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    for path, corpus in corpora.items():
        name = f"{path}: " if len(corpora) > 1 else ""
        drawn += _drawn(corpus, name)
        if spelt := _spelling_rows(corpus.fingerprint, corpus.funnel):
            tables.append((name, ("what the student cannot write", "count"), spelt))
    counted = any(corpus.funnel != Funnel() for corpus in corpora.values())
    return Section(
        title,
        "A sample is verified if its final answer is right, as the teacher wrote it "
        "and as the student would spell it, aligned if the student's vocabulary can "
        "write it, and kept if it is in a record.",
        figures=[(caption, svg) for caption, svg in drawn if svg],
        tables=tables,
        missing="" if counted else "the manifest has no funnel.",
    )


def _drawn(corpus: Corpus, name: str) -> Iterator[tuple[str, Markup]]:
    """The figures of one corpus; `name` begins their captions."""
    yield from _counted(corpus.funnel, f"{name}Samples")
    if corpus.funnel.human is not None:
        yield from _counted(corpus.funnel.human, f"{name}Human rationales")
    written = [
        (form.replace("_", " "), float(part.records))
        for form, part in corpus.formats.items()
        if part.records is not None
    ]
    if written:
        by_format = figures.bars(written, title=f"{name}Records by format")
        yield f"{name}Training records by format", Markup(by_format)


def _spelling_rows(
    fingerprint: Mapping[str, object], funnel: Funnel
) -> list[Sequence[str]]:
    """What the student's vocabulary cannot write, and what became of it."""
    rows: list[Sequence[str]] = []
    for who, counts in (("", funnel), (" (human)", funnel.human)):
        if counts is None or counts.spelling == SpellingCounts():
            continue
        found = counts.spelling
        misspelt = counts.rejected.get("not_right_as_spelt", 0)
        for label, value in (
            ("right samples with unwritable characters", found.samples),
            ("unwritable characters", shown(found.characters)),
            ("rewritten as plain text", shown(found.rewritten)),
            ("samples with <unk> in the target", found.lost_samples),
            ("characters made <unk>", shown(found.lost)),
            ("newlines made spaces", found.newlines),
            ("samples not right as the student would spell them", misspelt),
            ("number pieces", found.number_pieces),
            ("number pieces with a soft row", found.soft_number_pieces),
        ):
            if value:
                text = f"{value:,}" if isinstance(value, int) else value
                rows.append((label + who, text))
    if rows:
        rows.insert(0, ("policy", str(fingerprint.get("spelling") or "kept as <unk>")))
    return rows


def _counted(counts: Counts, what: str) -> Iterator[tuple[str, Markup]]:
    stages = [
        (stage, float(count))
        for stage in ("read", "verified", "aligned", "kept")
        if (count := getattr(counts, stage)) is not None
    ]
    if counts.reasoned:
        stages.insert(1, ("with reasoning apart", float(counts.reasoned)))
    caption = f"{what} at each stage"
    yield caption, Markup(figures.bars(stages, title=caption))
    if counts.rejected:
        reasons = [(r.replace("_", " "), float(n)) for r, n in counts.rejected.items()]
        caption = f"{what} rejected, by reason"
        yield caption, Markup(figures.bars(reasons, title=caption))


def curves(runs: Sequence[Run]) -> Section:
    """Loss and diagnostics by step."""
    title = "Loss and evidence that distillation is active"
    lines = runs[0].training
    if not lines:
        return Section(title, missing="no training metrics in the run's folder.")
    drawn: list[tuple[str, Markup]] = []
    for metric, words in DIAGNOSTICS.items():
        series: list[Series] = []
        total = _curve(lines, metric)
        if total:
            series.append(Series("all", total))
        names = [name for line in lines for name in line.train or {}]
        for name in (*FORMATS, *parts_with(metric, names)):
            points = _curve(lines, f"{name}/{metric}")
            if points:
                series.append(Series(name.replace("_", " "), points))
        svg = figures.lines(series, title=words, x_title="step", y_title=words)
        if svg:
            drawn.append((words[0].upper() + words[1:], Markup(svg)))
    for words, unit, names in OWN_TEXTS:
        found = [
            Series(n, points) for m, n in names.items() if (points := _curve(lines, m))
        ]
        svg = figures.lines(found, title=words, x_title="step", y_title=unit)
        if svg:
            drawn.append((words[0].upper() + words[1:], Markup(svg)))
    return Section(
        title,
        "By format and part of a mixture, if the log has them. KL must fall and "
        "agreement rise on CoT formats; flat lines show that distillation has no "
        "effect.",
        figures=drawn,
        missing="" if drawn else "the log has none of the loss's metrics.",
    )


def provenance(runs: Sequence[Run], base: Run | None, command: str) -> Section:
    """What must agree to reproduce the numbers."""
    rows: list[Sequence[str]] = []
    if command:
        rows.append(("this page", command))
    for run in [*runs, *([base] if base else [])]:
        results = run.last
        rows.append((f"{run.name}: folder", os.fspath(run.path)))
        if results is not None:
            rows.extend(
                (f"{run.name}: {name}", str(value))
                for name, value in {**results.model, **results.settings}.items()
                if value not in (None, "")
            )
        for path, corpus in run.corpora.items():
            which = f"corpus {path} " if len(run.corpora) > 1 else "corpus "
            rows.extend(
                (f"{run.name}: {which}{name}", str(value))
                for name, value in corpus.fingerprint.items()
                if value not in ("", {}, None)
            )
        rows.extend(
            (f"{run.name}: {name}", str(value))
            for name, value in run.values.items()
            if name.isupper() and value is not None
        )
    missing = "; ".join(f"{run.name}: {text}" for run in runs for text in run.missing)
    return Section(
        "Fingerprints and commands",
        "What must agree to reproduce these numbers.",
        tables=[("", ("what", "value"), rows)],
        missing=missing,
    )


def _curve(lines: Sequence[Measured], metric: str) -> list[tuple[float, float]]:
    points = [
        (float(line.step), value)
        for line in lines
        if (value := (line.train or {}).get(metric)) is not None
        and math.isfinite(value)
    ]
    # More points than pixels only enlarge the page.
    stride = max(1, len(points) // _CURVE_POINTS)
    return points[::stride]
