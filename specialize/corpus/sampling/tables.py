"""The tables of a response database, their rows, and SQLite's errors on them."""

import contextlib
import dataclasses
import os
import sqlite3
import zlib
from collections.abc import Generator, Iterable
from typing import NamedTuple

from specialize import typed_json
from specialize.errors import InputError

DAMAGED = "The database is damaged: restore a copy, or name another --responses."
_UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

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

# The name of the note of tokens that were paid for in vain.
UNUSABLE = "tokens of unusable answers"
# (question, text) -> (reason, message).
Reasons = dict[tuple[str, str], tuple[str, str]]
# Texts that a teacher cannot score, by what they say. Older databases lack it.
UNSCORED = """
CREATE TABLE IF NOT EXISTS unscored (
    question TEXT NOT NULL, text TEXT NOT NULL, reason TEXT NOT NULL,
    message TEXT NOT NULL, PRIMARY KEY (question, text)) WITHOUT ROWID
"""
HAVE_UNSCORED = "SELECT COUNT(*) FROM sqlite_master WHERE name = 'unscored'"
UNSCORED_OF = """
SELECT question, text, reason, message FROM unscored
WHERE question IN (SELECT value FROM json_each(?))
"""
OF_THESE = "AND samples.question IN (SELECT value FROM json_each(?))"


class Usage(NamedTuple):
    """What was paid for so far: responses, and tokens if the server counts them."""

    responses: int
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass
class Standing:
    """What is known about one question: its samples, and how many are right."""

    samples: set[int]
    right: int = 0

    @property
    def solved(self) -> bool:
        """Whether a sample is right."""
        return self.right > 0


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


@contextlib.contextmanager
def explained(path: str | os.PathLike[str]) -> Generator[None]:
    """Turns SQLite's errors in the block into one message each.

    Args:
        path: The database, as the user named it.

    Raises:
        InputError: Says what is wrong with the database, and what to do.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # its own messages, too
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in _BUSY:
            text = (
                "is being written by another process. Wait for it, or name another "
                "--responses."
            )
        elif code in _UNWRITABLE:
            text = (
                f"cannot be written: {error}. Everything before it is stored; make "
                "room and run the same command again to continue."
            )
        elif code == sqlite3.SQLITE_CANTOPEN:
            text = f"cannot be opened: {error}. Name another --responses."
        elif code == sqlite3.SQLITE_NOTADB:
            text = (
                f"is not a database of 'specialize corpus sample' ({error}). Name "
                "another --responses."
            )
        else:
            text = f"cannot be read: {error}. {DAMAGED}"
        raise InputError(f"{os.fspath(path)} {text}") from error
