"""Chooses a checkpoint on validation, then tests it once.

The best in-distribution checkpoint is not the best out-of-distribution one (Fu et al.),
so the criterion is part of the result and written with the score of every candidate.
"""

import dataclasses
import os
import pathlib
from typing import Any

import jax
from rich.table import Table

from specialize import outputs, run_folder
from specialize.checkpoints import step_folder
from specialize.checkpoints.opening import open_checkpoint
from specialize.corpus.tasks.known import index
from specialize.errors import InputError
from specialize.evaluation import tables
from specialize.evaluation.evaluate import evaluate_weights
from specialize.evaluation.results import Results, file_stem
from specialize.evaluation.spec import EvaluationSpec
from specialize.evaluation.suites.loading import suites_of
from specialize.inference.weights import check_fit, load_student
from specialize.progress import console


@dataclasses.dataclass(frozen=True)
class Choice:
    """The chosen checkpoint, and why it was chosen.

    Attributes:
        criterion: The selection criterion, in words.
        step: Step of the chosen checkpoint.
        validation: Step -> accuracy and its interval, of every candidate.
        test: Results of the chosen checkpoint on test.
    """

    criterion: str
    step: int
    validation: dict[int, dict[str, Any]]
    test: Results


def select(
    model: Any,
    checkpoint: str,
    evaluation: EvaluationSpec,
    *,
    by: str | None = None,
    mesh: Any = None,
    output_dir: str | os.PathLike[str] | None = None,
    json_path: str | os.PathLike[str] | None = None,
) -> Choice:
    """Scores every kept checkpoint on validation, chooses one and tests it once.

    Args:
        model: The student.
        checkpoint: Folder of a run, also in a bucket; every checkpoint that it kept is
            a candidate.
        evaluation: The suites on which the chosen checkpoint is tested, and how these
            and the suites of the criterion are asked. Its split is not used.
        by: The suite, or group with an average, whose accuracy on validation decides,
            perhaps with a prompt ("gsm8k:few_shot_cot"); None: the default task, which
            is in distribution for a student of GSM8K.
        mesh: The device mesh, in any spelling of `specialize.mesh`.
        output_dir: Folder for predictions and `choice_<by>.json`. None:
            `<checkpoint>/selection`.
        json_path: File for a copy of the choice.

    Raises:
        InputError: The criterion is unknown, or there is no checkpoint, or one that
            does not fit the student; nothing has been decoded then.

    Example:
        >>> student = specialize.load("runs/student")
        >>> asked = specialize.EvaluationSpec(
        ...     ["gsm8k"], "world", "vocabulary.model", max_examples=2,
        ...     decoding=specialize.DecodingSpec(batch_size=8, output_length=8),
        ... )
        >>> choice = specialize.select(  # doctest: +ELLIPSIS
        ...     student.model, "runs/student", asked
        ... )
        runs/student...
        >>> choice.step
        2
    """
    by = index().default if by is None else by
    key, asked = criterion(by, evaluation)
    words = f"validation accuracy of {by}"
    if len(asked) > 1:
        names = ", ".join(one.partition(":")[0] for one in asked)
        words = f"mean of the validation accuracies of {names}"
    kept = os.path.join(checkpoint, run_folder.CHECKPOINTS)
    steps = steps_of(checkpoint)
    candidates = dataclasses.replace(evaluation, suites=asked, split="validation")
    final = dataclasses.replace(evaluation, split="test")
    for one in (candidates, final):
        suites_of(one)  # rejects invalid names before anything is decoded
    opened = (open_checkpoint(os.path.join(kept, str(step))) for step in steps)
    check_fit(model, opened, mesh)  # before any of them is decoded
    validation: dict[int, dict[str, Any]] = {}
    leader = jax.process_index() == 0
    where = output_dir or os.path.join(checkpoint, "selection")
    with outputs.working_folder(where, "selection", leader=leader) as working:
        out = working.path / "validation"
        for step in steps:
            found = _evaluated(candidates, model, kept, step, mesh, out, working)
            scores = {**found.suites, **found.averages}
            score = scores[key]
            validation[step] = {
                name: score[name] for name in ("accuracy", "low", "high", "n")
            }
        # Of equals the earliest one: it cost least and forgot least.
        best = max(steps, key=lambda step: (validation[step]["accuracy"], -step))
        out = working.path / "test"
        test = _evaluated(final, model, kept, best, mesh, out, working)
        choice = Choice(words, best, validation, test)
        if leader:
            written = {
                "rule": words,
                "by": by,
                "step": best,
                "checkpoint": os.path.join(kept, str(best)),
                "validation": validation,
                "test": test.to_json(),
            }
            outputs.write_json(working.path / f"choice_{file_stem(by)}.json", written)
            if json_path is not None:
                outputs.write_json(json_path, written)
            _show(choice)
    return choice


def criterion(by: str, evaluation: EvaluationSpec) -> tuple[str, tuple[str, ...]]:
    """The score that a suite or group means, and the suites that it needs.

    Args:
        by: A suite, or a group with an average, perhaps with a prompt.
        evaluation: Its prompt is that of suites which name none.

    Returns:
        "suite:prompt" of the score, and of each suite.

    Raises:
        InputError: It is a group without an average.
    """
    name, _, prompt = by.partition(":")
    if name in index().groups and name not in index().averages:
        raise InputError(
            f"cannot select by {by!r}, a group without an average: name a suite or "
            f"one of {', '.join(index().averages)}."
        )
    prompt = prompt or evaluation.prompt
    names = index().groups.get(name, (name,))
    return f"{name}:{prompt}", tuple(f"{one}:{prompt}" for one in names)


def steps_of(checkpoint: str) -> list[int]:
    """The steps of the finished checkpoints that a run kept, ascending.

    Raises:
        InputError: There is none, or not all processes find the same.
    """
    kept = os.path.join(checkpoint, run_folder.CHECKPOINTS)
    steps = step_folder.steps_of_all(kept)
    if not steps:
        raise InputError(
            f"{checkpoint} has no checkpoints to choose from ({kept}). Name the "
            "MODEL_DIR of 'specialize train'."
        )
    return steps


def _evaluated(
    evaluation: EvaluationSpec,
    model: Any,
    kept: str,
    step: int,
    mesh: Any,
    folder: pathlib.Path,
    working: outputs.Working,
) -> Results:
    path = os.path.join(kept, str(step))
    student = load_student(model, path, mesh)
    return evaluate_weights(
        evaluation,
        model.module,
        student.params,
        student.mesh,
        out=folder / str(step),
        model={"checkpoint": path, "step": step},
        publish=working.publish,
    )


def _show(choice: Choice) -> None:
    columns = ("step", "n", "validation", "95 % interval", "")
    shown = Table(*columns, title=choice.criterion)
    for step, score in choice.validation.items():
        shown.add_row(
            str(step),
            str(score["n"]),
            f"{score['accuracy']:.1%}",
            f"[{score['low']:.1%}, {score['high']:.1%}]",
            "chosen" if step == choice.step else "",
        )
    console.print(shown)
    tables.show(choice.test)
