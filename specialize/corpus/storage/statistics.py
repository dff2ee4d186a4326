"""Counts over the records of one format, which can be added across processes."""

import dataclasses

import numpy as np
from jaxtyping import Int

from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.records import ORIGINS
from specialize.corpus.storage.manifest import FormatSummary, Lengths


def _counts() -> Int[np.ndarray, " N"]:
    return np.zeros(0, np.int64)


@dataclasses.dataclass
class FormatStatistics:
    """Lengths, origins and masses of the records seen so far.

    Attributes:
        inputs: number of records by input length: `inputs[n]` have n tokens.
        targets: number of records by target length, EOS included.
        origins: number of target positions by index into `ORIGINS`.
        kept: sum over soft positions of the probability on the K ids.
        sampled: sum over soft positions of the probability of the target piece.
    """

    inputs: Int[np.ndarray, " I"] = dataclasses.field(default_factory=_counts)
    targets: Int[np.ndarray, " T"] = dataclasses.field(default_factory=_counts)
    origins: Int[np.ndarray, " O"] = dataclasses.field(
        default_factory=lambda: np.zeros(len(ORIGINS), np.int64)
    )
    kept: float = 0.0
    sampled: float = 0.0

    def add(self, record: DistillRecord) -> None:
        """Counts one record."""
        target = record.target
        self.inputs = _add(self.inputs, np.bincount([len(record.input_ids)]))
        self.targets = _add(self.targets, np.bincount([len(target.ids)]))
        self.origins = self.origins + np.bincount(target.origin, minlength=len(ORIGINS))
        soft = target.origin == 0
        if soft.any():
            self.kept += float(np.sum(1.0 - target.tail[soft], dtype=np.float64))
            hit = target.teacher_ids[soft] == target.ids[soft][:, None]
            probs = np.exp(target.teacher_logprobs[soft], dtype=np.float64)
            self.sampled += float(probs[hit].sum())

    def merge(self, other: "FormatStatistics") -> None:
        """Adds the counts of another process."""
        self.inputs = _add(self.inputs, other.inputs)
        self.targets = _add(self.targets, other.targets)
        self.origins = self.origins + other.origins
        self.kept += other.kept
        self.sampled += other.sampled

    def summary(self) -> FormatSummary:
        """The summary for the manifest."""
        soft = int(self.origins[0])
        return FormatSummary(
            records=int(self.targets.sum()),
            inputs=_lengths(self.inputs),
            targets=_lengths(self.targets),
            origins={
                name: int(count)
                for name, count in zip(ORIGINS, self.origins, strict=True)
                if count
            },
            kept_mass=round(self.kept / soft, 6) if soft else 1.0,
            sampled_mass=round(self.sampled / soft, 6) if soft else 1.0,
        )


def _add(
    left: Int[np.ndarray, " N"], right: Int[np.ndarray, " M"]
) -> Int[np.ndarray, " O"]:
    if len(left) < len(right):
        left, right = right, left
    total = left.copy()
    total[: len(right)] += right
    return total


def _lengths(counts: Int[np.ndarray, " N"]) -> Lengths:
    """The summary of a histogram of lengths with at least one entry."""
    total = int(counts.sum())
    reached = np.cumsum(counts)
    return Lengths(
        mean=round(float(np.dot(counts, np.arange(len(counts)))) / total, 2),
        median=int(np.searchsorted(reached, 0.5 * total)),
        p99=int(np.searchsorted(reached, 0.99 * total)),
        max=int(np.flatnonzero(counts)[-1]),
    )
