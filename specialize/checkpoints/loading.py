"""Loads initial weights from any format onto the mesh, shard by shard."""

import concurrent.futures
import functools
import math
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from specialize import processes, sharding
from specialize.checkpoints import integrity, names, vocabulary_rows
from specialize.checkpoints.formats import tokenizer_files
from specialize.checkpoints.lazy_tensors import Index, LazyTensor
from specialize.checkpoints.opening import (
    check_sums,
    open_checkpoint,
    verify_run,
)
from specialize.checkpoints.source import Source
from specialize.errors import InputError
from specialize.progress import say, track
from specialize.student.adapters.quantization import (
    CODES,
    SCALE_TYPE,
    SCALES,
    code_type,
    kernel_shapes,
    per_byte,
    quantize,
)

# Number of concurrent reads; each holds one array shard, or of a kernel that is
# quantised at most one layer or this many bytes.
_READERS = 4
_PART = 256 * 2**20


def load_params(
    source: str,
    abstract_params: Mapping[str, Any],
    *,
    quiet: bool = False,
    quantization: str = "none",
) -> Any:
    """Restores parameters from any checkpoint onto the shardings of a network.

    Every process reads only the parts that its own devices hold, whatever the layout of
    the source: single layers are stacked and scanned layers are taken apart.

    Args:
        source: a hub name, a Hugging Face folder, a T5X checkpoint or a run of ours
            (`opening.open_checkpoint`).
        abstract_params: the network's parameter tree (T5X's names, scanned or not) of
            `jax.ShapeDtypeStruct` with shardings; values are cast to its types.
        quiet: whether to print no notes, for example about padded rows.
        quantization: how the kernels are stored of which the tree has codes and scales
            (`student.adapters.quantization`). They are quantised while they are read,
            so that the host holds parts of a few kernels in their own type.

    Returns:
        The tree with arrays, as the same kind of mapping as `abstract_params`.

    Raises:
        InputError: the source cannot be read, or tensors are missing, unexpected or
            have wrong shapes for this network (all are named).
    """
    opened = open_for(source, abstract_params)
    return load_opened(opened, abstract_params, quiet=quiet, quantization=quantization)


def load_opened(
    opened: Source,
    abstract_params: Mapping[str, Any],
    *,
    quiet: bool = False,
    quantization: str = "none",
) -> Any:
    """As `load_params`, of a checkpoint that is opened."""
    frozen = isinstance(abstract_params, FrozenDict)
    wanted = _flat(abstract_params)
    shapes = kernel_shapes(wanted, quantization)
    tensors, notes = _for_network(opened, wanted, shapes)
    if opened.adapters is not None:
        _verify_adapters(opened)
    if not quiet and jax.process_index() == 0:
        for note in [*opened.notes, *notes]:
            say(f"{opened.path}: {note}")
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        read = functools.partial(_read, tensors, wanted, quantization)
        parts = track(
            pool.map(read, tensors), f"load {opened.format}", total=len(tensors)
        )
        params = unflatten_dict(
            {
                tuple(name.split("/")): array
                for part in parts
                for name, array in part.items()
            }
        )
    if opened.format == "specialize" and opened.adapters is None:
        _verify(opened, params)
    return freeze(params) if frozen else params


