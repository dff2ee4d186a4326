from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.errors import InputError
from specialize.training.data.order import MixtureOrder, hashed, shuffled


def test_hashes_are_the_published_splitmix64_sequence():
    # SplitMix64 from state 0 gives these (Vigna's reference implementation).
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    from specialize.training.data import order

    with np.errstate(over="ignore"):
        state = np.arange(1, 4, dtype=np.uint64) * order._GOLDEN
    assert order._mix(state).tolist() == expected


def test_a_shuffle_is_a_permutation_that_depends_on_every_part_of_its_key():
    orders = [
        shuffled(50, *key).tolist() for key in [(1, 2, 3), (1, 2, 4), (1, 3, 2), (1, 2)]
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == shuffled(50, 1, 2, 3).tolist()


def test_hashes_are_spread_evenly():
    values = hashed(100_000, 7)
    for bit in range(64):
        share = float((values >> np.uint64(bit) & np.uint64(1)).mean())
        assert 0.49 < share < 0.51


def test_any_window_can_be_looked_at_without_the_ones_before():
    order = MixtureOrder([30, 7], [2.0, 1.0], seed=5)
    streamed = [order.window(i, 12) for i in range(6)]
    fresh = MixtureOrder([30, 7], [2.0, 1.0], seed=5).window(4, 12)
    np.testing.assert_array_equal(streamed[4][0], fresh[0])
    np.testing.assert_array_equal(streamed[4][1], fresh[1])


def test_every_example_comes_once_an_epoch_in_a_new_order():
    order = MixtureOrder([10], [1.0], seed=0)
    tasks, examples = order.window(0, 30)
    assert not tasks.any()
    # Within a window a single task keeps the order of its epochs.
    epochs = examples.reshape(3, 10)
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in epochs}) == 3


@settings(deadline=None, max_examples=30)
@given(
    rates=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6),
    count=st.integers(30, 200),
)
def test_rates_hold_up_to_one_example_at_every_point(rates, count):
    order = MixtureOrder([17] * len(rates), rates, seed=1)
    for windows in (1, 5, 40):
        position = windows * count
        for found, share in zip(order.starts(position), order.shares, strict=True):
            assert abs(found - position * float(share)) <= len(rates)
    for index in range(6):
        tasks, _ = order.window(index, count)
        assert len(tasks) == count


def test_tasks_alternate_within_a_window():
    order = MixtureOrder([100, 100], [3.0, 1.0], seed=1)
    tasks, _ = order.window(2, 80)
    for part in tasks.reshape(8, 10):
        assert 1 <= part.sum() <= 4


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [([0, 3], [1.0, 1.0]), ([3], [0.0]), ([3], [float("nan")]), ([], [])],
)
def test_empty_tasks_and_rates_that_are_not_positive_are_refused(sizes, rates):
    with pytest.raises(InputError):
        MixtureOrder(sizes, rates, seed=0)


@pytest.mark.parametrize(
    "rates", [[1.0, 1e-7], [1e-7, 1e-7], [1.4e-6, 2.6e-6], [1e-300, 3e-300], [1e9, 1.0]]
)
def test_small_rates_are_as_exact_as_others(rates):
    shares = MixtureOrder([10, 10], rates, 0).shares
    assert sum(shares) == 1
    for share, rate in zip(shares, rates, strict=True):
        assert float(share) == pytest.approx(rate / sum(rates), rel=1e-6)
    assert MixtureOrder([10, 10], rates, 0).window(0, 20)[0].size == 20


def test_decimal_rates_are_as_they_were_written():
    assert MixtureOrder([9, 9], [0.1, 0.2], 0).shares == (
        Fraction(1, 3),
        Fraction(2, 3),
    )
