"""Files with one JSON object per line, gzipped or not."""

import contextlib
import gzip
import io
import json
import os
import pathlib
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple, cast

from specialize import outputs
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
    file = pathlib.Path(path)
    some = False
    try:
        with _open(file) as stream:
            first = stream.readline()
            if first.strip() and not _is_object(first):
                rest = stream.read()
                if _is_object(first + rest):
                    yield Line(str(file), first + rest)
                    return
                # Not one object either: the parser of the line says what is wrong.
                parse_object(Line(f"{file}:1", first))
            number = 1
            while first:
                if first.strip():
                    some = True
                    yield Line(f"{file}:{number}", first)
                first = stream.readline()
                number += 1
    except FileNotFoundError as error:
        raise InputError(
            f"{file} does not exist. Name a file of completions: an export of "
            "'specialize corpus export', or a notebook dump."
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{file} is a folder, expected a completions file.") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(
            f"{file}: damaged gzip file ({error}). Copy it again."
        ) from error
    if not some:
        raise InputError(f"{file} is empty. A run needs at least one completion.")


def parse_object(line: Line) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        InputError: the line is not JSON, or not an object.
    """
    try:
        value = json.loads(line.data)
    except UnicodeDecodeError as error:
        raise InputError(f"{line.where}: not UTF-8 ({error.reason}).") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{line.where}: not JSON at column {error.colno} ({error.msg}). Expected "
            "one JSON object per line; a cut last line comes from a copy that was cut."
        ) from error
    if not isinstance(value, dict):
        raise InputError(
            f"{line.where}: expected a JSON object, found {type(value).__name__}."
        )
    return cast(dict[str, Any], value)


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


def _open(file: pathlib.Path) -> gzip.GzipFile | io.BufferedReader:
    with open(file, "rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if zipped else open(file, "rb")


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False
