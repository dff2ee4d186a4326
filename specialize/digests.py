"""The digest of a file, which identifies vocabularies and sources."""

import functools
import hashlib
import os

from specialize import typed_json


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file in hexadecimal digits; an unchanged file is read once.

    Raises:
        OSError: The file cannot be read.
        InputError: It is a device.
    """
    typed_json.refuse_device(path, remedy="Name a file.")
    state = os.stat(path)
    return _digest(os.fspath(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8192)
def _digest(path: str, size: int, changed: int) -> str:
    del size, changed
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
