"""What a plan has in the place of the GPU kernels: their memory without their work.

A compiler for TPUs cannot compile kernels for GPUs. These functions take and return
arrays of the same shapes and types as those of `gpu_kernels`, and store nothing beside
them, as the kernels do. What they compute has no meaning and is never run.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from specialize.student.attention.gpu_kernels import (
    MOST_ELEMENTS,
    ROWS,
    most_elements,
)

__all__ = ["MOST_ELEMENTS", "ROWS", "forward", "gradients", "most_elements"]


def forward(queries: Any, keys: Any, values: Any, bias: Any, mask: Any) -> Any:
    """Arrays like those that `gpu_kernels.forward` returns."""
    (queries, *_), number = _read(queries, keys, values, bias, mask)
    logs = jnp.sum(queries, axis=3, dtype=jnp.float32)
    return queries + number.astype(queries.dtype), jnp.swapaxes(logs, 1, 2)


def gradients(
    queries: Any,
    keys: Any,
    values: Any,
    bias: Any,
    mask: Any,
    mixed: Any,
    logs: Any,
    gradient: Any,
) -> Any:
    """Arrays like those that `gpu_kernels.gradients` returns."""
    scored = (queries, keys, values, bias)
    _, number = _read(*scored, mask, mixed, logs, gradient)
    return tuple(
        None if one is None else jnp.broadcast_to(number, one.shape).astype(one.dtype)
        for one in scored
    )


def _read(*arrays: Any) -> tuple[list[Any], Float[Array, ""]]:
    """The arrays, all in memory at once, and a number that depends on all of them."""
    present = [array for array in arrays if array is not None]
    present = jax.lax.optimization_barrier(present)
    total = sum(jnp.sum(array, dtype=jnp.float32) for array in present)
    return present, jnp.asarray(total)
