"""The rows of a data file, whatever its format: each is an object of named values.

| ending or content | rows |
|---|---|
| `.jsonl`, `.ndjson` (`.gz` too) | one JSON object per line |
| `.json` | a list, or the list `records` of an object |
| `.csv`, `.tsv` | lines under a line with the names of the columns |
| `.parquet` | rows of the table |
| `.xml` | elements `records`: their attributes, and the texts of their children |
| a folder of `datasets` (`save_to_disk`) | rows of its Arrow files |
"""

import csv
import gzip
import importlib
import io
import os
import pathlib
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

from specialize import typed_json
from specialize.errors import InputError

Path = str | os.PathLike[str]
Row = dict[str, Any]

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xml")
REMEDY = "Correct or remove it."


def read_rows(
    path: Path, *, records: str | None = None, kind: str | None = None
) -> Iterator[tuple[str, Row]]:
    """Reads the rows of a file or folder.

    Args:
        path: The file, or a folder that `datasets` saved.
        records: Name of the list in a JSON object, or of the elements in XML.
        kind: One of `ENDINGS` for files with another ending.

    Yields:
        ("file:line" or "file#row", row), in the order of the file.

    Raises:
        InputError: The file is missing, malformed or of an unknown format; the message
            names the line or row.
    """
    file = pathlib.Path(path)
    if not os.path.lexists(file):
        raise InputError(f"{file} does not exist. Check the path.")
    if os.path.isfile(file / "dataset_info.json"):
        return _arrow(file)
    name = file.name.removesuffix(".gz")
    ending = next((end for end in ENDINGS if name.lower().endswith(end)), kind)
    if ending is None:
        raise InputError(
            f"{file} has no ending of a known format ({', '.join(ENDINGS)}; '.gz' may "
            "follow), and is no folder of 'datasets'. Rename or convert it."
        )
    if ending in (".jsonl", ".ndjson"):
        return _lines(file)
    if ending == ".json":
        return _list(file, records)
    if ending == ".parquet":
        return _parquet(file)
    if ending == ".xml":
        return _elements(file, records)
    return _table(file, "\t" if ending == ".tsv" else ",")


def _lines(file: pathlib.Path) -> Iterator[tuple[str, Row]]:
    if file.suffix != ".gz":
        yield from typed_json.read_lines(file, Row, remedy=REMEDY)
        return
    for number, line in enumerate(io.BytesIO(_bytes(file)), 1):
        if line.strip():
            where = f"{file}:{number}"
            yield where, typed_json.decode(line, Row, where, remedy=REMEDY)


def _list(file: pathlib.Path, records: str | None) -> Iterator[tuple[str, Row]]:
    data = _bytes(file)
    if records is None:
        found = typed_json.decode(
            data,
            list[msgspec.Raw],
            file,
            remedy="If its records are in a field, name the field in 'records'.",
        )
    else:
        remedy = f"Expected an object whose field {records!r} is a list of objects."
        whole = typed_json.decode(data, dict[str, msgspec.Raw], file, remedy=remedy)
        if records not in whole:
            raise InputError(f"{file}: the key {records!r} is missing. {remedy}")
        where = f"{file}: {records}"
        raw = bytes(whole[records])
        found = typed_json.decode(raw, list[msgspec.Raw], where, remedy=remedy)
    for index, record in enumerate(found):
        where = f"{file}#{index}"
        yield where, typed_json.decode(bytes(record), Row, where, remedy=REMEDY)


def _table(file: pathlib.Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    reader = csv.reader(
        io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True
    )
    try:
        columns = next(reader, None)
        if columns is None:
            return
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise InputError(
                f"{file}:1: the columns {repeated} occur twice. Rename one of each."
            )
        line = reader.line_num + 1
        for cells in reader:
            where = f"{file}:{line}"
            line = reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(columns):
                raise InputError(
                    f"{where}: {len(cells)} cells, but there are {len(columns)} "
                    "columns. Put cells with a delimiter in double quotes."
                )
            yield where, dict(zip(columns, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file}:{reader.line_num}: {error}. {REMEDY}") from error


def _parquet(file: pathlib.Path) -> Iterator[tuple[str, Row]]:
    pyarrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        with parquet.ParquetFile(_existing(file)) as table:
            index = 0
            for batch in table.iter_batches(1024):
                for row in batch.to_pylist():
                    yield f"{file}#{index}", row
                    index += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(file, "Parquet", error) from error


def _arrow(folder: pathlib.Path) -> Iterator[tuple[str, Row]]:
    pyarrow = _library("pyarrow")
    index = 0
    for file in sorted(folder.glob("*.arrow")):
        try:
            with (
                pyarrow.memory_map(os.fspath(file)) as source,
                pyarrow.ipc.open_stream(source) as stream,
            ):
                for batch in stream:
                    for row in batch.to_pylist():
                        yield f"{folder}#{index}", row
                        index += 1
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _damaged(file, "Arrow", error) from error


def _elements(file: pathlib.Path, records: str | None) -> Iterator[tuple[str, Row]]:
    if records is None:
        raise InputError(
            f"{file} is XML, so the task must name the elements that are its rows in "
            "'records'."
        )
    try:
        root = ElementTree.fromstring(_text(file))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise InputError(
            f"{file}:{line}: not XML at column {column} ({error}). {REMEDY}"
        ) from error
    for index, element in enumerate(root.iter(records)):
        children = {child.tag: (child.text or "").strip() for child in element}
        yield f"{file}#{index}", {**element.attrib, **children}


def _text(file: pathlib.Path) -> str:
    try:
        return _bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is not UTF-8 ({error.reason}). Save it as "
            "UTF-8."
        ) from error


def _bytes(file: pathlib.Path) -> bytes:
    data = typed_json.read_bytes(file, remedy="Name a file with questions.")
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            unpacked = stream.read(typed_json.MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(file, "gzip", error) from error
    if len(unpacked) > typed_json.MOST_BYTES:
        raise InputError(f"{file} unpacks to over 1 GiB. Split it.")
    return unpacked


def _library(name: str) -> Any:
    """A module without types; imported only for files that need it."""
    return importlib.import_module(name)


def _existing(file: pathlib.Path) -> pathlib.Path:
    try:
        file.open("rb").close()
    except OSError as error:
        raise typed_json.unreadable(file, error) from error
    return file


def _damaged(file: pathlib.Path, format: str, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"{file} is not a sound {format} file ({reason}). Copy it again.")
