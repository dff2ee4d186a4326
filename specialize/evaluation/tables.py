"""The table an evaluation prints: accuracy, n, interval, how answers were found."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from specialize.evaluation import statistics
from specialize.evaluation.results import Results
from specialize.progress import table_console


def show(results: Results, base: Results | None = None) -> None:
    """Prints the results on standard output.

    Args:
        results: what to show.
        base: the base model's, for differences on the same examples.
    """
    table_console(160).print(table(results, base))


def table(results: Results, base: Results | None = None) -> Table:
    """The results as a table, suites first, then averages.

    Args:
        results: what to show.
        base: the base model's, for differences on the same examples.

    Returns:
        A rich table.
    """
    title = str(results.model.get("checkpoint") or results.model.get("file") or "")
    shown = Table(title=title, title_justify="left")
    shown.add_column("suite")
    shown.add_column("prompt")
    shown.add_column("n", justify="right")
    shown.add_column("accuracy", justify="right")
    shown.add_column("95 % interval")
    if base is not None:
        shown.add_column("base", justify="right")
        shown.add_column("difference, p")
    shown.add_column("marked / last / none")
    shown.add_column("ceiling")
    for scores in (results.suites, results.averages):
        for key, score in scores.items():
            suite, _, prompt = key.partition(":")
            cells = [
                suite,
                prompt.replace("_", " "),
                f"{score['n']:,}",
                f"{score['accuracy']:.1%}",
                f"[{score['low']:.1%}, {score['high']:.1%}]",
            ]
            if base is not None:
                cells += _against(key, results, base)
            how = score.get("how", {})
            cells.append(" / ".join(str(count) for count in how.values()))
            ceiling = score.get("ceiling", {}).get("accuracy", 1.0)
            cells.append(f"{ceiling:.1%}" if ceiling < 1 else "")
            shown.add_row(*cells)
        shown.add_section()
    return shown


def paired(key: str, results: Results, base: Results) -> statistics.Paired | None:
    """The paired comparison of one suite, over the examples both answered.

    Args:
        key: "suite:prompt".
        results: the new system's.
        base: the old one's.

    Returns:
        The comparison, or None where one of the two has no predictions for it.
    """
    old = {line["id"]: bool(line["correct"]) for line in base.lines(key)}
    new = {line["id"]: bool(line["correct"]) for line in results.lines(key)}
    shared = [name for name in new if name in old]
    if not shared:
        return None
    return statistics.compare(
        np.array([old[name] for name in shared]),
        np.array([new[name] for name in shared]),
    )


def _against(key: str, results: Results, base: Results) -> list[str]:
    old: Mapping[str, Any] | None = {**base.suites, **base.averages}.get(key)
    if old is None:
        return ["–", "–"]
    now = {**results.suites, **results.averages}[key]
    difference = f"{(now['accuracy'] - old['accuracy']) * 100:+.1f}"
    test = paired(key, results, base)
    if test is not None:
        difference += f", p = {test.p_value:.3g}"
    return [f"{old['accuracy']:.1%}", difference]
