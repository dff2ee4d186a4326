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
from specialize.paths import WRITING, failures, joined, store

# Seconds between two renewals, and without one until the writer counts as killed.
RENEWAL, EXPIRY = 10.0, 45.0
# Sleep of the machine counts, too.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


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
        self._renewing = threading.Lock()
        self._lost = self.inherited = self.keep = False
        self._refused = ""  # why the last renewal was refused
        # What was written since a renewal was confirmed; any of it may have arrived.
        self._written: list[bytes] = []
        self._version, self._confirmed = self._taken()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises an `InputError` unless no other process can have begun to write.

        A lease that was not renewed in time is renewed now, or is not valid: another
        process may have taken it, and this one would not know.
        """
        if not self._lost and _seconds() - self._confirmed >= EXPIRY:
            self._renew_once()
        if self._lost:
            raise InputError(
                f"another command has begun to write {self._what}, because this "
                f"one had not reached the store for {EXPIRY:.0f} s. This one ends; its "
                "last files may be missing there."
            )
        if _seconds() - self._confirmed >= EXPIRY:
            if self._refused:
                raise InputError(
                    f"the store has refused for {EXPIRY:.0f} s that this command goes "
                    f"on writing {self._what}, so another one may have begun to. It "
                    f"ends; its last files may be missing there. {self._refused}"
                )
            raise InputError(
                f"the store was not reached for {EXPIRY:.0f} s, so another command may "
                f"have begun to write {self._what}. This one ends; its last files may "
                "be missing there. Run it again when the store answers."
            )

    def release(self) -> None:
        """Lets others write."""
        self._ended.set()
        self._thread.join()
        if not self.keep:
            with contextlib.suppress(InputError):
                self.check()  # what is there may be the lease of another
                store.remove([self._url])

    def _taken(self) -> tuple[str, float]:
        """The version of the object, and when it began to be written."""
        for _ in range(100):
            data, began = _content(), _seconds()
            self._written = [data]
            try:
                store.create(self._url, data)
                return self._own(), began
            except store.TakenError:
                before = store.stat(self._url)
            if before is None or not self._is_dead(before):
                continue  # it has just ended; or it was, and is being replaced
            began = _seconds()
            try:
                store.replace(self._url, data, before.version)
                version = self._own()
            except store.TakenError:
                continue
            self.inherited = True
            return version, began
        raise InputError(f"{self._url} changes all the time. Name another output.")

    def _own(self) -> str:
        """The version of the object, which is what this lease has written.

        Raises:
            TakenError: It is not.
        """
        entry = store.stat(self._url)
        if entry is None or store.read_bytes(self._url) not in self._written:
            raise store.TakenError(f"{self._url} was written by another command.")
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
        with self._renewing:
            try:
                try:
                    self._replace()
                except store.TakenError:
                    # An earlier renewal of ours may have arrived unconfirmed.
                    self._version = self._own()
                    self._replace()
                self._refused = ""
            except store.TakenError:
                self._lost = True
            except InputError as error:
                # If the store does not answer, others cannot reach it either.
                cause = error.__cause__
                refused = cause is not None and failures.is_refusal(cause)
                self._refused = str(error) if refused else ""

    def _replace(self) -> None:
        data, began = _content(), _seconds()
        self._written.append(data)
        store.replace(self._url, data, self._version)
        self._version = self._own()
        self._written, self._confirmed = [data], began


@contextlib.contextmanager
def leased(url: str, *, is_file: bool = False) -> Iterator[Lease]:
    """A lease that ends with the block."""
    lease = Lease(url, is_file=is_file)
    try:
        yield lease
    finally:
        lease.release()


def _seconds() -> float:
    return time.clock_gettime(_CLOCK)


def _content() -> bytes:
    writer = {"host": _host(), "process": os.getpid(), "unique": uuid.uuid4().hex}
    return json.dumps(writer).encode()


def _host() -> str:
    """The machine since its last start, or its container: it numbers its processes."""
    boot = "/proc/sys/kernel/random/boot_id"
    with contextlib.suppress(OSError), open(boot, encoding="ascii") as file:
        numbers = os.stat("/proc/self/ns/pid").st_ino
        return f"{socket.gethostname()} ({file.read(8)}-{numbers})"
    return f"{socket.gethostname()} ({uuid.getnode():x})"


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
