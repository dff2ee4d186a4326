"""The order of records within a shard: by a hash of their id.

A question has up to fifty samples, which arrive together. Readers that shuffle within a
small buffer would train on one question at a time, so a corpus is written mixed: a
record's id decides its shard and its position there. The files then depend on the
records alone, not on the order of the input, the number of processes, or the engine.

This is an external sort. Every process appends its serialised records to its own spool
file and keeps (key, position); at the end each shard's keys are sorted, and its records
are read in that order and compressed. Only keys are held in memory.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from specialize.corpus.choices import FORMATS
from specialize.corpus.records import DistillRecord, Fingerprint
from specialize.corpus.storage import tfrecord
from specialize.corpus.storage.shards import Block
from specialize.corpus.storage.statistics import FormatStatistics
from specialize.corpus.storage.stored_record import encode_record

# (format, shard)
Place = tuple[str, int]

# The position of a serialised record in the spool.
_ENTRY = np.dtype([("key", "<u8"), ("file", "<u4"), ("offset", "<u8"), ("size", "<u4")])

# Records per gzip member: enough to compress well, few enough for memory.
_MEMBER_RECORDS = 256


class Spooled(NamedTuple):
    """Records of a chunk, in the spool.

    Attributes:
        entries: one `_ENTRY` per record, by format and shard.
        statistics: statistics by format.
    """

    entries: Mapping[Place, Shaped[np.ndarray, " N"]]
    statistics: Mapping[str, FormatStatistics]


class Gather(NamedTuple):
    """The argument of `gather`: the records of one shard."""

    folder: str
    place: Place
    entries: Shaped[np.ndarray, " N"]
    num_shards: int


def place_of(record_id: str, format: str, num_shards: int) -> Place:
    """The format and shard of a record."""
    return format, zlib.crc32(record_id.encode()) % num_shards


def order_of(record_id: str) -> int:
    """The sort key of a record in its shard: 63 bits of a hash of the id."""
    digest = hashlib.blake2b(record_id.encode(), digest_size=8).digest()
    # 63: Beam's coder of integers is signed.
    return int.from_bytes(digest, "little") >> 1


def compressed(frames: Iterable[bytes]) -> bytes:
    """The content of a shard: records of `tfrecord.frame`, as gzip members."""
    waiting = iter(frames)
    members: list[bytes] = []
    while batch := list(itertools.islice(waiting, _MEMBER_RECORDS)):
        members.append(tfrecord.compress(batch))
    return b"".join(members)


class SpoolWriter:
    """This process's file in the spool, named after the process."""

    def __init__(self, folder: str | os.PathLike[str]):
        self._file = os.getpid()
        self._path = pathlib.Path(folder) / str(self._file)

    def append(
        self,
        records: Sequence[DistillRecord],
        fingerprint: Fingerprint,
        num_shards: int,
    ) -> Spooled:
        """Serialises records into the spool.

        Raises:
            InputError: a record cannot be stored.
        """
        entries: dict[Place, list[tuple[int, int, int, int]]] = {}
        statistics: dict[str, FormatStatistics] = {}
        with open(self._path, "ab") as stream:
            offset = stream.seek(0, os.SEEK_END)
            for record in records:
                data = tfrecord.frame(encode_record(record, fingerprint))
                stream.write(data)
                entry = (order_of(record.id), self._file, offset, len(data))
                offset += len(data)
                place = place_of(record.id, record.format, num_shards)
                entries.setdefault(place, []).append(entry)
                statistics.setdefault(record.format, FormatStatistics()).add(record)
        arrays = {place: np.array(rows, _ENTRY) for place, rows in entries.items()}
        return Spooled(arrays, statistics)


class Collected:
    """The spooled records of all chunks; `tasks` divides them into shards."""

    def __init__(self, folder: str | os.PathLike[str], num_shards: int):
        self._folder = os.fspath(folder)
        self._num_shards = num_shards
        self._entries: dict[Place, list[Shaped[np.ndarray, " N"]]] = {}
        self._statistics: dict[str, FormatStatistics] = {}

    def add(self, part: Spooled) -> None:
        """Adds the records of one chunk."""
        for place, entries in part.entries.items():
            self._entries.setdefault(place, []).append(entries)
        for name, statistics in part.statistics.items():
            self._statistics.setdefault(name, FormatStatistics()).merge(statistics)

    def statistics(self) -> Block:
        """A block without records that carries the statistics of all."""
        return Block(self._num_shards, {}, dict(self._statistics))

    def tasks(self) -> Iterator[Gather]:
        """Yields one task per shard with records, in the order of the files."""
        for name in FORMATS:
            for shard in range(self._num_shards):
                found = self._entries.pop((name, shard), None)
                if found is not None:
                    entries = np.concatenate(found)
                    yield Gather(self._folder, (name, shard), entries, self._num_shards)

    def __len__(self) -> int:
        return len(self._entries)


def gather(task: Gather) -> Block:
    """Reads a shard's records in their order and compresses them."""
    entries = task.entries[np.argsort(task.entries["key"], kind="stable")]
    with contextlib.ExitStack() as stack:
        data = compressed(_fetch(pathlib.Path(task.folder), entries, stack))
    return Block(task.num_shards, {task.place: (len(entries), data)}, {})


def _fetch(
    folder: pathlib.Path,
    entries: Shaped[np.ndarray, " N"],
    stack: contextlib.ExitStack,
) -> Iterator[bytes]:
    files: dict[int, int] = {}
    for row in entries:
        file = int(row["file"])
        if file not in files:
            files[file] = os.open(folder / str(file), os.O_RDONLY)
            stack.callback(os.close, files[file])
        yield os.pread(files[file], int(row["size"]), int(row["offset"]))
