"""Judges the predictions of another model, for a row in the same table."""

import dataclasses
import os

from specialize.errors import InputError
from specialize.evaluation import predictions, tables
from specialize.evaluation.results import Results
from specialize.evaluation.scoring import judging
from specialize.evaluation.scoring.averages import averages
from specialize.evaluation.spec import EvaluationSpec
from specialize.evaluation.suites.loading import suites_of


def evaluate_predictions(
    path: str | os.PathLike[str],
    evaluation: EvaluationSpec,
    *,
    json_path: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Results:
    """Judges a predictions file (`specialize evaluate --predictions`).

    Args:
        path: JSON lines with suite, id or input, and prediction (`predictions`).
        evaluation: How the model was asked, and which judge reads its predictions. The
            file names the suites; a suite such as "gsm8k:few_shot_cot" names its prompt
            format too.
        json_path: File for the results.
        base: Results to compare with.

    Returns:
        The results, which are also printed.

    Raises:
        InputError: The file is malformed, a prediction is of another suite, or one is
            missing.
    """
    named = evaluation.benchmarks_dir or os.environ.get("SPECIALIZE_BENCHMARKS_DIR")
    if not named and not evaluation.tasks:
        raise InputError(
            "--predictions needs the benchmark files: add --benchmarks DIR, or set "
            "SPECIALIZE_BENCHMARKS_DIR; or name your task with --tasks FILE."
        )
    before = None if base is None else Results.load(base)
    lines = predictions.read_predictions(path)
    asked = predictions.suite_names(lines)
    try:
        loaded = suites_of(dataclasses.replace(evaluation, suites=asked))
    except InputError as error:
        raise InputError(f"{path} names suites that cannot be read: {error}") from error
    matched = predictions.match_predictions(lines, list(loaded.values()))
    scores = {
        key: judging.judge_suite(suite, matched[key], judge=evaluation.judge)
        for key, suite in loaded.items()
    }
    results = Results(
        {"file": os.fspath(path)},
        {
            "split": evaluation.split,
            "rule": evaluation.judge.judge,
            "max_examples": evaluation.max_examples,
        },
        {key: score.to_json() for key, score in scores.items()},
        averages(list(scores.values())),
    )
    if json_path is not None:
        results = results.beside(json_path, loaded, scores)
        results.save(json_path)
    tables.show(results, before)
    return results
