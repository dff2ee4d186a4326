"""One self-contained page about one or more runs: no network, no script.

Each section draws what its runs left behind and names what is missing. The same
contents are available as markdown, for a README.
"""

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from specialize import __version__, outputs
from specialize.corpus.benchmarks.table import MATH
from specialize.corpus.choices import FORMATS
from specialize.errors import InputError
from specialize.evaluation.comparison import compare
from specialize.evaluation.report import figures
from specialize.evaluation.report.figures import Interval, Series
from specialize.evaluation.report.runs import Run, read_run
from specialize.evaluation.results import Results

# Diagnostics of the loss, with what a reader needs to judge them.
DIAGNOSTICS = {
    "loss": "loss (nats per target token)",
    "kl": "KL to the teacher (nats per token)",
    "ce": "cross-entropy (nats per token)",
    "student_mass": "student's mass on the teacher's K",
    "top1_agreement": "top-1 agreement with the teacher",
    "topk_overlap": "top-K overlap with the teacher",
}
_SAMPLES = 6
_CURVE_POINTS = 300


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        title: its heading.
        text: a sentence on what is shown and how to read it.
        figures: (caption, SVG) pairs.
        tables: (caption, header, rows).
        samples: texts side by side.
        missing: what could not be shown, and what would make it.
    """

    title: str
    text: str
    figures: Sequence[tuple[str, Markup]] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    samples: Sequence[Mapping[str, str]] = ()
    missing: str = ""


def report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    command: str = "",
) -> list[Run]:
    """Writes the page, and its markdown where `out` ends in `.md`.

    Args:
        paths: runs' folders or results files; the first is the one the page is about,
            the others stand beside it (other sizes, ablations).
        out: the file to write.
        base: the run or results file of the model it started from.
        command: the command line, to stand on the page.

    Returns:
        The runs as they were read.

    Raises:
        InputError: a path holds nothing of ours.
    """
    if not paths:
        raise InputError("no run to report on: name a run's folder.")
    runs = [read_run(path) for path in paths]
    origin = read_run(base) if base is not None else None
    sections = [
        _scores(runs, origin),
        _prompts(runs, origin),
        _funnel(runs),
        _curves(runs),
        _trade_off(runs, origin),
        _scaling(runs),
        _won_and_lost(runs[0], origin),
        _provenance(runs, origin, command),
    ]
    main = runs[0].last
    context = {
        "title": f"{runs[0].name}: what specialisation did",
        "lead": _lead(runs[0], origin),
        "sections": sections,
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "has_scores": main is not None,
    }
    target = pathlib.Path(out)
    template = "report.md.j2" if target.suffix == ".md" else "report.html.j2"
    outputs.write_text(target, _templates().get_template(template).render(context))
    return runs


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("specialize.evaluation.report"),
        autoescape=jinja2.select_autoescape(("html", "html.j2")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _lead(run: Run, base: Run | None) -> str:
    """The finding in a sentence or two."""
    after, before = run.last, base.last if base else None
    if after is None:
        return "This run has not been evaluated yet."
    # The average stands for its 27 tasks.
    found = {
        key: score
        for key, score in after.scores.items()
        if not (
            key.startswith("bbh/") and f"bbh:{key.partition(':')[2]}" in after.averages
        )
    }
    if before is None:
        parts = [
            f"{_label(key)} {_percent(score['accuracy'])}"
            for key, score in found.items()
        ]
        return "Accuracy: " + ", ".join(parts) + "."
    pairs = {key: compare(key, after, before) for key in found}
    changes = [
        f"{_label(key)} {_percent(pair.before)} → {_percent(pair.after)}"
        for key, pair in pairs.items()
        if pair.difference is not None
    ]
    if not changes:
        return "The base model was not asked the same questions."
    return "Before → after: " + "; ".join(changes) + "."


def _scores(runs: Sequence[Run], base: Run | None) -> Section:
    after, before = runs[0].last, base.last if base else None
    title = "Accuracy"
    if after is None:
        return Section(
            title, "", missing="no decoded suites: run 'specialize evaluate' on it."
        )
    rows: list[Sequence[str]] = []
    plotted: list[Interval] = []
    for key, score in after.scores.items():
        old = before.scores.get(key) if before else None
        pair = compare(key, after, before) if before else None
        values = []
        if old is not None and pair is not None and pair.difference is not None:
            values.append(("base", *_triple(old)))
        plotted.append(Interval(_label(key), [*values, ("student", *_triple(score))]))
        rows.append(
            (
                _label(key),
                after.split(key),
                str(score.get("n", "")),
                _cell(old) if old is not None else "–",
                _cell(score),
                "–" if pair is None else str(pair),
                _found(score),
            )
        )
    header = (
        *("suite", "split", "n", "base", "student", "difference (paired)"),
        "answers found",
    )
    return Section(
        title,
        "Dots are accuracies, lines 95 % intervals (Wilson's for a suite, the suites' "
        "combined for an average). The difference is over the questions that both were "
        "asked, its interval by bootstrap, p by McNemar's exact test.",
        figures=[
            (
                "Accuracy by suite, in per cent",
                Markup(
                    figures.intervals(
                        plotted, title="Accuracy by suite", x_title="accuracy"
                    )
                ),
            )
        ],
        tables=[("", header, rows)],
        missing="" if before else "no base model to compare with: give --base.",
    )


def _prompts(runs: Sequence[Run], base: Run | None) -> Section:
    title = "In-context against zero-shot"
    after, before = runs[0].last, base.last if base else None
    pairs: list[Interval] = []
    if after is not None:
        for key in after.suites:
            suite, _, prompt = key.partition(":")
            other = f"{suite}:{prompt.replace('zero_shot', 'few_shot')}"
            if not prompt.startswith("zero_shot") or other not in after.suites:
                continue
            for when, results in (("base", before), ("student", after)):
                if results and key in results.suites and other in results.suites:
                    pairs.append(
                        Interval(
                            f"{suite}, {when}",
                            [
                                ("zero-shot", *_triple(results.suites[key])),
                                ("in-context", *_triple(results.suites[other])),
                            ],
                        )
                    )
    if not pairs:
        return Section(
            title,
            "",
            missing="no suite was asked both ways: evaluate it with "
            "'SUITE:zero_shot_cot' and 'SUITE:few_shot_cot'.",
        )
    drawn = figures.intervals(pairs, title=title, x_title="accuracy")
    return Section(
        title,
        "The same questions with and without demonstrations in the prompt. Training on "
        "in-context formats is meant to keep both abilities.",
        figures=[("Accuracy by prompt, in per cent", Markup(drawn))],
    )


def _funnel(runs: Sequence[Run]) -> Section:
    title = "Where the data went"
    run = next((run for run in runs if run.corpus), None)
    if run is None or run.corpus is None:
        return Section(
            title, "", missing="the corpus' manifest was not found (CORPUS_DIR)."
        )
    funnel = run.corpus.get("funnel", {})
    stages = [
        (stage, float(funnel[stage]))
        for stage in ("read", "verified", "aligned", "kept")
        if stage in funnel
    ]
    reasons = [
        (reason.replace("_", " "), float(count))
        for reason, count in funnel.get("rejected", {}).items()
    ]
    drawn = [("Samples at each stage", Markup(figures.bars(stages, title=title)))]
    if reasons:
        rejected = figures.bars(reasons, title="Rejected samples by reason")
        drawn.append(("Rejected, by reason", Markup(rejected)))
    written = [
        (name.replace("_", " "), float(part["records"]))
        for name, part in run.corpus.get("formats", {}).items()
        if isinstance(part, Mapping) and "records" in part
    ]
    if written:
        drawn.append(
            (
                "Training records by format",
                Markup(figures.bars(written, title="Records by format")),
            )
        )
    return Section(
        title,
        "A sample is verified when its final answer is right, aligned when the "
        "student's vocabulary can carry it, kept when it stands in a record.",
        figures=[(caption, svg) for caption, svg in drawn if svg],
        missing="" if stages else "the manifest holds no funnel.",
    )


def _curves(runs: Sequence[Run]) -> Section:
    title = "Loss and evidence that distillation is active"
    lines = runs[0].training
    if not lines:
        return Section(title, "", missing="no training metrics in the run's folder.")
    drawn: list[tuple[str, Markup]] = []
    for metric, words in DIAGNOSTICS.items():
        series: list[Series] = []
        total = _curve(lines, metric)
        if total:
            series.append(Series("all", total))
        for name in FORMATS:
            points = _curve(lines, f"{name}/{metric}")
            if points:
                series.append(Series(name.replace("_", " "), points))
        svg = figures.lines(series, title=words, x_title="step", y_title=words)
        if svg:
            drawn.append((words[0].upper() + words[1:], Markup(svg)))
    return Section(
        title,
        "Per format where the log has it. KL must fall and agreement rise on CoT "
        "formats; a distillation that does nothing shows here as flat lines.",
        figures=drawn,
        missing="" if drawn else "the log holds none of the loss's metrics.",
    )


def _trade_off(runs: Sequence[Run], base: Run | None) -> Section:
    title = "Math against generic ability"
    series: list[Series] = []
    for run in ([base] if base else []) + list(runs):
        points, labels = [], []
        for results in run.evaluations:
            math = _mean(results, MATH)
            generic = _mean(results, ("bbh",))
            if math is not None and generic is not None:
                points.append((generic, math))
                labels.append("" if results.step is None else f"step {results.step}")
        if points:
            name = f"{run.name} (base)" if run is base else run.name
            series.append(Series(name, points, labels=labels))
    if not series:
        return Section(
            title,
            "",
            missing="needs evaluations with a math suite and BBH; several checkpoints "
            "make a path.",
        )
    drawn = figures.lines(
        [
            dataclasses.replace(
                one,
                points=[(x * 100, y * 100) for x, y in one.points],
            )
            for one in series
        ],
        title=title,
        x_title="generic ability: BBH accuracy (%)",
        y_title="math accuracy, mean (%)",
    )
    return Section(
        title,
        "Each point is a checkpoint. Up is better at math, right is better at "
        "BIG-Bench Hard; specialisation moves up and to the left.",
        figures=[("Checkpoints between math and generic ability", Markup(drawn))],
    )


def _scaling(runs: Sequence[Run]) -> Section:
    title = "Scaling across sizes"
    by_suite: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    sizes: set[int] = set()
    for run in runs:
        results = run.last
        parameters = results.model.get("parameters") if results else None
        if results and parameters:
            sizes.add(int(parameters))
            for key, score in results.suites.items():
                by_suite.setdefault(key, []).append((float(parameters), score))
    if len(sizes) < 2:
        return Section(
            title, "", missing="needs evaluated runs of at least two sizes on the page."
        )
    series = []
    for key, found in by_suite.items():
        found.sort(key=lambda pair: pair[0])
        series.append(
            Series(
                _label(key),
                [(size, float(score["accuracy"])) for size, score in found],
                [float(score["low"]) for _, score in found],
                [float(score["high"]) for _, score in found],
            )
        )
    drawn = figures.lines(
        series,
        title=title,
        x_title="parameters (logarithmic)",
        y_title="accuracy",
        percent=True,
        log_x=True,
    )
    return Section(
        title,
        "Accuracy of each evaluated run by its number of parameters.",
        figures=[("Accuracy by size", Markup(drawn))],
    )


def _won_and_lost(run: Run, base: Run | None) -> Section:
    title = "Samples won and lost"
    after, before = run.last, base.last if base else None
    if after is None or before is None:
        return Section(
            title, "", missing="needs the predictions of the run and of its --base."
        )
    samples: list[Mapping[str, str]] = []
    counts: list[Sequence[str]] = []
    for key in after.suites:
        old = {line["id"]: line for line in before.lines(key)}
        groups: dict[str, list[Mapping[str, str]]] = {"won": [], "lost": []}
        both = 0
        for line in after.lines(key):
            earlier = old.get(line["id"])
            if earlier is None or earlier["correct"] == line["correct"]:
                both += earlier is not None
                continue
            outcome = "won" if line["correct"] else "lost"
            groups[outcome].append(
                {
                    "outcome": outcome,
                    "suite": _label(key),
                    "id": str(line["id"]),
                    "question": str(line.get("question") or line.get("input", "")),
                    "gold": ", ".join(map(str, line.get("golds", ()))),
                    "before": _text(earlier),
                    "after": _text(line),
                    "teacher": str(line.get("rationale") or ""),
                }
            )
        counts.append(
            (
                _label(key),
                str(len(groups["won"])),
                str(len(groups["lost"])),
                str(both),
            )
        )
        for group in groups.values():
            samples.extend(group[: _SAMPLES // 2])
    if not any(row[1:] != ("0", "0", "0") for row in counts):
        return Section(
            title, "", missing="the predictions' files are not beside the results."
        )
    return Section(
        title,
        "Won: wrong before, right after. Lost: the other way round. The first of each, "
        "in the suite's order.",
        tables=[("", ("suite", "won", "lost", "unchanged"), counts)],
        samples=samples,
    )


def _provenance(runs: Sequence[Run], base: Run | None, command: str) -> Section:
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
        if run.corpus is not None:
            rows.extend(
                (f"{run.name}: corpus {name}", str(value))
                for name, value in run.corpus.get("fingerprint", {}).items()
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
        "What must agree for these numbers to be reproduced.",
        tables=[("", ("what", "value"), rows)],
        missing=missing,
    )


def _curve(
    lines: Sequence[Mapping[str, Any]], metric: str
) -> list[tuple[float, float]]:
    points = [
        (float(line["step"]), float(line["train"][metric]))
        for line in lines
        if metric in line["train"]
    ]
    # More points than pixels only make the page heavy.
    stride = max(1, len(points) // _CURVE_POINTS)
    return points[::stride]


def _mean(results: Results, names: Sequence[str]) -> float | None:
    found = [
        float(score["accuracy"])
        for key, score in results.suites.items()
        if key.partition(":")[0].partition("/")[0] in names and "few_shot" not in key
    ]
    return sum(found) / len(found) if found else None


def _triple(score: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(score["accuracy"]), float(score["low"]), float(score["high"])


def _cell(score: Mapping[str, Any]) -> str:
    value, low, high = _triple(score)
    return f"{value * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def _found(score: Mapping[str, Any]) -> str:
    how = score.get("how", {})
    return ", ".join(f"{count} {name}" for name, count in how.items() if count)


def _label(key: str) -> str:
    suite, _, prompt = key.partition(":")
    return f"{suite} {prompt.replace('_', ' ')}".strip()


def _text(line: Mapping[str, Any]) -> str:
    prediction = line.get("prediction", "")
    if isinstance(prediction, Sequence) and not isinstance(prediction, str):
        return "\n---\n".join(map(str, prediction))
    return str(prediction)


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"
