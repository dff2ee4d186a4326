"""T5's relative position bias: one learned number per head and bucket of distances."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning
from jaxtyping import Array, Float

_relpos_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def relative_buckets(
    distances: np.ndarray,
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> np.ndarray:
    """Returns the T5 bucket of every relative position (key minus query).

    Half of the buckets hold one distance each; the other half grow logarithmically up
    to `max_distance`, after which all distances share the last bucket (Raffel et al.
    2020, section 2.1). Bidirectional attention gives each direction half of the
    buckets; causal attention puts every future position into bucket 0.
    """
    distances = np.asarray(distances, np.int64)
    offset = np.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offset = np.where(distances > 0, num_buckets, 0)
        distances = np.abs(distances)
    else:
        distances = np.maximum(-distances, 0)
    exact = num_buckets // 2
    # The published weights were trained with this expression in float32; another order
    # of operations would round differently at the borders of the buckets.
    ratio = np.log(
        distances.astype(np.float32) / exact + np.finfo(np.float32).eps
    ) / np.float32(math.log(max_distance / exact))
    logarithmic = exact + (ratio * (num_buckets - exact)).astype(np.int64)
    logarithmic = np.minimum(logarithmic, num_buckets - 1)
    return offset + np.where(distances < exact, distances, logarithmic)


class RelativeBias(nn.Module):
    """One learned number per head and bucket, added to attention scores.

    Attributes:
        num_heads: H.
        bidirectional: whether keys may follow the query.
        num_buckets: number of buckets.
        max_distance: distance at which the last bucket begins.
    """

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    def setup(self):
        """Declares the numbers, [heads, buckets]."""
        self.rel_embedding = partitioning.param_with_axes(
            "rel_embedding",
            _relpos_init,
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )

    def by_distance(self, first: int, last: int) -> Float[Array, "H R"]:
        """Returns the bias of the relative positions first, first + 1, ..., last."""
        buckets = relative_buckets(
            np.arange(first, last + 1),
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        table = jnp.asarray(self.rel_embedding, jnp.float32)
        return jnp.take(table, buckets, axis=1)

    def __call__(
        self, queries: int, keys: int, limit: int = 0
    ) -> Float[Array, "1 H Q K"] | Float[Array, "H R"]:
        """Returns the bias of Q queries and K keys, both from position 0.

        If blocks of at most `limit` queries attend at a time, returns only its
        diagonals: the layers make each block's part when they need it, and neither the
        matrix nor the sum of its gradients over the layers is ever stored (0.5 GiB per
        chip for XXL on 64 TPU chips).
        """
        diagonals = self.by_distance(1 - queries, keys - 1)
        if block_size(queries, limit) < queries:
            return diagonals
        matrix: Array = skewed(diagonals, queries)
        return matrix[None]


def block_size(queries: int, limit: int) -> int:
    """Number of queries at a time: the largest divisor up to `limit`, or all.

    It is also all of them if that divisor is at most limit / 4, too small to be fast.
    """
    if limit < 1 or queries <= limit:
        return queries
    best = max(size for size in range(1, limit + 1) if queries % size == 0)
    return best if 4 * best > limit else queries


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def skewed(diagonals: Float[Array, "H R"], queries: int) -> Float[Array, "H Q K"]:
    """Returns the Toeplitz matrix whose row i, column j is diagonal j - i.

    It is a skewed reshape, so neither pass stores more than the result: no one-hot
    [32, Q, K], no scatter.

    Args:
        diagonals: values of the distances 1 - Q to K - 1, hence R = Q + K - 1.
        queries: Q.
    """
    stride = diagonals.shape[1]
    # Repetitions one longer than the stride move each row one column to the right.
    padded = jnp.pad(diagonals, ((0, 0), (0, 1)))  # H R+1
    rows = jnp.tile(padded, (1, queries))[:, : queries * stride]
    return rows.reshape(-1, queries, stride)[:, :, queries - 1 :]


def _skewed_forward(diagonals, queries):
    return skewed(diagonals, queries), None


def _skewed_backward(queries, residual, gradient):
    del residual
    heads, _, keys = gradient.shape
    stride = queries + keys - 1
    rows = jnp.pad(gradient, ((0, 0), (0, 0), (queries - 1, 0)))
    rows = jnp.pad(rows.reshape(heads, -1), ((0, 0), (0, queries)))
    rows = rows.reshape(heads, queries, stride + 1)
    return (sum_of_rows(rows)[:, :stride],)


skewed.defvjp(_skewed_forward, _skewed_backward)


def sum_of_rows(x: Float[Array, "*B N M"]) -> Float[Array, "*B M"]:
    """Sums over the last axis but one; on a CPU by a product with ones.

    There XLA's sum over an outer axis takes up to twenty times as long.
    """

    def product(x: Any) -> Any:
        ones = jnp.ones((*x.shape[:-2], 1, x.shape[-2]), x.dtype)
        sums = jnp.matmul(ones, x, precision=jax.lax.Precision.HIGHEST)
        return jnp.squeeze(sums, -2)

    return jax.lax.platform_dependent(
        x, cpu=product, default=lambda x: jnp.sum(x, axis=-2)
    )
