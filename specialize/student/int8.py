"""Products of 8-bit integers, for decoding with 8-bit weights.

A matrix [in, out] has one scale per output, which is found once per batch. Tokens have
one scale each, which is found when they come, so nothing has to be calibrated. This is
the vector-wise quantisation of "LLM.int8()" (Dettmers et al., 2022, arXiv 2208.07339,
section 3.1), without its separate treatment of outliers. Sums are 32-bit integers,
which an `in` of up to 2¹⁷ cannot exceed, so they are exact in any order.

The keys and values that a step reads are as many bytes as the weights, so they have 8
bits, too: a key or value of one head has one scale. Queries, and the weights with which
values are mixed, have 15 bits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int, Int8, PyTree

# What takes the place of a `kernel`, and of the embedding if that is the output head.
CODES = "int8_codes"
SCALES = "int8_scales"
_GREATEST = 127


class Vectors(NamedTuple):
    """Vectors of 8-bit codes with one scale each: about codes · scales."""

    codes: Int8[Array, "*B d"]
    scales: Float[Array, "*B 1"]


def with_codes(params: PyTree) -> PyTree:
    """Parameters with codes and scales in the place of every kernel.

    A tied head gets them beside the embedding, whose rows the inputs still need. Norms,
    relative biases, adapters and what is quantised already stay as they are.

    Args:
        params: parameters of the network, unrolled.
    """
    found: dict[tuple[str, ...], Any] = {}
    leaves: dict[Any, Any] = flatten_dict(unfreeze(params))
    for path, leaf in leaves.items():
        place, kernel = path[:-1], leaf
        if path == ("token_embedder", "embedding"):
            found[path] = leaf
            if "logits_dense" in params["decoder"]:
                continue
            kernel = leaf.T
        elif path[-1] != "kernel":
            found[path] = leaf
            continue
        found[(*place, CODES)], found[(*place, SCALES)] = quantize(kernel)
    return unflatten_dict(found)


def quantize(
    kernel: Float[Array, "I O"],
) -> tuple[Int8[Array, "I O"], Float[Array, "1 O"]]:
    """Returns (codes, scales): the kernel is about codes · scales."""
    codes, scales = _quantize(kernel.astype(jnp.float32), axis=0)
    return codes, scales


def product(
    tokens: Float[Array, "N I"],
    codes: Int8[Array, "I O"],
    scales: Float[Array, "1 O"],
    out_dtype: Any = None,
) -> Float[Array, "N O"]:
    """Returns about tokens @ (codes · scales).

    Args:
        tokens: the inputs.
        codes: the kernel's codes.
        scales: the kernel's scales.
        out_dtype: type of the result. None: that of the tokens.
    """
    own, own_scales = _quantize(tokens.astype(jnp.float32), axis=1)
    sums = jax.lax.dot_general(
        own, codes, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )
    result = sums.astype(jnp.float32) * own_scales * scales
    return result.astype(out_dtype or tokens.dtype)


def vectors(values: Float[Array, "*B d"]) -> Vectors:
    """Quantises vectors along the last axis."""
    return Vectors(*_quantize(values.astype(jnp.float32), axis=-1))


def scores(queries: Float[Array, "B H N d"], keys: Vectors) -> Float[Array, "B H N T"]:
    """Returns about queries . keys in float32; the keys are [B, H, T, d]."""
    rows, scales = _in_two_parts(queries)
    sums = jnp.einsum(
        "bhnd,bhtd->bhnt", rows, keys.codes, preferred_element_type=jnp.int32
    )
    return _joined(sums, scales) * jnp.swapaxes(keys.scales, 2, 3)


def mixed(weights: Float[Array, "B H N T"], values: Vectors) -> Float[Array, "B H N d"]:
    """Returns about weights @ values in float32; the values are [B, H, T, d]."""
    rows, scales = _in_two_parts(weights * jnp.swapaxes(values.scales, 2, 3))
    sums = jnp.einsum(
        "bhnt,bhtd->bhnd", rows, values.codes, preferred_element_type=jnp.int32
    )
    return _joined(sums, scales)


def _in_two_parts(
    rows: Float[Array, "B H N d"],
) -> tuple[Int8[Array, "B H M d"], Float[Array, "B H N 1"]]:
    """Returns codes and scales of M = 2 N rows: the codes, then what they leave over.

    With both, a row has 15 bits. The second part costs little: what is read is the
    other operand. On a CPU it even makes the product of a single row fast, for whose
    batches of integers XLA has no kernel (18 times as long).
    """
    rows = rows.astype(jnp.float32)
    codes, scales = _quantize(rows, axis=-1)
    rest = rows - codes.astype(jnp.float32) * scales  # at most half a scale
    fine = jnp.round(rest / jnp.where(scales == 0, 1.0, scales) * (2 * _GREATEST))
    return jnp.concatenate([codes, fine.astype(jnp.int8)], axis=2), scales


def _joined(
    sums: Int[Array, "B H M t"], scales: Float[Array, "B H N 1"]
) -> Float[Array, "B H N t"]:
    coarse, fine = jnp.split(sums.astype(jnp.float32), 2, axis=2)
    return (coarse + fine / (2 * _GREATEST)) * scales


def stored(module: nn.Module) -> tuple[jax.Array, jax.Array] | None:
    """The codes and scales among a module's parameters; None if it has none."""
    if not module.has_variable("params", CODES):
        return None
    codes, scales = (module.get_variable("params", name) for name in (CODES, SCALES))
    return codes, scales


def _quantize(values: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    peak = jnp.max(jnp.abs(values), axis=axis, keepdims=True)
    # A scale that is not finite makes the result NaN, as the plain product would.
    scales = peak / _GREATEST
    codes = jnp.round(values / jnp.where(scales == 0, 1.0, scales))
    return codes.astype(jnp.int8), scales
