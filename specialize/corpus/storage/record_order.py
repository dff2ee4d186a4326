"""The order of records within a shard: by a hash of their id.

A question has up to fifty samples, which arrive together. Readers that shuffle within a
small buffer would train on one question at a time, so a corpus is written mixed: a
record's id decides its shard and its position there. The files then depend on the
records alone, not on the order of the input, the number of processes, or the engine.

This is an external sort. Every process appends its serialised records to its own spool
file; their keys and positions are sorted in files, too (`sorted_runs`). At the end the
records are read in that order, some hundreds at once, and compressed.
"""

import collections
import contextlib
import hashlib
import itertools
import operator
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.choices import FORMATS
from specialize.corpus.records import Fingerprint
from specialize.corpus.storage import tfrecord
from specialize.corpus.storage.shards import Block
from specialize.corpus.storage.sorted_runs import SortedRuns
from specialize.corpus.storage.statistics import FormatStatistics
from specialize.corpus.storage.stored_record import encode_record

# (format, shard)
Place = tuple[str, int]

# The order of a serialised record, and its position in the spool. `shard` counts the
# shards of all formats; `number` counts records, so that equal keys keep their order.
_ENTRY = np.dtype(
    [
        ("shard", "<u8"),
        ("key", "<u8"),
        ("number", "<u8"),
        ("file", "<u4"),
        ("offset", "<u8"),
        ("size", "<u4"),
    ]
)

# Records per gzip member: enough to compress well, few enough for memory.
_MEMBER_RECORDS = 256
# Records that `gather` reads at once: some members.
_GATHERED = 4 * _MEMBER_RECORDS


class Spooled(NamedTuple):
    """Records of a chunk, in the spool.

    Attributes:
        entries: one `_ENTRY` per record.
        statistics: statistics by format.
    """

    entries: Shaped[np.ndarray, " N"]
    statistics: Mapping[str, FormatStatistics]


class Gather(NamedTuple):
    """The argument of `gather`: records of one shard, as (file, offset, size)."""

    folder: str
    place: Place
    records: list[tuple[int, int, int]]
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
        entries = np.zeros(len(records), _ENTRY)
        statistics: dict[str, FormatStatistics] = {}
        with open(self._path, "ab") as stream:
            offset = stream.seek(0, os.SEEK_END)
            for index, record in enumerate(records):
                data = tfrecord.frame(encode_record(record, fingerprint))
                stream.write(data)
                name, shard = place_of(record.id, record.format, num_shards)
                shard += FORMATS.index(name) * num_shards
                key = order_of(record.id)
                entries[index] = (shard, key, 0, self._file, offset, len(data))
                offset += len(data)
                statistics.setdefault(record.format, FormatStatistics()).add(record)
        return Spooled(entries, statistics)


class Collected:
    """The spooled records of all chunks; `tasks` divides them into work."""

    def __init__(self, folder: str | os.PathLike[str], num_shards: int):
        self._folder = os.fspath(folder)
        self._num_shards = num_shards
        self._entries = SortedRuns(pathlib.Path(folder) / "order", _ENTRY)
        self._records: collections.Counter[int] = collections.Counter()
        self._statistics: dict[str, FormatStatistics] = {}

    def add(self, part: Spooled) -> None:
        """Adds the records of one chunk."""
        entries = part.entries.copy()
        first = len(self._entries)
        entries["number"] = np.arange(first, first + len(entries))
        self._entries.append(entries)
        self._records.update(entries["shard"].tolist())
        for name, statistics in part.statistics.items():
            self._statistics.setdefault(name, FormatStatistics()).merge(statistics)

    def statistics(self) -> Block:
        """A block without records that carries the statistics of all."""
        return Block(self._num_shards, {}, dict(self._statistics))

    def tasks(self) -> Iterator[Gather]:
        """Yields the records in the order of the files, some of one shard at once."""
        by_shard = itertools.groupby(self._entries, operator.itemgetter(0))
        for number, entries in by_shard:
            name, shard = divmod(int(number), self._num_shards)
            place = FORMATS[name], shard
            while some := list(itertools.islice(entries, _GATHERED)):
                records = [entry[3:] for entry in some]
                yield Gather(self._folder, place, records, self._num_shards)

    def __len__(self) -> int:
        """Number of tasks."""
        return sum(-(-count // _GATHERED) for count in self._records.values())


def gather(task: Gather) -> Block:
    """Reads records of a shard in their order and compresses them."""
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(task.folder)
        data = compressed(_fetch(folder, task.records, stack))
    return Block(task.num_shards, {task.place: (len(task.records), data)}, {})


def _fetch(
    folder: pathlib.Path,
    records: Sequence[tuple[int, int, int]],
    stack: contextlib.ExitStack,
) -> Iterator[bytes]:
    files: dict[int, int] = {}
    for file, offset, size in records:
        if file not in files:
            files[file] = os.open(folder / str(file), os.O_RDONLY)
            stack.callback(os.close, files[file])
        yield os.pread(files[file], size, offset)
