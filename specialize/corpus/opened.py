"""A corpus folder as one object for a notebook: its manifest and its records."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from specialize.corpus.alignment.targets import DistillRecord
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.storage.shards import open_corpus, read_shards


class Corpus:
    """The records of a corpus folder, read while they are iterated over.

    Iterating yields `DistillRecord`s: texts, student ids [S] and [L], and the teacher's
    rows as arrays (`target.teacher_ids` [L K], `target.teacher_logprobs` [L K] in nats,
    `target.tail` [L]).

    Args:
        folder: a folder that `specialize corpus build` wrote.

    Attributes:
        folder: the folder.
        manifest: fingerprint, counts, funnel and card of the corpus.

    Raises:
        InputError: the folder is not a corpus, or a shard is missing or damaged.

    Example:
        >>> corpus = specialize.Corpus("runs/corpus")
        >>> record = next(iter(corpus))
        >>> record.target.teacher_ids.shape == record.target.teacher_logprobs.shape
        True
        >>> len(corpus) == sum(len(corpus.only(name)) for name in corpus.formats)
        True
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, formats: Sequence[str] | None = None
    ):
        self.folder = pathlib.Path(folder)
        self.manifest: Manifest = open_corpus(folder)
        self.formats = tuple(self.manifest.formats if formats is None else formats)

    def only(self, *formats: str) -> "Corpus":
        """The same corpus, limited to these formats."""
        return Corpus(self.folder, formats=formats)

    def __iter__(self) -> Iterator[DistillRecord]:
        return read_shards(self.folder, formats=self.formats)

    def __len__(self) -> int:
        return sum(
            shard.records
            for name in self.formats
            for shard in self.manifest.shards_of(name)
        )

    def __repr__(self) -> str:
        return f"Corpus({os.fspath(self.folder)!r}, {len(self):,} records)"
