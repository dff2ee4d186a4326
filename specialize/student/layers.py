"""The parts of T5: projections, attention, gated MLP, RMS norm, relative positions.

Parameter names, shapes, initialisers and logical axes are those of T5X's network, so
that its checkpoints (and Hugging Face's, by `checkpoints.names`) need no renaming. What
is ours is the arithmetic around them: scores, softmax and norms in float32 whatever the
compute type, position biases without a one-hot tensor, and the cached step.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning, spmd
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

# Far below any score and far from overflow: masked keys get weight 0 exactly, and a
# query whose keys are all masked gets a uniform mean instead of NaN.
MASKED = -1e10

# What T5X resolves by name in flax.linen, plus the names Hugging Face gives the same.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x,
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=True),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": jnp.tanh,
    "sigmoid": nn.sigmoid,
}

_attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
_relpos_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Names the axes of `x`; under a mesh and axis rules this shards it."""
    return spmd.with_logical_constraint(x, axes)


class Dense(nn.Module):
    """A matrix without bias: [..., fan_in] -> [..., features].

    Attributes:
        features: the size of the last axis of the result.
        axes: logical names of the kernel's two axes.
        dtype: the type of the operands.
        init: the kernel's initialiser.
        out_dtype: the type of the result; sums are kept in it.
    """

    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32
    init: Callable[..., Any] = _mlp_init
    out_dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        """Returns inputs @ kernel."""
        kernel = partitioning.param_with_axes(
            "kernel",
            self.init,
            (inputs.shape[-1], self.features),
            jnp.float32,
            axes=self.axes,
        )
        # One axis of tokens, not two: the kernel's gradient is then a plain product.
        # Over two axes XLA transposes the cotangent first, which takes a CPU longer
        # than the product itself (a gated MLP's gradient: 2.5 times as long).
        tokens = inputs.astype(self.dtype).reshape(-1, inputs.shape[-1])
        result = jnp.matmul(
            tokens,
            jnp.asarray(kernel, self.dtype),
            preferred_element_type=self.out_dtype,
        )
        return result.reshape(*inputs.shape[:-1], self.features)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · scale, in float32; neither mean nor bias."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the normalised rows in `dtype`."""
        scale = partitioning.param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        normalised = x * jax.lax.rsqrt(mean_square + self.epsilon)
        return (normalised * jnp.expand_dims(scale, range(x.ndim - 1))).astype(
            self.dtype
        )


