"""Adam's moments in 8 bits each, quantised in blocks that share a scale.

Block-wise quantisation is that of Dettmers et al., 2022 (arXiv 2110.02861). Their codes
are looked up in a table that spans seven decades; here two functions span as much and
need no table, which accelerators read slowly:

    first moment   m = scale * sign(q) * (q / 127)^4,       q = -127 ... 127
    second moment  v = scale * 2^(24 (q - 255) / 254),      q = 1 ... 255; 0 is 0

The scale is the largest magnitude of the block, which is exact. Neighbouring codes of v
differ by 6.8 %, but a step changes v by at most (1 - b2) = 0.1 % when it falls. Rounded
to nearest it would never move. So both moments are rounded stochastically, and their
expectation is that of float32. The price is noise: with b2 = 0.999, about
sqrt(500 * 0.001 * 0.068) = 18 % of v, which is 9 % of a step. A v that is too small for
its block is rounded up to the smallest code, because a 0 would make the update
m / sqrt(v) huge.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt

# Elements that share a scale. The paper has 2,048; bitsandbytes now has 256.
BLOCK = 64
# As in bitsandbytes, smaller parameters have moments in float32.
SMALLEST = 4096
# As in the paper, so has the embedding, whose gradients differ most between rows.
WIDE = ("embedding", "rel_embedding", "scale")
# Codes of v: binary orders of magnitude, and their distance in such orders.
_OCTAVES = 24.0
_STEP = _OCTAVES / 254.0
_STREAM = 0x5EED08B1


class EightBitState(NamedTuple):
    """Moments. A parameter that is not quantised has its moments as `m` and `v`.

    Attributes:
        count: number of steps taken.
        m: codes of the first moments, int8, of the parameters' shapes.
        v: codes of the second moments, uint8.
        m_scale: scales of the blocks, float32: one axis of the parameter has a
            `BLOCK`-th of its size. A single 0 for a parameter that is not quantised.
        v_scale: likewise.
    """

    count: Int[Array, ""] | Any
    m: Any
    v: Any
    m_scale: Any
    v_scale: Any


def block_axis(shape: tuple[int, ...]) -> int:
    """The axis that is divided into blocks.

    It is the first of those that the largest power of two up to 1,024 divides, so that
    a mesh divides it between blocks, and, if it is the first axis, no value moves.
    """
    return max(range(len(shape)), key=lambda axis: math.gcd(shape[axis], 1024))


def scale_by_adam_8bit(
    *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, seed: int = 0
) -> optax.GradientTransformation:
    """Adam's update (Kingma and Ba, 2015) from moments that are stored in 8 bits.

    Args:
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: number added to the root of the second moment.
        seed: seed of the rounding; each step folds in its number.
    """

    def init(params: Any) -> EightBitState:
        def zeros(leaf: Any, path: Any, code: Any) -> Any:
            wide = not _is_quantised(path, leaf)
            return jnp.zeros(leaf.shape, jnp.float32 if wide else code)

        def scales(leaf: Any, path: Any) -> Any:
            shape = _scale_shape(leaf.shape) if _is_quantised(path, leaf) else (1,)
            return jnp.zeros(shape, jnp.float32)

        def over(make: Any, *rest: Any) -> Any:
            return jax.tree_util.tree_map_with_path(
                lambda path, leaf: make(leaf, path, *rest), params
            )

        return EightBitState(
            jnp.zeros((), jnp.int32),
            *(over(zeros, code) for code in (jnp.int8, jnp.uint8)),
            *(over(scales) for _ in "mv"),
        )

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        count = jnp.asarray(optax.safe_increment(state.count))
        key = jax.random.fold_in(jax.random.key(seed), _STREAM)
        key = jax.random.fold_in(key, state.count)
        gradients, places = jax.tree_util.tree_flatten_with_path(updates)
        old = [places.flatten_up_to(part) for part in state[1:]]
        results = []
        for number, ((path, gradient), *parts) in enumerate(
            zip(gradients, *old, strict=True)
        ):
            quantised = _is_quantised(path, gradient)
            m, v, m_scale, v_scale = parts
            if quantised:
                m, v = decode_m(m, m_scale), decode_v(v, v_scale)
            m = b1 * m + (1.0 - b1) * gradient
            v = b2 * v + (1.0 - b2) * jnp.square(gradient)
            step = (m / (1.0 - b1**count)) / (jnp.sqrt(v / (1.0 - b2**count)) + eps)
            if quantised:
                bits = jax.random.bits(jax.random.fold_in(key, number), m.shape)
                m, m_scale = encode_m(m, bits & 0xFFFF)
                v, v_scale = encode_v(v, bits >> 16)
            results.append((step, m, v, m_scale, v_scale))
        columns = [places.unflatten(column) for column in zip(*results, strict=True)]
        return columns[0], EightBitState(count, *columns[1:])

    return optax.GradientTransformation(init, update)


def encode_m(
    m: Float[Array, "..."], bits: UInt[Array, "..."]
) -> tuple[Int[Array, "..."], Float[Array, "..."]]:
    """Quantises first moments.

    Args:
        m: float32.
        bits: random whole numbers below 2^16, of the same shape.

    Returns:
        (codes, scales): int8 of the shape of `m`, and float32 per block.
    """
    share, scale = _shares(jnp.abs(m))
    below = jnp.clip(jnp.floor(127.0 * jnp.sqrt(jnp.sqrt(share))), 0.0, 126.0)
    low, high = (jnp.square(jnp.square((below + up) / 127.0)) for up in (0.0, 1.0))
    code = below + _goes_up(share, low, high, bits)
    return (jnp.sign(m) * code).astype(jnp.int8), scale


def decode_m(
    codes: Int[Array, "..."], scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """First moments of these codes, in float32."""
    root = codes.astype(jnp.float32) / 127.0
    return jnp.square(root) * root * jnp.abs(root) * _of_elements(scale, codes.shape)


def encode_v(
    v: Float[Array, "..."], bits: UInt[Array, "..."]
) -> tuple[UInt[Array, "..."], Float[Array, "..."]]:
    """Quantises second moments; arguments and result as `encode_m`, codes in uint8."""
    share, scale = _shares(v)
    smallest = 2.0**-_OCTAVES
    inside = jnp.maximum(share, smallest)
    below = jnp.clip(jnp.floor(255.0 + jnp.log2(inside) / _STEP), 1.0, 254.0)
    low, high = (jnp.exp2((below + up - 255.0) * _STEP) for up in (0.0, 1.0))
    code = below + _goes_up(inside, low, high, bits)
    return jnp.where(share > 0.0, code, 0.0).astype(jnp.uint8), scale


def decode_v(
    codes: UInt[Array, "..."], scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Second moments of these codes, in float32."""
    number = codes.astype(jnp.float32)
    share = jnp.where(number > 0.0, jnp.exp2((number - 255.0) * _STEP), 0.0)
    return share * _of_elements(scale, codes.shape)


