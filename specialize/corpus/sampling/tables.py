"""The tables of a response database, and how a row of them is written and read."""

import sqlite3
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from specialize import typed_json
from specialize.corpus.sampling.sqlite_errors import DAMAGED
from specialize.errors import InputError

APPLICATION = 0x5350435A  # "SPCZ" in the file's header: this database is ours
UNJUDGED = -1  # value of samples.is_right until the stored sample is judged

TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE questions (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, question TEXT NOT NULL);
CREATE TABLE responses (
    id INTEGER PRIMARY KEY, question TEXT NOT NULL, first_sample INTEGER NOT NULL,
    seed INTEGER NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,
    seconds REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE samples (
    question TEXT NOT NULL, sample INTEGER NOT NULL, response INTEGER NOT NULL,
    choice INTEGER NOT NULL, is_right INTEGER NOT NULL,
    PRIMARY KEY (question, sample)) WITHOUT ROWID;
CREATE TABLE failures (
    question TEXT NOT NULL, first_sample INTEGER NOT NULL, reason TEXT NOT NULL,
    message TEXT NOT NULL, PRIMARY KEY (question, first_sample)) WITHOUT ROWID;
"""


class Response(NamedTuple):
    """A row of the table of responses."""

    question: str
    first_sample: int
    seed: int
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    body: bytes


def insert(
    database: sqlite3.Connection,
    response: Response,
    samples: Iterable[tuple[int, int]],
) -> None:
    """Adds a response and its samples, pairs of (sample, choice)."""
    names = ", ".join(Response._fields)
    row = database.execute(
        f"INSERT INTO responses ({names}) VALUES (?, ?, ?, ?, ?, ?, ?)", response
    ).lastrowid
    question = response.question
    database.executemany(
        "INSERT INTO samples (question, sample, response, choice, is_right) "
        "VALUES (?, ?, ?, ?, ?)",
        [(question, sample, row, choice, UNJUDGED) for sample, choice in samples],
    )
    database.execute(
        "DELETE FROM failures WHERE question = ? AND first_sample = ?",
        (question, response.first_sample),
    )


def unpacked(body: bytes, where: str) -> bytes:
    """The body of a response, as the server sent it.

    Args:
        body: as it is stored.
        where: what it is, for messages.

    Raises:
        InputError: it is damaged.
    """
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(body, typed_json.MOST_BYTES)
    except zlib.error as error:
        raise InputError(f"{where}: {error}. {DAMAGED}") from error
    if not unpacker.eof:
        raise InputError(f"{where} is cut or over 1 GiB. {DAMAGED}")
    return data
