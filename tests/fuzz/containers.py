"""Mutations of files that are not text: each container keeps its own checksums.

So a mutation reaches the code behind the first check; `mutations.raw` tests the check.
"""

import gzip
import hashlib
import json
import pickle
import random
import sqlite3
import struct
import zlib
from typing import Any

import msgpack
from mutations import (
    ODD_NUMBERS,
    ODD_TEXTS,
    Mutator,
    chance,
    dumped,
    json_value,
    near,
    raw,
    tree,
)

from specialize.corpus.storage import tfrecord


class Hostile:
    """Pickled as a call that ends the process with a status that no command has."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit(77)",)


def gzipped(inner: Mutator) -> Mutator:
    """A gzip file whose content is mutated; or its own bytes."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if chance(rng, 0.3):
            return raw(data, rng)
        return gzip.compress(inner(gzip.decompress(data), rng), 1, mtime=0)

    return mutate


def records(data: bytes, rng: random.Random) -> bytes:
    """A gzipped TFRecord file with one frame or message changed."""
    if chance(rng, 0.1):
        return raw(data, rng)
    content = gzip.decompress(data)
    found: list[bytes] = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(content[12 : 12 + length])
        content = content[16 + length :]
    at = rng.randrange(len(found))
    how = rng.randrange(10)
    if how == 0:
        del found[at]
    elif how == 1:
        found.insert(at, found[rng.randrange(len(found))])
    elif how < 8:
        found[at] = protobuf(found[at], rng)
    frames = [tfrecord.frame(one) for one in found]
    if how == 8:
        frames[at] = raw(frames[at], rng)
    elif how == 9:
        length = rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)).to_bytes(
            8, "little"
        )
        crc = tfrecord.frame(length)[-4:]
        frames[at] = length + crc + frames[at][12:]
    return tfrecord.compress(frames)


def protobuf(data: bytes, rng: random.Random) -> bytes:
    """A protocol buffer with one field, at any depth, changed."""
    fields = _fields(data)
    if not fields or chance(rng, 0.08):
        return raw(data, rng)
    at = rng.randrange(len(fields))
    number, kind, value = fields[at]
    how = rng.randrange(10)
    if kind == 2 and len(value) > 2 and how < 6:
        inner = protobuf(value, rng) if _fields(value) else raw(value, rng)
        fields[at] = (number, kind, inner)
    elif how < 7:
        fields[at] = (number, kind, _other_field(kind, value, rng))
    elif how == 7:
        del fields[at]
    elif how == 8:
        fields.append(fields[at])
    else:
        number = rng.choice((number + 1, number - 1 or 15, 500_000, number))
        fields[at] = (
            number,
            *rng.choice(((0, 1), (2, b""), (2, b"\x80"), (5, b"abcd"))),
        )
    return b"".join(_field(*one) for one in fields)


def _other_field(kind: int, value: Any, rng: random.Random) -> Any:
    if kind == 0:
        return rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, value + 1))
    if kind == 2:
        return rng.choice((b"", b"\xff", b"\x80" * 11, value + value, value[:-1]))
    return rng.choice(
        (bytes(len(value)), b"\xff" * len(value), rng.randbytes(len(value)))
    )


def _fields(data: bytes) -> list[tuple[int, int, Any]]:
    """(number, wire type, value) of a message; [] if it is none."""
    found: list[tuple[int, int, Any]] = []
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = _read_varint(data, at)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
                value, at = data[at : at + size], at + size
            elif kind == 2:
                size, at = _read_varint(data, at)
                value, at = data[at : at + size], at + size
            else:
                return []
            if at > len(data) or not number:
                return []
            found.append((number, kind, value))
    except IndexError:
        return []
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def _field(number: int, kind: int, value: Any) -> bytes:
    key = _varint(number << 3 | kind)
    if kind == 0:
        return key + _varint(value)
    return key + (_varint(len(value)) if kind == 2 else b"") + value


def packed(data: bytes, rng: random.Random) -> bytes:
    """A msgpack file as flax writes it, with one value, key or array changed."""
    if chance(rng, 0.1):
        return raw(data, rng)
    value = msgpack.unpackb(data, strict_map_key=False)

    def odd(old: Any) -> Any:
        if isinstance(old, msgpack.ExtType) and chance(rng, 0.8):
            if chance(rng, 0.3):
                return msgpack.ExtType(rng.choice((1, 2, 3, 0, 99)), old.data)
            try:
                inner = msgpack.unpackb(old.data)
            except ValueError:
                return msgpack.ExtType(old.code, raw(old.data, rng))
            return msgpack.ExtType(old.code, msgpack.packb(tree(inner, rng, odd)))
        numbers = [
            n for n in ODD_NUMBERS if isinstance(n, float) or -(2**63) <= n < 2**64
        ]
        return rng.choice(
            (None, True, b"", b"\xff", [], {}, [[[]]], *numbers, *ODD_TEXTS[:16])
        )

    # Depth beyond msgpack's own limit cannot be packed; bytes can.
    if chance(rng, 0.03):
        return rng.choice((b"\x91", b"\x81\xa1a")) * 100_000 + b"\xc0"
    return msgpack.packb(tree(value, rng, odd))


