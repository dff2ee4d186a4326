"""Checksums that tell whether an array was restored as it was saved.

Neither Orbax nor TensorStore's uncompressed chunks detect a flipped bit: the array is
restored with another value and the run continues. So each leaf is saved with two
32-bit sums over its elements,

    s_j = sum_i mix(bits_i xor mix(i + c_j))  mod 2^32,   j = 0, 1

where `i` is the position in C order and `mix` is MurmurHash3's 32-bit finalizer. A
sum over elements does not depend on how the array is sharded, so it is computed on
the devices, each over its own shard, and verified after a restore onto any mesh and
any number of processes. `mix` is a bijection, hence every change of one element
changes both sums; other changes pass unnoticed with probability 2^-64.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

_SEEDS = (0x9E3779B9, 0x7F4A7C15)


# Elements up to which the host computes the sums itself (`checksum`): compiling a
# program for a shape takes longer.
_SMALL = 1 << 20


def _mix(bits: Any) -> Any:
    bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def _as_words(array: jax.Array) -> jax.Array:
    """The array's bits as uint32, with one more axis if an element has two words."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    width = array.dtype.itemsize
    if width < 4:
        unsigned = {1: jnp.uint8, 2: jnp.uint16}[width]
        return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.uint32)


def _sums(array: jax.Array) -> UInt32[Array, "2"]:
    words = _as_words(array)
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        position = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index += position * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.stack(_sums_of(words, index))


def _sums_of(words: Any, index: Any) -> list[Any]:
    """Both sums over words and their positions, of JAX or of numpy."""
    mixed = (_mix(words ^ _mix(index + np.uint32(seed))) for seed in _SEEDS)
    return [one.sum(dtype=np.uint32) for one in mixed]


@functools.cache
def _sums_on(sharding: NamedSharding | None) -> Any:
    """The jitted sums; on a mesh replicated, so that every process has them."""
    if sharding is None:
        return jax.jit(_sums)
    return jax.jit(_sums, out_shardings=sharding)


def checksums(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Checksums of all leaves by name, as 16 hexadecimal digits.

    They are the same on every process and for every sharding.

    Args:
        leaves: arrays by name; in a run of several processes every process passes
            the same global arrays.
    """
    pending = {}
    small = {}
    for name, leaf in leaves.items():
        if leaf.size <= _SMALL and _is_readable(leaf):
            small[name] = leaf
            continue
        sharding = getattr(leaf, "sharding", None)
        replicated = (
            NamedSharding(sharding.mesh, PartitionSpec())
            if isinstance(sharding, NamedSharding)
            else None
        )
        pending[name] = _sums_on(replicated)(leaf)
    # All sums were dispatched before the first one is waited for.
    found = {name: checksum(np.asarray(leaf)) for name, leaf in small.items()}
    found |= {name: _digits(np.asarray(sums)) for name, sums in pending.items()}
    return {name: found[name] for name in leaves}


def _is_readable(leaf: Any) -> bool:
    """Whether this process can read all of an array of numbers."""
    extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return not extended and getattr(leaf, "is_fully_addressable", True)


def checksum(array: np.ndarray) -> str:
    """The checksum of one array of numbers in the host's memory; see `checksums`."""
    if array.size > _SMALL:
        return checksums({"": jnp.asarray(array)})[""]
    words = np.ascontiguousarray(array).reshape(-1)
    if words.dtype == np.bool_:
        words = words.astype(np.uint32)
    elif words.itemsize < 4:
        words = words.view(f"u{words.itemsize}").astype(np.uint32)
    else:
        words = words.view(np.uint32)
    return _digits(_sums_of(words, np.arange(len(words), dtype=np.uint32)))


def _digits(sums: Iterable[Any]) -> str:
    return "".join(f"{int(word):08x}" for word in sums)
