"""Examples that the processes of a run prepare together.

Each process prepares one part, a block of the records in their order, in a folder that
all of them can read: in the run's folder, on a shared disk or in a bucket. Then the
parts are joined to the same bytes that one process would have made: once, or once per
machine if the run's folder is in a bucket. A part is complete or absent, so after a
kill only the missing parts are prepared again.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from specialize import outputs, paths, processes, sharding
from specialize.digests import file_digest
from specialize.training.data import foreign_tasks
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


def check_sizes(tasks: Sequence[Any], split: str) -> None:
    """Checks that all processes of the run have files of the same sizes.

    It is quick. What is equal decides how the processes prepare a task, so that none
    waits for another one in vain.

    Raises:
        InputError: They have not, or a task has no such files.
    """

    def size(path: pathlib.Path) -> int | None:
        return path.stat().st_size if path.is_file() else None

    _agree(tasks, split, size, "sizes of files")


def check_contents(tasks: Sequence[Any], split: str) -> None:
    """Checks that all processes of the run prepare parts of the same files.

    Raises:
        InputError: They do not.
    """
    _agree(tasks, split, file_digest, "files")


def _agree(
    tasks: Sequence[Any], split: str, of: Callable[[pathlib.Path], Any], what: str
) -> None:
    found: dict[str, Any] = {}
    for task in tasks:
        with foreign_tasks.named_errors(task, split):
            files = task.source.list_shards(split) if split in task.splits else ()
            found[task.name] = [of(pathlib.Path(str(path))) for path in files]
    processes.agree(
        processes.comparable(found),
        what=what,
        remedy="Give every process the same corpora, in a bucket or as equal copies.",
    )


@dataclasses.dataclass(frozen=True)
class Work:
    """A folder of examples that the processes make together.

    Attributes:
        exchange: New folder for the parts, which every process can read and write;
            local or in a bucket.
        folder: Folder of all examples, of this machine or shared.
        parts: Number of parts.
        prepare: Writes a part, (its index, the number of parts), into a folder.
    """

    exchange: Path
    folder: pathlib.Path
    parts: int
    prepare: Callable[[pathlib.Path, tuple[int, int]], None]

    @property
    def places(self) -> list[str]:
        """The folder of each part."""
        names = (f"{n}-of-{self.parts}" for n in range(self.parts))
        return [os.path.join(self.exchange, name) for name in names]


def prepare_together(works: Sequence[Work]) -> None:
    """Makes folders of examples; all processes of the run call it.

    A process prepares its part of every folder before it waits for the others, and
    then joins the parts of every n-th folder if there are n processes.

    Raises:
        InputError: No example of a folder is left, or as `Work.prepare`.
    """
    if not works:
        return
    index, count = jax.process_index(), jax.process_count()
    for work in works:
        if index < work.parts and outputs.kind_of(work.places[index]) is None:
            with outputs.staged_directory(work.places[index], "part") as staged:
                work.prepare(staged, (index, work.parts))
    sharding.barrier("parts are prepared")
    # Processes that share a machine but no disk with the others begin with another
    # folder each.
    turns = [(index + n) % len(works) for n in range(len(works))]
    for n in turns:
        if n % count == index or paths.in_bucket(works[n].exchange):
            _join_once(works[n])
    sharding.barrier("parts are joined")
    for n in turns:
        _join_once(works[n])  # on a disk that no other process writes to
    sharding.barrier("parts are not needed")
    for n, work in enumerate(works):
        if n % count == index and not paths.in_bucket(work.exchange):
            shutil.rmtree(work.exchange, ignore_errors=True)


def _join_once(work: Work) -> None:
    folder = work.folder
    with paths.locked(folder):
        if not (folder / META).exists():
            with outputs.staged_directory(folder, "examples", replace=True) as staged:
                join([paths.local(place) for place in work.places], staged)


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
