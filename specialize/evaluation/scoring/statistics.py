"""How sure a score is: intervals, paired tests, averages, pass@k.

Everything is about examples judged right or wrong. n is always reported beside a
figure; an interval is 95 % unless said otherwise.
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
    """An estimate with its interval, as shares of one.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class Paired:
    """Two systems on the same examples.

    Attributes:
        n: examples.
        won: right now, wrong before.
        lost: wrong now, right before.
        difference: accuracy now minus accuracy before, with its bootstrap interval.
        p_value: exact McNemar test, two-sided: how often a difference at least this
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
        correct: examples that are right; a fraction where samples are averaged.
        n: examples, at least 1.
        confidence: share of experiments whose interval holds the truth.

    Returns:
        The share and its interval, which stays inside [0, 1] and is not empty at 0
        or n right.

    Raises:
        ValueError: n below 1, or `correct` outside [0, n].
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
    # Rounding must not push the estimate out of its own interval.
    return Interval(share, min(low, share), max(high, share))


def macro_average(
    scores: Sequence[tuple[int | float, int]], *, confidence: float = CONFIDENCE
) -> Interval:
    """Mean of suites' accuracies, each suite counting the same, with its interval.

    The interval combines the suites' Wilson intervals by the method of variance
    estimates recovery (Zou and Donner, Statistics in Medicine 2008):
    low = mean - sqrt(sum(((p_i - low_i) / k)^2)), and alike for high. It does not
    collapse where a suite is all right or all wrong.

    Args:
        scores: (correct, n) of each suite, at least one.
        confidence: as `wilson`.

    Returns:
        The mean and its interval.

    Raises:
        ValueError: no suite.
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

    Args:
        won: examples right now and wrong before.
        lost: examples wrong now and right before.

    Returns:
        The p-value of the binomial test of won against won + lost at one half; 1
        where nothing changed.
    """
    if won + lost == 0:
        return 1.0
    # scipy.stats takes a second to import, which tasks should not pay for.
    from scipy import stats

    return float(stats.binomtest(won, won + lost, 0.5).pvalue)


def compare(
    before: Bool[np.ndarray, " n"],
    after: Bool[np.ndarray, " m"],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compares two systems on the same examples in the same order.

    Args:
        before: whether the base system is right [n].
        after: whether the new system is right [n].
        confidence: of the difference's interval.
        resamples: of the bootstrap over examples.
        seed: of the bootstrap.

    Returns:
        Wins, losses, the difference and the p-value.

    Raises:
        ValueError: lengths differ or are 0.
    """
    difference, low, high = _bootstrap(
        [(before, after)], confidence=confidence, resamples=resamples, seed=seed
    )
    won = int(np.sum(after & ~before))
    lost = int(np.sum(before & ~after))
    return Paired(
        n=len(before),
        won=won,
        lost=lost,
        difference=Interval(difference, low, high),
        p_value=mcnemar(won, lost),
    )


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
        confidence: of the interval.
        resamples: of the bootstrap; each suite is resampled by itself.
        seed: of the bootstrap.

    Returns:
        The difference and its interval.

    Raises:
        ValueError: no suite, or lengths of a pair differ or are 0.
    """
    return Interval(
        *_bootstrap(pairs, confidence=confidence, resamples=resamples, seed=seed)
    )


def _bootstrap(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float, float]:
    if not pairs:
        raise ValueError("a comparison needs at least one suite")
    rng = np.random.default_rng(seed)
    observed, drawn = 0.0, np.zeros(resamples)
    for before, after in pairs:
        n = len(before)
        if n == 0 or len(after) != n:
            raise ValueError(f"before has {n} examples, after {len(after)}")
        won, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
        # Resampling n examples with replacement draws wins, losses and ties from a
        # multinomial: the same distribution, without n x resamples indices.
        shares = [won / n, lost / n, (n - won - lost) / n]
        counts = rng.multinomial(n, shares, size=resamples)
        drawn += (counts[:, 0] - counts[:, 1]) / n / len(pairs)
        observed += (won - lost) / n / len(pairs)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return observed, float(low), float(high)


def majority(values: Sequence[str | None]) -> str | None:
    """The most frequent answer of several samples (self-consistency).

    Args:
        values: a verdict's `value` for each sample; None does not vote.

    Returns:
        The answer with most votes, of equals the one that came first; None if no
        sample has an answer.
    """
    votes = collections.Counter(value for value in values if value is not None)
    return votes.most_common(1)[0][0] if votes else None


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate that at least one of k samples is right.

    1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374).

    Args:
        n: samples drawn, at least k.
        correct: samples that are right.
        k: samples one would draw.

    Returns:
        The probability.

    Raises:
        ValueError: not 1 <= k <= n or not 0 <= correct <= n.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass_at_k got n={n}, correct={correct}, k={k}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)
