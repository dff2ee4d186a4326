"""Two systems on the same examples: the difference, its interval, a paired test."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from specialize.evaluation.scoring.statistics import CONFIDENCE, Interval, mcnemar


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
    """Two systems on the same examples.

    Attributes:
        n: Number of examples.
        won: Number of examples right now and wrong before.
        lost: Number of examples wrong now and right before.
        difference: Accuracy now minus accuracy before, with its bootstrap interval.
        p_value: Exact McNemar test, two-sided: how often a difference at least this
            large arises if both are equally good.
    """

    n: int
    won: int
    lost: int
    difference: Interval
    p_value: float


def compare(
    before: Bool[np.ndarray, " n"],
    after: Bool[np.ndarray, " m"],
) -> Paired:
    """Compares two systems on the same examples in the same order.

    Args:
        before: Whether the base system is right [n].
        after: Whether the new system is right [n].

    Raises:
        ValueError: The lengths differ or are 0.
    """
    difference = compare_macro([(before, after)])
    won, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    return Paired(len(before), won, lost, difference, mcnemar(won, lost))


def compare_macro(
    pairs: Sequence[tuple[Bool[np.ndarray, " _"], Bool[np.ndarray, " _"]]],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Difference of two macro averages over the same suites, by paired bootstrap.

    Args:
        pairs: (before, after) of each suite, as in `compare`.
        confidence: As in `wilson`.
        resamples: Number of bootstrap samples; every suite is resampled on its own.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: There is no suite, or the lengths of a pair differ or are 0.
    """
    if not pairs:
        raise ValueError("a comparison needs at least one suite")
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(resamples)
    for before, after in pairs:
        n = len(before)
        if n == 0 or len(after) != n:
            raise ValueError(f"before has {n} examples, after {len(after)}")
        won, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
        # Wins, losses and ties of n examples drawn with replacement are multinomial:
        # the same distribution, without n x resamples indices.
        shares = [won / n, lost / n, (n - won - lost) / n]
        counts = rng.multinomial(n, shares, size=resamples)
        drawn += (counts[:, 0] - counts[:, 1]) / n / len(pairs)
        observed += (won - lost) / n / len(pairs)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(observed, float(low), float(high))
