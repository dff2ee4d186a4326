"""Averages over suites: of the sub-tasks of a task, and of groups of tasks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from specialize.corpus.tasks.known import index
from specialize.evaluation.scoring import statistics
from specialize.evaluation.scoring.judging import SuiteScore
from specialize.judging.answers import HOWS


def averages(
    scores: Sequence[SuiteScore], asked: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Macro-averages of the complete groups, by prompt.

    Args:
        scores: Scores of single suites; of BBH, one per task.
        asked: "suite:prompt" -> number of its examples, also of suites without a
            score. None: those of the scores.

    Returns:
        "bbh:<prompt>" over the given sub-tasks of BBH (at least two), and of every
        other task with sub-tasks; "mas:<prompt>" if MultiArith, ASDiv and SVAMP are all
        given: accuracy, its interval, n (number of examples), suites (number of
        suites), and how and ceiling over the suites.
    """
    by_key = {f"{score.name}:{score.prompt}": score for score in scores}
    parts = [score.name.partition("/")[0] for score in scores if "/" in score.name]
    groups = index().groups
    wanted = [(name, 2) for name in dict.fromkeys(parts)]
    wanted += [(name, len(groups[name])) for name in index().averages]
    found: dict[str, dict[str, Any]] = {}
    for prompt in dict.fromkeys(score.prompt for score in scores):
        for name, fewest in wanted:
            group = members(f"{name}:{prompt}", by_key)
            if len(group) >= fewest:
                average = _average([by_key[key] for key in group])
                wanted_n = sum(
                    (asked or {})[key]
                    for key in members(f"{name}:{prompt}", asked or ())
                )
                if wanted_n > average["n"]:
                    average["asked"] = wanted_n
                found[f"{name}:{prompt}"] = average
    return found


def members(average: str, keys: Iterable[str]) -> list[str]:
    """The suites in `keys` that are part of an average.

    Args:
        average: "bbh:<prompt>" or "mas:<prompt>".
        keys: "suite:prompt" of single suites.
    """
    name, _, prompt = average.partition(":")
    group = index().groups.get(name, ())
    found: list[str] = []
    for key in keys:
        suite, _, own = key.partition(":")
        if own == prompt and (suite in group or suite.startswith(f"{name}/")):
            found.append(key)
    return found


def _average(group: Sequence[SuiteScore]) -> dict[str, Any]:
    mean = statistics.macro_average([(score.correct, score.n) for score in group])
    how = {name: sum(score.hows[name] for score in group) for name in HOWS}
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
