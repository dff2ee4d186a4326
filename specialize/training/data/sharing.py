"""Examples that the processes of a run prepare together.

Each process prepares one part, a block of the records in their order, in a folder that
all of them can read: in the run's folder, on a shared disk or in a bucket. Then the
parts are joined to the same bytes that one process would have made: once, or once per
machine if the run's folder is in a bucket. A part is complete or absent, so after a
kill only the missing parts are prepared again.
"""

import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from specialize import outputs, paths, sharding
from specialize.training.data.stored_examples import (
    META,
    check_files,
    describe,
    none_left,
    read_meta,
)

# Fewer records are not worth a process of their own; more processes only wait.
FEWEST_RECORDS, MOST_PARTS = 2_000, 16
_CHUNK = 1 << 22

Path = str | os.PathLike[str]


def number_of_parts(task: Any) -> int:
    """The number of parts in which the processes of this run prepare a task.

    It is 1 if the task may look at several records at once: only our own preprocessors
    are known not to.
    """
    records = getattr(task.source, "records", None)
    if records is None or not all(map(_is_ours, task.preprocessors)):
        return 1
    return max(1, min(jax.process_count(), MOST_PARTS, records() // FEWEST_RECORDS))


def prepare_together(
    exchange: Path,
    folder: pathlib.Path,
    parts: int,
    prepare: Callable[[pathlib.Path, int], None],
) -> None:
    """Makes a folder of examples; all processes of the run call it.

    Args:
        exchange: New folder for the parts, which every process can read and write;
            local or in a bucket.
        folder: Folder of all examples, of this machine or shared.
        parts: Number of parts.
        prepare: Writes a part into a folder.

    Raises:
        InputError: No example is left, or as `prepare`.
    """
    index, remote = jax.process_index(), paths.in_bucket(exchange)
    places = [os.path.join(exchange, f"{n}-of-{parts}") for n in range(parts)]
    if index < parts and outputs.kind_of(places[index]) is None:
        with outputs.staged_directory(places[index], "part") as staged:
            prepare(staged, index)
    sharding.barrier("parts are prepared")
    if index == 0 or remote:
        _join_once(places, folder)
    sharding.barrier("parts are joined")
    _join_once(places, folder)  # on a disk that process 0 does not write to
    sharding.barrier("parts are not needed")
    if index == 0 and not remote:
        shutil.rmtree(exchange, ignore_errors=True)


def _join_once(places: Sequence[str], folder: pathlib.Path) -> None:
    with paths.locked(folder):
        if not (folder / META).exists():
            with outputs.staged_directory(folder, "examples", replace=True) as staged:
                join([paths.local(place) for place in places], staged)


def join(parts: Sequence[pathlib.Path], folder: pathlib.Path) -> None:
    """Writes the examples of all parts, in their order, and what describes them.

    Args:
        parts: Folders of the parts.
        folder: An empty folder.

    Raises:
        InputError: A part is damaged, or no example is left.
    """
    found = [read_meta(part) for part in parts]
    for part, meta in zip(parts, found, strict=True):
        check_files(part, meta)
    features = {name: kind for meta in found for name, kind in meta.features.items()}
    for name in (*features, "lengths", "ids"):
        with open(folder / f"{name}.bin", "wb") as target:
            for part, meta in zip(parts, found, strict=True):
                if meta.examples:
                    with open(part / f"{name}.bin", "rb") as source:
                        shutil.copyfileobj(source, target, _CHUNK)
    ends = np.zeros(0, np.int64)
    for part in parts:
        own = np.fromfile(part / "id_ends.bin", np.int64)
        ends = np.concatenate([ends, own + (ends[-1] if len(ends) else 0)])
    (folder / "id_ends.bin").write_bytes(ends.tobytes())
    counts = {name: sum(m.counts[name] for m in found) for name in found[0].counts}
    describe(folder, found[0].task, found[0].split, features, counts)
    if not len(ends):
        raise none_left(read_meta(folder))


def _is_ours(step: Any) -> bool:
    while hasattr(step, "func"):
        step = step.func
    module = getattr(step, "__module__", None) or type(step).__module__
    return module.partition(".")[0] in ("specialize_tasks", "seqio")
