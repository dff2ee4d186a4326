"""The paths of the tasks' data, which are read only when data are.

| what | gin (`specialize_tasks.locations.`) | environment |
|---|---|---|
| corpus folder | `corpus_dir.path` | `SPECIALIZE_CORPUS_DIR` |
| `specialize label` | `base_answers_dir.path` | `SPECIALIZE_BASE_ANSWERS_DIR` |
| benchmark files | `benchmarks_dir.path` | `SPECIALIZE_BENCHMARKS_DIR` |
| vocabulary | `vocabulary_path.path` | `SPECIALIZE_VOCABULARY` |

gin comes first. The import of this module reads nothing, so that tasks can be
registered before these paths are known. What is in a bucket (`gs://`, `s3://`) is
copied once to this machine (`specialize.paths`).
"""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import gin
import seqio

from specialize import digests, paths
from specialize.corpus.vocabulary import ByteVocabulary, read_vocabulary
from specialize.errors import InputError, NotNamedError

CORPUS_DIR = "SPECIALIZE_CORPUS_DIR"
BASE_ANSWERS_DIR = "SPECIALIZE_BASE_ANSWERS_DIR"
BENCHMARKS_DIR = "SPECIALIZE_BENCHMARKS_DIR"
VOCABULARY_PATH = "SPECIALIZE_VOCABULARY"


@gin.configurable(module=__name__)
def corpus_dir(path: str | None = None) -> str | None:
    """The corpus folder that gin names."""
    return path


@gin.configurable(module=__name__)
def base_answers_dir(path: str | None = None) -> str | None:
    """The folder of `specialize label` that gin names."""
    return path


@gin.configurable(module=__name__)
def benchmarks_dir(path: str | None = None) -> str | None:
    """The benchmarks folder that gin names."""
    return path


@gin.configurable(module=__name__)
def vocabulary_path(path: str | None = None) -> str | None:
    """The SentencePiece model that gin names, or "byt5" for the bytes of ByT5."""
    return path


# Checked outside of what gin calls: gin adds its own lines to an error.
def corpus_folder() -> str:
    """The folder of `specialize corpus build`.

    Raises:
        InputError: Neither gin nor the environment names a folder, or it is missing.
    """
    return _located("corpus folder", corpus_dir, CORPUS_DIR)


def base_answers_folder() -> str:
    """The folder of `specialize label`.

    Raises:
        InputError: Neither gin nor the environment names a folder, or it is missing.
    """
    return _located("folder of base answers", base_answers_dir, BASE_ANSWERS_DIR)


def benchmarks_folder() -> str:
    """The folder with gsm8k/, multiarith/, asdiv/, svamp/ and bbh/.

    Raises:
        InputError: Neither gin nor the environment names a folder, or it is missing.
    """
    return _located("benchmarks folder", benchmarks_dir, BENCHMARKS_DIR)


def vocabulary_file() -> str:
    """The SentencePiece model of corpus, tasks and student, or "byt5".

    Raises:
        InputError: Neither gin nor the environment names a file, or it is missing.
    """
    return _located("SentencePiece model", vocabulary_path, VOCABULARY_PATH)


def vocabulary_digest() -> str:
    """The digest of the vocabulary, which a corpus states in its fingerprint."""
    return digests.vocabulary_digest(vocabulary_file())


_MAKERS = {
    corpus_dir: "'specialize corpus build'",
    base_answers_dir: "'specialize label'",
}


def _located(what: str, named: Callable[[], str | None], variable: str) -> str:
    # The macro of data/locations.gin has the name of the function.
    path, origin = named(), named.__name__.upper()
    if not path:
        path, origin = os.environ.get(variable), variable
    if not path:
        raise NotNamedError(
            f"No {what} is named. Set {named.__name__.upper()} in gin (the parameter "
            f"specialize_tasks.locations.{named.__name__}.path), or {variable} in the "
            "environment."
        )
    if named is vocabulary_path and digests.is_bytes(path):
        return path
    # Absolute: SeqIO keeps what it loads by name.
    path = os.path.abspath(copied(path, f"{origin}, the {what},"))
    if not os.path.exists(path):
        raise InputError(
            f"The {what} {path} does not exist ({origin}). Check the path, or make it "
            f"with {_MAKERS[named]}."
            if named in _MAKERS
            else f"The {what} {path} does not exist ({origin}). Check the path."
        )
    return path


