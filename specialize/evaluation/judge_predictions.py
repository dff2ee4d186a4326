"""Judges the predictions of another model, for a row in the same table."""

import dataclasses
import os

from specialize.corpus.tasks.known import known_suites
from specialize.errors import InputError
from specialize.evaluation import predictions, tables
from specialize.evaluation.results import Results
from specialize.evaluation.scoring import judging
from specialize.evaluation.scoring.averages import averages
from specialize.evaluation.spec import EvaluationSpec
from specialize.evaluation.suites.loading import (
    Suite,
    own_tasks,
    suites_of,
)


def evaluate_predictions(
    path: str | os.PathLike[str],
    evaluation: EvaluationSpec,
    *,
    suite: str | None = None,
    json_path: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Results:
    """Judges a predictions file (`specialize evaluate --predictions`).

    Args:
        path: JSON lines with suite, id or input, and prediction (`predictions`), or
            those of lm-evaluation-harness (`lm_eval`).
        evaluation: How the model was asked, and which judge reads its predictions. The
            file names the suites; a suite such as "gsm8k:few_shot_cot" names its prompt
            format too.
        suite: Suite of the lines that name none. None: the only one of
            `evaluation.tasks`, or what the file's name says.
        json_path: File for the results.
        base: Results to compare with.

    Returns:
        The results, which are also printed.

    Raises:
        InputError: The file is malformed, a prediction is of another suite, or no
            example has one.
    """
    named = evaluation.benchmarks_dir or os.environ.get("SPECIALIZE_BENCHMARKS_DIR")
    if not named and not evaluation.tasks:
        raise InputError(
            "--predictions needs the benchmark files: add --benchmarks DIR, or set "
            "SPECIALIZE_BENCHMARKS_DIR; or name your task with --tasks FILE."
        )
    before = None if base is None else Results.load(base)
    own = list(own_tasks(evaluation.tasks))
    if suite is None and len(own) == 1:
        suite = own[0]
    lines = predictions.read_predictions(path, suite, known_suites(own))
    asked = predictions.suite_names(lines)
    try:
        loaded = suites_of(dataclasses.replace(evaluation, suites=asked))
    except InputError as error:
        raise InputError(f"{path} names suites that cannot be read: {error}") from error
    matched = predictions.match_predictions(lines, list(loaded.values()))
    answered: dict[str, Suite] = {}
    scores: dict[str, judging.SuiteScore] = {}
    for key, found in matched.items():
        texts = {
            example.id: one
            for example, one in zip(loaded[key].examples, found, strict=True)
            if one is not None
        }
        if texts:
            answered[key] = loaded[key].only(texts)
            scores[key] = judging.judge_suite(
                answered[key], list(texts.values()), judge=evaluation.judge
            )
    results = Results(
        {"file": os.fspath(path)},
        {
            "split": evaluation.split,
            "rule": evaluation.judge.judge,
            "max_examples": evaluation.max_examples,
        },
        {key: score.to_json() for key, score in scores.items()},
        averages(
            list(scores.values()),
            {key: len(one.examples) for key, one in loaded.items()},
        ),
    )
    if json_path is not None:
        results = results.beside(json_path, answered, scores)
        results.save(json_path)
    tables.show(results, before)
    return results
