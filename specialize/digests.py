"""The digest of a file, of a vocabulary or of a value, which identifies it."""

import functools
import hashlib
import json
import os
import pathlib
from typing import Any

from specialize import typed_json

# What names the vocabulary of ByT5, the bytes of UTF-8, where others name a file.
BYTE_NAMES = ("byt5", "byte", "bytes")
BYTES_SHA256 = hashlib.sha256(b"seqio.ByteVocabulary(extra_ids=125)").hexdigest()


def is_bytes(name: str | os.PathLike[str]) -> bool:
    """Whether `name` names ByT5's bytes; a file of that name is named as ./byt5."""
    return os.fspath(name).lower() in BYTE_NAMES


def is_vocabulary(name: str | os.PathLike[str]) -> bool:
    """Whether `name` names ByT5's bytes, or a file that is there."""
    return is_bytes(name) or os.path.isfile(name)


def vocabulary_digest(name: str | os.PathLike[str]) -> str:
    """The digest of a vocabulary, as a corpus states it.

    Raises:
        OSError: The file cannot be read.
        InputError: It is a device.
    """
    return BYTES_SHA256 if is_bytes(name) else file_digest(name)


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file in hexadecimal digits; an unchanged file is read once.

    For a folder that `datasets` saved, it is the digest of its data files' digests.

    Raises:
        OSError: The file cannot be read.
        InputError: It is a device.
    """
    typed_json.refuse_device(path, remedy="Name a file.")
    if parts := dataset_files(path):
        return hashlib.sha256("".join(map(file_digest, parts)).encode()).hexdigest()
    state = os.stat(path)
    return _digest(os.fspath(path), state.st_size, state.st_mtime_ns)


def value_digest(value: Any) -> str:
    """The SHA-256 of a JSON value in hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def dataset_files(path: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The data files of a folder that `datasets` saved; [] for any other path."""
    folder = pathlib.Path(path)
    if not os.path.isfile(folder / "dataset_info.json"):
        return []
    return sorted(folder.glob("*.arrow"))


@functools.lru_cache(maxsize=8192)
def _digest(path: str, size: int, changed: int) -> str:
    del size, changed
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
