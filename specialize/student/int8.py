"""Products of 8-bit integers, for decoding with 8-bit weights.

A matrix [in, out] has one scale per output, which is found once per batch. Tokens have
one scale each, which is found when they come, so nothing has to be calibrated. This is
the vector-wise quantisation of "LLM.int8()" (Dettmers et al., 2022, arXiv 2208.07339,
section 3.1), without its separate treatment of outliers. Sums are 32-bit integers,
which an `in` of up to 2¹⁷ cannot exceed, so they are exact in any order.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int8, PyTree

# What takes the place of a `kernel`, and of the embedding if that is the output head.
CODES = "int8_codes"
SCALES = "int8_scales"
_GREATEST = 127


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
