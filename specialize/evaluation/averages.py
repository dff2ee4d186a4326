"""The averages the paper reports: BBH over its tasks, M-A-S over three math suites."""

from collections.abc import Sequence
from typing import Any

from specialize.evaluation import statistics
from specialize.evaluation.judges import SuiteScore

MAS = ("multiarith", "asdiv", "svamp")


def averages(scores: Sequence[SuiteScore]) -> dict[str, dict[str, Any]]:
    """Macro-averages of the groups that are complete, by prompt.

    Args:
        scores: of single suites; of BBH, one a task.

    Returns:
        "bbh:<prompt>" over the BBH tasks there are (two at least) and "mas:<prompt>"
        where MultiArith, ASDiv and SVAMP are all there: accuracy, its interval, n
        (examples in all), suites (how many count) and how (summed over them).
    """
    groups: dict[str, list[SuiteScore]] = {}
    for score in scores:
        if score.name.startswith("bbh/"):
            groups.setdefault(f"bbh:{score.prompt}", []).append(score)
        if score.name in MAS:
            groups.setdefault(f"mas:{score.prompt}", []).append(score)
    return {
        key: _average(group)
        for key, group in groups.items()
        if len(group) >= (3 if key.startswith("mas:") else 2)
    }


def _average(group: Sequence[SuiteScore]) -> dict[str, Any]:
    mean = statistics.macro_average([(score.correct, score.n) for score in group])
    how: dict[str, int] = {}
    for score in group:
        for name, count in score.hows.items():
            how[name] = how.get(name, 0) + count
    return {
        "accuracy": mean.value,
        "low": mean.low,
        "high": mean.high,
        "n": sum(score.n for score in group),
        "suites": len(group),
        "how": how,
        "ceiling": {
            "accuracy": sum(score.ceiling.accuracy for score in group) / len(group)
        },
    }
