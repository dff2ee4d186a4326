"""Chooses between abilities: the best target that loses at most so much of the rest.

Candidates are the checkpoints of a run, its start, other checkpoints, and merges of the
start and the newest checkpoint, which are made in memory. All are scored on validation
for both abilities; one is chosen by the rule and tested once.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from rich.table import Table

from specialize import checks, outputs, run_folder, sharding
from specialize.checkpoints import merging, weighing
from specialize.checkpoints.formats.adapters import of_quantized_base
from specialize.checkpoints.opening import open_checkpoint
from specialize.checkpoints.source import Source
from specialize.corpus.tasks.known import index
from specialize.errors import InputError
from specialize.evaluation import tables
from specialize.evaluation.comparison import Comparison, compare
from specialize.evaluation.evaluate import evaluate_weights
from specialize.evaluation.results import CHOICE, Results
from specialize.evaluation.selection import criterion, steps_of
from specialize.evaluation.spec import EvaluationSpec
from specialize.evaluation.suites.loading import suites_of
from specialize.inference.weights import abstract_weights, check_fit, load_student
from specialize.progress import console


@dataclasses.dataclass(frozen=True)
class Rule:
    """The best accuracy of `target` that loses at most `lose` points of `retain`.

    Attributes:
        target: the ability that was specialised: a suite, or a group with an average,
            perhaps with a prompt. None: the default task.
        retain: the ability that is to be kept, likewise. None: the task of generic
            ability.
        lose: points of `retain`, in per cent, that a candidate may lose on validation
            compared with the start.
        start: the checkpoint that the run began with. None: as its configuration says.
        alphas: shares of the newest checkpoint in merges of it and the start.
        also: further checkpoints, such as "runs/student#ema".

    Raises:
        InputError: a number is outside its range.
    """

    target: str | None = None
    retain: str | None = None
    lose: float = 5.0
    start: str | None = None
    alphas: Sequence[float] = ()
    also: Sequence[str] = ()

    def __post_init__(self) -> None:
        checks.real("lose", self.lose, least=0, most=100)
        for alpha in self.alphas:
            checks.real("alpha", alpha, least=0, most=1)

    def words(self, target: str, retain: str) -> str:
        """The rule as a sentence."""
        return (
            f"best validation accuracy of {target} that loses at most {self.lose:g} "
            f"points of {retain}"
        )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A checkpoint, or a mean of checkpoints.

    Attributes:
        name: its name in tables and of its folder.
        parts: path and weight of each checkpoint; the weights' sum is 1.
    """

    name: str
    parts: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A candidate's accuracies on validation.

    Attributes:
        candidate: the candidate.
        target: accuracy of the target, with "low", "high" and "n".
        retain: accuracy of what is to be kept, likewise.
        change: the change of `retain` from the start, paired by question.
        front: whether no other candidate is better at one and as good at the other.
    """

    candidate: Candidate
    target: Mapping[str, Any]
    retain: Mapping[str, Any]
    change: Comparison
    front: bool = False

    def lost(self, start: "Scored") -> float:
        """Points of `retain` that it lost compared with the start."""
        return (start.retain["accuracy"] - self.retain["accuracy"]) * 100


@dataclasses.dataclass(frozen=True)
class ParetoChoice:
    """The chosen candidate, and all that it was chosen from.

    Attributes:
        rule: the rule, in words.
        chosen: the chosen candidate.
        scored: all candidates, the start first.
        test: results of the chosen one on test.
    """

    rule: str
    chosen: Candidate
    scored: Sequence[Scored]
    test: Results


def select_pareto(
    model: Any,
    checkpoint: str,
    evaluation: EvaluationSpec,
    *,
    rule: Rule = Rule(),
    mesh: Any = None,
    output_dir: str | os.PathLike[str] | None = None,
    json_path: str | os.PathLike[str] | None = None,
) -> ParetoChoice:
    """Scores all candidates on validation, chooses one by the rule and tests it once.

    Args:
        model: the student.
        checkpoint: folder of the run, also in a bucket.
        evaluation: how suites are asked, and those of the test. Its split is not used.
        rule: what is chosen, and between which candidates.
        mesh: the device mesh, in any spelling of `specialize.mesh`.
        output_dir: folder for predictions and `choice_pareto.json`. None:
            `<checkpoint>/selection`.
        json_path: file for a copy of the choice.

    Raises:
        InputError: a suite or checkpoint is unknown, or the start of the run is, or a
            candidate does not fit the student. Nothing has been decoded then.
    """
    target, suites = criterion(rule.target or index().default, evaluation)
    retain, more = criterion(rule.retain or index().generic, evaluation)
    candidates = _candidates(checkpoint, rule)
    asked = dataclasses.replace(evaluation, suites=(*suites, *more), split="validation")
    final = dataclasses.replace(evaluation, split="test")
    for one in (asked, final):
        suites_of(one)  # rejects invalid names before anything is decoded
    _check_readable(model, candidates, mesh)
    leader = jax.process_index() == 0
    where = output_dir or os.path.join(checkpoint, "selection")
    with outputs.working_folder(where, "selection", leader=leader) as working:

        def scores(candidate: Candidate, spec: EvaluationSpec, part: str) -> Results:
            params, on = _weights(model, candidate, mesh)
            out = working.path / part / candidate.name
            about = {"checkpoint": candidate.name, "parts": list(candidate.parts)}
            publish = working.publish
            return evaluate_weights(
                spec, model.module, params, on, out=out, model=about, publish=publish
            )

        scored = _scored(
            candidates, lambda c: scores(c, asked, "pareto"), target, retain
        )
        chosen = _chosen(scored, rule)
        test = scores(chosen.candidate, final, "pareto_test")
        choice = ParetoChoice(
            rule.words(target, retain), chosen.candidate, scored, test
        )
        if leader:
            written = _written(choice, rule, target, retain)
            outputs.write_json(working.path / CHOICE, written)
            if json_path is not None:
                outputs.write_json(json_path, written)
            _show(choice, rule, target, retain, _activation(model))
    return choice


def _candidates(checkpoint: str, rule: Rule) -> list[Candidate]:
    """All candidates; the start of the run is the first of them."""
    kept = os.path.join(checkpoint, run_folder.CHECKPOINTS)
    steps = steps_of(checkpoint)
    start = rule.start
    if start is None:
        start = run_folder.saved_values(checkpoint).get("INITIAL_CHECKPOINT_PATH")
    if not start:
        raise InputError(
            f"what {checkpoint} began with is unknown (its configuration has no "
            "INITIAL_CHECKPOINT_PATH). Name it with --start."
        )
    newest = os.path.join(kept, str(steps[-1]))
    found = [Candidate("start", ((str(start), 1.0),))]
    for alpha in dict.fromkeys(rule.alphas):
        if 0 < alpha < 1:
            own, of_newest = weighing.weights_of(alpha)
            parts = ((str(start), own), (newest, of_newest))
            found.append(Candidate(f"alpha_{of_newest!r}", parts))
    found += [
        Candidate(f"step_{step}", ((os.path.join(kept, str(step)), 1.0),))
        for step in steps
    ]
    found += [Candidate(_name_of(path), ((path, 1.0),)) for path in rule.also]
    names = [one.name for one in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"two candidates are called {twice[0]!r}. Name each checkpoint once, and "
            "copy or link one of two with the same name."
        )
    return found


def _name_of(path: str) -> str:
    """The name of a further checkpoint: the last parts of its path."""
    folders = [part for part in re.split("[/#]", path) if part not in ("", ".", "..")]
    if not folders:  # such as "..": a name, never a step out of the folder
        folders = [part for part in os.path.abspath(path).split("/") if part]
    return "_".join(folders[-3:]) or "root"


def _check_readable(model: Any, candidates: Sequence[Candidate], mesh: Any) -> None:
    """Refuses candidates that cannot be made, before the others are decoded for hours.

    Raises:
        InputError: a checkpoint cannot be opened, does not fit the student, or cannot
            be merged with another.
    """
    paths = dict.fromkeys(path for one in candidates for path, _ in one.parts)
    known: dict[str, Any] = {"activation": _activation(model), "together": True}
    opened = {path: open_checkpoint(path, **known) for path in paths}

    def source(candidate: Candidate) -> Source:
        if len(candidate.parts) == 1:
            return opened[candidate.parts[0][0]]
        parts, weights = zip(*candidate.parts, strict=True)
        return merging.merged([opened[path] for path in parts], weights)

    check_fit(model, map(source, candidates), mesh)


def _weights(model: Any, candidate: Candidate, mesh: Any) -> tuple[Any, Any]:
    """The weighted mean of a candidate's checkpoints, and its mesh."""
    if len(candidate.parts) == 1:
        found = load_student(model, candidate.parts[0][0], mesh)
        return found.params, found.mesh
    sources, weights = zip(*candidate.parts, strict=True)
    mesh = sharding.read_mesh(mesh)
    params = merging.load_mean(
        sources,
        weights,
        abstract_weights(model, mesh),
        activation=_activation(model),
    )
    return params, mesh


