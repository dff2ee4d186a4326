"""Brings batches to the devices: each process makes its sequences in the background."""

import queue
import threading
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from specialize.sharding import batch_sharding
from specialize.training.data.batches import Batch, BatchLayout, BatchSource


class Fed(NamedTuple):
    """One step's batch on the devices.

    Attributes:
        step: number of the step, from 0.
        batch: global arrays, split over the axes data and fsdp.
        layout: what the batch holds.
    """

    step: int
    batch: dict[str, jax.Array]
    layout: BatchLayout


def global_batch(source: BatchSource, step: int, mesh: Mesh) -> dict[str, jax.Array]:
    """Makes a step's global batch, split over the mesh axes data and fsdp.

    This process makes only the sequences of its own devices.
    """
    rows = local_rows(source.batch_size, mesh)
    where = batch_sharding(mesh)
    return to_global_arrays(source.batch(step, rows), rows, source.batch_size, where)


def global_padding(source: BatchSource, mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch without examples, for its shapes, types and places."""
    rows = local_rows(source.batch_size, mesh)
    local = {name: values[rows] for name, values in source.padding().items()}
    return to_global_arrays(local, rows, source.batch_size, batch_sharding(mesh))


def local_rows(batch_size: int, mesh: Mesh) -> Int[np.ndarray, " R"]:
    """The sequences of the global batch on this process's devices, ascending."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    mine = [np.arange(batch_size)[index] for index in slices.values() if index]
    return np.unique(np.concatenate(mine))


def to_global_arrays(
    local: Batch, rows: Int[np.ndarray, " R"], batch_size: int, sharding: Any
) -> dict[str, jax.Array]:
    """Makes global arrays from this process's sequences."""

    def one(values: np.ndarray) -> jax.Array:
        def shard(index: Any) -> np.ndarray:
            first, last, _ = index[0].indices(batch_size)
            return values[np.searchsorted(rows, first) : np.searchsorted(rows, last)]

        shape = (batch_size, *values.shape[1:])
        return jax.make_array_from_callback(shape, sharding, shard)

    return {name: one(values) for name, values in local.items()}


def feed(
    source: BatchSource, mesh: Mesh, first: int, last: int, *, ahead: int = 2
) -> Generator[Fed]:
    """Yields the batches of the steps from `first` to `last` - 1 in order.

    A thread makes them in the background, at most `ahead` in advance. Its errors are
    raised here.
    """
    ready: queue.Queue[Fed | BaseException] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def offer(item: Fed | BaseException) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(first, last):
                if stop.is_set():
                    return
                layout = source.layout(step)
                source.prepare_ahead(step)
                offer(Fed(step, global_batch(source, step, mesh), layout))
        except BaseException as error:
            offer(error)

    worker = threading.Thread(target=work, name="batches", daemon=True)
    worker.start()
    try:
        for _ in range(first, last):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
