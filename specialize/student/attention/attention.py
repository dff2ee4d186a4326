"""Attention: scores, softmax and weighted values, whole or in blocks of queries."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from specialize.student.adapters.spec import AdapterSpec
from specialize.student.ambient import ambient_mesh
from specialize.student.attention import fused_attention
from specialize.student.attention.relative_bias import block_size, skewed, sum_of_rows
from specialize.student.layers import Dense, constrain

# Far below any score and far from overflow: masked keys get weight 0 exactly, and a
# query whose keys are all masked gets a uniform mean instead of NaN.
MASKED = -1e10
# Without gradients a CPU processes as many sequences at a time as have scores of this
# many bytes, which stay in its cache (32 sequences of 704 tokens, 4 heads: 0.56 of the
# time).
CPU_SCORES = 16 * 2**20

_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Attention(nn.Module):
    """Multi-head attention without 1/sqrt(d): T5 folds that into the initialisers.

    Attributes:
        num_heads: H.
        head_dim: size d of a head; H·d may differ from D.
        features: size D of the result.
        dtype: type of the projections; scores and softmax are float32.
        dropout_rate: dropout rate of the attention weights, one mask for all queries.
        block: largest number of queries at a time, so that scores [B H Q K] never exist
            whole, forward or backward. 0: all. The result is the same.
        kind: "fused" for the kernels of `gpu_kernels` (interpreted, hence slow, without
            a GPU), "plain" for products that store the scores, "auto" for the faster of
            the two (`fused_attention.suits`).
        adapters: which projections have adapters.
    """

    num_heads: int
    head_dim: int
    features: int
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0
    block: int = 0
    kind: str = "auto"
    adapters: AdapterSpec | None = None

    def setup(self):
        """Declares the four projections."""
        project = functools.partial(
            Dense,
            self.num_heads * self.head_dim,
            ("embed", "joined_kv"),
            dtype=self.dtype,
            adapters=self.adapters,
        )
        depth = math.sqrt(self.head_dim)
        self.query = project(init=lambda *args: _init(*args) / depth)
        self.key = project(init=_init)
        self.value = project(init=_init)
        self.out = Dense(
            self.features,
            ("joined_kv", "embed"),
            dtype=self.dtype,
            init=_init,
            adapters=self.adapters,
        )

    def split_heads(self, x: Float[Array, "B L J"]) -> Float[Array, "B L H d"]:
        """Unfolds the joined axis into heads."""
        x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        return constrain(x, "batch", "length", "heads", "kv")

    def join_heads(self, x: Float[Array, "B L H d"]) -> Float[Array, "B L J"]:
        """Folds the heads into one axis."""
        return x.reshape(*x.shape[:-2], self.num_heads * self.head_dim)

    def keys_values(
        self, inputs: Float[Array, "B K D"], deterministic: bool = True
    ) -> tuple[Float[Array, "B K H d"], Float[Array, "B K H d"]]:
        """Returns the keys and values of `inputs`."""
        keys, values = (
            project(inputs, deterministic) for project in (self.key, self.value)
        )
        return self.split_heads(keys), self.split_heads(values)

    def __call__(
        self,
        inputs: Float[Array, "B Q D"],
        attended: Float[Array, "B K D"],
        bias: Float[Array, "1 H Q K"] | Float[Array, "H R"] | None,
        mask: Bool[Array, "B 1 Q K"] | None,
        deterministic: bool = True,
    ) -> Float[Array, "B Q D"]:
        """Attends from `inputs` to `attended` where `mask` is true.

        Args:
            inputs: vectors from which the queries are made.
            attended: vectors from which keys and values are made.
            bias: result of `RelativeBias` for Q, K and `block`.
            mask: whether a query sees a key.
            deterministic: whether dropout is off.
        """
        queries = self.split_heads(self.query(inputs, deterministic))
        keys, values = self.keys_values(attended, deterministic)
        if not deterministic and self.dropout_rate > 0.0:
            keep = 1.0 - self.dropout_rate
            shape = (queries.shape[0], self.num_heads, 1, keys.shape[1])
            drawn = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
            # With one mask for all queries, dropping a key's value does the same as
            # dropping its weights, and values are smaller than scores.
            values = values * jnp.moveaxis(drawn.astype(self.dtype) / keep, 3, 1)

        fused = self.kind == "fused" or (
            self.kind == "auto" and fused_attention.suits(queries, keys)
        )
        if not fused:
            # A batched product needs the heads after the batch. Transposing once here
            # saves a transposition in every product, forward and backward.
            keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)
        mix = functools.partial(_mix_fused if fused else _mix, keys, values)

        block = block_size(queries.shape[1], self.block)
        if block == queries.shape[1]:
            mixed = mix(queries, bias, mask)
        else:
            mixed = _in_blocks(mix, block, queries, bias, mask, fused=fused)
        return self.out(self.join_heads(mixed), deterministic)


def _mix(keys: Any, values: Any, queries: Any, bias: Any, mask: Any) -> Any:
    queries = jnp.swapaxes(queries, 1, 2)
    return jnp.swapaxes(attend(queries, keys, values, bias, mask), 1, 2)


def _mix_fused(keys: Any, values: Any, queries: Any, bias: Any, mask: Any) -> Any:
    return fused_attention.attend(queries, keys, values, bias, mask)


@jax.custom_vjp
def attend(
    queries: Float[Array, "B H Q d"],
    keys: Float[Array, "B H K d"],
    values: Float[Array, "B H K d"],
    bias: Float[Array, "1 H Q K"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
) -> Float[Array, "B H Q d"]:
    """Softmax(queries . keys + bias where mask) . values; scores and softmax float32.

    Only one array of the scores' size is kept for the gradient: the weights, in the
    operands' type, under the name "attention_weights" (`REMAT_POLICIES`). The products
    of the gradient have operands of that type too; automatic differentiation would use
    float32.
    """
    batch, heads, length, _ = queries.shape
    bytes_of_row = 4 * heads * length * keys.shape[2]
    rows = max(1, CPU_SCORES // max(1, bytes_of_row))
    rows = max(size for size in range(1, min(rows, batch) + 1) if batch % size == 0)
    mesh = ambient_mesh()
    whole = functools.partial(_attend, bias=bias)
    if rows == batch or (mesh is not None and mesh.size > 1):
        return whole(queries, keys, values, mask=mask)

    def in_parts(*arrays: Any) -> Any:
        split = [
            None if x is None else x.reshape(-1, rows, *x.shape[1:]) for x in arrays
        ]
        mixed = jax.lax.map(lambda part: whole(*part[:3], mask=part[3]), split)
        return mixed.reshape(queries.shape)

    return jax.lax.platform_dependent(
        queries,
        keys,
        values,
        mask,
        cpu=in_parts,
        default=lambda *x: whole(*x[:3], mask=x[3]),
    )


def _attend(queries: Any, keys: Any, values: Any, bias: Any, mask: Any) -> Any:
    weights = _weights(queries, keys, bias, mask)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, values)


def _weights(queries: Any, keys: Any, bias: Any, mask: Any) -> Any:
    scores = jnp.einsum(
        "bhqd,bhkd->bhqk", queries, keys, preferred_element_type=jnp.float32
    )
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.float32(MASKED))
    return jax.nn.softmax(scores, axis=-1).astype(queries.dtype)


def _attend_forward(queries, keys, values, bias, mask):
    weights = _weights(queries, keys, bias, mask)
    weights = checkpoint_name(weights, "attention_weights")
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, values)
    # A scan would keep a copy of the bias itself for every layer.
    biased = None if bias is None else jnp.zeros((0,), bias.dtype)
    return mixed, (queries, keys, values, weights, biased, mask)


def _attend_backward(residuals, gradient):
    queries, keys, values, weights, biased, mask = residuals
    # Both products are [d K]: for [K d] a CPU transposes the large operand and takes
    # twice the time.
    d_values = jnp.einsum("bhqd,bhqk->bhdk", gradient, weights).swapaxes(2, 3)
    d_weights = jnp.einsum("bhqd,bhkd->bhqk", gradient, values).astype(jnp.float32)
    weights = weights.astype(jnp.float32)
    mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
    d_scores = weights * (d_weights - mean)
    if mask is not None:
        d_scores = jnp.where(mask, d_scores, 0.0)
    d_bias = None
    if biased is not None:
        rows = d_scores.reshape(d_scores.shape[0], -1)
        d_bias = sum_of_rows(rows).reshape(1, *d_scores.shape[1:]).astype(biased.dtype)
    d_scores = d_scores.astype(queries.dtype)
    d_queries = jnp.einsum("bhqk,bhkd->bhqd", d_scores, keys)
    d_keys = jnp.einsum("bhqd,bhqk->bhdk", queries, d_scores).swapaxes(2, 3)
    return d_queries, d_keys, d_values, d_bias, None


attend.defvjp(_attend_forward, _attend_backward)


def _in_blocks(
    attend: Callable[..., Any],
    block: int,
    queries: Float[Array, "B Q H d"],
    diagonals: Float[Array, "H R"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
    *,
    fused: bool = False,
) -> Float[Array, "B Q H d"]:
    """Applies `attend` to one block of queries after another.

    The backward pass computes each block's scores again, so that [B H Q K] is never
    stored. With fused attention, which stores no scores, it computes only the block's
    bias again.
    """
    length = queries.shape[1]
    blocks = length // block

    def split(values: Any, axis: int) -> Any:
        if values is None:
            return None
        shape = values.shape
        parts = (*shape[:axis], blocks, block, *shape[axis + 1 :])
        return jnp.moveaxis(values.reshape(parts), axis, 0)

    def one(parts: Any) -> Any:
        first, queries, mask = parts
        bias = None
        if diagonals is not None:
            # Of the distances 1 - Q ... K - 1, those of this block's queries.
            count = diagonals.shape[1] - length + block
            own = jax.lax.dynamic_slice_in_dim(
                diagonals, length - block - first, count, axis=1
            )
            matrix: Array = skewed(own, block)
            bias = matrix[None]
        return attend(queries, bias, mask)

    parts = (block * jnp.arange(blocks), split(queries, 1), split(mask, 2))
    kept = ("attention_weights",) if fused else ()
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    # Inside a loop the compiler cannot merge the two computations.
    again = jax.checkpoint(one, prevent_cse=False, policy=policy)
    mixed = jax.lax.map(again, parts)
    return jnp.moveaxis(mixed, 0, 1).reshape(queries.shape)


def attention_mask(
    queries: Bool[Array, "B Q"],
    keys: Bool[Array, "B K"],
    query_segments: Int[Array, "B Q"] | None = None,
    key_segments: Int[Array, "B K"] | None = None,
    *,
    causal: bool = False,
) -> Bool[Array, "B 1 Q K"]:
    """Returns whether a query sees a key.

    Args:
        queries: true at query positions that are not padding; padding sees nothing.
        keys: true at keys that are not padding.
        query_segments: number of each query's example in a packed sequence.
        key_segments: the same for keys.
        causal: whether a query sees only keys at or before its position.
    """
    mask = queries[:, :, None] & keys[:, None, :]
    if query_segments is not None and key_segments is not None:
        mask = mask & (query_segments[:, :, None] == key_segments[:, None, :])
    if causal:
        mask = mask & jnp.tri(mask.shape[1], mask.shape[2], dtype=bool)[None]
    return mask[:, None]
