"""Attention whose scores are never held, forward or backward, on one GPU or many.

What `attention.attend` computes, by the kernels of `attention_kernel`; on a mesh every
device works on its own rows and heads, and only the bias's gradient is exchanged.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
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
    """Whether the kernels are the faster way: bfloat16 on a GPU that multiplies it.

    And not for a few positions, where a tile would be mostly filling.
    """
    if platform_of(ambient_mesh()) not in ("gpu", "cuda") or not _multiplies_bfloat16():
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
    """Whether heads may have this size: a power of 2, as tiles must be."""
    return 16 <= depth <= 128 and depth & (depth - 1) == 0


def _kernel() -> Any:
    """The kernels: Pallas takes a tenth of the network's import, and is seldom used."""
    from specialize.student.attention import gpu_kernels

    return gpu_kernels


@functools.cache
def _multiplies_bfloat16() -> bool:
    """NVIDIA's Ampere (compute capability 8.0) or later."""
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
    """Softmax(queries . keys + bias where mask) . values.

    A query whose keys are all masked gets 0 and passes no gradient on. Beside the
    arguments only the result and one number a query are kept for the gradient, under
    the name "attention_weights" (`REMAT_POLICIES`).

    Args:
        queries: heads of a size that `takes` accepts.
        keys: of the queries' type.
        values: of the queries' type.
        bias: added to the scores; differentiable.
        mask: which query may see which key.

    Raises:
        InputError: on a TPU, or too large for one device's kernel.
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
    """Which mesh axes carry the batch and the heads; none without a mesh."""

    mesh: Mesh | AbstractMesh | None = None
    batch: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @classmethod
    def of(cls, queries: Float[Array, "B Q H d"]) -> "_Split":
        """As the rules for logical axes say, where they divide these arrays."""
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
        """Of a whole [B L H d], the shape that one device works on."""
        batch, length, heads, depth = shape
        sizes = {} if self.mesh is None else dict(self.mesh.shape)
        batch //= math.prod(sizes[axis] for axis in self.batch)
        heads //= math.prod(sizes[axis] for axis in self.heads)
        return batch, length, heads, depth

    @property
    def rows(self) -> P:
        """Of [B L H d]."""
        return P(self.batch or None, None, self.heads or None)

    @property
    def logs(self) -> P:
        """Of [B H Q]."""
        return P(self.batch or None, self.heads or None)

    @property
    def bias(self) -> P:
        """Of [1 H Q K]."""
        return P(None, self.heads or None)

    @property
    def mask(self) -> P:
        """Of [B 1 Q K]."""
        return P(self.batch or None)

    def apply(
        self, function: Callable[..., Any], given: Sequence[P], returned: Sequence[P]
    ) -> Callable[..., Any]:
        """`function` for every device's part of its arguments."""
        if self.mesh is None:
            return function
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=tuple(given),
            out_specs=tuple(returned),
            check_vma=False,
        )