def _goes_up(value: Any, low: Any, high: Any, bits: Any) -> Any:
    """1.0 with the probability that makes the expected result the value, else 0.0."""
    chance = (value - low) / (high - low)
    return (bits.astype(jnp.float32) * 2.0**-16 < chance).astype(jnp.float32)


def _shares(sizes: Float[Array, "..."]) -> tuple[Any, Any]:
    """Returns (magnitudes divided by their block's largest, the largest)."""
    axis, shape = block_axis(sizes.shape), sizes.shape
    spare = -shape[axis] % BLOCK
    filled = sizes
    if spare:
        filled = jnp.pad(sizes, [(0, spare * (i == axis)) for i in range(len(shape))])
    blocks = (*shape[:axis], -1, BLOCK, *shape[axis + 1 :])
    scale = filled.reshape(blocks).max(axis + 1)
    each = _of_elements(scale, shape)
    return jnp.where(each > 0.0, sizes / jnp.where(each > 0.0, each, 1.0), 0.0), scale


def _of_elements(scale: Float[Array, "..."], shape: tuple[int, ...]) -> Any:
    """Repeats the scales for every element of their blocks."""
    axis = block_axis(shape)
    wide = jnp.broadcast_to(
        jnp.expand_dims(scale, axis + 1),
        (*scale.shape[: axis + 1], BLOCK, *scale.shape[axis + 1 :]),
    ).reshape(*scale.shape[:axis], -1, *scale.shape[axis + 1 :])
    return jax.lax.slice_in_dim(wide, 0, shape[axis], axis=axis)


def _scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    axis = block_axis(shape)
    return (*shape[:axis], -(-shape[axis] // BLOCK), *shape[axis + 1 :])


def _is_quantised(path: tuple[Any, ...], leaf: Any) -> bool:
    return leaf.size >= SMALLEST and path[-1].key not in WIDE
