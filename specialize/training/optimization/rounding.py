"""Master weights in bfloat16, whose updates are rounded stochastically.

A bfloat16 has 8 significant bits: rounding to nearest loses an update below about 1/500
of its weight, which most are in fine-tuning. Stochastic rounding (Gupta et al., 2015,
arXiv 1502.02551; for bfloat16 weights Zamirai et al., 2020, arXiv 2010.06192) rounds up
or down with the probabilities that make the expected result the exact one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt

# The parameters that may be stored in bfloat16: the matrices of all projections, the
# head's included. The others are few and stay float32: scales of norms, position
# biases, and the embedding, whose gradient adds up the positions of each piece.
ROUNDED = ("kernel",)
# Folded into the seed: these random numbers are not those of dropout.
_STREAM = 0x5EED0B16


class RoundingState(NamedTuple):
    """State of an optimizer whose parameters are rounded.

    Attributes:
        count: number of steps taken.
        inner: state of the optimizer, which sees float32 alone.
    """

    count: Int[Array, ""]
    inner: Any


def with_rounding(
    chain: optax.GradientTransformation, *, seed: int, stochastic: bool
) -> optax.GradientTransformation:
    """The chain in float32, for parameters of which some are narrower.

    The chain gets gradients and parameters in float32. Its updates are changed so that
    parameter + update has the parameter's type already, and adding them rounds nothing.

    Args:
        chain: the optimizer; its updates are added to the weights.
        seed: the random numbers are a function of the seed, the step and the
            parameter's place in the tree, on every mesh.
        stochastic: whether results are rounded stochastically, or to nearest.
    """

    def init(params: Any) -> RoundingState:
        return RoundingState(jnp.zeros((), jnp.int32), chain.init(_wide(params)))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        wide = _wide(params)
        updates, inner = chain.update(_wide(updates), state.inner, wide)
        key = jax.random.fold_in(jax.random.key(seed), _STREAM)
        key = jax.random.fold_in(key, state.count)
        old, places = jax.tree.flatten(wide)
        types = [leaf.dtype for leaf in jax.tree.leaves(params)]
        steps = places.flatten_up_to(updates)
        for number, (value, step, dtype) in enumerate(
            zip(old, steps, types, strict=True)
        ):
            if dtype == jnp.bfloat16:
                own = jax.random.fold_in(key, number) if stochastic else None
                steps[number] = _rounded(value + step, own) - value
        count = jnp.asarray(optax.safe_increment(state.count))
        return places.unflatten(steps), RoundingState(count, inner)

    return optax.GradientTransformation(init, update)


def stochastically_rounded(
    values: Float[Array, "..."], bits: UInt[Array, "..."]
) -> Float[Array, "..."]:
    """Rounds float32 to bfloat16, returned as float32, in one of the two directions.

    The lower 16 bits of a float32 are what a bfloat16 lacks. Adding 16 random bits and
    cutting carries into the upper 16 with a probability equal to the lost fraction, so
    the expectation is the value itself, and a bfloat16 stays as it is.

    Args:
        values: float32; what is not finite stays so.
        bits: uint16 random bits, of the same shape.
    """
    whole = jax.lax.bitcast_convert_type(values, jnp.uint32)
    moved = (whole + bits.astype(jnp.uint32)) & jnp.uint32(0xFFFF0000)
    moved = jax.lax.bitcast_convert_type(moved, jnp.float32)
    return jnp.where(jnp.isfinite(values), moved, values)


def _rounded(values: Float[Array, "..."], key: Key[Array, ""] | None) -> Any:
    if key is None:
        # A conversion and back would be removed by XLA, which may keep more precision.
        return jax.lax.reduce_precision(values, exponent_bits=8, mantissa_bits=7)
    return stochastically_rounded(
        values, jax.random.bits(key, values.shape, jnp.uint16)
    )


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
