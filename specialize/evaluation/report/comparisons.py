"""Comparisons of several runs: by checkpoint and by size."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from specialize.corpus.tasks.known import index
from specialize.evaluation.report import figures
from specialize.evaluation.report.figures import Series
from specialize.evaluation.report.runs import Run
from specialize.evaluation.report.section import Section, label, triple
from specialize.evaluation.results import Results


def trade_off(runs: Sequence[Run], base: Run | None) -> Section:
    """Math accuracy against accuracy on BIG-Bench Hard, by checkpoint."""
    title = "Math against generic ability"
    series: list[Series] = []
    for run in ([base] if base else []) + list(runs):
        points, labels = [], []
        for results in run.evaluations:
            math = _mean(results, index().groups["math"])
            generic = _mean(results, (index().generic,))
            if math is not None and generic is not None:
                points.append((generic * 100, math * 100))
                labels.append("" if results.step is None else f"step {results.step}")
        if points:
            name = f"{run.name} (base)" if run is base else run.name
            series.append(Series(name, points, labels=labels))
    if not series:
        return Section(
            title,
            missing="needs evaluations with a math suite and BBH; several checkpoints "
            "make a path.",
        )
    drawn = figures.lines(
        series,
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


def choice(runs: Sequence[Run]) -> Section:
    """The candidates of `select --by pareto`, with the front and the chosen one."""
    title = "Choice between two abilities"
    found = [run for run in runs if run.weighed is not None]
    drawn: list[tuple[str, Markup]] = []
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    for run in found:
        weighed = run.weighed
        assert weighed is not None
        by_retained = sorted(weighed.candidates, key=lambda one: one.retain.accuracy)
        series = []
        for name, front in (("front", True), ("others", False)):
            part = [one for one in by_retained if one.front == front]
            if part:
                series.append(
                    Series(
                        name,
                        [
                            (o.retain.accuracy * 100, o.target.accuracy * 100)
                            for o in part
                        ],
                        [one.target.low * 100 for one in part],
                        [one.target.high * 100 for one in part],
                        labels=[one.name for one in part],
                        joined=front,
                    )
                )
        svg = figures.lines(
            series,
            title=title,
            x_title=f"{label(weighed.retain)} (%)",
            y_title=f"{label(weighed.target)} (%)",
        )
        drawn.append((f"{run.name}: {weighed.rule}", Markup(svg)))
        rows = [
            (
                one.name,
                *(
                    f"{s.accuracy * 100:.1f} [{s.low * 100:.1f}, {s.high * 100:.1f}]"
                    for s in (one.target, one.retain)
                ),
                f"{one.lost:+.1f}",
                "yes" if one.front else "",
                "chosen" if one.name == weighed.chosen else "",
            )
            for one in weighed.candidates
        ]
        heads = ("candidate", label(weighed.target), label(weighed.retain))
        tables.append((run.name, (*heads, "points lost", "front", ""), rows))
    return Section(
        title,
        "On validation. The front has the candidates that no other one surpasses at "
        "one ability without being worse at the other. Lines are 95 % intervals.",
        figures=drawn,
        tables=tables,
    )


def scaling(runs: Sequence[Run]) -> Section:
    """Accuracy by number of parameters."""
    title = "Scaling across sizes"
    by_suite: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    sizes: set[int] = set()
    for run in runs:
        results = run.last
        parameters = results.model.get("parameters") if results else None
        if results and parameters and parameters >= 1:
            sizes.add(int(parameters))
            for key, score in results.suites.items():
                by_suite.setdefault(key, []).append((float(parameters), score))
    if len(sizes) < 2:
        return Section(title, missing="needs evaluated runs of at least two sizes.")
    series = []
    for key, found in by_suite.items():
        found.sort(key=lambda pair: pair[0])
        values, low, high = zip(*(triple(score) for _, score in found), strict=True)
        points = [(size, value) for (size, _), value in zip(found, values, strict=True)]
        series.append(Series(label(key), points, low, high))
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


def _mean(results: Results, names: Sequence[str]) -> float | None:
    found = [
        float(score["accuracy"])
        for key, score in results.suites.items()
        if key.partition(":")[0].partition("/")[0] in names and "few_shot" not in key
    ]
    return sum(found) / len(found) if found else None
