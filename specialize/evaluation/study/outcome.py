"""What the cells of a study have measured: means, intervals over seeds, verdicts.

Every interval is the 95 % interval of Student's t over the seeds, which says how much
the mean would vary if the study were repeated with other seeds. Differences are taken
within each seed, whose arms share data, start and questions, and tested as pairs.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specialize import paths, typed_json, versions
from specialize.errors import InputError
from specialize.evaluation.results import scores_in
from specialize.evaluation.scoring.statistics import CONFIDENCE
from specialize.evaluation.study.cells import Cell, cells_of
from specialize.evaluation.study.questions import (
    Questions,
    check_same,
    questions_of,
)
from specialize.evaluation.study.records import done_of
from specialize.evaluation.study.spec import StudySpec

FILE = versions.STUDY.file
# Accuracies are quotients in float64: their sums differ from what they mean by less.
_ROUNDING = 1e-9
SUPPORTED, REFUTED, OPEN = "supported", "refuted", "undecided"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        n: Number of seeds.
        mean: The mean; None without a seed.
        low: Lower end of its interval; None with fewer than two seeds.
        high: Upper end.
        p_value: Two-sided t test of a mean of 0; None with fewer than two seeds.
        values: Seed -> value.
        answered: Seed -> the number of questions that have an answer, and that of all,
            of the seeds in which these differ.
    """

    n: typed_json.Count
    mean: float | None
    low: float | None
    high: float | None
    p_value: float | None
    values: dict[str, float]
    answered: dict[str, tuple[typed_json.Count, typed_json.Count]] = dataclasses.field(
        default_factory=dict[str, tuple[int, int]]
    )


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A contrast of a claim: its estimate, and the number that it must surpass."""

    text: str
    number: float
    estimate: Estimate
    verdict: str


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, its contrasts, and the verdict on all of them."""

    text: str
    contrasts: list[Contrast]
    verdict: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The content of `study.json`.

    Attributes:
        version: Version of the format.
        seeds: All seeds of the study.
        done: Number of cells that are done.
        cells: Number of all cells.
        seconds: Seconds of the commands of the cells that are done.
        reference: The arm with which the others are compared.
        scores: Arm -> measure -> mean over seeds.
        differences: Arm -> measure -> difference to the reference within each seed.
        claims: The claims, in the order of the study.
        front: The two measures that are drawn against each other, or none.
    """

    version: int
    seeds: list[int]
    done: typed_json.Count
    cells: typed_json.Count
    seconds: float
    reference: str | None
    scores: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    claims: list[Claim]
    front: list[str] = dataclasses.field(default_factory=list[str])


def load(out: str | os.PathLike[str]) -> Outcome:
    """Reads `study.json` in the folder of a study.

    Raises:
        InputError: It is missing, malformed or of another version.
    """
    url = paths.joined(out, FILE)
    if not paths.exists(url):
        raise InputError(
            f"{out} has no {FILE}, which is written when a cell is done. Run "
            "'specialize study' with this --out."
        )
    file = paths.local(url)
    content = typed_json.read(file, typed_json.Object, remedy="Run the study again.")
    versions.STUDY.check(content.get("version"), file)
    return typed_json.convert(content, Outcome, file, remedy="Run the study again.")


def gather(spec: StudySpec, out: str | os.PathLike[str]) -> Outcome:
    """Reads the results of all cells that are done.

    Args:
        spec: The study.
        out: Its folder.

    Raises:
        InputError: A result is missing or malformed, or was made by other commands
            or with another configuration, or the arms of a seed have results of
            different questions.
    """
    found: dict[tuple[str, str], dict[int, _Value]] = {}
    asked: dict[tuple[str, int], list[tuple[str, Questions]]] = {}
    cells, seconds = cells_of(spec, out), 0.0
    done: list[Cell] = []
    for cell in cells:
        made = done_of(cell.work)
        if made is None:
            continue
        done.append(cell)
        seconds += made.seconds
        files: dict[str, Mapping[str, Any]] = {}
        for measure in spec.measures:
            file, key = spec.place_of(measure)
            url = paths.joined(cell.folder, file)
            if not paths.exists(url):
                continue  # not every arm is measured by everything
            if file not in files:
                files[file] = scores_in(url)
            if key not in files[file]:
                raise InputError(
                    f"{url} has no score of {key!r}, only {', '.join(files[file])}. "
                    f"Correct the measure {measure!r}."
                )
            questions = questions_of(files[file], key)
            value = _Value(float(files[file][key]["accuracy"]), questions)
            found.setdefault((cell.arm, measure), {})[cell.seed] = value
            place = asked.setdefault((measure, cell.seed), [])
            place.append((f"{file} of {cell}", questions))
    _check_complete(spec, cells, done, found)
    for (measure, _), cells_of_seed in asked.items():
        check_same(measure, cells_of_seed)
    arms = list(spec.all_arms())
    scores = {arm: _each(spec, found, {arm: 1.0}) for arm in arms}
    others = [arm for arm in arms if spec.reference and arm != spec.reference]
    differences = {
        arm: _each(spec, found, {arm: 1.0, str(spec.reference): -1.0}) for arm in others
    }
    return Outcome(
        versions.STUDY.writes,
        list(spec.seeds),
        len(done),
        len(cells),
        round(seconds, 1),
        spec.reference,
        scores,
        differences,
        [_judged(spec, found, text, all_of) for text, all_of in spec.claims.items()],
        list(spec.front),
    )


@dataclasses.dataclass(frozen=True)
class _Value:
    """An accuracy, and what it was measured on."""

    accuracy: float
    questions: Questions


_Found = Mapping[tuple[str, str], Mapping[int, _Value]]


def _check_complete(
    spec: StudySpec, cells: Sequence[Cell], done: Sequence[Cell], found: _Found
) -> None:
    """Refuses means of some of the cells that are done.

    Not every arm is measured by everything, but all seeds of an arm are measured by the
    same.

    Raises:
        InputError: Results of a cell are missing, nothing has a measure, or an arm does
            not have that of a claim.
    """
    for cell in done:
        its = [m for m in spec.measures if (cell.arm, m) in found]
        lacks = [m for m in its if cell.seed not in found[cell.arm, m]]
        if its and not lacks:
            continue
        file, _ = spec.place_of((lacks or list(spec.measures))[0])
        raise InputError(
            f"{paths.joined(cell.folder, file)} is missing, but {cell} is done. "
            f"Correct the file's name in the measures, or remove {cell.folder} to run "
            "the cell again."
        )
    if len(done) < len(cells):
        return
    for measure in spec.measures:
        if all((cell.arm, measure) not in found for cell in done):
            file, key = spec.place_of(measure)
            raise InputError(
                f"no cell has {file}, where {key!r} of the measure {measure!r} should "
                "be. Correct the file's name, or leave the measure out."
            )
    for claim, contrasts in spec.claims.items():
        for contrast in contrasts:
            for arm, measure in spec.terms(contrast):
                if (arm, measure) not in found:
                    file, key = spec.place_of(measure)
                    raise InputError(
                        f"the claim {claim!r} needs {arm}.{measure} for {contrast!r}, "
                        f"but no cell of the arm {arm} has {file}, where {key!r} of "
                        f"the measure {measure!r} should be. Let the arm be measured "
                        "by it, or correct the contrast."
                    )


def _each(
    spec: StudySpec, found: _Found, arms: Mapping[str, float]
) -> dict[str, Estimate]:
    """The estimate of every measure that all these arms have."""
    return {
        measure: _estimated(found, {(arm, measure): f for arm, f in arms.items()})
        for measure in spec.measures
        if all((arm, measure) in found for arm in arms)
    }


def _estimated(found: _Found, terms: Mapping[tuple[str, str], float]) -> Estimate:
    """The estimate of the sum of the terms, over the seeds that have all of them."""
    each = [found.get(term, {}) for term in terms]
    seeds = [seed for seed in each[0] if all(seed in one for one in each)]
    values = {
        seed: sum(found[term][seed].accuracy * f for term, f in terms.items())
        for seed in seeds
    }
    answered: dict[str, tuple[int, int]] = {}
    for seed in seeds:
        for one in each:
            questions = one[seed].questions
            if questions.asked is not None:
                own = (questions.answered, questions.asked)
                answered[str(seed)] = min(own, answered.get(str(seed), own))
    return dataclasses.replace(estimate(values), answered=answered)


def estimate(values: Mapping[int, float]) -> Estimate:
    """The mean over seeds with the interval and the test of Student's t.

    Args:
        values: Seed -> value.
    """
    numbers = np.array(list(values.values()), float)
    n = len(numbers)
    written = {str(seed): value for seed, value in values.items()}
    if n < 2:
        mean = float(numbers[0]) if n else None
        return Estimate(n, mean, None, None, None, written)
    from scipy import special

    mean = float(numbers.mean())
    error = float(numbers.std(ddof=1)) / math.sqrt(n)
    half = float(special.stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * error
    if error < _ROUNDING:
        p_value = float(abs(mean) < _ROUNDING)
    else:
        p_value = float(2 * special.stdtr(n - 1, -abs(mean) / error))
    return Estimate(n, mean, mean - half, mean + half, p_value, written)


def verdict(one: Estimate, number: float) -> str:
    """Whether a mean surpasses a number: yes or no if its interval is on one side."""
    if one.low is None or one.high is None:
        return OPEN
    if one.low > number + _ROUNDING:
        return SUPPORTED
    return REFUTED if one.high < number - _ROUNDING else OPEN


def _judged(
    spec: StudySpec, found: _Found, text: str, contrasts: Mapping[str, float]
) -> Claim:
    judged: list[Contrast] = []
    for written, number in contrasts.items():
        one = _estimated(found, spec.terms(written))
        judged.append(Contrast(written, float(number), one, verdict(one, number)))
    verdicts = [one.verdict for one in judged]
    return Claim(text, judged, _joint(verdicts))


def _joint(verdicts: Sequence[str]) -> str:
    """All must hold; one that is refuted refutes the claim."""
    if REFUTED in verdicts:
        return REFUTED
    return OPEN if OPEN in verdicts else SUPPORTED
