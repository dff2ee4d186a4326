"""T5X's older checkpoint layout: a msgpack file whose leaves name zarr folders.

    checkpoint_1000/
      checkpoint                                     msgpack: version, optimizer
      target.encoder.layers_0.mlp.wi_0.kernel/       one zarr array per leaf
      state.param_states.....                        the optimizer's, if it was saved

The public Flan-T5 checkpoints have this layout. Leaves that T5X does not partition (the
step, small vectors) are stored in the msgpack file itself.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
from etils import epath
from flax import serialization
from flax.traverse_util import unflatten_dict

from specialize import typed_json, versions
from specialize.checkpoints import step_folder
from specialize.checkpoints.formats import enclosure, zarr_arrays
from specialize.checkpoints.lazy_tensors import LazyTensor, from_array
from specialize.checkpoints.source import Source, opened
from specialize.errors import InputError
from specialize.paths.store import explain

FILE = "checkpoint"
PREFIX = "checkpoint_"


@dataclasses.dataclass(frozen=True)
class _Store:
    path: str = ""


@dataclasses.dataclass(frozen=True)
class _Array:
    """A leaf that names an array; TensorStore before 0.1.14 stored the path outside."""

    driver: Literal["zarr"]
    kvstore: _Store
    path: str = ""


def is_folder(path: epath.Path) -> bool:
    """Whether `path` is one step of T5X's older layout."""
    return (path / FILE).is_file() and not (path / "_METADATA").exists()


def steps(path: epath.Path) -> dict[int, epath.Path]:
    """The `checkpoint_<step>` folders below `path`, finished ones only.

    In a bucket, an object ends those that T5X wrote there with Orbax; those that were
    copied there have none. If some have it, the others are not finished.
    """
    found = {}
    if path.is_dir():
        for folder in path.iterdir():
            number = folder.name.removeprefix(PREFIX)
            if folder.name.startswith(PREFIX) and number.isdecimal():
                found[int(number)] = folder
    ended = {step for step in found if step_folder.is_finished(found[step])}
    if ended:
        return {
            step: folder
            for step, folder in found.items()
            if step in ended or is_folder(folder)
        }
    return found


def open_folder(
    path: epath.Path, *, activation: str | None = None, settings: Any = None
) -> Source:
    """Opens one step and reads only the metadata of its arrays.

    Args:
        path: the `checkpoint_<step>` folder, local or in a bucket.
        activation: activation of the feed-forward block, if no config.json has it.
        settings: the network in a config.json beside the checkpoint, or None.

    Raises:
        InputError: the checkpoint is truncated or of another kind, or tensors are
            missing, unexpected or have wrong shapes (all are named).
    """
    where = str(path)
    zarr_arrays.check_links(path)
    content = _read_msgpack(path / FILE)
    stated = content.get("version", 0)
    version = stated.tolist() if isinstance(stated, np.ndarray) else stated
    versions.T5X.check(version, path / FILE)
    state = content["optimizer"]
    leaves = dict(_flat(state, ()))
    specs = {
        "/".join(key): _spec(leaf, "/".join(key), where)
        for key, leaf in leaves.items()
        if isinstance(leaf, dict)  # an empty state is None
    }
    arrays = zarr_arrays.open_all(
        specs, where, missing_is_zero=lambda name: not name.startswith("target/")
    )
    tensors: dict[str, Any] = {}
    for key, leaf in leaves.items():
        name = "/".join(key)
        if leaf is None:
            tensors[name] = None
            continue
        tensor = arrays[name] if name in arrays else _small(leaf, name, where)
        tensors[name] = _bits_to_bfloat16(tensor) if version < 3 else tensor
    return source_of("t5x", where, tensors, activation=activation, settings=settings)


def source_of(
    kind: str,
    where: str,
    leaves: Mapping[str, Any],
    *,
    activation: str | None,
    settings: Any,
) -> Source:
    """Makes a `Source` from a T5X train state.

    Args:
        kind: the format's name.
        where: path of the checkpoint, for messages.
        leaves: lazy tensors by name, `target/...`, `state/step`,
            `state/param_states/...`; None for an empty state.
        activation: as in `open_folder`.
        settings: as in `open_folder`.
    """
    target = {
        name.removeprefix("target/"): tensor
        for name, tensor in leaves.items()
        if name.startswith("target/") and tensor is not None
    }
    if not target:
        raise InputError(
            f"{where} has no parameters under 'target' (found: "
            f"{', '.join(list(leaves)[:5]) or 'nothing'}). It is not a checkpoint of "
            "T5X."
        )
    return opened(
        kind,
        where,
        target,
        activation=activation,
        settings=settings,
        step=step_in(leaves.get("state/step"), where),
        optimizer={
            name.removeprefix("state/"): tensor
            for name, tensor in leaves.items()
            if name.startswith("state/param_states/")
        },
    )


