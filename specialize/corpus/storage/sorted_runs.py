"""Sorts rows of numbers of which not all fit in memory.

This is an external merge sort: as many rows as memory may hold are sorted and appended
to a file, as a run; readers merge the runs. Memory does not grow with the number of
rows.
"""

import heapq
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped

# Rows that are held, while they are added and while they are read.
_MOST_ROWS = 1 << 17
# Rows of one run that are read at once, however many runs there are.
_FEWEST_ROWS = 16


class SortedRuns:
    """Rows that are added in any order, and read in the order of all their fields."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        dtype: np.dtype[Any],
        *,
        most_rows: int | None = None,
    ):
        """Holds no rows.

        Args:
            path: a file that does not exist yet; it is created when memory is full.
            dtype: the fields of a row, those that decide the order first.
            most_rows: number of rows that are held in memory (default: 131,072).
        """
        self._path = pathlib.Path(path)
        self._dtype = dtype
        self._most = most_rows or _MOST_ROWS
        self._waiting: list[Shaped[np.ndarray, " N"]] = []
        self._held = 0
        # Number of rows of each run in the file.
        self._runs: list[int] = []

    def __len__(self) -> int:
        return sum(self._runs) + self._held

    def append(self, rows: Shaped[np.ndarray, " N"]) -> None:
        """Adds rows of the dtype."""
        self._waiting.append(rows)
        self._held += len(rows)
        if self._held >= self._most:
            run = self._sorted()
            with open(self._path, "ab") as stream:
                stream.write(run.tobytes())
            self._runs.append(len(run))
            self._waiting, self._held = [], 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yields the rows as tuples, in order."""
        block = max(_FEWEST_ROWS, self._most // (len(self._runs) + 1))
        runs: list[Iterator[tuple[Any, ...]]] = []
        begin = 0
        for size in self._runs:
            runs.append(self._run(begin, size, block))
            begin += size
        if self._waiting:
            rows = self._sorted()
            runs.append(
                _tuples(rows[at : at + block] for at in range(0, len(rows), block))
            )
        return heapq.merge(*runs)

    def _sorted(self) -> Shaped[np.ndarray, " N"]:
        rows = np.concatenate(self._waiting)
        names = self._dtype.names or ()
        # The last key of lexsort is the first to decide.
        return rows[np.lexsort([rows[name] for name in reversed(names)])]

    def _run(self, begin: int, size: int, block: int) -> Iterator[tuple[Any, ...]]:
        width = self._dtype.itemsize
        for at in range(begin, begin + size, block):
            count = min(block, begin + size - at)
            rows = np.fromfile(self._path, self._dtype, count, offset=at * width)
            yield from rows.tolist()


def _tuples(blocks: Iterator[Shaped[np.ndarray, " N"]]) -> Iterator[tuple[Any, ...]]:
    for rows in blocks:
        yield from rows.tolist()
