"""Strict reading of benchmark files: what all readers share.

A malformed file ends in one `InputError` that names the file and the line or record;
nothing is skipped silently.
"""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, cast

from specialize.corpus.records import Problem
from specialize.errors import InputError
from specialize.judging.quantities import find_quantities

Path = str | os.PathLike[str]


def read_text(file: pathlib.Path) -> str:
    """The text of a file that must exist and be UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"{file} does not exist. Name the benchmark's file as its owner "
            "publishes it."
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{file} is a folder, expected a file.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is not UTF-8 ({error.reason}). Expected the "
            "uncompressed file as its owner publishes it."
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error


def read_json(file: pathlib.Path) -> Any:
    """The value of a JSON file."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}:{error.lineno}: not JSON at column {error.colno} ({error.msg})."
        ) from error


def json_lines(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its line number."""
    # Not splitlines(): JSON text may hold U+2028 unescaped.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{file}:{number}: not JSON at column {error.colno} ({error.msg}). "
                "Expected one JSON object per line."
            ) from error
        yield number, _record(record, f"{file}:{number}")


def json_list(value: Any, file: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list."""
    if not isinstance(value, list):
        raise InputError(
            f"{file}: expected a JSON list of records, found {type(value).__name__}."
        )
    for index, record in enumerate(cast(list[Any], value)):
        yield _record(record, f"{file}#{index}")


def _record(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: expected a JSON object, found {type(value).__name__}."
        )
    return cast(dict[str, Any], value)


def field(record: dict[str, Any], name: str, where: str) -> Any:
    """A field that must be present."""
    if name not in record:
        raise InputError(f"{where}: no field {name!r}; it has {sorted(record)}.")
    return record[name]


def text(record: dict[str, Any], name: str, where: str) -> str:
    """A field that must hold text; stripped."""
    value = field(record, name, where)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name!r} is {value!r}, expected text.")
    return value.strip()


def identity(record: dict[str, Any], name: str, where: str) -> str:
    """A field that must hold an identifier: text or a number."""
    value = field(record, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: {name!r} is {value!r}, expected an identifier.")
    return str(value)


def number(value: Any, name: str, where: str) -> str:
    """A JSON number as people write it: 39.0 becomes "39"."""
    if isinstance(value, str) and find_quantities(value):
        return value.strip()
    finite = isinstance(value, int | float) and abs(value) < float("inf")
    if isinstance(value, bool) or not finite:
        raise InputError(f"{where}: {name!r} is {value!r}, expected a number.")
    return str(int(value)) if value == int(value) else repr(value)


def checked(
    problems: list[Problem], file: pathlib.Path, what: str, *, key: str = "id"
) -> list[Problem]:
    """Refuses a file with no problem, or with two of one `key`, called `what`."""
    seen: dict[str, str] = {}
    for problem in problems:
        value = getattr(problem, key)
        if value in seen:
            raise InputError(
                f"{problem.source}: {what} was already given at {seen[value]}. "
                "Every record must be there once; remove one of them."
            )
        seen[value] = problem.source
    if not problems:
        raise InputError(f"{file} holds no problem. Name a file with at least one.")
    return problems
