"""Targets with their teacher rows, and the records of a corpus that hold them."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, slots=True)
class AlignedTarget:
    """A target in student tokens with one sparse teacher row per position.

    Attributes:
        ids: student ids, EOS last.
        teacher_ids: K ids per position, most probable first; unused entries hold 0.
        teacher_logprobs: natural logarithms; unused entries hold -inf.
        tail: probability that is not on the K ids, computed before rounding.
        origin: why a position is soft or one-hot: an index into `records.ORIGINS`.
    """

    ids: Int[np.ndarray, " L"]
    teacher_ids: Int[np.ndarray, "L K"]
    teacher_logprobs: Float[np.ndarray, "L K"]
    tail: Float[np.ndarray, " L"]
    origin: Int[np.ndarray, " L"]


@dataclasses.dataclass(frozen=True, slots=True)
class DistillRecord:
    """One training example in one format.

    Attributes:
        id: "<problem id>/<sample>/<format>".
        format: one of `RECORD_FORMATS`.
        inputs: encoder text.
        targets: decoder text.
        input_ids: student ids of `inputs`, without EOS.
        target: student ids and teacher rows of `targets`.

    Example:
        >>> record = next(iter(specialize.Corpus("runs/corpus")))
        >>> record.id.endswith(record.format), len(record.target.ids) > 0
        (True, True)
    """

    id: str
    format: str
    inputs: str
    targets: str
    input_ids: Int[np.ndarray, " S"]
    target: AlignedTarget
