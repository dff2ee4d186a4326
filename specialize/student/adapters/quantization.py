"""Frozen kernels in 8 or 4 bits per weight, beside which adapters are trained (QLoRA).

A kernel [in, out] is divided into blocks of inputs. A block of one output has one
scale; each of its weights is a code: a whole number ("int8", "int4") or the index of
one of 16 levels ("nf4"), times the scale. Two codes of 4 bits are one byte: in a block
of 2n rows, byte i holds row i in its low and row i + n in its high half, so that
bytes can be cut where blocks can, and unpacking moves no row between lanes of a vector.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs" (arXiv 2305.14314).
Scales are bfloat16, rounded up before the codes are computed from them. That costs 1/4
bit per weight in blocks of 64; the paper's double quantisation of scales costs 0.127.
"""

import functools
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Num, Shaped

# What is stored in the place of a `kernel` [in, out]: [in or in/2, out] and
# [in/block, out].
CODES = "kernel_codes"
SCALES = "kernel_scales"

SCALE_TYPE = np.dtype(ml_dtypes.bfloat16)
# The greatest code by the kind of the codes; nf4 has levels from -1 to 1.
_GREATEST = {"int8": 127, "int4": 7, "nf4": 1}
# A code of 4 bits is stored without a sign.
_ZERO_OF_INT4 = 8
# Bytes of float32 that quantising holds at a time.
_CHUNK = 16 * 2**20


def code_type(kind: str) -> np.dtype:
    """The type of stored codes: a byte with one code, or with two."""
    return np.dtype(np.int8 if kind == "int8" else np.uint8)


def per_byte(kind: str) -> int:
    """How many codes are in one byte."""
    return 1 if kind == "int8" else 2


@functools.cache
def nf4_levels() -> Float[np.ndarray, "16"]:
    """The 16 levels of NormalFloat4, ascending from -1 to 1; level 7 is 0.

    They are quantiles of the normal distribution: 8 from its half above 0 and 7 from
    its half below, evenly spaced in probability, with the outermost of either half
    as far from 0 and 1 as the mean of half a step of both, scaled to [-1, 1]. This is
    the construction of the paper's section 3 and of its implementation.
    """
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    quantile = statistics.NormalDist().inv_cdf
    positive = [quantile(p) for p in np.linspace(outermost, 0.5, 9)[:-1]]
    negative = [-quantile(p) for p in np.linspace(outermost, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*positive, 0.0, *negative]))
    return (levels / levels[-1]).astype(np.float32)


