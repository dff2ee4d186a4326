"""Statistics of examples judged right or wrong: intervals, tests, votes, pass@k.

Every number is reported with its n; intervals are 95 % by default.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

CONFIDENCE = 0.95
# scipy.special.ndtri(0.975). Importing scipy takes longer than judging a benchmark.
_Z = {CONFIDENCE: 1.959963984540054}


@dataclasses.dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its interval, as shares of 1."""

    value: float
    low: float
    high: float


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
    z = _Z.get(confidence) or _z(confidence)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = (
        z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    )
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Rounding must not push the estimate out of its interval.
    return Interval(share, min(low, share), max(high, share))


def _z(confidence: float) -> float:
    """Half the width of a central interval of the standard normal distribution."""
    from scipy import special

    return float(special.ndtri(0.5 + confidence / 2))


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
