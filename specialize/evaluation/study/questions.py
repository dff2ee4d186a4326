"""Which questions a score was measured on, so that only like is compared with like."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from specialize.errors import InputError
from specialize.evaluation.scoring.averages import members

# How many cells a message names.
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of a score, as far as its file says.

    Attributes:
        answered: Number of questions with a verdict.
        asked: Number of all questions, if only some of them have a prediction.
        judge: Name of the judge.
        split: Name of the split.
        digest: Digest of the questions' ids.
        parts: Suite -> its questions, of an average.
    """

    answered: int
    asked: int | None = None
    judge: str | None = None
    split: str | None = None
    digest: str | None = None
    parts: Mapping[str, "Questions"] = dataclasses.field(
        default_factory=dict[str, "Questions"]
    )

    def __str__(self) -> str:
        number = f"{self.answered:,}"
        if self.asked is not None:
            number += f" of {self.asked:,}"
        known = (("split", self.split), ("judge", self.judge), ("digest", self.digest))
        words = [f"{name} {value}" for name, value in known if value is not None]
        return ", ".join([f"{number} questions", *words])


def questions_of(scores: Mapping[str, Mapping[str, Any]], key: str) -> Questions:
    """The questions of one score.

    Args:
        scores: "suite:prompt" -> score, of suites and averages of one file.
        key: The one that is meant.
    """
    score = scores[key]
    selection = score.get("selection") or {}
    parts: dict[str, Questions] = {}
    if not selection:  # an average, or a suite of an earlier version
        parts = {one: questions_of(scores, one) for one in members(key, scores)}
    return Questions(
        int(score["n"]),
        score.get("asked"),
        score.get("rule"),
        selection.get("split"),
        selection.get("digest"),
        parts,
    )


def differing(one: Questions, other: Questions) -> tuple[str, str] | None:
    """What two scores say of their questions, if these are not the same.

    What only one of the files says is no difference.
    """
    if one.parts and other.parts:
        for name in [*one.parts, *(n for n in other.parts if n not in one.parts)]:
            ours, theirs = one.parts.get(name), other.parts.get(name)
            if ours is None or theirs is None:
                has, lacks = f"{name} in its average", f"no {name} in its average"
                return (lacks, has) if ours is None else (has, lacks)
            if found := differing(ours, theirs):
                return f"for {name} {found[0]}", f"for {name} {found[1]}"
        return None
    same = _equal(one.judge, other.judge) and one.answered == other.answered
    if one.digest is None or other.digest is None:
        same = same and _equal(one.split, other.split)
    else:  # a suite may have the same questions in several splits
        same = same and one.digest == other.digest
    return None if same else (str(one), str(other))


def _equal(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def check_same(measure: str, asked: Sequence[tuple[str, Questions]]) -> None:
    """Refuses to compare scores of different questions.

    Args:
        measure: The measure.
        asked: The cells of one seed, in words with the file of the scores, and their
            questions.

    Raises:
        InputError: Two of them were asked different questions, or judged by different
            judges.
    """
    # What says most is compared with all others.
    first, base = max(asked, key=lambda one: (bool(one[1].parts), bool(one[1].digest)))
    others = [
        (name, found)
        for name, questions in asked
        if (found := differing(base, questions)) is not None
    ]
    if not others:
        return
    shown = "; ".join(f"{name} has {found[1]}" for name, found in others[:_SHOWN])
    more = f"; {len(others) - _SHOWN} more differ" if len(others) > _SHOWN else ""
    raise InputError(
        f"the measure {measure!r} is of different questions within a seed, whose arms "
        f"are compared: {first} has {others[0][1][0]}; {shown}{more}. Evaluate these "
        "cells with the same split, number of questions and judge, and predictions "
        "of all questions (remove the folder of a cell to run it again), or give the "
        "other questions a file and a measure of their own."
    )