def quantize(
    kernel: Num[np.ndarray, "I ..."], kind: str, block: int
) -> tuple[Shaped[np.ndarray, "J ..."], Shaped[np.ndarray, "N ..."]]:
    """Quantises a kernel on the host, a few blocks at a time.

    Args:
        kernel: the weights; the blocks are along the first axis, whose size they
            divide.
        kind: "int8", "int4" or "nf4".
        block: size of a block; even, unless `kind` is "int8".

    Returns:
        (codes, scales): codes [I or I/2, ...] of `code_type`, scales [I/block, ...] of
        bfloat16. What `dequantize` makes of them is the nearest of the values that a
        block's scale can express. A block with a number that is not finite becomes NaN.
    """
    inputs, rest = kernel.shape[0], kernel.shape[1:]
    rows = block // per_byte(kind)
    codes = np.empty((inputs // block, rows, *rest), code_type(kind))
    scales = np.empty((inputs // block, *rest), SCALE_TYPE)
    row_bytes = max(1, 4 * block * int(np.prod(rest, dtype=np.int64)))
    step = max(1, _CHUNK // row_bytes)
    for start in range(0, len(scales), step):
        part = kernel[start * block : (start + step) * block].astype(np.float32)
        part = part.reshape(-1, block, *rest)
        chosen = slice(start, start + step)
        with np.errstate(invalid="ignore", over="ignore"):
            codes[chosen], scales[chosen] = _quantized(part, kind)
    return codes.reshape(-1, *rest), scales


def _quantized(blocks: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Quantises float32 blocks [N, block, ...]."""
    largest = np.maximum(np.max(blocks, axis=1), -np.min(blocks, axis=1))
    scales = _rounded_up(largest / np.float32(_GREATEST[kind]))
    divisors = np.where(scales == 0, np.float32(1), scales.astype(np.float32))
    ratios = blocks / divisors[:, None]
    if kind == "int8":
        return np.rint(ratios).astype(np.int8), scales
    if kind == "int4":
        found = (np.rint(ratios) + _ZERO_OF_INT4).astype(np.uint8)
    else:
        levels = nf4_levels()
        found = np.zeros(ratios.shape, np.uint8)
        for middle in (levels[1:] + levels[:-1]) / 2:
            found += ratios > middle  # a tenth of the time of a binary search
    half = blocks.shape[1] // 2
    return found[:, :half] | found[:, half:] << 4, scales


def _rounded_up(values: np.ndarray) -> np.ndarray:
    """The least bfloat16 that is not below a float32, 0 or more."""
    bits = values.view(np.uint32) + np.uint32(0xFFFF) * np.isfinite(values)
    return (bits >> 16).astype(np.uint16).view(SCALE_TYPE)


def dequantize(codes: Any, scales: Any, kind: str) -> Any:
    """The weights in float32, of arrays of numpy (on the host) or of JAX.

    Both compute the same values bit for bit.

    Args:
        codes: as `quantize` returns them, [J, ...].
        scales: [N, ...].
        kind: the kind of the codes.
    """
    blocks, rest = scales.shape[0], scales.shape[1:]
    on_host = isinstance(codes, np.ndarray)
    xp: Any = np if on_host else jnp
    found = codes.reshape(blocks, -1, *rest)
    if per_byte(kind) == 2:
        found = xp.concatenate([found & 15, found >> 4], axis=1)
    if kind != "nf4":
        zero = _ZERO_OF_INT4 if kind == "int4" else 0
        values = found.astype(np.float32) - np.float32(zero)
    elif on_host:
        values = nf4_levels()[found]
    else:
        values = _levels_of(found)
    with np.errstate(invalid="ignore"):  # 0 times a scale that is not finite
        return (values * scales.astype(np.float32)[:, None]).reshape(-1, *rest)


def _levels_of(codes: jax.Array) -> jax.Array:
    """The levels of nf4 codes, by one choice per bit: a TPU gathers slowly."""
    codes = codes.astype(jnp.int32)
    left: list[Any] = [jnp.float32(level) for level in nf4_levels()]
    for bit in range(4):
        is_set = (codes >> bit) & 1 == 1
        left = [
            jnp.where(is_set, above, below)
            for below, above in zip(left[::2], left[1::2], strict=True)
        ]
    return left[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def product(
    tokens: Float[Array, "N I"],
    codes: Shaped[Array, "J O"],
    scales: Shaped[Array, "B O"],
    kind: str,
    out_dtype: Any,
) -> Float[Array, "N O"]:
    """Returns tokens @ kernel, with the kernel in the tokens' type for this alone.

    The gradient of the tokens dequantises the kernel again; the kernel has none. So no
    layer keeps a dequantised kernel for the backward pass, under any `remat_policy`.

    Args:
        tokens: the inputs.
        codes: the kernel's codes.
        scales: the kernel's scales.
        kind: the kind of the codes.
        out_dtype: type of the sums and of the result. None: that of the tokens.
    """
    kernel = _in_type_of(tokens, codes, scales, kind)
    return jnp.matmul(tokens, kernel, preferred_element_type=out_dtype)


def _in_type_of(tokens: jax.Array, codes: Any, scales: Any, kind: str) -> jax.Array:
    # Without the barrier a compiler may compute all kernels before a loop in which they
    # do not change (microbatches, decoding), or once for both passes, and keep them.
    codes, scales, _ = jax.lax.optimization_barrier((codes, scales, tokens))
    return dequantize(codes, scales, kind).astype(tokens.dtype)


def _product_forward(
    tokens: Any, codes: Any, scales: Any, kind: str, out_dtype: Any
) -> Any:
    result = product(tokens, codes, scales, kind, out_dtype)
    return result, (codes, scales, jnp.zeros((0,), tokens.dtype))


def _product_backward(kind: str, out_dtype: Any, residuals: Any, gradient: Any) -> Any:
    codes, scales, empty = residuals
    gradient = gradient.astype(empty.dtype)
    kernel = _in_type_of(gradient, codes, scales, kind)
    return jnp.matmul(gradient, kernel.T), None, None


product.defvjp(_product_forward, _product_backward)


def kernel_shapes(shapes: Mapping[str, Any], kind: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a flat tree, with a kernel in the place of its codes and scales.

    Args:
        shapes: arrays or shapes of parameters by name.
        kind: the kind of the codes.
    """
    result: dict[str, tuple[int, ...]] = {}
    for name, leaf in shapes.items():
        place, _, last = name.rpartition("/")
        if last == CODES:
            rows = leaf.shape[0] * per_byte(kind)
            result[f"{place}/kernel"] = (rows, *leaf.shape[1:])
        elif last != SCALES:
            result[name] = tuple(leaf.shape)
    return result


def number_of_weights(leaves: Iterable[tuple[str, Any]]) -> int:
    """Number of weights in (last name, array) pairs; scales are none."""
    return sum(
        leaf.size * (2 if name == CODES and leaf.dtype == np.uint8 else 1)
        for name, leaf in leaves
        if name != SCALES
    )
