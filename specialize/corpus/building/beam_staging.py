"""The folder that Beam's workers and their launcher share: shards, and one summary.

One worker writes each compressed shard; the summary has the counts of all workers. The
launcher reads both.
"""

# pyright: basic, reportMissingImports=false
# Beam is not installed where the type checker runs.

import contextlib
import json
import os
from collections.abc import Generator, Iterable, Iterator

import apache_beam as ab
import numpy as np
from apache_beam.io.filesystems import FileSystems

from specialize import typed_json
from specialize.corpus.storage import shards
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.record_order import compressed
from specialize.corpus.storage.statistics import FormatStatistics
from specialize.outputs import place_of_work, scratch

Path = str | os.PathLike[str]

_SUMMARY = "summary.json"


class Summary:
    """Counts of some samples and records, which can be added in any order."""

    def __init__(self) -> None:
        self.funnel = Funnel()
        self.statistics: dict[str, FormatStatistics] = {}

    def merge(self, other: "Summary") -> None:
        """Adds the counts of another worker."""
        self.funnel.merge(other.funnel)
        for name, part in other.statistics.items():
            self.statistics.setdefault(name, FormatStatistics()).merge(part)


def write_shard(
    group: tuple[tuple[str, int], Iterable[tuple[int, bytes]]], folder: str
) -> tuple[str, int, int]:
    """Sorts and compresses the records of one shard; returns format, number, count."""
    (name, shard), records = group
    ordered = sorted(records)
    data = compressed(frame for _, frame in ordered)
    # A worker that Beam retries writes the same bytes to the same file.
    with FileSystems.create(
        FileSystems.join(folder, f"{name}-{shard}"),
        compression_type=ab.io.filesystem.CompressionTypes.UNCOMPRESSED,
    ) as stream:
        stream.write(data)
    return name, shard, len(ordered)


def write_summary(
    folder: str, summary: Summary, files: list[tuple[str, int, int]]
) -> None:
    """Writes the counts of a whole run and the list of its shards."""
    statistics = {
        name: {
            "inputs": part.inputs.tolist(),
            "targets": part.targets.tolist(),
            "origins": part.origins.tolist(),
            "kept": part.kept,
            "sampled": part.sampled,
        }
        for name, part in summary.statistics.items()
    }
    value = {
        "funnel": summary.funnel.to_json(),
        "statistics": statistics,
        "files": sorted(files),
    }
    with FileSystems.create(FileSystems.join(folder, _SUMMARY)) as stream:
        stream.write(json.dumps(value).encode())


def read_summary(
    folder: str,
) -> tuple[Funnel, dict[str, FormatStatistics], list[tuple[str, int, int]]]:
    """Reads what `write_summary` wrote: funnel, statistics by format, shards."""
    with FileSystems.open(FileSystems.join(folder, _SUMMARY)) as stream:
        value = typed_json.decode(stream.read(), typed_json.Object, folder)
    statistics = {
        name: FormatStatistics(
            np.asarray(part["inputs"], np.int64),
            np.asarray(part["targets"], np.int64),
            np.asarray(part["origins"], np.int64),
            part["kept"],
            part["sampled"],
        )
        for name, part in value["statistics"].items()
    }
    files = [(str(n), int(shard), int(count)) for n, shard, count in value["files"]]
    return Funnel.from_json(value["funnel"], folder), statistics, files


def blocks(
    folder: str,
    statistics: dict[str, FormatStatistics],
    files: list[tuple[str, int, int]],
    num_shards: int,
) -> Iterator[shards.Block]:
    """Yields for `shards.write_shards` the statistics, then one block per shard."""
    yield shards.Block(num_shards, {}, statistics)
    for name, shard, count in files:
        path = FileSystems.join(folder, f"{name}-{shard}")
        uncompressed = ab.io.filesystem.CompressionTypes.UNCOMPRESSED
        with FileSystems.open(path, compression_type=uncompressed) as stream:
            data = stream.read()
        yield shards.Block(num_shards, {(name, shard): (count, data)}, {})


@contextlib.contextmanager
def shared_folder(out: Path, staging: str | None) -> Generator[str]:
    """The folder named `staging`, or a temporary one beside `out`."""
    if staging is not None:
        yield staging
        return
    with scratch(place_of_work(out), ".staging") as folder:
        yield str(folder)