def check_fits(opened: Source, abstract_params: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that does not fit a network, without reading weights.

    Args:
        opened: the checkpoint.
        abstract_params: as for `load_params`.

    Raises:
        InputError: as `load_params`, but damaged weights are not found.
    """
    wanted = _flat(abstract_params)
    _for_network(opened, wanted, kernel_shapes(wanted, "none"))


def open_for(source: str, abstract_params: Mapping[str, Any]) -> Source:
    """Opens the checkpoint that `load_params` would load, for its name and path."""
    together = on_all_processes(abstract_params)
    # No weight depends on the activation, which T5X's checkpoints do not tell.
    return open_checkpoint(source, activation="gelu", together=together)


def on_all_processes(abstract_params: Mapping[str, Any]) -> bool:
    """Whether parameters are sharded over several processes, which then load together.

    Args:
        abstract_params: as for `load_params`.
    """
    places = (leaf.sharding for leaf in _flat(abstract_params).values())
    return processes.of_all(d for one in places if one for d in one.device_set)


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    return {"/".join(key): leaf for key, leaf in flatten_dict(dict(params)).items()}


def _verify(opened: Source, params: Mapping[str, Any]) -> None:
    """Checks the loaded arrays that our store saved in the same layout and type."""
    unchanged = {
        name: array
        for name, array in _flat(params).items()
        if name in opened.stored
        and opened.stored[name].shape == array.shape
        and opened.stored[name].dtype == array.dtype
    }
    check_sums(opened, integrity.checksums(unchanged))


def _verify_adapters(opened: Source) -> None:
    """Checks adapters and their base; the first process reads both once."""
    if opened.format == "specialize":
        sharding.by_leader(lambda: verify_run(opened))


def _for_network(
    opened: Source, wanted: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, LazyTensor], list[str]]:
    """The source's tensors in the layout of `wanted`, and notes about changes.

    `shapes` are those of `wanted`, as if nothing were quantised.
    """
    notes: list[str] = []
    tensors = dict(opened.tensors)
    embedding = wanted.get(names.EMBEDDING)
    if embedding is not None:
        if embedding.shape[0] < opened.config.vocab_size:
            tokenizer_files.check_rows(opened.companions, embedding.shape[0])
        tensors, note = vocabulary_rows.adapted(tensors, embedding.shape[0])
        if note is not None:
            notes.append(note)
    found = names.laid_out(tensors, names.layout_of(wanted))
    lines = names.differences(
        {name: tensor.shape for name, tensor in found.items()},
        shapes,
    )
    if lines:
        raise InputError(
            "\n".join(
                [f"{opened.path} does not fit the network ({len(lines)} tensors):"]
                + lines
                + [
                    "Name the model file (t5x_configs/models) that belongs to these "
                    "weights, or the weights that belong to this network."
                ]
            )
        )
    # If the layouts agree, the stored tensor itself is read, not its layers.
    for name, tensor in opened.stored.items():
        if not notes and name in found and tensor.shape == found[name].shape:
            found[name] = tensor
    return found, notes


def _read(
    tensors: Mapping[str, LazyTensor],
    wanted: Mapping[str, Any],
    quantization: str,
    name: str,
) -> dict[str, jax.Array]:
    """The array of a tensor, or those of a kernel that is quantised, by their names."""
    if name in wanted:
        return {name: _placed(tensors[name], wanted[name])}
    place = name.removesuffix("kernel")
    pair = (f"{place}{CODES}", f"{place}{SCALES}")
    leaves = tuple(wanted[one] for one in pair)
    arrays = _placed_quantized(tensors[name], leaves, quantization)
    return dict(zip(pair, arrays, strict=True))


def _placed_quantized(
    tensor: LazyTensor, leaves: tuple[Any, Any], kind: str
) -> tuple[jax.Array, jax.Array]:
    """Quantises a kernel onto the shardings of its codes and of its scales."""
    block = tensor.shape[0] // leaves[1].shape[0]
    found: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
    lock = threading.Lock()

    def part(index: Any, which: int) -> np.ndarray:
        # Rows of the tensor; the shards of both arrays have the same ones.
        rows = tensor.shape[0] // leaves[which].shape[0]
        first, *rest = (
            range(*one.indices(size))
            for one, size in zip(index, leaves[which].shape, strict=True)
        )
        where = (
            slice(first.start * rows, first.stop * rows),
            *(slice(one.start, one.stop) for one in rest),
        )
        key = tuple((one.start, one.stop) for one in where)
        with lock:
            if key not in found:
                found[key] = _quantized(tensor, where, kind, block)
            return found[key][which]

    arrays = []
    for which, leaf in enumerate(leaves):
        whole = tuple(slice(None) for _ in tensor.shape)
        if leaf.sharding is None:
            arrays.append(jax.numpy.asarray(part(whole, which)))
        else:
            read = functools.partial(part, which=which)
            shape = tuple(leaf.shape)
            arrays.append(jax.make_array_from_callback(shape, leaf.sharding, read))
    return arrays[0], arrays[1]


def _quantized(
    tensor: LazyTensor, where: Index, kind: str, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """The codes and scales of a part of a tensor, of which little is held at a time."""
    sizes = [one.stop - one.start for one in where]
    bytes_per_code = per_byte(kind)
    codes = np.empty([sizes[0] // bytes_per_code, *sizes[1:]], code_type(kind))
    scales = np.empty([sizes[0] // block, *sizes[1:]], SCALE_TYPE)
    if tensor.parts is not None:
        # One layer of a stack after another, as their files have them.
        axis = tensor.parts[1]
        for number in range(sizes[axis]):
            own = slice(where[axis].start + number, where[axis].start + number + 1)
            one = tensor.read([*where[:axis], own, *where[axis + 1 :]])
            here = (slice(None),) * axis + (slice(number, number + 1),)
            codes[here], scales[here] = quantize(one, kind, block)
        return codes, scales
    row_bytes = max(1, tensor.dtype.itemsize * math.prod(sizes[1:]))
    step = max(1, _PART // (row_bytes * block)) * block
    for start in range(0, sizes[0], step):
        stop = min(start + step, sizes[0])
        rows = slice(where[0].start + start, where[0].start + stop)
        one = tensor.read([rows, *where[1:]])
        packed = slice(start // bytes_per_code, stop // bytes_per_code)
        scaled = slice(start // block, stop // block)
        codes[packed], scales[scaled] = quantize(one, kind, block)
    return codes, scales


def _placed(tensor: LazyTensor, leaf: Any) -> jax.Array:
    """Reads a tensor onto its sharding, each part once however many devices hold it."""
    parts: dict[Any, np.ndarray] = {}
    lock = threading.Lock()

    def part(index: Any) -> np.ndarray:
        key = tuple(s.indices(n)[:2] for s, n in zip(index, tensor.shape, strict=True))
        with lock:
            if key not in parts:
                parts[key] = tensor.read(index).astype(leaf.dtype, copy=False)
            return parts[key]

    if leaf.sharding is None:
        return jax.numpy.asarray(part(tuple(slice(None) for _ in tensor.shape)))
    return jax.make_array_from_callback(tuple(leaf.shape), leaf.sharding, part)
