"""The plain parts of T5: projections, embedding, gated MLP, RMS norm.

Parameter names, shapes, initialisers and logical axes, here and in `attention` and
`relative_bias`, are those of T5X's network, so that its checkpoints (and Hugging
Face's, by `checkpoints.names`) need no renaming. What is ours is the arithmetic around
them: scores, softmax and norms in float32 whatever the compute type, position biases
without a one-hot tensor, and the cached step.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning, spmd
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

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

_mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


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
