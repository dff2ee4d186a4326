"""Judge outputs made elsewhere, so that any other model stands in the same table."""

import os

from specialize.errors import InputError
from specialize.evaluation import predictions, tables
from specialize.evaluation.results import Results
from specialize.evaluation.scoring import judging
from specialize.evaluation.scoring.averages import averages
from specialize.evaluation.suites import loading, splits


def evaluate_predictions(
    path: str | os.PathLike[str],
    benchmarks_dir: str | os.PathLike[str] | None,
    *,
    rule: str = "exact",
    prompt: str = "zero_shot_cot",
    split: str = splits.DEFAULT,
    max_examples: int | None = None,
    json_path: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Results:
    """Judges a predictions file (`specialize evaluate --predictions`).

    Args:
        path: JSON lines with suite, id or input, and prediction (`predictions`).
        benchmarks_dir: the owners' files; None asks SPECIALIZE_BENCHMARKS_DIR.
        rule: "exact" or "reference".
        prompt: how the model was asked, where a line's suite does not say it
            ("gsm8k:few_shot_cot").
        split: which examples must be answered.
        max_examples: of each suite.
        json_path: where to write the results.
        base: results to compare with.

    Returns:
        The results, which are also printed.

    Raises:
        InputError: a malformed file, another suite's predictions, missing ones.
    """
    place = benchmarks_dir or os.environ.get("SPECIALIZE_BENCHMARKS_DIR")
    if not place:
        raise InputError(
            "--predictions needs the benchmark files: add --benchmarks DIR, or set "
            "SPECIALIZE_BENCHMARKS_DIR."
        )
    before = None if base is None else Results.load(base)
    lines = predictions.read_predictions(path)
    loaded: dict[str, loading.Suite] = {}
    for name in predictions.suite_names(lines):
        suite, _, asked = name.partition(":")
        for one in loading.load_suites(
            suite,
            place,
            prompt=asked or prompt,
            split=split,
            max_examples=max_examples,
        ):
            loaded[one.key] = one
    matched = predictions.match_predictions(lines, list(loaded.values()))
    scores = {
        key: judging.judge_suite(suite, matched[key], rule=rule)
        for key, suite in loaded.items()
    }
    results = Results(
        {"file": os.fspath(path)},
        {"split": split, "rule": rule, "max_examples": max_examples},
        {key: score.to_json(examples=False) for key, score in scores.items()},
        averages(list(scores.values())),
    )
    if json_path is not None:
        results = results.beside(json_path, loaded, scores)
        results.save(json_path)
    tables.show(results, before)
    return results
