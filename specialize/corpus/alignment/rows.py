"""The rows that both alignments return, and their conversion to arrays."""

import operator
from typing import NamedTuple

import numpy as np

from specialize.corpus.alignment.targets import AlignedTarget
from specialize.corpus.records import ORIGINS
from specialize.corpus.vocabulary import Vocabulary

# Mass below this is rounding; its log-probability would mean nothing.
NEGLIGIBLE = 1e-9


# Indices into `ORIGINS`.
SOFT = ORIGINS.index("soft")
NO_DISTRIBUTION = ORIGINS.index("no_distribution")
EOS = ORIGINS.index("eos")
UNMATCHED = ORIGINS.index("unmatched")
UNDETERMINED = ORIGINS.index("undetermined")


class Step(NamedTuple):
    """One sampled token with its probabilities.

    Attributes:
        token: bytes of the token.
        sampled: its probability.
        others: the other alternatives and their probabilities, all above 0.
        rest: probability of everything that the teacher did not list.
    """

    token: bytes
    sampled: float
    others: list[tuple[bytes, float]]
    rest: float


class Rows(NamedTuple):
    """The student's pieces of a text, each with the teacher's distribution.

    Attributes:
        ids: L student ids, without EOS.
        masses: L mappings from student id to probability, which sum to at most 1;
            used only if the origin is "soft".
        origins: L indices into `ORIGINS`.
    """

    ids: list[int]
    masses: list[dict[int, float]]
    origins: list[int]


def assemble(rows: Rows, vocabulary: Vocabulary, k: int) -> AlignedTarget:
    """Sorts the rows, cuts them to K entries, adds EOS and computes the tail unrounded.

    A row keeps its K most probable ids; the target's own id replaces the last of them
    if it has mass. The remaining mass is in the tail.
    """
    ids, masses, origins = rows
    length = len(ids) + 1
    teacher_ids = [0] * (length * k)
    probs = [0.0] * (length * k)
    tail = [0.0] * length
    for position, (index, mass, origin) in enumerate(
        zip(ids, masses, origins, strict=True)
    ):
        at = position * k
        if origin != SOFT:
            teacher_ids[at] = index
            probs[at] = 1.0
            continue
        items = sorted(mass.items(), key=_probability, reverse=True)
        if len(items) > k:
            cut = items[:k]
            own = mass.get(index, 0.0)
            if own >= NEGLIGIBLE and all(kept != index for kept, _ in cut):
                cut[-1] = (index, own)
            items = cut
        total = 0.0
        for other, probability in items:
            if probability >= NEGLIGIBLE:
                teacher_ids[at] = other
                probs[at] = probability
                total += probability
                at += 1
        if total > 1.0:
            for slot in range(position * k, at):
                probs[slot] /= total
        else:
            tail[position] = 1.0 - total
    teacher_ids[-k] = vocabulary.eos_id
    probs[-k] = 1.0
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.asarray(probs)).reshape(length, k)
    return AlignedTarget(
        ids=np.asarray([*ids, vocabulary.eos_id], np.int32),
        teacher_ids=np.asarray(teacher_ids, np.int32).reshape(length, k),
        teacher_logprobs=logprobs.astype(np.float32),
        tail=np.asarray(tail, np.float32),
        origin=np.asarray([*origins, EOS], np.int32),
    )


_probability = operator.itemgetter(1)
