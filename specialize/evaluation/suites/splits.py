"""Validation and test: which examples choose a checkpoint, which report it.

The paper has no official splits; it samples validation sets of 500 of GSM8K's 1,319
test problems, 200 of MultiArith's 600, 500 of ASDiv's 2,305 and 500 of SVAMP's 1,000,
and tests on the rest. We keep these sizes (as shares, so that other files of the same
layout split too) and set a fifth of each BBH task aside.

An example's side follows from its id alone: the ids are ordered by the SHA-256 of
"<seed>/<id>", and the first ones are validation. So the split is the same on every
machine and in every version, and a file with a record removed splits the others as
before. `specialize evaluate` writes the seed and the digest of the chosen ids down.
"""

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

from specialize.corpus.benchmarks.table import BENCHMARKS
from specialize.errors import InputError
from specialize.evaluation.spec import SPLITS

SEED = 0

# Share of a suite's examples that is validation.
VALIDATION_SHARES = {
    name: Fraction(*benchmark.validation) for name, benchmark in BENCHMARKS.items()
}


def chosen(
    family: str, ids: Sequence[str], split: str, max_examples: int | None = None
) -> list[int]:
    """Positions of a split's examples, in the order of the file.

    Args:
        family: one of `BENCHMARKS`.
        ids: of all examples of one file.
        split: one of `spec.SPLITS`.
        max_examples: at most this many; the first of the split in the seeded order, so
            a small sample is not the head of a sorted file and is part of every larger.

    Returns:
        Indices into `ids`, ascending.

    Raises:
        InputError: an unknown split, `max_examples` below 1, or a split without
            examples.
    """
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}.")
    if max_examples is not None and max_examples < 1:
        raise InputError(f"max_examples is {max_examples}, expected at least 1.")
    order = sorted(range(len(ids)), key=lambda index: _rank(ids[index]))
    size = round(len(ids) * VALIDATION_SHARES[family])
    if split != "all":
        order = order[:size] if split == "validation" else order[size:]
    order = order[:max_examples]
    if not order:
        raise InputError(
            f"the {split} split of {family} is empty: of {len(ids)} examples "
            f"{size} are validation. Use split 'all' or a larger file."
        )
    return sorted(order)


def digest(ids: Iterable[str]) -> str:
    """Short digest of a set of ids, to write down which examples were used."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _rank(id: str) -> str:
    return hashlib.sha256(f"{SEED}/{id}".encode()).hexdigest()
