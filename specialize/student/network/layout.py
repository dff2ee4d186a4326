"""The two layouts of parameters, scanned and unrolled.

    unrolled   encoder/layers_3/mlp/wo/kernel   [mlp, embed]
    scanned    encoder/encoder/mlp/wo/kernel    [mlp, layers, embed]

The published checkpoints are unrolled. Scanned layers compile in a time that does not
grow with their number. Everything outside the layers is the same in both.
"""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

from specialize.errors import InputError
from specialize.student.network.architecture import SCAN_AXIS, STACKS


def unroll_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` with one subtree per layer; the values stay the same.

    Any tree of that shape (parameters, gradients, optimizer moments) of NumPy or JAX
    arrays will do, also traced ones. An unrolled tree is returned unchanged.

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