def _activation(model: Any) -> str:
    return str(model.module.config.mlp_activations[0])


def _scored(
    candidates: Sequence[Candidate],
    scores: Callable[[Candidate], Results],
    target: str,
    retain: str,
) -> list[Scored]:
    found: list[Scored] = []
    start: Results | None = None
    for candidate in candidates:
        results = scores(candidate)
        start = start or results
        of_target, of_retain = (
            {
                name: results.scores[key][name]
                for name in ("accuracy", "low", "high", "n")
            }
            for key in (target, retain)
        )
        change = compare(retain, results, start)
        found.append(Scored(candidate, of_target, of_retain, change))

    def dominated(one: Scored) -> bool:
        mine = (one.target["accuracy"], one.retain["accuracy"])
        return any(
            other != mine and all(a >= b for a, b in zip(other, mine, strict=True))
            for other in ((s.target["accuracy"], s.retain["accuracy"]) for s in found)
        )

    return [dataclasses.replace(one, front=not dominated(one)) for one in found]


def _chosen(scored: Sequence[Scored], rule: Rule) -> Scored:
    """The best of those that keep enough; of equals the one that keeps most."""
    start = scored[0]
    # Rounding of shares must not decide: 5 points of 200 questions are 5 points.
    kept = [one for one in scored if one.lost(start) <= rule.lose + 1e-9]
    return max(kept, key=lambda one: (one.target["accuracy"], one.retain["accuracy"]))


