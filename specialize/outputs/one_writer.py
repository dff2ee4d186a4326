"""One command at a time writes in a folder of this machine, or goes on with a file.

It locks a hidden file until it ends. The system releases the lock of a killed process,
so what it left is continued at once. Network file systems pass locks on to their other
machines, or say that they have none.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from specialize import typed_json
from specialize.errors import InputError
from specialize.outputs.hidden_folders import LOCK, LONGEST_NAME, writing

# Locked files of this process. Its children must not keep the locks when it is killed.
_held: set[int] = set()


@dataclasses.dataclass(frozen=True)
class _Writer:
    """Who has locked a file; it is its content."""

    host: str
    process: int


@contextlib.contextmanager
def only_writer_in(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder, in which no other command writes while the block runs.

    Yields:
        The locked file, which is removed when the block ends.

    Raises:
        InputError: Another command writes in it, or it cannot be written.
    """
    with _locked(folder / LOCK, f"in {folder}") as file:
        yield file


@contextlib.contextmanager
def only_writer_of(path: pathlib.Path) -> Iterator[None]:
    """No other command goes on with a file while the block runs.

    Raises:
        InputError: Another command does, or its folder cannot be written.
    """
    lock = f".{path.name}.lock"
    if len(os.fsencode(lock)) > LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        lock = f".{digest[:32]}.lock"
    with _locked(path.with_name(lock), os.fspath(path)):
        yield


@contextlib.contextmanager
def _locked(file: pathlib.Path, what: str) -> Iterator[pathlib.Path]:
    with writing(file.parent):
        descriptor = _lock(file, what)
    _held.add(descriptor)
    try:
        yield file
    finally:
        if _is_at(descriptor, file):
            with contextlib.suppress(OSError):
                file.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def _lock(file: pathlib.Path, what: str) -> int:
    """The descriptor of the file, which is made and locked."""
    for _ in range(100):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # another command has just given its folder back
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            writer = _writer(descriptor)
            os.close(descriptor)
            raise InputError(
                f"another command writes {what}{writer}. Wait until it ends, or name "
                "another one. Nothing was written."
            ) from None
        except OSError as error:
            from specialize.progress import say  # rich, which no help text needs

            say(
                f"{file.parent} is on a file system without locks ({error.strerror}), "
                f"so nothing prevents that another command writes {what}: start none "
                "before this one has ended"
            )
            return descriptor
        if _is_at(descriptor, file):
            writer = _Writer(socket.gethostname(), os.getpid())
            with contextlib.suppress(OSError):  # it only makes a message clearer
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(writer.__dict__).encode(), 0)
            return descriptor
        os.close(descriptor)  # its writer has just ended and removed it
    raise InputError(f"{file} cannot be made. Name another output.")


def _writer(descriptor: int) -> str:
    """Who has locked a file, in words; "" if that is not known."""
    with contextlib.suppress(OSError, InputError):
        found = typed_json.decode(os.pread(descriptor, 4096, 0), _Writer, "the lock")
        return f" (process {found.process} of {found.host})"
    return ""


def _is_at(descriptor: int, file: pathlib.Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    return False


def _close_in_a_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_a_child)
