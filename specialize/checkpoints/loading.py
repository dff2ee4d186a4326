"""Loads initial weights from any format onto the mesh, shard by shard."""

import concurrent.futures
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from specialize import sharding
from specialize.checkpoints import integrity, names, vocabulary_rows
from specialize.checkpoints.formats import tokenizer_files
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.checkpoints.opening import (
    check_sums,
    open_checkpoint,
    verify_run,
)
from specialize.checkpoints.source import Source
from specialize.errors import InputError
from specialize.progress import say, track

# Number of concurrent reads; each holds one array shard.
_READERS = 4


def load_params(
    source: str, abstract_params: Mapping[str, Any], *, quiet: bool = False
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

    Returns:
        The tree with arrays, as the same kind of mapping as `abstract_params`.

    Raises:
        InputError: the source cannot be read, or tensors are missing, unexpected or
            have wrong shapes for this network (all are named).
    """
    frozen = isinstance(abstract_params, FrozenDict)
    wanted: dict[str, Any] = {
        "/".join(key): leaf for key, leaf in flatten_dict(dict(abstract_params)).items()
    }
    # No weight depends on the activation, which T5X's checkpoints do not tell.
    opened = open_checkpoint(source, activation="gelu")
    tensors, notes = _for_network(opened, wanted)
    if opened.adapters is not None:
        _verify_adapters(opened)
    if not quiet and jax.process_index() == 0:
        for note in [*opened.notes, *notes]:
            say(f"{source}: {note}")
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        arrays = track(
            pool.map(lambda name: _placed(tensors[name], wanted[name]), wanted),
            f"load {opened.format}",
            total=len(wanted),
        )
        params = unflatten_dict(
            {
                tuple(name.split("/")): array
                for name, array in zip(wanted, arrays, strict=True)
            }
        )
    if opened.format == "specialize" and opened.adapters is None:
        _verify(opened, params)
    return freeze(params) if frozen else params


def _verify(opened: Source, params: Mapping[str, Any]) -> None:
    """Checks the loaded arrays that our store saved in the same layout and type."""
    loaded: dict[str, Any] = {
        "/".join(key): array for key, array in flatten_dict(dict(params)).items()
    }
    unchanged = {
        name: array
        for name, array in loaded.items()
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
    opened: Source, wanted: Mapping[str, Any]
) -> tuple[dict[str, LazyTensor], list[str]]:
    """The source's tensors in the layout of `wanted`, and notes about changes."""
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
        {name: tuple(leaf.shape) for name, leaf in wanted.items()},
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
