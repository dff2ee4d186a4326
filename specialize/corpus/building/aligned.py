"""Aligned samples as JSON lines, which `align` writes and `write` reads.

Each line is one object with the text in student ids, and for every position a teacher
row of (student id, log-probability) pairs, most probable first:

    {"problem_id", "sample", "text", "ids": [L], "rows": [[[id, logprob], ...] L],
     "tail": [L], "origin": [L]}

The numbers are float32, written so that reading gives exactly the same values.
"""

import dataclasses
import json
import math
from typing import Annotated

import msgspec
import numpy as np

from specialize.corpus.alignment.targets import AlignedTarget
from specialize.corpus.lines import Line
from specialize.corpus.records import ORIGINS, Completion
from specialize.corpus.storage import shards
from specialize.errors import InputError
from specialize.typed_json import Count, decode


def aligned_to_json(completion: Completion, target: AlignedTarget) -> str:
    """One line, without the newline."""
    rows = [
        [
            [int(index), float(logprob)]
            for index, logprob in zip(ids, logprobs, strict=True)
            if logprob > -math.inf
        ]
        for ids, logprobs in zip(
            target.teacher_ids, target.teacher_logprobs, strict=True
        )
    ]
    return json.dumps(
        {
            "problem_id": completion.problem_id,
            "sample": completion.sample,
            "text": completion.text,
            "ids": target.ids.tolist(),
            "rows": rows,
            "tail": target.tail.tolist(),
            "origin": target.origin.tolist(),
        },
        ensure_ascii=False,
    )


def aligned_completion(line: Line) -> Completion:
    """Reads only the completion of a line.

    Raises:
        InputError: `align` did not write such a line.
    """
    value = decode(line.data, _Head, line.where, remedy=_REMEDY)
    return Completion(value.problem_id, value.sample, value.text)


def parse_aligned(line: Line, k: int) -> tuple[Completion, AlignedTarget]:
    """Reads one line of `aligned_to_json`.

    Args:
        line: a line of a file that `align` wrote.
        k: number of entries per teacher row.

    Returns:
        The completion, without its teacher's tokens, and its target.

    Raises:
        InputError: `align` did not write such a line, or a row has more than `k`
            entries.
    """
    value = decode(line.data, _Aligned, line.where, remedy=_REMEDY)
    length = len(value.ids)
    for name in ("rows", "tail", "origin"):
        found = len(getattr(value, name))
        if found != length:
            raise InputError(
                f"{line.where}: {name!r} has {found} entries, expected {length} as "
                f"'ids' has. {_REMEDY}"
            )
    teacher_ids = np.zeros((length, k), np.int32)
    logprobs = np.full((length, k), -np.inf, np.float32)
    for position, row in enumerate(value.rows):
        if len(row) > k:
            raise InputError(
                f"{line.where}: row {position} has {len(row)} entries, expected at "
                f"most {k}. {_REMEDY}"
            )
        for slot, (index, logprob) in enumerate(row):
            teacher_ids[position, slot] = index
            logprobs[position, slot] = logprob
    mass = np.exp(logprobs).sum(axis=1) + np.asarray(value.tail, np.float32)
    if np.any(wrong := np.abs(mass - 1) > shards.MASS_SLACK):
        position = int(np.argmax(wrong))
        raise InputError(
            f"{line.where}: the probabilities and tail of row {position} sum to "
            f"{mass[position]:.4f}, expected 1. {_REMEDY}"
        )
    target = AlignedTarget(
        np.asarray(value.ids, np.int32),
        teacher_ids,
        logprobs,
        np.asarray(value.tail, np.float32),
        np.asarray(value.origin, np.int32),
    )
    return Completion(value.problem_id, value.sample, value.text), target


_REMEDY = "Align the completions again with 'specialize corpus align'."
_Id = Annotated[int, msgspec.Meta(ge=0, lt=shards.MAX_ROWS)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclasses.dataclass(frozen=True)
class _Head:
    problem_id: str
    sample: Count
    text: str


@dataclasses.dataclass(frozen=True)
class _Aligned(_Head):
    ids: list[_Id]
    rows: list[list[tuple[_Id, Annotated[float, msgspec.Meta(le=0)]]]]
    tail: list[_Share]
    origin: list[Annotated[int, msgspec.Meta(ge=0, lt=len(ORIGINS))]]
