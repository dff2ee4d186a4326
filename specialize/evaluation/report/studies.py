"""The sections of a study's page."""

import os

from markupsafe import Markup

from specialize import outputs, paths
from specialize.evaluation.report import figures
from specialize.evaluation.report.figures import IntervalRow, Series
from specialize.evaluation.report.section import Section
from specialize.evaluation.study import outcome, tables
from specialize.evaluation.study.outcome import Estimate, Outcome


def sections(found: Outcome) -> list[Section]:
    """What the arms of a study have measured, and the verdicts on its claims."""
    shown = tables.tables(found)
    made = [_scores(found, shown[0])]
    if found.front:
        made.append(_front(found))
    for title, header, rows in shown[1:]:
        made.append(Section(title, _TEXTS[header[0]], tables=[("", header, rows)]))
    return made


_TEXTS = {
    "arm": "Differences are taken within each seed, whose arms share data, start and "
    "questions; intervals and p are of the paired t test.",
    "claim": "A contrast is supported if its interval is wholly above the number that "
    "it must surpass, and refuted if it is wholly below. A claim needs all of its "
    "contrasts.",
}


def lead(found: Outcome) -> str:
    """The first sentence of the page."""
    seeds = len(found.seeds)
    text = (
        f"{len(found.scores)} arms, {seeds} seed{'s' if seeds > 1 else ''}; "
        f"{found.done} of {found.cells} cells are done and took "
        f"{found.seconds / 3600:.1f} hours."
    )
    if found.claims:
        counts = {
            verdict: sum(one.verdict == verdict for one in found.claims)
            for verdict in (outcome.SUPPORTED, outcome.REFUTED, outcome.OPEN)
        }
        judged = ", ".join(f"{count} {name}" for name, count in counts.items())
        text += f" Of {len(found.claims)} claims: {judged}."
    return text


def is_study(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the folder of a study."""
    if not paths.in_bucket(path) and not os.path.isdir(path):
        return False
    return outputs.kind_of(path) == "study"


def _scores(found: Outcome, table: tables.Rows) -> Section:
    title, header, rows = table
    drawn: list[tuple[str, Markup]] = []
    for measure in tables.measures(found):
        plotted = [
            IntervalRow(arm, [(measure.replace("_", " "), *_ends(one[measure]))])
            for arm, one in found.scores.items()
            if measure in one and one[measure].mean is not None
        ]
        words = measure.replace("_", " ")
        svg = figures.intervals(plotted, title=words, x_title=f"accuracy: {words}")
        drawn.append((words, Markup(svg)))
    return Section(
        "Accuracy",
        "Means over seeds. Lines and brackets are 95 % intervals of Student's t: how "
        "much the mean would vary with other seeds.",
        figures=drawn,
        tables=[(title, header, rows)],
    )


def _front(found: Outcome) -> Section:
    x, y = found.front
    series: list[Series] = []
    for arm, one in found.scores.items():
        if x in one and y in one and one[x].mean is not None:
            number = str(len(series) + 1)
            right, value, low, high = (
                end * 100 for end in (_ends(one[x])[0], *_ends(one[y]))
            )
            series.append(
                Series(
                    f"{number} {arm.replace('_', ' ')}",
                    [(right, value)],
                    [low],
                    [high],
                    labels=[number],
                )
            )
    x_title, y_title = (f"{name.replace('_', ' ')} (%)" for name in (x, y))
    title = f"{y.replace('_', ' ')} against {x.replace('_', ' ')}"
    svg = figures.lines(series, title=title, x_title=x_title, y_title=y_title)
    return Section(
        "The trade-off",
        "Each point is the mean of an arm. Up and to the right is better.",
        figures=[(title, Markup(svg))],
    )


def _ends(one: Estimate) -> tuple[float, float, float]:
    """A mean with the ends of its interval; without one, they are the mean."""
    mean = 0.0 if one.mean is None else one.mean
    low = mean if one.low is None else max(one.low, 0.0)
    high = mean if one.high is None else min(one.high, 1.0)
    return mean, low, high