def step_in(stored: LazyTensor | None, where: str) -> int | None:
    """The number of steps that a checkpoint states, or None.

    Raises:
        InputError: it is not one whole number.
    """
    if stored is None:
        return None
    if stored.size != 1 or stored.dtype.kind not in "iu":
        raise InputError(
            f"{where}: the step is an array of shape {stored.shape} and type "
            f"{stored.dtype}, expected one whole number. Fetch the checkpoint again."
        )
    return int(stored.read().reshape(-1)[0])


def write_folder(
    folder: pathlib.Path,
    tensors: Mapping[str, LazyTensor],
    *,
    step: int,
    optimizer: Mapping[str, LazyTensor | None],
) -> None:
    """Writes one step, one tensor in memory at a time.

    Args:
        folder: the `checkpoint_<step>` folder to write into.
        tensors: parameters by T5X name, in the layout to write.
        step: number of training steps.
        optimizer: `param_states/...` in the same layout; None for an empty state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    leaves: dict[str, LazyTensor | None] = {
        f"target/{name}": tensor for name, tensor in tensors.items()
    }
    leaves |= {f"state/{name}": tensor for name, tensor in optimizer.items()}
    written: dict[tuple[str, ...], Any] = {("state", "step"): np.int32(step)}
    if not optimizer:
        written[("state", "param_states")] = {}
    for name, tensor in leaves.items():
        key = tuple(name.split("/"))
        if tensor is None:
            written[key] = {}
        elif tensor.size > 1:
            relative = name.replace("/", ".")
            metadata = zarr_arrays.write(tensor, str(folder / relative))
            written[key] = {
                "driver": "zarr",
                "dtype": tensor.dtype.name,
                "kvstore": {"driver": "file", "path": relative},
                "metadata": metadata,
            }
        else:
            # T5X does not partition these (the step, Adafactor's unused factors) and
            # reads them only from here.
            written[key] = tensor.read()
    state = with_gaps(unflatten_dict(written))
    content = {"version": versions.T5X.writes, "optimizer": state}
    (folder / FILE).write_bytes(serialization.msgpack_serialize(content))


def with_gaps(tree: Any) -> Any:
    """Adds the empty states of an optax chain, which have no arrays.

    Flax writes a chain as a mapping "0", "1", ...; T5X refuses gaps in the numbers.
    """
    if not isinstance(tree, dict):
        return tree
    filled = {key: with_gaps(value) for key, value in tree.items()}
    if filled and all(key.isdecimal() for key in filled):
        last = max(int(key) for key in filled)
        filled = {str(i): filled.get(str(i), {}) for i in range(last + 1)}
    return filled


def _read_msgpack(path: epath.Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        if raw.startswith(b"model_checkpoint_path"):
            raise InputError(
                f"{path} is a TensorFlow checkpoint (Mesh TensorFlow's T5). Convert it "
                "with T5X first, or name the T5X or Hugging Face release of the model."
            )
        content = serialization.msgpack_restore(raw)
    except InputError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds.
        explain(path, "read", error)
        raise InputError(
            f"{path} is truncated or not msgpack ({type(error).__name__}: {error}). "
            "Fetch the checkpoint again."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("optimizer"), dict):
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else "no keys"
        raise InputError(
            f"{path} is not a checkpoint of T5X: it has {keys}; expected version and "
            "optimizer."
        )
    return content


def _flat(tree: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves by key; a TensorStore spec is a leaf, an empty mapping becomes None."""
    if isinstance(tree, dict) and tree and not {"driver", "kvstore"} <= tree.keys():
        for name, value in tree.items():
            yield from _flat(value, (*key, str(name)))
    else:
        yield key, None if isinstance(tree, dict) and not tree else tree


def _spec(leaf: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The spec of the array that a leaf names, with an absolute path.

    Raises:
        InputError: the leaf has another form, or names an array elsewhere.
    """
    remedy = "T5X writes zarr arrays beside the file 'checkpoint'."
    array = typed_json.convert(leaf, _Array, f"{where}: {name}", remedy=remedy)
    path = array.kvstore.path or array.path
    if not enclosure.is_beneath(path):
        raise InputError(
            f"{where}: {name} names an array at {path!r:.80}, which is not a relative "
            f"name beneath the checkpoint. {remedy}"
        )
    return {
        "driver": "zarr",
        "kvstore": zarr_arrays.kvstore(f"{where}/{path.rstrip('/')}"),
    }


def _small(leaf: Any, name: str, where: str) -> LazyTensor:
    """The array of a leaf that is in the msgpack file itself."""
    if not isinstance(leaf, np.ndarray | np.generic | int | float):
        raise InputError(
            f"{where}: {name} is a {type(leaf).__name__}, expected an array or number. "
            "Fetch the checkpoint again."
        )
    return from_array(np.asarray(leaf))


def _bits_to_bfloat16(tensor: LazyTensor) -> LazyTensor:
    if tensor.dtype != np.uint16:
        return tensor
    to = np.dtype(ml_dtypes.bfloat16)
    return LazyTensor(tensor.shape, to, lambda index: tensor.load(index).view(to))
