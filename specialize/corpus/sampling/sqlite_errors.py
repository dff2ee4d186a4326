"""SQLite's errors on a response database, as one message each."""

import contextlib
import os
import sqlite3
from collections.abc import Generator

from specialize.errors import InputError

DAMAGED = "The database is damaged: restore a copy, or name another --responses."
_UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


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
