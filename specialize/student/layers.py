"""The layers of T5 except attention: projection, embedding, gated MLP, RMS norm.

Parameter names, shapes, initialisers and logical axes, here and in `attention`, are
those of T5X's network: its checkpoints need no renaming (Hugging Face's are renamed by
`checkpoints.names`). The arithmetic is ours: scores, softmax and norms are always
float32, position biases need no one-hot tensor, and a decoding step reads a cache.
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

from specialize.student import int8
from specialize.student.adapters import quantization
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.adapters.trees import LORA_A, LORA_B

# The names by which T5X finds activations in flax.linen, and those of Hugging Face.
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

# Uniform within 1 / sqrt(fan_in), as in the implementation of LoRA's authors.
_lora_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Names the axes of `x`, which shards it under a mesh and sharding rules."""
    return spmd.with_logical_constraint(x, axes)


class Dense(nn.Module):
    """A matrix without bias: [..., fan_in] -> [..., features].

    With an adapter (`AdapterSpec`) its result is added to that of the matrix.

    Attributes:
        features: size of the result's last axis.
        axes: logical names of the kernel's two axes.
        dtype: type of the operands.
        init: initialiser of the kernel.
        out_dtype: type of the sums and of the result. None: that of the operands.
        adapters: which projections of the network have adapters.
    """

    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32
    init: Callable[..., Any] = _mlp_init
    out_dtype: Any = None
    adapters: AdapterSpec | None = None

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "*B I"], deterministic: bool = True
    ) -> Float[Array, "*B O"]:
        """Returns inputs @ kernel; `deterministic` is whether dropout is off."""
        # With one axis of tokens the kernel's gradient is a plain product. With two
        # axes XLA transposes the cotangent first, which takes longer on a CPU than the
        # product itself (the gradient of a gated MLP takes 2.5 times as long).
        tokens = inputs.astype(self.dtype).reshape(-1, inputs.shape[-1])
        if self.adapters is not None and self.adapters.quantizes("/".join(self.path)):
            result = self._quantized(tokens, self.adapters)
        else:
            result = self._product(tokens)
        if self.adapters is not None and self.adapters.adapts("/".join(self.path)):
            if not deterministic and self.adapters.dropout > 0.0:
                drop = nn.Dropout(self.adapters.dropout, broadcast_dims=(-2,))
                dropped = drop(inputs.astype(self.dtype), deterministic=False)
                tokens = dropped.reshape(tokens.shape)
            result = result + self._adapted(tokens, self.adapters)
        return result.reshape(*inputs.shape[:-1], self.features)

    def _product(self, tokens: Float[Array, "N I"]) -> Float[Array, "N O"]:
        """Returns tokens @ kernel."""
        if (found := int8.stored(self)) is not None:  # only in decoding
            return int8.product(tokens, *found, self.out_dtype)
        kernel = partitioning.param_with_axes(
            "kernel",
            self.init,
            (tokens.shape[-1], self.features),
            jnp.float32,
            axes=self.axes,
        )
        return jnp.matmul(
            tokens,
            jnp.asarray(kernel, self.dtype),
            preferred_element_type=self.out_dtype,
        )

    def _quantized(
        self, tokens: Float[Array, "N I"], adapters: AdapterSpec
    ) -> Float[Array, "N O"]:
        """Returns tokens @ kernel, of a kernel that is stored quantised."""
        inputs, kind = tokens.shape[-1], adapters.quantize_base
        stored = (
            (
                quantization.CODES,
                quantization.code_type(kind),
                quantization.per_byte(kind),
            ),
            (quantization.SCALES, quantization.SCALE_TYPE, adapters.block_of(inputs)),
        )
        # Zeros: a base is read from a checkpoint, never drawn.
        codes, scales = (
            partitioning.param_with_axes(
                name,
                nn.initializers.zeros,
                (inputs // of, self.features),
                dtype,
                axes=self.axes,
            )
            for name, dtype, of in stored
        )
        return quantization.product(tokens, codes, scales, kind, self.out_dtype)

    def _adapted(
        self, tokens: Float[Array, "N I"], adapters: AdapterSpec
    ) -> Float[Array, "N O"]:
        """Returns scale · tokens @ A @ B."""
        outward = partitioning.param_with_axes(
            LORA_A,
            _lora_init,
            (tokens.shape[-1], adapters.rank),
            jnp.float32,
            axes=(self.axes[0], "lora_rank"),
        )
        inward = partitioning.param_with_axes(
            LORA_B,
            nn.initializers.zeros,
            (adapters.rank, self.features),
            jnp.float32,
            axes=("lora_rank", self.axes[1]),
        )
        narrow = jnp.matmul(tokens, jnp.asarray(outward, self.dtype))
        return jnp.matmul(
            narrow * jnp.asarray(adapters.scale, self.dtype),
            jnp.asarray(inward, self.dtype),
            preferred_element_type=self.out_dtype,
        )


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · scale, computed in float32."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Returns the normalised vectors in `dtype`."""
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
    """The embedding matrix; its transpose is the output head if the head is tied.

    Attributes:
        rows: number of embedding rows.
        features: size D of a row.
        dtype: type of the returned rows.
        lookup: "gather", or "one_hot" for a product with a one-hot matrix, which is
            faster on a TPU with a sharded vocabulary and 29 % slower on a CPU; "auto"
            chooses by `jax.default_backend()`.
    """

    rows: int
    features: int
    dtype: Any = jnp.float32
    lookup: str = "auto"

    def setup(self):
        """Declares the matrix."""
        self.embedding = partitioning.param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (self.rows, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Returns the rows of `ids`; "gather" gives NaN for an id out of range."""
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
        if (found := int8.stored(self)) is not None:  # only in decoding
            tokens = hidden.reshape(-1, hidden.shape[-1])
            logits = int8.product(tokens, *found, jnp.float32)
            return logits.reshape(*hidden.shape[:-1], self.rows)
        return jnp.einsum(
            "bld,vd->blv",
            hidden.astype(self.dtype),
            jnp.asarray(self.embedding, self.dtype),
            preferred_element_type=jnp.float32,
        )


class MLP(nn.Module):
    """act(x W) W'; a gated MLP multiplies several act(x W) before W'.

    Attributes:
        hidden: inner size.
        activations: name of each inner matrix's activation, as ("gelu", "linear").
        dtype: type of the operands.
        dropout_rate: dropout of the inner activations, one mask for all positions.
        adapters: which projections have adapters.
    """

    hidden: int
    activations: Sequence[str] = ("relu",)
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0
    adapters: AdapterSpec | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], deterministic: bool = True
    ) -> Float[Array, "B L D"]:
        """Returns the block's output."""
        project = functools.partial(Dense, dtype=self.dtype, adapters=self.adapters)
        branches = []
        for i, activation in enumerate(self.activations):
            name = "wi" if len(self.activations) == 1 else f"wi_{i}"
            inner = project(self.hidden, ("embed", "mlp"), name=name)
            branches.append(ACTIVATIONS[activation](inner(x, deterministic)))
        y = functools.reduce(operator.mul, branches)
        y = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            y, deterministic=deterministic
        )
        y = constrain(checkpoint_name(y, "mlp_inner"), "batch", "length", "mlp")
        return project(x.shape[-1], ("mlp", "embed"), name="wo")(y, deterministic)
