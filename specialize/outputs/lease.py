"""One writer at a time in a folder of a bucket, by the store's preconditions.

The writer creates the object `paths.WRITING` in the folder, or beside the file that it
writes (`NAME.specialize.writing.json`), and replaces it every few seconds. Whoever
finds one watches it: if it changes, its writer is alive and wins; if it does not, the
writer was killed and its place is taken. Creating and replacing have preconditions, so
of several processes exactly one succeeds, whatever their clocks say.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from specialize import typed_json
from specialize.errors import InputError
from specialize.paths import WRITING, joined, store

# Seconds between two renewals, and without one until the writer counts as killed.
RENEWAL, EXPIRY = 10.0, 45.0


@dataclasses.dataclass(frozen=True)
class _Writer:
    host: str
    process: int


class Lease:
    """The right to write in a folder of a bucket, or to replace a file there.

    Args:
        url: URL of the folder or file.
        is_file: Whether it is a file.

    Attributes:
        inherited: Whether a killed writer had it before, who may have left files.
        keep: Whether the object stays when this writer ends, as after a kill, so that
            nobody reads what is there.

    Raises:
        InputError: Another process writes there.
    """

    def __init__(self, url: str, *, is_file: bool = False) -> None:
        self._what = url if is_file else f"in {url}"
        self._url = f"{url}.{WRITING}" if is_file else joined(url, WRITING)
        self._ended = threading.Event()
        self._lost = self.inherited = self.keep = False
        self._version = self._taken()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises an `InputError` if another process has taken this one's place."""
        if self._lost:
            raise InputError(
                f"another command has begun to write {self._what}, because this "
                f"one had not reached the store for {EXPIRY:.0f} s. This one ends; its "
                "last files may be missing there."
            )

    def release(self) -> None:
        """Lets others write."""
        self._ended.set()
        self._thread.join()
        if not (self._lost or self.keep):
            with contextlib.suppress(InputError):
                store.remove([self._url])

    def _taken(self) -> str:
        for _ in range(100):
            data = _content()
            try:
                store.create(self._url, data)
                return self._own(data)
            except store.TakenError:
                before = store.stat(self._url)
            if before is None or not self._is_dead(before):
                continue  # it has just ended; or it was, and is being replaced
            try:
                store.replace(self._url, data, before.version)
                self.inherited = True
                return self._own(data)
            except store.TakenError:
                continue
        raise InputError(f"{self._url} changes all the time. Name another output.")

    def _own(self, data: bytes) -> str:
        entry = store.stat(self._url)
        if entry is None or store.read_bytes(self._url) != data:
            raise InputError(f"{self._url} was removed by another command.")
        return entry.version

    def _is_dead(self, before: store.Entry) -> bool:
        """Whether the writer of a lease was killed; False if it is no longer there.

        Raises:
            InputError: It is alive.
        """
        content = store.read_bytes(self._url)
        if content is None:
            return False
        writer = typed_json.decode(content, _Writer, self._url)
        here = writer.host == _host()
        if here and not _is_running(writer.process):
            return True
        end = time.monotonic() + EXPIRY
        while time.monotonic() < end:
            now = store.stat(self._url)
            if now is None:
                return False
            if now != before:
                raise InputError(
                    f"another command writes {self._what} (process {writer.process} "
                    f"of {writer.host}). Wait until it ends, or name another one. "
                    "Nothing was written."
                )
            time.sleep(1.0)
        return True

    def _renew(self) -> None:
        while not (self._lost or self._ended.wait(RENEWAL)):
            self._renew_once()

    def _renew_once(self) -> None:
        data = _content()
        # Until the store answers again, others cannot reach it either.
        with contextlib.suppress(InputError):
            try:
                store.replace(self._url, data, self._version)
                self._version = self._own(data)
            except store.TakenError:
                self._lost = True


@contextlib.contextmanager
def leased(url: str, *, is_file: bool = False) -> Iterator[Lease]:
    """A lease that ends with the block."""
    lease = Lease(url, is_file=is_file)
    try:
        yield lease
    finally:
        lease.release()


def _content() -> bytes:
    writer = {"host": _host(), "process": os.getpid(), "unique": uuid.uuid4().hex}
    return json.dumps(writer).encode()


def _host() -> str:
    """The machine since its last start: process numbers are unique in it."""
    boot = "/proc/sys/kernel/random/boot_id"
    with contextlib.suppress(OSError), open(boot, encoding="ascii") as file:
        return f"{socket.gethostname()} ({file.read(8)})"
    return socket.gethostname()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # A killed child is a zombie until its parent has waited for it.
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
    return True
