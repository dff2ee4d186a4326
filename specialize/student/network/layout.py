"""Conversion between scanned and unrolled parameters, without loss.

    unrolled   encoder/layers_3/mlp/wo/kernel   [mlp, embed]
    scanned    encoder/encoder/mlp/wo/kernel    [mlp, layers, embed]

The published checkpoints are unrolled. Scanned layers compile in a time that does not
grow with their number. Everything outside the layers is the same in both. The functions
take any tree of that shape (parameters, gradients, optimizer moments) of NumPy or JAX
arrays, and may be traced by `jax.jit` and `jax.eval_shape`.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from specialize.errors import InputError
from specialize.student.network.architecture import SCAN_AXIS, STACKS

_LAYER = re.compile(r"layers_(\d+)")


def is_scanned(params: Mapping[str, Any]) -> bool:
    """Whether the layers of `params` are stacked."""
    return any(stack in params.get(stack, {}) for stack in STACKS)


def scan_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` with the layers of each stack joined along a new axis 1.

    A tree that is scanned already is returned unchanged.

    Raises:
        InputError: layers are missing, or differ in their tensors or shapes.
    """
    joined: dict[tuple[str, ...], Any] = {}
    layers: dict[tuple[str, ...], dict[int, Any]] = {}
    for path, value in flatten_dict(params).items():
        match = _LAYER.fullmatch(path[1]) if len(path) > 2 else None
        if match and path[0] in STACKS:
            target = (path[0], path[0], *path[2:])
            layers.setdefault(target, {})[int(match[1])] = value
        else:
            joined[path] = value
    for stack in STACKS:
        _check_layers(
            stack, {path: found for path, found in layers.items() if path[0] == stack}
        )
    for path, found in layers.items():
        joined[path] = _stack([found[i] for i in range(len(found))])
    return unflatten_dict(joined)


def unroll_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` with one subtree per layer; the inverse of `scan_params`.

    A tree that is unrolled already is returned unchanged.

    Raises:
        InputError: the stacked tensors disagree about the number of layers.
    """
    parted: dict[tuple[str, ...], Any] = {}
    depths: dict[str, dict[str, int]] = {stack: {} for stack in STACKS}
    leaves: dict[tuple[str, ...], Any] = flatten_dict(params)
    for path, value in leaves.items():
        if len(path) < 3 or path[0] not in STACKS or path[1] != path[0]:
            parted[path] = value
            continue
        depth = value.shape[SCAN_AXIS]
        depths[path[0]]["/".join(path)] = depth
        for i in range(depth):
            # Indexing, not np.take: a numpy view costs no memory.
            parted[(path[0], f"layers_{i}", *path[2:])] = value[:, i]
    for found in depths.values():
        if len(set(found.values())) > 1:
            tensors = ", ".join(f"{name} {depth}" for name, depth in found.items())
            raise InputError(
                f"scanned tensors differ in their number of layers: {tensors}. The "
                "checkpoint is damaged; fetch or convert it again."
            )
    return unflatten_dict(parted)


def _check_layers(stack: str, layers: Mapping[tuple[str, ...], dict[int, Any]]) -> None:
    depth = 1 + max((i for found in layers.values() for i in found), default=-1)
    missing = [
        "/".join((stack, f"layers_{i}", *path[2:]))
        for path, found in layers.items()
        for i in range(depth)
        if i not in found
    ]
    if missing:
        raise InputError(
            f"the {stack} has layers up to {depth - 1}, but these tensors are missing: "
            f"{', '.join(missing)}. To be scanned, layers must be numbered from 0 "
            "without gaps and have the same tensors."
        )
    uneven = [
        f"{'/'.join(path[2:])} {sorted({tuple(v.shape) for v in found.values()})}"
        for path, found in layers.items()
        if len({tuple(value.shape) for value in found.values()}) > 1
    ]
    if uneven:
        raise InputError(
            f"layers of the {stack} differ in shape and cannot be scanned: "
            f"{', '.join(uneven)}. Use scan_layers=False."
        )


def _stack(values: list[Any]) -> Any:
    if all(isinstance(value, np.ndarray) for value in values):
        return np.stack(values, axis=SCAN_AXIS)
    return jnp.stack(values, axis=SCAN_AXIS)
