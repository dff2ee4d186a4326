"""The verifications of all samples between the two passes, in files.

A corpus may have more samples than memory holds verifications. They are written to a
log in the order of the samples; the decisions need them by question, and get numbers
only, sorted in files (`sorted_runs`). Memory grows with the number of questions, not
with the number of samples.
"""

import itertools
import operator
import os
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from specialize.corpus.building.decisions import (
    DROP,
    Member,
    Verification,
    count,
    decide_question,
    nothing_kept,
)
from specialize.corpus.spec import AcceptanceSpec
from specialize.corpus.storage.funnel import Funnel
from specialize.corpus.storage.sorted_runs import SortedRuns

# Questions in the order of their first samples. `number` counts samples; `place` is
# where the verification begins in the log.
_ROW = np.dtype(
    [
        ("question", "<u4"),
        ("sample", "<i8"),
        ("number", "<u8"),
        ("right", "?"),
        ("place", "<u8"),
    ]
)


class VerifiedChunk(NamedTuple):
    """The verifications of a chunk's samples.

    Attributes:
        verifications: one per sample.
        counts: number of samples of each line.
        checksum: of the lines, to notice a file that changes between the passes.
    """

    verifications: list[Verification]
    counts: list[int]
    checksum: int


class Verdicts:
    """The verifications of a run: first added, then decided about, then read again.

    Attributes:
        kept: number of samples that are kept; known after `decide`.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        """Holds no verifications.

        Args:
            folder: an empty folder for the files, which must exist as long as this.
        """
        self._folder = pathlib.Path(folder)
        self._log = self._folder / "verdicts"
        self._log.touch()
        self._rows = SortedRuns(self._folder / "by_question", _ROW)
        self._questions: dict[str, int] = {}
        self._chunks = 0
        self._funnel = Funnel()
        self._decisions: Any = None
        self.kept = 0

    def __len__(self) -> int:
        """Number of chunks."""
        return self._chunks

    @property
    def right(self) -> int:
        """Number of correct samples."""
        return self._funnel.total().verified

    def add(self, chunk: VerifiedChunk) -> None:
        """Adds the verifications of the next chunk."""
        verifications = chunk.verifications
        rows = np.empty(len(verifications), _ROW)
        first = len(self._rows)
        with open(self._log, "ab") as stream:
            pickle.dump((len(verifications), chunk.counts, chunk.checksum), stream)
            place = stream.tell()
            for index, one in enumerate(verifications):
                question = self._questions.setdefault(
                    one.problem_id, len(self._questions)
                )
                right = one.reason is None
                rows[index] = (question, one.sample, first + index, right, place)
                place += stream.write(pickle.dumps(tuple(one)))
                count(self._funnel, one)
        self._rows.append(rows)
        self._chunks += 1

    def decide(self, acceptance: AcceptanceSpec) -> Funnel:
        """Decides about every sample; see `decide_question`.

        Args:
            acceptance: which correct samples are kept.

        Returns:
            The funnel up to "verified" with the rejections so far. Counts that are
            added to it change it for all.

        Raises:
            InputError: a sample's number occurs twice in a question, or no sample is
                kept.
        """
        # A mapped file: its pages are not this process's own memory.
        self._decisions = np.memmap(
            self._folder / "decisions", np.uint8, "w+", shape=max(1, len(self._rows))
        )
        with open(self._log, "rb") as log:

            def verification(place: tuple[int, int]) -> Verification:
                log.seek(place[1])
                return Verification(*pickle.load(log))

            for _, rows in itertools.groupby(self._rows, operator.itemgetter(0)):
                members = (
                    Member(sample, right, (number, place))
                    for _, sample, number, right, place in rows
                )
                for (number, _), decision in decide_question(
                    members, verification, acceptance, self._funnel
                ):
                    self._decisions[number] = decision
        self.kept = int(np.count_nonzero(self._decisions))
        if not self.kept:
            raise nothing_kept(self._funnel)
        return self._funnel

    def __iter__(self) -> Iterator[tuple[VerifiedChunk, list[int]]]:
        """Yields every chunk, with the decisions about its samples.

        Before `decide`, every decision is `DROP`.
        """
        begin = 0
        with open(self._log, "rb") as log:
            for _ in range(self._chunks):
                size, counts, checksum = pickle.load(log)
                read = [Verification(*pickle.load(log)) for _ in range(size)]
                found = [DROP] * size
                if self._decisions is not None:
                    found = self._decisions[begin : begin + size].tolist()
                begin += size
                yield VerifiedChunk(read, counts, checksum), found