def copied(path: str, name: str) -> str:
    """A path of this machine: the local copy if the path is in a bucket.

    Args:
        path: A path or URL.
        name: What it is of, for the message.

    Raises:
        InputError: It is another URL, or there is nothing.
    """
    if paths.scheme_of(path):
        return _copy_of(paths.checked(path, name))
    return os.path.expanduser(path)


# Once per process, so that all of it sees the same content.
@functools.cache
def _copy_of(url: str) -> str:
    return str(paths.local(url))


@functools.cache
def _bytes() -> seqio.ByteVocabulary:
    return seqio.ByteVocabulary(extra_ids=ByteVocabulary.extra_ids)


@functools.lru_cache(maxsize=8)
def _sentinels_of(file: str) -> int:
    return read_vocabulary(file).extra_ids


def _of_either(name: str) -> Any:
    """An attribute of a SentencePiece vocabulary, or of ByT5's if that is located."""
    inherited: Any = inspect.getattr_static(seqio.SentencePieceVocabulary, name)
    if isinstance(inherited, property):
        read: Any = inherited.fget
        return property(
            lambda self: getattr(_bytes(), name) if self.is_bytes else read(self)
        )

    def call(self: Any, *arguments: Any) -> Any:
        if self.is_bytes:
            return getattr(_bytes(), name)(*arguments)
        return inherited(self, *arguments)

    return call


class LocatedVocabulary(seqio.SentencePieceVocabulary):
    """The vocabulary of `vocabulary_file()`, loaded at its first use.

    It is equal to a `seqio.SentencePieceVocabulary` of the same file and extra ids, for
    T5X, which compares it with that of the model. If the location changes, the next use
    loads the new file. If it is "byt5", the ids are those of `seqio.ByteVocabulary`.

    Args:
        extra_ids: Number of sentinel ids after the pieces. None: that of the file
            (`specialize.corpus.piece_models.sentinels`), which is 100 for T5.
    """

    eos_id = _of_either("eos_id")
    unk_id = _of_either("unk_id")
    vocab_size = _of_either("vocab_size")
    _base_vocab_size = _of_either("_base_vocab_size")
    _encode = _of_either("_encode")
    _decode = _of_either("_decode")
    _encode_tf = _of_either("_encode_tf")
    _decode_tf = _of_either("_decode_tf")

    def __init__(self, extra_ids: int | None = None):
        # The constructor of the parent would need the name of the file now.
        self._given_extra_ids = extra_ids
        self._normalizer_spec_overrides = None
        self._reverse_extra_ids = True
        self._use_fast_tokenizer = False
        self._model = None
        self._loaded_from: str | None = None

    @property
    def _sentencepiece_model_file(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return vocabulary_file()

    @property
    def is_bytes(self) -> bool:
        """Whether the vocabulary is ByT5's."""
        return digests.is_bytes(vocabulary_file())

    @property
    def _extra_ids(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        given = self._given_extra_ids
        return _sentinels_of(vocabulary_file()) if given is None else given

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
        if isinstance(other, seqio.ByteVocabulary):
            return self.is_bytes and _bytes() == other
        if not isinstance(other, seqio.SentencePieceVocabulary):
            return False
        if isinstance(other, LocatedVocabulary):
            return self._given_extra_ids == other._given_extra_ids
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
        return LocatedVocabulary, (self._given_extra_ids,)

    def __str__(self) -> str:
        # SeqIO prints vocabularies while it registers; that must not read a file.
        given = self._given_extra_ids
        return f"LocatedVocabulary({'' if given is None else f'extra_ids={given}'})"


VOCABULARY = LocatedVocabulary()
