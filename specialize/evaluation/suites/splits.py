"""The validation split chooses a checkpoint, and the test split reports it.

The paper has no official splits; it samples validation sets of 500 of GSM8K's 1,319
test problems, 200 of MultiArith's 600, 500 of ASDiv's 2,305 and 500 of SVAMP's 1,000,
and tests on the rest. We use these sizes (as shares, for other files of the same
layout) and a fifth of each BBH task.

The split of an example depends only on its id: the ids are ordered by the SHA-256 of
"<seed>/<id>", and the first ones are validation. So it is the same on every machine and
in every version, and does not change if another example is removed. The results have
the seed and the digest of the chosen ids.
"""

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

from specialize.errors import InputError
from specialize.evaluation.spec import SPLITS

SEED = 0


def chosen(
    name: str,
    ids: Sequence[str],
    split: str,
    max_examples: int | None = None,
    *,
    share: tuple[int, int],
) -> list[int]:
    """Positions of a split's examples, in the order of the file.

    Args:
        name: Name of the suite, for messages.
        ids: Ids of all examples of one file.
        split: One of `spec.SPLITS`.
        max_examples: Largest number of examples. They are the first ones in the seeded
            order, not in that of the file; a larger sample contains a smaller one.
        share: (a, b): a of b examples are the validation split.

    Returns:
        Indices into `ids`, ascending.

    Raises:
        InputError: The split is unknown or empty, or `max_examples` is below 1.
    """
    if split not in SPLITS:
        raise InputError(f"split is {split!r}, expected one of {', '.join(SPLITS)}.")
    if max_examples is not None and max_examples < 1:
        raise InputError(f"max_examples is {max_examples}, expected at least 1.")
    order = sorted(range(len(ids)), key=lambda index: _rank(ids[index]))
    size = round(len(ids) * Fraction(*share))
    if split != "all":
        order = order[:size] if split == "validation" else order[size:]
    order = order[:max_examples]
    if not order:
        raise InputError(
            f"the {split} split of {name} is empty: of {len(ids)} examples "
            f"{size} are validation. Use split 'all' or a larger file."
        )
    return sorted(order)


def digest(ids: Iterable[str]) -> str:
    """Short digest of a set of ids, which identifies the examples of a result."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _rank(id: str) -> str:
    return hashlib.sha256(f"{SEED}/{id}".encode()).hexdigest()
