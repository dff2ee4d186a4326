"""The paths of the tasks' data, which are read only when data are.

| what | gin (`specialize_tasks.locations.`) | environment |
|---|---|---|
| corpus folder | `corpus_dir.path` | `SPECIALIZE_CORPUS_DIR` |
| benchmark files | `benchmarks_dir.path` | `SPECIALIZE_BENCHMARKS_DIR` |
| vocabulary | `vocabulary_path.path` | `SPECIALIZE_VOCABULARY` |

gin comes first. The import of this module reads nothing, so that tasks can be
registered before these paths are known.
"""

import os
from collections.abc import Callable
from typing import Any

import gin
import seqio

from specialize.errors import InputError

CORPUS_DIR = "SPECIALIZE_CORPUS_DIR"
BENCHMARKS_DIR = "SPECIALIZE_BENCHMARKS_DIR"
VOCABULARY_PATH = "SPECIALIZE_VOCABULARY"


@gin.configurable(module=__name__)
def corpus_dir(path: str | None = None) -> str | None:
    """The corpus folder that gin names."""
    return path


@gin.configurable(module=__name__)
def benchmarks_dir(path: str | None = None) -> str | None:
    """The benchmarks folder that gin names."""
    return path


@gin.configurable(module=__name__)
def vocabulary_path(path: str | None = None) -> str | None:
    """The SentencePiece model that gin names."""
    return path


# Checked outside of what gin calls: gin adds its own lines to an error.
def corpus_folder() -> str:
    """The folder of `specialize corpus build`.

    Raises:
        InputError: Neither gin nor the environment names a folder, or it is missing.
    """
    return _located("corpus folder", corpus_dir, CORPUS_DIR)


def benchmarks_folder() -> str:
    """The folder with gsm8k/, multiarith/, asdiv/, svamp/ and bbh/.

    Raises:
        InputError: Neither gin nor the environment names a folder, or it is missing.
    """
    return _located("benchmarks folder", benchmarks_dir, BENCHMARKS_DIR)


def vocabulary_file() -> str:
    """The SentencePiece model of corpus, tasks and student.

    Raises:
        InputError: Neither gin nor the environment names a file, or it is missing.
    """
    return _located("SentencePiece model", vocabulary_path, VOCABULARY_PATH)


def _located(what: str, named: Callable[[], str | None], variable: str) -> str:
    binding, path = f"specialize_tasks.locations.{named.__name__}.path", named()
    origin = f"gin's {binding}"
    if not path:
        path, origin = os.environ.get(variable), variable
    if not path:
        raise InputError(
            f"No {what} is named. Bind {binding} in gin or set {variable}."
        )
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise InputError(f"The {what} {path} does not exist (named by {origin}).")
    return path


class LocatedVocabulary(seqio.SentencePieceVocabulary):
    """The vocabulary of `vocabulary_file()`, loaded at its first use.

    It is equal to a `seqio.SentencePieceVocabulary` of the same file and extra ids, for
    T5X, which compares it with that of the model. If the location changes, the next use
    loads the new file.

    Args:
        extra_ids: Number of sentinel ids after the pieces; 100 for T5.
    """

    def __init__(self, extra_ids: int = 100):
        # The constructor of the parent would need the name of the file now.
        seqio.Vocabulary.__init__(self, extra_ids=extra_ids)
        self._normalizer_spec_overrides = None
        self._reverse_extra_ids = True
        self._use_fast_tokenizer = False
        self._model = None
        self._loaded_from: str | None = None

    @property
    def _sentencepiece_model_file(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return vocabulary_file()

    def _model_context(self) -> Any:
        file = self._sentencepiece_model_file
        if file != self._loaded_from:
            self._model, self._loaded_from = None, file
        return super()._model_context()

    def __getstate__(self) -> dict[str, Any]:
        """The fields that the parent compares, with the resolved file."""
        return {
            "_sentencepiece_model_file": self._sentencepiece_model_file,
            "_normalizer_spec_overrides": self._normalizer_spec_overrides,
            "_reverse_extra_ids": self._reverse_extra_ids,
            "_use_fast_tokenizer": self._use_fast_tokenizer,
            "_extra_ids": self._extra_ids,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, seqio.SentencePieceVocabulary):
            return False
        if isinstance(other, LocatedVocabulary):
            return self._extra_ids == other._extra_ids
        ours, theirs = self.__getstate__(), dict(other.__getstate__())
        for state in (ours, theirs):
            # "spiece.model" and "./spiece.model" are one file.
            state["_sentencepiece_model_file"] = os.path.realpath(
                state["_sentencepiece_model_file"]
            )
        return ours == theirs

    # As in the parent: equality without a hash.
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> tuple[Any, ...]:
        """Gin copies what it binds; the copy is as unresolved as the original."""
        return LocatedVocabulary, (self._extra_ids,)

    def __str__(self) -> str:
        # SeqIO prints vocabularies while it registers; that must not read a file.
        return f"LocatedVocabulary(extra_ids={self._extra_ids})"


VOCABULARY = LocatedVocabulary()