def _written(
    choice: ParetoChoice, rule: Rule, target: str, retain: str
) -> dict[str, Any]:
    start = choice.scored[0]
    return {
        "rule": choice.rule,
        "by": "pareto",
        "target": target,
        "retain": retain,
        "lose": rule.lose,
        "start": start.candidate.parts[0][0],
        "chosen": choice.chosen.name,
        "parts": list(choice.chosen.parts),
        "candidates": [
            {
                "name": one.candidate.name,
                "parts": list(one.candidate.parts),
                "target": dict(one.target),
                "retain": dict(one.retain),
                "lost": one.lost(start),
                "front": one.front,
            }
            for one in choice.scored
        ],
        "test": choice.test.to_json(),
    }


def _show(
    choice: ParetoChoice, rule: Rule, target: str, retain: str, activation: str
) -> None:
    columns = ("candidate", target, retain, f"change of {retain}", "front", "")
    shown = Table(*columns, title=choice.rule)
    for one in choice.scored:
        cells = [
            f"{s['accuracy']:.1%} [{s['low'] * 100:.1f}, {s['high'] * 100:.1f}]"
            for s in (one.target, one.retain)
        ]
        shown.add_row(
            one.candidate.name,
            *cells,
            "" if one is choice.scored[0] else str(one.change),
            "yes" if one.front else "",
            "chosen" if one.candidate == choice.chosen else "",
        )
    console.print(shown)
    tables.show(choice.test)
    if choice.chosen == choice.scored[0].candidate:
        console.print(
            f"No candidate is better at {target} and loses at most {rule.lose:g} "
            f"points of {retain}, so the choice is the start itself. Add merges with "
            "--alphas, allow more with --lose, or train with texts of other tasks "
            "(docs/how-to/forgetting.md)."
        )
    elif len(choice.chosen.parts) > 1:
        console.print(
            f"Write these weights with: {_command(choice.chosen, activation)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def _command(merge: Candidate, activation: str) -> str:
    """The command that writes a merge, with exactly its weights."""
    paths = [path for path, _ in merge.parts]
    as_trained = any(
        of_quantized_base(open_checkpoint(path, activation=activation))
        for path in paths
    )
    more = " --quantized_base" if as_trained else ""
    alpha = merge.parts[-1][1]
    return f"specialize merge {shlex.join(paths)} --alpha {alpha!r}{more} --target DIR"
