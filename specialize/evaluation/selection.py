"""Choose a checkpoint on validation, then test it once.

The best in-distribution checkpoint is not the best out-of-distribution one (Fu et al.),
so the rule is part of the result: it is written down with every candidate's score.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from rich.table import Table

from specialize import config, outputs
from specialize.corpus.benchmarks.table import MAS
from specialize.errors import InputError
from specialize.evaluation import tables
from specialize.evaluation.evaluate import Evaluation, Results, decoding_of
from specialize.inference.weights import load_student
from specialize.progress import console

# What is asked on validation, and the accuracy that decides.
RULES = {
    "gsm8k": (("gsm8k",), "gsm8k", "in-distribution: GSM8K's validation accuracy"),
    "mas": (
        MAS,
        "mas",
        "out-of-distribution: the mean of MultiArith's, ASDiv's and SVAMP's "
        "validation accuracies",
    ),
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which checkpoint was chosen, and why.

    Attributes:
        rule: in words.
        step: the chosen one's.
        validation: step -> accuracy and its interval, of every candidate.
        test: the chosen one's results on test.
    """

    rule: str
    step: int
    validation: dict[int, dict[str, Any]]
    test: Results


def select(
    *,
    model: Any,
    checkpoint: str,
    suites: Sequence[str],
    by: str = "gsm8k",
    benchmarks_dir: str | os.PathLike[str] | None = None,
    vocabulary_path: str | os.PathLike[str] | None = None,
    prompt: str = "zero_shot_cot",
    max_examples: int | None = None,
    rule: str = "exact",
    demonstrations: int = 4,
    mesh: Mapping[str, int] | str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    json_path: str | os.PathLike[str] | None = None,
    **decoding: Any,
) -> Choice:
    """Scores every kept checkpoint on validation, chooses one and tests it once.

    Args:
        model: the student.
        checkpoint: a run's folder; every checkpoint it kept is a candidate.
        suites: what the chosen one is tested on.
        by: "gsm8k" or "mas" (`RULES`).
        benchmarks_dir: as `evaluate`.
        vocabulary_path: as `evaluate`.
        prompt: as `evaluate`.
        max_examples: as `evaluate`.
        rule: as `evaluate`.
        demonstrations: as `evaluate`.
        mesh: as `evaluate`.
        output_dir: for predictions and `choice_<by>.json`; `<checkpoint>/selection` if
            None.
        json_path: the choice's copy.
        **decoding: as `evaluate`.

    Returns:
        The choice.

    Raises:
        InputError: an unknown rule, or no checkpoint to choose from.
    """
    if by not in RULES:
        raise InputError(f"cannot select by {by!r}: use one of {sorted(RULES)}.")
    asked, decides, words = RULES[by]
    run = pathlib.Path(checkpoint)
    kept = run / "checkpoints"
    steps = sorted(
        int(found.name)
        for found in (kept.iterdir() if kept.is_dir() else ())
        if found.name.isdigit()
    )
    if not steps:
        raise InputError(
            f"{run} holds no checkpoints to choose from ({kept}). Name the MODEL_DIR "
            "of 'specialize train'."
        )
    folder = outputs.claim(output_dir or run / "selection", "selection")
    common = dict(
        benchmarks_dir=config.place(benchmarks_dir, "BENCHMARKS_DIR", "BENCHMARKS_DIR"),
        vocabulary_path=config.place(vocabulary_path, "VOCABULARY_PATH", "VOCABULARY"),
        prompt=prompt,
        max_examples=max_examples,
        rule=rule,
        demonstrations=demonstrations,
        decoding=decoding_of(decoding),
    )
    candidates = Evaluation(suites=asked, split="validation", **common)
    final = Evaluation(suites=suites, split="test", **common)
    for one in (candidates, final):
        one.load()  # refuse bad names before anything is decoded
    validation: dict[int, dict[str, Any]] = {}
    for step in steps:
        found = _evaluated(candidates, model, run, step, mesh, folder / "validation")
        scores = {**found.suites, **found.averages}
        score = scores[f"{decides}:{prompt}"]
        validation[step] = {
            name: score[name] for name in ("accuracy", "low", "high", "n")
        }
    # Of equals the earliest: it cost least and forgot least.
    best = max(steps, key=lambda step: (validation[step]["accuracy"], -step))
    test = _evaluated(final, model, run, best, mesh, folder / "test")
    choice = Choice(words, best, validation, test)
    if jax.process_index() == 0:
        written = {
            "rule": words,
            "by": by,
            "step": best,
            "checkpoint": str(kept / str(best)),
            "validation": validation,
            "test": test.to_json(),
        }
        outputs.write_json(folder / f"choice_{by}.json", written)
        if json_path is not None:
            outputs.write_json(json_path, written)
        _show(choice)
    return choice


def _evaluated(
    evaluation: Evaluation,
    model: Any,
    run: pathlib.Path,
    step: int,
    mesh: Any,
    folder: pathlib.Path,
) -> Results:
    path = str(run / "checkpoints" / str(step))
    student = load_student(model, path, mesh)
    return evaluation.run(
        model.module,
        student.params,
        student.mesh,
        out=folder / str(step),
        model={"checkpoint": path, "step": step},
    )


def _show(choice: Choice) -> None:
    shown = Table("step", "n", "validation", "95 % interval", "", title=choice.rule)
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
