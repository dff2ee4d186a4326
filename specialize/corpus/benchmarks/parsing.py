"""Strict reading of benchmark files: what all readers share.

A malformed file ends in one `InputError` that names the file and the line or record;
nothing is skipped silently.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Annotated, TypeVar

import msgspec

from specialize import typed_json
from specialize.corpus.records import Problem
from specialize.errors import InputError
from specialize.judging.quantities import find_quantities

Path = str | os.PathLike[str]
T = TypeVar("T")

# A field that holds text, and one that identifies a record.
Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
Identity = Annotated[str, msgspec.Meta(min_length=1)] | int
Number = str | int | float

REMEDY = "Expected the uncompressed file as its owner publishes it."


def read_text(file: pathlib.Path) -> str:
    """The text of a file that must exist and be UTF-8."""
    try:
        return typed_json.read_bytes(file, remedy=REMEDY).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is not UTF-8 ({error.reason}). {REMEDY}"
        ) from error


def read_list(file: pathlib.Path, kind: type[T]) -> Iterator[tuple[str, T]]:
    """The records of a file that is a JSON list: ("file#index", record)."""
    records = typed_json.read(file, list[msgspec.Raw], remedy=REMEDY)
    return each(file, records, kind)


def each(
    file: pathlib.Path, records: list[msgspec.Raw], kind: type[T]
) -> Iterator[tuple[str, T]]:
    """The records of a list in a file: ("file#index", record)."""
    for index, record in enumerate(records):
        where = f"{file}#{index}"
        yield where, typed_json.decode(bytes(record), kind, where, remedy=REMEDY)


def number(value: Number, name: str, where: str) -> str:
    """A JSON number as people write it: 39.0 becomes "39"."""
    if isinstance(value, str) and find_quantities(value):
        return value.strip()
    if isinstance(value, str):
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
