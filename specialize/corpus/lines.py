"""Files with one JSON object per line, gzipped or not."""

import contextlib
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec

from specialize import outputs, typed_json
from specialize.errors import InputError

Path = str | os.PathLike[str]


class Line(NamedTuple):
    """One JSON object of a file, not yet parsed.

    Attributes:
        where: "file:line" (or the file alone), for messages.
        data: the object as UTF-8.
    """

    where: str
    data: bytes


def read_lines(path: Path) -> Iterator[Line]:
    """Yields the JSON objects of a completions file, unparsed, in order.

    Args:
        path: JSON lines (`.gz` too), or a file that is one JSON object.

    Yields:
        One `Line` per object; empty lines are skipped.

    Raises:
        InputError: the file is missing, unreadable or empty.
    """
    refuse_stream(path)
    file = pathlib.Path(path)
    some = False
    with unzipped(file) as stream:
        first = _line(stream, file)
        if first.strip() and not _is_object(first):
            rest = stream.read(typed_json.MOST_BYTES)
            if _is_object(first + rest):
                yield Line(str(file), first + rest)
                return
            # Not one object either: the first line says what is wrong.
            typed_json.decode(first, typed_json.Object, f"{file}:1", remedy=_ONE_OBJECT)
        number = 1
        while first:
            if first.strip():
                some = True
                yield Line(f"{file}:{number}", first)
            first = _line(stream, file)
            number += 1
    if not some:
        raise InputError(f"{file} is empty. A run needs at least one completion.")


def refuse_stream(path: Path) -> None:
    """Raises an `InputError` for a pipe or device, which can be read only once."""
    if outputs.is_stream(path):
        raise InputError(
            f"{path} is a pipe or device, but a file of completions is read several "
            "times. Write it to a file first."
        )


@contextlib.contextmanager
def unzipped(file: pathlib.Path) -> Generator[gzip.GzipFile | io.BufferedReader]:
    """A stream of the bytes of a file of completions, gzipped or not.

    Raises:
        InputError: the file cannot be read, on entry or while it is read.
    """
    try:
        with open(file, "rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with gzip.open(file) if zipped else open(file, "rb") as stream:
            yield stream
    except InputError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{file}: damaged gzip file ({error}). Copy it again."
        ) from error
    except (OSError, ValueError) as error:
        remedy = (
            "Name a file of completions: an export of 'specialize corpus export', or a "
            "notebook dump."
        )
        raise typed_json.unreadable(file, error, remedy=remedy) from error


@contextlib.contextmanager
def staged_lines(path: Path) -> Generator[gzip.GzipFile | io.BufferedWriter]:
    """A stream for the bytes of a file that is written completely or not at all.

    The file is gzipped if `path` ends in `.gz`; equal lines give equal bytes.
    """
    with outputs.staged_file(path) as staged:
        if pathlib.Path(path).suffix == ".gz":
            with gzip.GzipFile(staged, "wb", 6, mtime=0) as stream:
                yield stream
        else:
            with open(staged, "wb") as stream:
                yield stream


def _line(stream: gzip.GzipFile | io.BufferedReader, file: pathlib.Path) -> bytes:
    line = stream.readline(typed_json.MOST_BYTES + 1)
    if len(line) > typed_json.MOST_BYTES:
        raise InputError(f"{file} has a line over 1 GiB. {_ONE_OBJECT}")
    return line


def _is_object(data: bytes) -> bool:
    try:
        typed_json.decode(data, dict[str, msgspec.Raw], "", infinities=True)
    except InputError:
        return False
    return True


_ONE_OBJECT = (
    "Expected one JSON object per line; a cut last line comes from a copy that was cut."
)
