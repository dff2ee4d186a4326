"""Statistics of examples judged right or wrong: intervals, paired tests, pass@k.

Every number is reported with its n; intervals are 95 % by default.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from scipy import special

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval, as shares of 1."""

    value: float
    low: float
    high: float


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


def wilson(correct: int | float, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Accuracy with Wilson's score interval (E. B. Wilson, JASA 1927).

    Args:
        correct: Number of examples that are right; a fraction if samples are averaged.
        n: Number of examples, at least 1.
        confidence: Share of experiments whose interval contains the true value.

    Returns:
        The share and its interval, which stays inside [0, 1] and is not empty at 0
        or n right.

    Raises:
        ValueError: n is below 1, or `correct` is outside [0, n].
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"correct is {correct} of n={n}, expected 0 <= correct <= n")
    z = float(special.ndtri(0.5 + confidence / 2))
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = (
        z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    )
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Rounding must not push the estimate out of its interval.
    return Interval(share, min(low, share), max(high, share))


def macro_average(
    scores: Sequence[tuple[int | float, int]], *, confidence: float = CONFIDENCE
) -> Interval:
    """Unweighted mean of the accuracies of suites, with its interval.

    The interval combines the suites' Wilson intervals by the method of variance
    estimates recovery (Zou and Donner, Statistics in Medicine 2008):
    low = mean - sqrt(sum(((p_i - low_i) / k)^2)), and correspondingly for high. It is
    not empty if every example of a suite is right or every one is wrong.

    Args:
        scores: (correct, n) of each suite, at least one.
        confidence: As in `wilson`.

    Raises:
        ValueError: There is no suite.
    """
    if not scores:
        raise ValueError("macro_average got no suite")
    intervals = [wilson(correct, n, confidence=confidence) for correct, n in scores]
    k = len(intervals)
    mean = sum(one.value for one in intervals) / k
    below = math.sqrt(sum((one.value - one.low) ** 2 for one in intervals)) / k
    above = math.sqrt(sum((one.high - one.value) ** 2 for one in intervals)) / k
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above))


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided McNemar test.

    Returns:
        The p-value of the binomial test of won against won + lost at one half; 1 if
        nothing changed.
    """
    if won + lost == 0:
        return 1.0
    # scipy.stats takes a second to import, and the SeqIO tasks do not need it.
    from scipy import stats

    return float(stats.binomtest(won, won + lost, 0.5).pvalue)


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


def majority(values: Sequence[str | None]) -> str | None:
    """The most frequent answer of several samples (self-consistency).

    Args:
        values: The `value` of each sample's verdict; None is no vote.

    Returns:
        The answer with most votes, of equals the first one; None if no sample has an
        answer.
    """
    votes = collections.Counter(value for value in values if value is not None)
    return votes.most_common(1)[0][0] if votes else None


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate that at least one of k samples is right.

    1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374).

    Args:
        n: Number of samples, at least k.
        correct: Number of samples that are right.
        k: Number of samples of which one must be right.

    Raises:
        ValueError: Not 1 <= k <= n or not 0 <= correct <= n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass_at_k got n={n}, correct={correct}, k={k}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
