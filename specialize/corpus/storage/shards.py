"""A corpus folder: `corpus.json`, a dataset card, and sharded TFRecords of records.

The shards are `<format>-00000-of-0000N.tfrecord.gz`; `stored_record` defines their
records. The folder appears complete or not at all. A record's shard depends on its id
alone, and compression stores no time stamp, so equal records give equal files however
many processes made them.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from specialize import outputs, versions
from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.choices import RECORD_FORMATS
from specialize.corpus.records import Fingerprint
from specialize.corpus.spec import MAX_SHARDS
from specialize.corpus.storage import tfrecord
from specialize.corpus.storage.dataset_card import dataset_card
from specialize.corpus.storage.manifest import Manifest, Shard
from specialize.corpus.storage.statistics import FormatStatistics
from specialize.corpus.storage.stored_record import (
    MASS_SLACK,
    MAX_ROWS,
    decode_record,
    encode_record,
    normalise_rows,
    parse_example,
)
from specialize.digests import file_digest
from specialize.errors import InputError

__all__ = [
    "MASS_SLACK",
    "MAX_ROWS",
    "Block",
    "check_fingerprint",
    "check_output",
    "decode_record",
    "encode_block",
    "encode_record",
    "normalise_rows",
    "open_corpus",
    "parse_example",
    "read_shards",
    "shard_paths",
    "write_shards",
]

Path = str | os.PathLike[str]

KIND = "corpus"
DATASET_CARD = "README.md"

# Number of single records that `write_shards` compresses at once.
_BLOCK_RECORDS = 256


@dataclasses.dataclass(frozen=True)
class Block:
    """Records that a process encoded, ready to be appended to the shards.

    Attributes:
        num_shards: number of file shards per format.
        members: (number of records, gzip member) by (format, shard).
        statistics: statistics by format.
    """

    num_shards: int
    members: dict[tuple[str, int], tuple[int, bytes]]
    statistics: dict[str, FormatStatistics]


def check_output(out: Path, *, replace: bool = False) -> None:
    """Refuses, before any work, a folder that `write_shards` would refuse.

    Raises:
        InputError: `out` holds other files, or a corpus and `replace` is false.
    """
    if outputs.check_writable(out, KIND) and not replace:
        raise InputError(
            f"{out} already holds a corpus. Name another output folder, or replace "
            "it with --replace."
        )


def check_fingerprint(fingerprint: Fingerprint) -> None:
    """Refuses settings that the layout cannot hold.

    Raises:
        InputError: ids need more than 31 bits, or K is below 1.
    """
    if fingerprint.vocabulary_rows > MAX_ROWS:
        raise InputError(
            f"the student's vocabulary has {fingerprint.vocabulary_rows:,} rows; a "
            f"corpus stores ids in 31 bits, so {MAX_ROWS:,} at most. Choose another "
            "student."
        )
    if fingerprint.k < 1:
        raise InputError(f"k is {fingerprint.k}; a corpus needs at least 1.")


def encode_block(
    records: Sequence[DistillRecord], fingerprint: Fingerprint, *, num_shards: int
) -> Block:
    """Serialises and compresses records of any formats, for `write_shards`.

    Raises:
        InputError: as `encode_record`.
    """
    frames: dict[tuple[str, int], list[bytes]] = {}
    statistics: dict[str, FormatStatistics] = {}
    for record in records:
        data = tfrecord.frame(encode_record(record, fingerprint))
        shard = zlib.crc32(record.id.encode()) % num_shards
        frames.setdefault((record.format, shard), []).append(data)
        statistics.setdefault(record.format, FormatStatistics()).add(record)
    return Block(
        num_shards,
        {key: (len(parts), tfrecord.compress(parts)) for key, parts in frames.items()},
        statistics,
    )


def write_shards(
    records: Iterable[DistillRecord | Block],
    out_dir: Path,
    fingerprint: Fingerprint,
    *,
    num_shards: int = 4,
    card: Mapping[str, Any] | None = None,
    funnel: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    replace: bool = False,
) -> Manifest:
    """Writes a corpus folder, completely or not at all, in bounded memory.

    Args:
        records: records of any formats, or blocks of them.
        out_dir: a missing or empty folder, or an earlier corpus if `replace`.
        fingerprint: the corpus fingerprint.
        num_shards: number of file shards per format.
        card: origin of the data for the manifest and the dataset card: "teacher",
            "sampling", "licences", "sources".
        funnel: the funnel; a function is called after the last record.
        replace: whether an earlier corpus may be replaced.

    Returns:
        The manifest, as written.

    Raises:
        InputError: there are no records, the vocabulary or a record cannot be stored,
            or the folder holds other files. `out_dir` is then unchanged.
    """
    check_fingerprint(fingerprint)
    if not 1 <= num_shards <= MAX_SHARDS:
        raise InputError(f"num_shards is {num_shards}, expected 1 to {MAX_SHARDS}.")
    with outputs.staged_directory(out_dir, KIND, replace=replace) as folder:
        statistics: dict[str, FormatStatistics] = {}
        with _Files(folder, num_shards) as files:
            for block in _blocks(records, fingerprint, num_shards):
                files.append(block)
                for name, part in block.statistics.items():
                    statistics.setdefault(name, FormatStatistics()).merge(part)
            shards = files.finish()
        if not shards:
            raise InputError(
                f"no record is left to write to {out_dir}. The funnel shows why the "
                "samples were rejected; nothing was written."
            )
        written = Manifest(
            fingerprint=fingerprint,
            formats={
                name: statistics[name].summary()
                for name in RECORD_FORMATS
                if name in statistics
            },
            shards=tuple(shards),
            funnel=dict((funnel() if callable(funnel) else funnel) or {}),
            card=dict(card or {}),
        )
        outputs.write_json(folder / versions.CORPUS.file, written.to_json())
        outputs.write_text(folder / DATASET_CARD, dataset_card(written))
    return written


def open_corpus(folder: Path, **expected: Any) -> Manifest:
    """Reads a manifest and refuses a folder that does not fit or was changed.

    Args:
        folder: the corpus.
        **expected: fields of the fingerprint with the values they must have.

    Raises:
        InputError: as `Manifest.load`; a field differs (named, with both values); a
            shard is missing, or its bytes are not those that were written.
    """
    manifest = Manifest.load(folder)
    manifest.fingerprint.require(str(pathlib.Path(folder)), **expected)
    for shard in manifest.shards:
        path = pathlib.Path(folder) / shard.file
        size = path.stat().st_size if os.path.isfile(path) else None
        found = "is missing" if size is None else f"has {size:,} bytes"
        wanted = f"{shard.bytes:,}"
        if size == shard.bytes:
            # An unchanged file is read once.
            found, wanted = f"has sha256 {file_digest(path)}", shard.sha256
            if found == f"has sha256 {wanted}":
                continue
        raise InputError(
            f"shard {path} {found}, {versions.CORPUS.file} says {wanted}. Copy the "
            "folder again or rebuild the corpus."
        )
    return manifest


def shard_paths(folder: Path, format: str, **expected: Any) -> list[str]:
    """The files of one format, checked as by `open_corpus`."""
    shards = open_corpus(folder, **expected).shards_of(format)
    return [os.fspath(pathlib.Path(folder) / shard.file) for shard in shards]


def read_shards(
    folder: Path, *, formats: Sequence[str] | None = None, **expected: Any
) -> Iterator[DistillRecord]:
    """Yields the records of a corpus, format by format, without tensorflow.

    They have the stored precision; see `normalise_rows`.

    Args:
        folder: the corpus.
        formats: which formats to read (default: all of the corpus).
        **expected: fields of the fingerprint with the values they must have.

    Raises:
        InputError: as `open_corpus`; a shard is damaged (after which record).
    """
    manifest = open_corpus(folder, **expected)
    for name in manifest.formats if formats is None else formats:
        for shard in manifest.shards_of(name):
            path = pathlib.Path(folder) / shard.file
            count = 0
            try:
                with open(path, "rb") as stream:
                    for data in tfrecord.read_frames(stream):
                        yield decode_record(data, manifest.fingerprint.k)
                        count += 1
                if count != shard.records:
                    raise ValueError(f"it ends there, expected {shard.records}")
            except ValueError as error:
                raise InputError(
                    f"shard {path} is damaged after record {count}: {error}. Copy the "
                    "folder again or rebuild the corpus."
                ) from error


def _blocks(
    records: Iterable[DistillRecord | Block], fingerprint: Fingerprint, num_shards: int
) -> Iterator[Block]:
    waiting: list[DistillRecord] = []
    for item in records:
        if isinstance(item, DistillRecord):
            waiting.append(item)
        if waiting and (isinstance(item, Block) or len(waiting) == _BLOCK_RECORDS):
            yield encode_block(waiting, fingerprint, num_shards=num_shards)
            waiting = []
        if isinstance(item, Block):
            if item.num_shards != num_shards:
                raise ValueError(
                    f"a block made for {item.num_shards} shards, not {num_shards}"
                )
            yield item
    if waiting:
        yield encode_block(waiting, fingerprint, num_shards=num_shards)


class _Files:
    """The open shards of a folder that is being written."""

    def __init__(self, folder: pathlib.Path, num_shards: int) -> None:
        self._folder = folder
        self._num_shards = num_shards
        self._open: dict[tuple[str, int], BinaryIO] = {}
        self._records: dict[tuple[str, int], int] = {}
        self._digests: dict[tuple[str, int], Any] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, block: Block) -> None:
        """Appends a block's members to their files."""
        for (name, shard), (count, data) in block.members.items():
            if (name, 0) not in self._open:
                self._create(name)
            self._write((name, shard), count, data)

    def finish(self) -> list[Shard]:
        """Flushes every file to disk and describes it."""
        described: list[Shard] = []
        for key in sorted(
            self._open, key=lambda key: (RECORD_FORMATS.index(key[0]), key[1])
        ):
            if not self._records[key]:
                # A gzip file needs at least one member, even an empty one.
                self._write(key, 0, tfrecord.compress(()))
            stream = self._open[key]
            stream.flush()
            os.fsync(stream.fileno())
            described.append(
                Shard(
                    file=self._file(*key),
                    format=key[0],
                    records=self._records[key],
                    bytes=stream.tell(),
                    sha256=self._digests[key].hexdigest(),
                )
            )
        return described

    def _create(self, name: str) -> None:
        for shard in range(self._num_shards):
            path = self._folder / self._file(name, shard)
            self._open[name, shard] = self._stack.enter_context(open(path, "wb"))
            self._records[name, shard] = 0
            self._digests[name, shard] = hashlib.sha256()

    def _write(self, key: tuple[str, int], count: int, data: bytes) -> None:
        self._open[key].write(data)
        self._digests[key].update(data)
        self._records[key] += count

    def _file(self, name: str, shard: int) -> str:
        return f"{name}-{shard:05d}-of-{self._num_shards:05d}.tfrecord.gz"
