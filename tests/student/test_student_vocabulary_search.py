"""Greatest, top-k, nucleus and draws over long rows against plain definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.student.decoding import vocabulary_search as search

SIZES = [1, 5, 128, 129, 1000, 4099]


def rows(size, seed, levels=None):
    rng = np.random.default_rng(seed)
    if levels is None:
        return rng.standard_normal((3, 2, size)).astype(np.float32)
    return rng.integers(0, levels, (3, 2, size)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_the_greatest_and_top_k_equal_jax_with_and_without_ties(size):
    for scores in (rows(size, 0), rows(size, 1, levels=7), np.zeros((3, 2, size))):
        scores = jnp.asarray(scores, jnp.float32)
        greatest, index = search.greatest(scores)
        np.testing.assert_array_equal(greatest, jnp.max(scores, -1))
        np.testing.assert_array_equal(index, jnp.argmax(scores, -1))
        np.testing.assert_allclose(
            search.logsumexp(scores, greatest),
            jax.nn.logsumexp(scores, -1),
            rtol=1e-6,
        )
        for k in {1, min(size, 8)}:
            found, expected = search.top_k(scores, k), jax.lax.top_k(scores, k)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(
                np.take_along_axis(scores, found[1], -1), expected[0]
            )
            if k == 1:
                np.testing.assert_array_equal(found[1], expected[1])
            assert all(
                len(set(row)) == k for row in np.asarray(found[1]).reshape(-1, k)
            )


def test_a_row_of_nan_has_an_index_inside_the_vocabulary():
    greatest, index = search.greatest(jnp.full((2, 9), jnp.nan))
    assert jnp.isnan(greatest).all() and index.tolist() == [0, 0]


@settings(max_examples=15, deadline=None)
@given(st.floats(0.01, 1.0), st.sampled_from([5, 1000]), st.floats(0.1, 10.0))
def test_the_nucleus_is_the_smallest_set_that_suffices(top_p, size, temperature):
    probs = np.asarray(jax.nn.softmax(rows(size, 2)[0] / temperature, axis=-1))
    kept = np.asarray(search.nucleus(jnp.asarray(probs), top_p))
    for row, cut in zip(probs, kept, strict=True):
        chosen = cut > 0
        np.testing.assert_array_equal(cut[chosen], row[chosen])
        goal = top_p * row.sum()
        assert row[chosen].sum() >= goal * (1 - 1e-5)
        assert row[chosen].min() >= row[~chosen].max(initial=0)
        assert row[chosen].sum() - row[chosen].min() <= goal * (1 + 1e-5)


def test_draws_invert_the_running_sum_and_skip_weight_0():
    weights = rows(700, 3)[0, 0] ** 2
    weights[::3] = 0
    weights[:5] = 0
    weights[-5:] = 0
    total = np.cumsum(weights.astype(np.float64))
    uniform = np.concatenate([np.linspace(0, 1, 500, endpoint=False), [1 - 2**-24]])
    drawn = np.asarray(
        search.draw(
            jnp.asarray(uniform, jnp.float32),
            jnp.broadcast_to(jnp.asarray(weights), (len(uniform), 700)),
        )
    )
    assert (weights[drawn] > 0).all()
    expected = np.searchsorted(total, uniform * total[-1], side="right")
    assert (drawn == np.minimum(expected, np.flatnonzero(weights)[-1])).mean() > 0.99
    assert np.abs(drawn - expected).max() < 10
