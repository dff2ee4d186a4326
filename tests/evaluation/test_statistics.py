"""Intervals and tests against published values, brute force and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from specialize.evaluation.scoring import paired, statistics


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 1998, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_newcombes(correct, n, low, high):
    interval = statistics.wilson(correct, n)
    assert interval.value == correct / n
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_wilsons_interval_is_scipys_and_holds_its_estimate():
    for n in (1, 7, 250, 1319):
        for correct in {0, 1, n // 3, n}:
            found = statistics.wilson(correct, n)
            want = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
            assert found.low == pytest.approx(want.low, abs=1e-12)
            assert found.high == pytest.approx(want.high, abs=1e-12)
            assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_an_impossible_count_is_refused(correct, n):
    with pytest.raises(ValueError, match=f"n={n}"):
        statistics.wilson(correct, n)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 17)])
def test_mcnemar_sums_the_binomial_tail(won, lost):
    n = won + lost
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    want = sum(chance for chance in chances if chance <= chances[won] * (1 + 1e-9))
    assert statistics.mcnemar(won, lost) == pytest.approx(want)


def test_the_usual_interval_is_of_the_normal_distribution():
    value = special.ndtri(0.5 + statistics.CONFIDENCE / 2)
    assert statistics._Z == {statistics.CONFIDENCE: value}
    narrow, usual = statistics.wilson(3, 10, confidence=0.5), statistics.wilson(3, 10)
    assert usual.low < narrow.low < 0.3 < narrow.high < usual.high


def test_a_comparison_counts_wins_losses_and_the_difference():
    before = np.array([1, 1, 0, 0, 0, 1], bool)
    after = np.array([1, 0, 1, 1, 0, 1], bool)
    both = paired.compare(before, after)
    assert (both.n, both.won, both.lost) == (6, 2, 1)
    assert both.difference.value == pytest.approx(1 / 6)
    assert both.difference.low <= 1 / 6 <= both.difference.high
    assert both.p_value == 1.0
    assert paired.compare(before, after) == both
    with pytest.raises(ValueError, match="before has 6 examples, after 5"):
        paired.compare(before, after[:5])


def test_the_bootstrap_is_that_of_resampled_examples():
    rng = np.random.default_rng(0)
    before, after = rng.random(200) < 0.3, rng.random(200) < 0.5
    both = paired.compare(before, after)
    drawn = rng.integers(0, 200, (4000, 200))
    differences = (after[drawn].astype(int) - before[drawn]).mean(axis=1)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert both.difference.low == pytest.approx(low, abs=0.015)
    assert both.difference.high == pytest.approx(high, abs=0.015)


def test_a_difference_of_averages_weighs_suites_equally():
    large = (np.zeros(1000, bool), np.zeros(1000, bool))
    small = (np.zeros(10, bool), np.ones(10, bool))
    difference = paired.compare_macro([large, small])
    assert difference.value == difference.low == difference.high == 0.5
    with pytest.raises(ValueError, match="at least one suite"):
        paired.compare_macro([])


def test_a_macro_average_of_one_suite_is_its_wilson_interval():
    macro, single = statistics.macro_average([(30, 250)]), statistics.wilson(30, 250)
    assert (macro.value, macro.low, macro.high) == pytest.approx(
        (single.value, single.low, single.high)
    )
    assert statistics.macro_average([(5, 10), (0, 250)]).value == 0.25
    with pytest.raises(ValueError, match="no suite"):
        statistics.macro_average([])


def test_a_macro_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    sizes = np.array([250, 146, 178, 250, 40])
    truths = np.array([0.0, 0.03, 0.5, 0.97, 0.3])
    covered = 0
    for _ in range(1000):
        drawn = rng.binomial(sizes, truths).tolist()
        scores = list(zip(drawn, sizes.tolist(), strict=True))
        interval = statistics.macro_average(scores)
        covered += interval.low <= truths.mean() <= interval.high
    assert 930 <= covered <= 985


def test_the_majority_is_the_most_frequent_answer_and_first_of_equals():
    assert statistics.majority(["5", "6", "6", None]) == "6"
    assert statistics.majority(["7", "5", "5", "7"]) == "7"
    assert statistics.majority([None, None, "3"]) == "3"
    assert statistics.majority([None]) is None


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for n, correct, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if correct > n or k > n:
            with pytest.raises(ValueError, match="pass_at_k"):
                statistics.pass_at_k(n, correct, k)
            continue
        subsets = list(itertools.combinations(range(n), k))
        hits = sum(any(one < correct for one in subset) for subset in subsets)
        assert statistics.pass_at_k(n, correct, k) == pytest.approx(hits / len(subsets))
