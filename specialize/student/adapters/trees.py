"""A tree of parameters as its adapters, which are trained, and the rest, which is not.

The adapters of a projection are beside its kernel: `encoder/layers_0/mlp/wo/lora_a`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

# The two matrices [in, rank] and [rank, out] of a projection.
LORA_A = "lora_a"
LORA_B = "lora_b"
MATRICES = (LORA_A, LORA_B)

# The parameters that the network casts to its type before any use. A frozen one may be
# stored in that type: every step uses the same values.
CAST = ("kernel", "embedding", *MATRICES)


def is_adapter(path: tuple[str, ...]) -> bool:
    """Whether a parameter with this path is one of an adapter's matrices."""
    return path[-1] in MATRICES


def split(params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (trained, frozen): the adapters and the rest.

    Without adapters all parameters are trained, and the second tree is empty.
    """
    flat: dict[Any, Any] = flatten_dict(unfreeze(params))
    adapters = {path: leaf for path, leaf in flat.items() if is_adapter(path)}
    if not adapters:
        return unflatten_dict(flat), {}
    rest = {path: leaf for path, leaf in flat.items() if path not in adapters}
    return unflatten_dict(adapters), unflatten_dict(rest)


def join(trained: Any, frozen: Mapping[str, Any] | None) -> Any:
    """The whole tree: the inverse of `split`."""
    if not frozen:
        return trained
    return unflatten_dict(flatten_dict(unfreeze(trained)) | flatten_dict(frozen))


def in_type(shapes: Mapping[str, Any], dtype: Any, names: Sequence[str] = CAST) -> Any:
    """Shapes of parameters, of which those with one of the names have the type."""

    def cast(path: tuple[Any, ...], leaf: Any) -> Any:
        kept = path[-1].key not in names
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if kept else dtype)

    return jax.tree_util.tree_map_with_path(cast, shapes)