def pickled(data: bytes, rng: random.Random) -> bytes:
    """A pickle with one value or byte changed, or one that would run something."""
    if chance(rng, 0.25):
        return raw(data, rng)

    def odd(_: Any) -> Any:
        return rng.choice(
            (
                *(None, True, (), [], {}, b"\xff", {1, 2}, 1j, [[]], 10**5000),
                *(Hostile(), len, range(3), "\ud800", bytearray(3), {None: 1.0}),
                *ODD_NUMBERS,
                *ODD_TEXTS,
            )
        )

    value = tree(pickle.loads(data), rng, odd)
    try:
        return pickle.dumps(value, rng.choice((0, 2, 4, 5)))
    except ValueError:  # protocol 0 writes decimal digits
        return pickle.dumps(value, 2)


def database(data: bytes, rng: random.Random) -> bytes:
    """An SQLite file with a cell, row, column, table, body or byte changed."""
    if chance(rng, 0.2):
        return raw(data, rng)
    with _connected(data) as connection:
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            )
        ]
        filled = [
            name
            for name in tables
            if connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
        ]
        table = rng.choice(filled)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column = rng.choice(columns)
        # Constraints of the tables must not stop a mutation.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        _change(connection, rng, table, column, rng.choice(tables))
        connection.commit()
        changed = connection.serialize()
    return changed[:18] + data[18:20] + changed[20:]


class _connected:
    """A database in memory."""

    def __init__(self, data: bytes) -> None:
        self._connection = sqlite3.connect(":memory:")
        # A log beside the file, which the header may ask for, needs a file.
        self._connection.deserialize(data[:18] + b"\1\1" + data[20:])

    def __enter__(self) -> sqlite3.Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _change(
    connection: sqlite3.Connection,
    rng: random.Random,
    table: str,
    column: str,
    any_table: str,
) -> None:
    how = rng.randrange(10)
    if how == 0:
        connection.execute(f"DROP TABLE {any_table}")
        if chance(rng, 0.5):
            connection.execute(
                f"CREATE VIEW {any_table} AS WITH RECURSIVE one(x) AS "
                f"(SELECT 1 UNION ALL SELECT x + 1 FROM one) SELECT x AS {column}, "
                "x AS name, x AS id FROM one"
            )
    elif how == 1:
        connection.execute(f"DELETE FROM {any_table}")
    elif how == 2:
        connection.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    elif how == 3:
        pragma = rng.choice(("application_id", "user_version", "schema_version"))
        connection.execute(f"PRAGMA {pragma} = {rng.choice((0, 1, 7, -1))}")
    elif how < 7:
        rows = connection.execute(
            "SELECT id, body FROM responses ORDER BY id"
        ).fetchall()
        number, body = rng.choice(rows)
        content = json_value(zlib.decompress(body), rng)
        body = rng.choice((raw(body, rng), *(zlib.compress(content),) * 4))
        connection.execute("UPDATE responses SET body = ? WHERE id = ?", (body, number))
    else:
        cells = connection.execute(f"SELECT DISTINCT {column} FROM {table} ORDER BY 1")
        old = rng.choice([cell for (cell,) in cells.fetchall()])
        new = _cell(old, rng)
        for type_ in ("INTEGER", "TEXT", "REAL", "BLOB"):  # a cell of any type
            connection.execute(
                "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ?",
                (f"{column} {type_} NOT NULL", f"{column}", table),
            )
        try:
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE {column} IS ?", (new, old)
            )
        except sqlite3.Error:
            connection.execute(f"DELETE FROM {table} WHERE {column} IS ?", (old,))


def _cell(old: Any, rng: random.Random) -> Any:
    whole = [n for n in ODD_NUMBERS if isinstance(n, float) or -(2**63) <= n < 2**63]
    if isinstance(old, str) and old[:1] in "{[" and chance(rng, 0.7):
        return json_value(old.encode(), rng).decode("utf-8", "replace")
    new = rng.choice((None, b"", b"\xff\xfe", near(old, rng), *whole, *ODD_TEXTS))
    if isinstance(new, int) and not isinstance(new, bool) and abs(new) >= 2**63:
        return None
    return new


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with its header, its length or its bytes changed."""
    if chance(rng, 0.2):
        return raw(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    header, rest = data[8 : 8 + length], data[8 + length :]
    if chance(rng, 0.1):
        length = rng.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
        return struct.pack("<Q", length) + header + rest
    header = json_value(header, rng)
    return struct.pack("<Q", len(header)) + header + rest


def sealed(data: bytes, rng: random.Random) -> bytes:
    """Our metadata of a checkpoint: the content changes, and often its checksum too."""
    if chance(rng, 0.3):
        return json_value(data, rng)
    try:
        content = json.loads(json_value(dumped(json.loads(data)["content"]), rng))
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
    except (ValueError, RecursionError):
        return json_value(data, rng)
    return json.dumps({"content": content, "sha256": digest}).encode()


def numbers(data: bytes, rng: random.Random) -> bytes:
    """An array on disk with an element of any width, or any byte, changed."""
    width = rng.choice((2, 4, 8))
    if len(data) < width or chance(rng, 0.4):
        return raw(data, rng)
    at = rng.randrange(len(data) // width) * width
    value = rng.choice((0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 12345))
    value &= 2 ** (8 * width) - 1
    return data[:at] + value.to_bytes(width, "little") + data[at + width :]
