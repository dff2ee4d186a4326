"""Zarr arrays as lazy tensors, with TensorStore; local or in a bucket."""

import functools
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath

from specialize.checkpoints.formats import enclosure
from specialize.checkpoints.lazy_tensors import CHUNK_BYTES, Index, LazyTensor
from specialize.errors import InputError
from specialize.paths.arrays import kvstore as kvstore_in_bucket
from specialize.paths.store import explain

# Chunks are read once; a cache would only use memory.
_CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": 0}})


# Bytes of an array per byte of its files: even equal numbers take more room, 64 MiB of
# ones in zstd 6 kB. Arrays up to `_SMALL` bytes are always read.
_MOST_COMPRESSION = 1 << 16
_SMALL = 1 << 26


def check_links(folder: epath.Path) -> None:
    """Refuses a local checkpoint with links that lead out of its folder.

    Raises:
        InputError: there is such a link.
    """
    if "://" not in str(folder):
        enclosure.check_links(pathlib.Path(folder))


def kvstore(path: str) -> dict[str, Any]:
    """TensorStore's key-value store of a local path, gs:// or s3:// folder."""
    here = {"driver": "file", "path": os.path.join(os.path.abspath(path), "")}
    return kvstore_in_bucket(path) or here


def open_all(
    specs: Mapping[str, dict[str, Any]],
    where: str,
    *,
    missing_is_zero: Callable[[str], bool] = lambda name: False,
) -> dict[str, LazyTensor]:
    """Opens arrays concurrently and reads only their metadata.

    Args:
        specs: TensorStore specs of zarr arrays by name.
        where: path of the checkpoint, for messages.
        missing_is_zero: whether missing chunks of an array are zeros. TensorStore may
            leave out chunks of zeros; but a parameter that lost a file would then
            silently become zero.

    Returns:
        Lazy tensors by name.

    Raises:
        InputError: arrays cannot be opened, or are larger than their files can be (all
            are named); when one is read, a chunk is missing, truncated or damaged.
    """
    pending = {
        name: ts.open(
            {**spec, "fill_missing_data_reads": missing_is_zero(name)},
            open=True,
            read=True,
            context=_CONTEXT,
        )
        for name, spec in specs.items()
    }
    stores: dict[str, Any] = {}
    failed: list[str] = []
    for name, future in pending.items():
        try:
            store = future.result()
        except Exception as error:  # TensorStore raises many types.
            explain(where, "read", error)
            failed.append(f"  {name}: {_short(error)}")
            continue
        stores[name] = store
    failed += _too_large(stores, specs, missing_is_zero)
    if failed:
        raise InputError(
            "\n".join(
                [f"{where}: {len(failed)} of {len(specs)} arrays cannot be opened:"]
                + failed
                + ["Fetch or write the checkpoint again."]
            )
        )
    return {
        name: LazyTensor(
            tuple(store.shape), store.dtype.numpy_dtype, _reader(store, name, where)
        )
        for name, store in stores.items()
    }


def _too_large(
    stores: Mapping[str, Any],
    specs: Mapping[str, dict[str, Any]],
    missing_is_zero: Callable[[str], bool],
) -> list[str]:
    """A line for each array that would need more memory than its files can hold.

    Arrays that may leave out zeros, those of an optimizer, are measured by the largest
    of the others.
    """
    sizes = {name: _nbytes(store, store.shape) for name, store in stores.items()}
    known = [size for name, size in sizes.items() if not missing_is_zero(name)]
    on_disk = functools.cache(_bytes_in)
    lines: list[str] = []
    for name, store in stores.items():
        size, limit = sizes[name], 8 * max(known, default=0)
        if not missing_is_zero(name):
            files = on_disk(
                specs[name]["kvstore"].get("base", specs[name]["kvstore"])["path"]
            )
            limit = size if files is None else files * _MOST_COMPRESSION
        chunks = tuple(store.chunk_layout.read_chunk.shape or ())  # None: a scalar
        chunk = _nbytes(store, chunks)
        if size > max(limit, _SMALL) or chunk > max(size, _SMALL):
            lines.append(
                f"  {name}: shape {tuple(store.shape)} in chunks of {chunks} needs "
                f"{max(size, chunk)} bytes, more than its files can hold"
            )
    return lines


def _nbytes(store: Any, shape: Iterable[int]) -> int:
    return math.prod(map(int, shape)) * store.dtype.numpy_dtype.itemsize


def _bytes_in(folder: str) -> int | None:
    """Bytes of all files of a local folder; None for a bucket."""
    if not os.path.isdir(folder):
        return None
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, files in os.walk(folder)
        for name in files
    )


def write(tensor: LazyTensor, folder: str) -> dict[str, Any]:
    """Writes a tensor as a zarr array in its own folder, block by block.

    Returns:
        The zarr metadata: shape, chunks, compressor.
    """
    first = next(tensor.blocks())[0]
    metadata = {
        "shape": list(tensor.shape),
        "chunks": _chunks([part.stop - part.start for part in first], tensor.dtype),
        "compressor": {"id": "zstd", "level": 1},
    }
    store = ts.open(
        {
            "driver": "zarr",
            "kvstore": kvstore(folder),
            "dtype": tensor.dtype.name,
            "metadata": metadata,
            "store_data_equal_to_fill_value": True,
        },
        create=True,
        open=False,
        write=True,
        context=_CONTEXT,
    ).result()
    for where, block in tensor.blocks():
        store[where].write(block.read()).result()
    return metadata


def _reader(store: Any, name: str, where: str) -> Callable[[Index], np.ndarray]:
    def load(index: Index) -> np.ndarray:
        try:
            return store[index].read().result() if index else store.read().result()
        except Exception as error:
            explain(where, "read", error)
            raise InputError(
                f"{where}: {name} cannot be read: {_short(error)}. A file of it is "
                "missing, truncated or damaged; fetch or write the checkpoint again."
            ) from error

    return load


def _chunks(shape: list[int], dtype: np.dtype) -> list[int]:
    """Divides the longest axis by its least factor until a chunk fits."""
    chunk = list(shape)
    while np.prod(chunk, dtype=np.int64) * dtype.itemsize > CHUNK_BYTES:
        axis = int(np.argmax(chunk))
        size = chunk[axis]
        chunk[axis] = next(size // f for f in range(2, size + 1) if size % f == 0)
    return [max(1, size) for size in chunk]


def _short(error: Exception, limit: int = 160) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r" \[tensorstore_spec=.*", "", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
