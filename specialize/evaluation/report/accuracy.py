"""The accuracies of the student and of its base model."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from specialize.evaluation.comparison import compare
from specialize.evaluation.report import figures
from specialize.evaluation.report.figures import IntervalRow
from specialize.evaluation.report.runs import Run
from specialize.evaluation.report.section import Section, label, percent, triple
from specialize.evaluation.results import number_of

_SAMPLES = 6


def lead(run: Run, base: Run | None) -> str:
    """The main result in one sentence."""
    after, before = run.last, base.last if base else None
    if after is None:
        return "This run has not been evaluated yet."
    # The average of a task with sub-tasks replaces them.
    found = {
        key: score
        for key, score in after.scores.items()
        if "/" not in key or re.sub(r"/[^:]*", "", key) not in after.averages
    }
    if before is None:
        parts = [
            f"{label(key)} {percent(score['accuracy'])}" for key, score in found.items()
        ]
        return "Accuracy: " + ", ".join(parts) + "."
    pairs = {key: compare(key, after, before) for key in found}
    changes = [
        f"{label(key)} {percent(pair.before)} → {percent(pair.after)}"
        for key, pair in pairs.items()
        if pair.difference is not None
    ]
    if not changes:
        return "The base model was not asked the same questions."
    return "Before → after: " + "; ".join(changes) + "."


def scores(runs: Sequence[Run], base: Run | None) -> Section:
    """Accuracies with their intervals, and the differences to the base model."""
    after, before = runs[0].last, base.last if base else None
    title = "Accuracy"
    if after is None:
        return Section(title, missing="no decoded suites: run 'specialize evaluate'.")
    rows: list[Sequence[str]] = []
    plotted: list[IntervalRow] = []
    for key, score in after.scores.items():
        old = before.scores.get(key) if before else None
        pair = compare(key, after, before) if before else None
        values = []
        if old is not None and pair is not None and pair.difference is not None:
            values.append(("base", *triple(old)))
        plotted.append(IntervalRow(label(key), [*values, ("student", *triple(score))]))
        rows.append(
            (
                label(key),
                after.split(key),
                number_of(score),
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
    drawn = figures.intervals(plotted, title="Accuracy by suite", x_title="accuracy")
    return Section(
        title,
        "Dots are accuracies, lines are 95 % intervals (Wilson's for a suite, those of "
        "its suites combined for an average). The difference is over the questions "
        "that both were asked, with its bootstrap interval and McNemar's exact p.",
        figures=[("Accuracy by suite, in per cent", Markup(drawn))],
        tables=[("", header, rows)],
        missing="" if before else "no base model to compare with: give --base.",
    )


def prompts(runs: Sequence[Run], base: Run | None) -> Section:
    """The same suites asked with and without demonstrations."""
    title = "In-context and zero-shot prompts"
    after, before = runs[0].last, base.last if base else None
    pairs: list[IntervalRow] = []
    if after is not None:
        for key in after.suites:
            suite, _, prompt = key.partition(":")
            other = f"{suite}:{prompt.replace('zero_shot', 'few_shot')}"
            if not prompt.startswith("zero_shot") or other not in after.suites:
                continue
            for when, results in (("base", before), ("student", after)):
                if results and key in results.suites and other in results.suites:
                    pairs.append(
                        IntervalRow(
                            f"{suite}, {when}",
                            [
                                ("zero-shot", *triple(results.suites[key])),
                                ("in-context", *triple(results.suites[other])),
                            ],
                        )
                    )
    if not pairs:
        return Section(
            title,
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


def won_and_lost(run: Run, base: Run | None) -> Section:
    """Questions that only one of student and base model answered right."""
    title = "Questions won and lost"
    after, before = run.last, base.last if base else None
    if after is None or before is None:
        return Section(title, missing="needs predictions of the run and of its --base.")
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
                    "suite": label(key),
                    "id": str(line["id"]),
                    "question": str(line.get("question") or line.get("input", "")),
                    "gold": ", ".join(map(str, line.get("golds", ()))),
                    "before": _text(earlier),
                    "after": _text(line),
                    "teacher": str(line.get("rationale") or ""),
                }
            )
        numbers = (len(groups["won"]), len(groups["lost"]), both)
        counts.append((label(key), *map(str, numbers)))
        for group in groups.values():
            samples.extend(group[: _SAMPLES // 2])
    if not any(row[1:] != ("0", "0", "0") for row in counts):
        return Section(title, missing="no predictions are beside the results.")
    return Section(
        title,
        "Won: wrong before, right after. Lost: right before, wrong after. The first of "
        "each are shown, in the order of the suite.",
        tables=[("", ("suite", "won", "lost", "unchanged"), counts)],
        samples=samples,
    )


def _cell(score: Mapping[str, Any]) -> str:
    value, low, high = triple(score)
    return f"{value * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def _found(score: Mapping[str, Any]) -> str:
    how = score.get("how", {})
    return ", ".join(f"{count} {name}" for name, count in how.items() if count)


def _text(line: Mapping[str, Any]) -> str:
    prediction = line.get("prediction", "")
    if isinstance(prediction, Sequence) and not isinstance(prediction, str):
        return "\n---\n".join(map(str, prediction))
    return str(prediction)
