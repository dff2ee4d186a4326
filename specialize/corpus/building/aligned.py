"""Aligned samples as JSON lines, which `align` writes and `write` reads.

Each line is one object with the text in student ids, and for every position a teacher
row of (student id, log-probability) pairs, most probable first:

    {"problem_id", "sample", "text", "ids": [L], "rows": [[[id, logprob], ...] L],
     "tail": [L], "origin": [L]}

The numbers are float32, written so that reading gives exactly the same values.
"""

import json
import math
from typing import Any, cast

import numpy as np

from specialize.corpus.lines import Line
from specialize.corpus.records import AlignedTarget, Completion
from specialize.errors import InputError


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
    try:
        value = cast(dict[str, Any], json.loads(line.data))
        return Completion(value["problem_id"], int(value["sample"]), value["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(_refusal(line, error)) from error


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
    try:
        value = cast(dict[str, Any], json.loads(line.data))
        ids = np.asarray(value["ids"], np.int32)
        rows = value["rows"]
        teacher_ids = np.zeros((len(ids), k), np.int32)
        logprobs = np.full((len(ids), k), -np.inf, np.float32)
        for position, row in enumerate(rows):
            for slot, (index, logprob) in enumerate(row):
                teacher_ids[position, slot] = index
                logprobs[position, slot] = logprob
        target = AlignedTarget(
            ids,
            teacher_ids,
            logprobs,
            np.asarray(value["tail"], np.float32),
            np.asarray(value["origin"], np.int32),
        )
        completion = Completion(value["problem_id"], value["sample"], value["text"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(_refusal(line, error)) from error
    return completion, target


def _refusal(line: Line, error: Exception) -> str:
    return (
        f"{line.where}: not a line of 'specialize corpus align' "
        f"({type(error).__name__}: {error}). Align the completions again."
    )
