"""The order of records within a shard: by a hash of their id.

A question has up to fifty samples, which arrive together. Readers that shuffle within a
small buffer would train on one question at a time, so a corpus is written mixed: a
record's id decides its shard and its place there. The files then depend on the records
alone, not on the order of the input, the number of processes, or the engine.

It is an external sort. Every process appends its records, serialised, to a spool file
of its own and keeps (key, place); at the end each shard's keys are sorted, and its
records are fetched in that order and compressed. Only keys are held in memory.
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

# Where a serialised record stands in the spool.
_ENTRY = np.dtype([("key", "<u8"), ("file", "<u4"), ("offset", "<u8"), ("size", "<u4")])

# Records of a gzip member: enough to compress well, few enough to hold.
_MEMBER_RECORDS = 256


class Spooled(NamedTuple):
    """Records of a chunk, in the spool.

    Attributes:
        entries: by format and shard, one `_ENTRY` a record.
        statistics: by format.
    """

    entries: Mapping[Place, Shaped[np.ndarray, " N"]]
    statistics: Mapping[str, FormatStatistics]


class Gather(NamedTuple):
    """The records of one shard: what `gather` is asked for."""

    folder: str
    place: Place
    entries: Shaped[np.ndarray, " N"]
    num_shards: int


def place_of(record_id: str, format: str, num_shards: int) -> Place:
    """The format and shard of a record."""
    return format, zlib.crc32(record_id.encode()) % num_shards


def order_of(record_id: str) -> int:
    """What records of a shard are sorted by: 63 bits of a hash of the id."""
    digest = hashlib.blake2b(record_id.encode(), digest_size=8).digest()
    # 63: Beam's coder of integers is signed.
    return int.from_bytes(digest, "little") >> 1


def compressed(frames: Iterable[bytes]) -> bytes:
    """A shard's file: records of `tfrecord.frame` in their order, as gzip members."""
    waiting = iter(frames)
    members: list[bytes] = []
    while batch := list(itertools.islice(waiting, _MEMBER_RECORDS)):
        members.append(tfrecord.compress(batch))
    return b"".join(members)


class SpoolWriter:
    """This process's file in the spool."""

    def __init__(self, folder: str | os.PathLike[str]):
        """Names it after the process.

        Args:
            folder: the spool, shared by the processes of a run.
        """
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
            InputError: a record that cannot be stored.
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
    """What the chunks of a run spooled, on its way to shards."""

    def __init__(self, folder: str | os.PathLike[str], num_shards: int):
        """Starts empty.

        Args:
            folder: the spool.
            num_shards: files a format.
        """
        self._folder = os.fspath(folder)
        self._num_shards = num_shards
        self._entries: dict[Place, list[Shaped[np.ndarray, " N"]]] = {}
        self._statistics: dict[str, FormatStatistics] = {}

    def add(self, part: Spooled) -> None:
        """Takes in what one chunk spooled."""
        for place, entries in part.entries.items():
            self._entries.setdefault(place, []).append(entries)
        for name, statistics in part.statistics.items():
            self._statistics.setdefault(name, FormatStatistics()).merge(statistics)

    def statistics(self) -> Block:
        """A block without records that carries the statistics of all."""
        return Block(self._num_shards, {}, dict(self._statistics))

    def tasks(self) -> Iterator[Gather]:
        """One a shard that holds records, in the order of the files."""
        for name in FORMATS:
            for shard in range(self._num_shards):
                found = self._entries.pop((name, shard), None)
                if found is not None:
                    entries = np.concatenate(found)
                    yield Gather(self._folder, (name, shard), entries, self._num_shards)

    def __len__(self) -> int:
        return len(self._entries)


def gather(task: Gather) -> Block:
    """Fetches a shard's records in their order and compresses them."""
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
