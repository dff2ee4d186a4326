"""Attention that never stores its scores, on one GPU or many.

It computes what `attention.attend` computes, with the kernels of `gpu_kernels`. On a
mesh every device works on its own sequences and heads; only the gradient of the bias is
exchanged.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import spmd
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from specialize.student.ambient import ambient_mesh, platform_of


def suits(queries: Float[Array, "B Q H d"], keys: Float[Array, "B K H d"]) -> bool:
    """Whether the kernels are faster: bfloat16 on a GPU that multiplies it.

    They are not for a few positions, which would fill a small part of a tile.
    """
    if not _planned.get() and (
        platform_of(ambient_mesh()) not in ("gpu", "cuda") or not _multiplies_bfloat16()
    ):
        return False
    kernel = _kernel()
    split = _Split.of(queries)
    most = kernel.most_elements(split.part(queries.shape), split.part(keys.shape))
    return (
        queries.dtype == keys.dtype == jnp.bfloat16
        and takes(queries.shape[-1])
        and min(queries.shape[1], keys.shape[1]) >= kernel.ROWS
        and most <= kernel.MOST_ELEMENTS
    )


def takes(depth: int) -> bool:
    """Whether heads may have this size: the size of a tile is a power of 2."""
    return 16 <= depth <= 128 and depth & (depth - 1) == 0


# Whether a plan for GPUs is made.
_planned = contextvars.ContextVar("planned for GPUs", default=False)


@contextlib.contextmanager
def planned() -> Iterator[None]:
    """Traces programs that are compiled for another device to plan those of GPUs.

    They have functions that need as much memory in the place of the kernels, and must
    not be run.
    """
    token = _planned.set(True)
    try:
        yield
    finally:
        _planned.reset(token)


def _kernel() -> Any:
    # Importing Pallas takes a tenth of the network's import time, and few runs use it.
    from specialize.student.attention import gpu_kernels, planned_kernels

    return planned_kernels if _planned.get() else gpu_kernels


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the GPU is NVIDIA's Ampere (compute capability 8.0) or later."""
    try:
        device = jax.local_devices(backend="cuda")[0]
    except RuntimeError:
        return False
    major = str(getattr(device, "compute_capability", "0")).partition(".")[0]
    return major.isdigit() and int(major) >= 8


@jax.custom_vjp
def attend(
    queries: Float[Array, "B Q H d"],
    keys: Float[Array, "B K H d"],
    values: Float[Array, "B K H d"],
    bias: Float[Array, "1 H Q K"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
) -> Float[Array, "B Q H d"]:
    """Softmax(queries . keys + bias where mask) . values; the bias is differentiable.

    A query whose keys are all masked gets 0 and no gradient. Queries, keys and values
    have one type, and `takes` accepts the size of their heads. Besides the arguments,
    the gradient needs only the result and one number per query, which are kept under
    the name "attention_weights" (`REMAT_POLICIES`).

    Raises:
        InputError: the device is a TPU, or an array is too large for one kernel.
    """
    return _forward(queries, keys, values, bias, mask)[0]


def _forward(queries, keys, values, bias, mask):
    split = _Split.of(queries)
    mixed, logs = split.apply(
        _kernel().forward,
        [split.rows, split.rows, split.rows, split.bias, split.mask],
        [split.rows, split.logs],
    )(queries, keys, values, bias, mask)
    mixed = checkpoint_name(mixed, "attention_weights")
    logs = checkpoint_name(logs, "attention_weights")
    return mixed, (queries, keys, values, bias, mask, mixed, logs)


def _backward(residuals, gradient):
    split = _Split.of(residuals[0])

    def gradients(*arrays: Any) -> Any:
        *others, d_bias = _kernel().gradients(*arrays)
        if split.batch and d_bias is not None:
            d_bias = jax.lax.psum(d_bias, split.batch)
        return *others, d_bias

    scored = [split.rows, split.rows, split.rows, split.bias, split.mask]
    found = split.apply(
        gradients,
        [*scored, split.rows, split.logs, split.rows],
        [split.rows, split.rows, split.rows, split.bias],
    )(*residuals, gradient)
    return *found, None


attend.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Split:
    """The mesh axes over which batch and heads are split; none without a mesh."""

    mesh: Mesh | AbstractMesh | None = None
    batch: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @classmethod
    def of(cls, queries: Float[Array, "B Q H d"]) -> "_Split":
        """Follows the sharding rules where they divide these arrays."""
        mesh = ambient_mesh()
        if mesh is None or mesh.size == 1:
            return cls()
        sizes = dict(mesh.shape)
        rules = spmd.logical_to_mesh_axes(("batch", "heads")) or (None, None)

        def dividing(axes: Any, size: int) -> tuple[str, ...]:
            names = (axes,) if isinstance(axes, str) else tuple(axes or ())
            parts = math.prod(sizes.get(name, 1) for name in names)
            return names if parts > 1 and size % parts == 0 else ()

        batch, _, heads, _ = queries.shape
        return cls(mesh, dividing(rules[0], batch), dividing(rules[1], heads))

    def part(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """The shape of one device's part of an array [B L H d]."""
        batch, length, heads, depth = shape
        sizes = {} if self.mesh is None else dict(self.mesh.shape)
        batch //= math.prod(sizes[axis] for axis in self.batch)
        heads //= math.prod(sizes[axis] for axis in self.heads)
        return batch, length, heads, depth

    @property
    def rows(self) -> P:  # of [B L H d]
        return P(self.batch or None, None, self.heads or None)

    @property
    def logs(self) -> P:  # of [B H Q]
        return P(self.batch or None, self.heads or None)

    @property
    def bias(self) -> P:  # of [1 H Q K]
        return P(None, self.heads or None)

    @property
    def mask(self) -> P:  # of [B 1 Q K]
        return P(self.batch or None)

    def apply(
        self, function: Callable[..., Any], given: Sequence[P], returned: Sequence[P]
    ) -> Callable[..., Any]:
        """Returns `function`, applied by every device to its part of the arguments."""
        if self.mesh is None:
            return function
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(given),
            out_specs=tuple(returned),
            check_vma=False,
        )