class Embed(nn.Module):
    """The token table: rows by id, and its transpose as a tied output head.

    Attributes:
        rows: number of embeddings.
        features: their size D.
        dtype: type of the looked-up rows.
        lookup: "gather", or "one_hot" for a matrix product with a one-hot matrix, which
            a TPU with a sharded vocabulary does faster and a CPU 29 % slower; "auto"
            chooses by `jax.default_backend()`.
    """

    rows: int
    features: int
    dtype: Any = jnp.float32
    lookup: str = "auto"

    def setup(self):
        """Declares the table."""
        self.embedding = partitioning.param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (self.rows, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Returns the rows of `ids`; gather gives NaN for an id outside the table."""
        lookup = self.lookup
        if lookup == "auto":
            lookup = "one_hot" if jax.default_backend() == "tpu" else "gather"
        if lookup == "one_hot":
            table = jnp.asarray(self.embedding, self.dtype)
            rows = jax.nn.one_hot(ids, self.rows, dtype=self.dtype) @ table
        else:
            rows = jnp.take(self.embedding, ids, axis=0, mode="fill")
            rows = rows.astype(self.dtype)
        return constrain(rows, "batch", "length", "embed")

    def attend(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Returns hidden @ table.T, accumulated in float32."""
        return jnp.einsum(
            "bld,vd->blv",
            hidden.astype(self.dtype),
            jnp.asarray(self.embedding, self.dtype),
            preferred_element_type=jnp.float32,
        )


def relative_buckets(
    distances: np.ndarray,
    *,
    bidirectional: bool,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> np.ndarray:
    """Returns the T5 bucket of every relative position (key minus query).

    Half of the buckets are exact distances; the other half grow logarithmically up to
    `max_distance`, beyond which all share the last (Raffel et al. 2020, section 2.1).
    Bidirectional attention gives each direction half of the buckets; causal attention
    puts every future position into bucket 0.
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
    # float32 and this order of operations: the published weights were trained with
    # the rounding of exactly this expression at the bucket borders.
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
        bidirectional: whether keys may stand after the query.
        num_buckets: size of the table.
        max_distance: where the last bucket begins.
    """

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    def setup(self):
        """Declares the table."""
        self.rel_embedding = partitioning.param_with_axes(
            "rel_embedding",
            _relpos_init,
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )

    def by_distance(self, first: int, last: int) -> Float[Array, "H R"]:
        """Returns the bias of each relative position first, first + 1, ..., last."""
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
        """Returns the bias of `queries` positions against `keys`, both from 0.

        Where at most `limit` queries attend at a time, only its diagonals: the layers
        then make each block's part where they need it, and neither the matrix nor the
        sum of its gradients over the layers is ever held (XXL on 64 TPU chips: 0.5 GiB
        a chip).
        """
        diagonals = self.by_distance(1 - queries, keys - 1)
        if block_size(queries, limit) < queries:
            return diagonals
        matrix: Array = skewed(diagonals, queries)
        return matrix[None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def skewed(diagonals: Float[Array, "H R"], queries: int) -> Float[Array, "H Q K"]:
    """Returns the Toeplitz matrix whose row i, column j is diagonal j - i.

    A skewed reshape, so neither forward nor backward ever holds more than the result:
    no [32, Q, K] one-hot, no scatter.

    Args:
        diagonals: of the distances 1 - Q to K - 1, hence R = Q + K - 1.
        queries: Q.
    """
    stride = diagonals.shape[1]
    # Repetitions one longer than the row stride move each row one to the right.
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
    return (_sum_of_rows(rows)[:, :stride],)


skewed.defvjp(_skewed_forward, _skewed_backward)


def _sum_of_rows(x: Float[Array, "*B N M"]) -> Float[Array, "*B M"]:
    """Sums over the last axis but one; on a CPU as a product with ones.

    XLA's own sum over an outer axis takes a CPU up to twenty times as long as that.
    """

    def product(x: Any) -> Any:
        ones = jnp.ones((*x.shape[:-2], 1, x.shape[-2]), x.dtype)
        sums = jnp.matmul(ones, x, precision=jax.lax.Precision.HIGHEST)
        return jnp.squeeze(sums, -2)

    return jax.lax.platform_dependent(
        x, cpu=product, default=lambda x: jnp.sum(x, axis=-2)
    )


@jax.custom_vjp
def _biased(
    scores: Float[Array, "B H Q K"], bias: Float[Array, "1 H Q K"]
) -> Float[Array, "B H Q K"]:
    """Adds a bias that the rows of a batch share, and hence its gradient too."""
    return scores + bias


def _biased_backward(shape, gradient):
    rows = gradient.reshape(gradient.shape[0], -1)
    return gradient, _sum_of_rows(rows).reshape(shape)


_biased.defvjp(lambda s, b: (_biased(s, b), b.shape), _biased_backward)


class Attention(nn.Module):
    """Multi-head attention without 1/sqrt(d): T5 folds that into the initialisers.

    Attributes:
        num_heads: H.
        head_dim: d of one head; H·d may differ from the model's size.
        features: D, the size of the result.
        dtype: type of the projections; scores and softmax are float32.
        dropout_rate: dropout of the attention weights, one mask for all queries.
        block: at most this many queries at a time, so that [B H Q K] scores never
            exist whole, forward or backward; 0 takes all. The result is the same.
    """

    num_heads: int
    head_dim: int
    features: int
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0
    block: int = 0

    def setup(self):
        """Declares the four projections."""
        project = functools.partial(
            Dense,
            self.num_heads * self.head_dim,
            ("embed", "joined_kv"),
            dtype=self.dtype,
        )
        depth = math.sqrt(self.head_dim)
        self.query = project(init=lambda *args: _attention_init(*args) / depth)
        self.key = project(init=_attention_init)
        self.value = project(init=_attention_init)
        self.out = Dense(
            self.features,
            ("joined_kv", "embed"),
            dtype=self.dtype,
            init=_attention_init,
        )

    def split_heads(self, x: Float[Array, "B L J"]) -> Float[Array, "B L H d"]:
        """Unfolds the joined axis into heads."""
        x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        return constrain(x, "batch", "length", "heads", "kv")

    def join_heads(self, x: Float[Array, "B L H d"]) -> Float[Array, "B L J"]:
        """Folds the heads into one axis."""
        return x.reshape(*x.shape[:-2], self.num_heads * self.head_dim)

    def keys_values(
        self, inputs: Float[Array, "B K D"]
    ) -> tuple[Float[Array, "B K H d"], Float[Array, "B K H d"]]:
        """Returns the keys and values of `inputs`."""
        return self.split_heads(self.key(inputs)), self.split_heads(self.value(inputs))

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
            inputs: whence.
            attended: whither.
            bias: what `RelativeBias` returned for the same numbers and `block`.
            mask: which query may see which key.
            deterministic: without dropout.
        """
        queries = self.split_heads(self.query(inputs))
        keys, values = self.keys_values(attended)
        kept = None
        if not deterministic and self.dropout_rate > 0.0:
            keep = 1.0 - self.dropout_rate
            shape = (queries.shape[0], self.num_heads, 1, keys.shape[1])
            drawn = jax.random.bernoulli(self.make_rng("dropout"), keep, shape)
            kept = (drawn.astype(self.dtype) / keep).astype(self.dtype)

        # Heads beside the batch, as a batched product wants them: transposed once here
        # instead of within every product, forward and backward.
        keys, values = jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2)
        if kept is not None:
            # One mask for all queries drops a key's value as well as its weights, and
            # values are smaller: nothing of the size of the scores is kept for it.
            values = values * jnp.swapaxes(kept, 2, 3)

        def attend(queries: Any, bias: Any, mask: Any) -> Any:
            scores = jnp.einsum(
                "bhqd,bhkd->bhqk",
                jnp.swapaxes(queries, 1, 2),
                keys,
                preferred_element_type=jnp.float32,
            )
            weights = _softmax(scores, bias, mask).astype(self.dtype)
            return jnp.swapaxes(jnp.einsum("bhqk,bhkd->bhqd", weights, values), 1, 2)

        block = block_size(queries.shape[1], self.block)
        if block == queries.shape[1]:
            mixed = attend(queries, bias, mask)
        else:
            mixed = _in_blocks(attend, block, queries, bias, mask)
        return self.out(self.join_heads(mixed))


def block_size(queries: int, limit: int) -> int:
    """Queries at a time: the largest divisor up to `limit`, or all of them.

    All, too, where the divisors are so small that blocks would only cost time.
    """
    if limit < 1 or queries <= limit:
        return queries
    best = max(size for size in range(1, limit + 1) if queries % size == 0)
    return best if 4 * best > limit else queries


def _in_blocks(
    attend: Callable[..., Any],
    block: int,
    queries: Float[Array, "B Q H d"],
    diagonals: Float[Array, "H R"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
) -> Float[Array, "B Q H d"]:
    """Applies `attend` to `block` queries after another.

    Each block's scores are computed again in the backward pass: two small products
    for a [B H Q K] that is never held.
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
            # Of the distances 1 - Q ... K - 1, those that this block's queries have.
            count = diagonals.shape[1] - length + block
            own = jax.lax.dynamic_slice_in_dim(
                diagonals, length - block - first, count, axis=1
            )
            matrix: Array = skewed(own, block)
            bias = matrix[None]
        return attend(queries, bias, mask)

    parts = (block * jnp.arange(blocks), split(queries, 1), split(mask, 2))
    # Inside a loop nothing can merge the two computations; no barrier is needed.
    mixed = jax.lax.map(jax.checkpoint(one, prevent_cse=False), parts)
    return jnp.moveaxis(mixed, 0, 1).reshape(queries.shape)


def _softmax(
    scores: Float[Array, "B H Q K"],
    bias: Float[Array, "#B H Q K"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
) -> Float[Array, "B H Q K"]:
    if bias is not None:
        shared = bias.shape[0] == 1
        scores = _biased(scores, bias) if shared else scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.float32(MASKED))
    return jax.nn.softmax(scores, axis=-1)


class MLP(nn.Module):
    """act(x W) W', or the product of several activations (gated) before W'.

    Attributes:
        hidden: the inner size.
        activations: one name per inner matrix: ("relu",), ("gelu", "linear"), ...
        dtype: type of the operands.
        dropout_rate: dropout of the inner activations, one mask for all positions.
    """

    hidden: int
    activations: Sequence[str] = ("relu",)
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        """Returns the block's output."""
        branches = []
        for i, activation in enumerate(self.activations):
            name = "wi" if len(self.activations) == 1 else f"wi_{i}"
            inner = Dense(self.hidden, ("embed", "mlp"), dtype=self.dtype, name=name)
            branches.append(ACTIVATIONS[activation](inner(x)))
        y = functools.reduce(operator.mul, branches)
        y = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            y, deterministic=deterministic
        )
        y = constrain(checkpoint_name(y, "mlp_inner"), "batch", "length", "mlp")
        return Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, name="wo")(y)


def attention_mask(
    queries: Bool[Array, "B Q"],
    keys: Bool[Array, "B K"],
    query_segments: Int[Array, "B Q"] | None = None,
    key_segments: Int[Array, "B K"] | None = None,
    *,
    causal: bool = False,
) -> Bool[Array, "B 1 Q K"]:
    """Returns which query may see which key.

    Args:
        queries: true at real query positions; padding sees nothing.
        keys: true at real keys.
        query_segments: of packed rows, the example each query belongs to.
        key_segments: the same for keys.
        causal: only keys at or before the query's position.
    """
    mask = queries[:, :, None] & keys[:, None, :]
    if query_segments is not None and key_segments is not None:
        mask = mask & (query_segments[:, :, None] == key_segments[:, None, :])
    if causal:
        mask = mask & jnp.tri(mask.shape[1], mask.shape[2], dtype=bool)[None]
    return mask[:, None]
