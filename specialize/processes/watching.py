"""Ends the processes of a command together, and names the one that was lost.

Every process shows a sign of life in the coordination service of JAX, which process 0
runs. If one was killed, or its machine is gone, or it ended with an error, the others
end too, each with one message that names it; otherwise they would wait for it in a
collective. If process 0 is killed, JAX aborts the others at once, with messages of its
own; ours is said before that (`aborting`).
"""

import atexit
import contextlib
import dataclasses
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from specialize.errors import InputError, message
from specialize.processes import aborting

# Seconds without a sign of life until a process counts as lost; some libraries keep
# Python's threads waiting for long while they are loaded.
LOST = 35.0
# Seconds between two signs of life.
PERIOD = 1.0
# Seconds in which a process may end by itself, and upload what it has, after a loss.
GRACE = 8.0
# Seconds without an answer of process 0 until an abort may be the reason; seconds in
# which it must accept a connection; and seconds in which a process may then end by
# itself. Together they are less than the delay of an abort.
SILENCE, ACCEPTS, HASTE = PERIOD + 0.5, 2.0, 1.0
# Most seconds that process 0 stays after an error, until the others have read whose it
# was and have ended; while they load libraries, they read nothing for long.
FAREWELL = 15.0
# Seconds in which process 0 is told that another one ends.
TOLD = 1.0
_ALIVE, _ENDED, _LEFT = "specialize/alive/", "specialize/ended/", "specialize/left/"


class LostError(RuntimeError):
    """Another process of the command has ended, so this one cannot go on."""


class _Watch:
    """What this process knows about the ends of the others.

    Args:
        state: JAX's state of its processes.

    Attributes:
        verdict: which process has ended and why, in words; None while all are there.
        over: set when the command of this process has ended.
    """

    def __init__(self, state: Any) -> None:
        self.verdict: str | None = None
        self.over = threading.Event()
        self.is_first = state.process_id == 0
        self._found = threading.Event()
        self._unsaid = threading.Semaphore()
        self._deciding, self._beating = threading.Lock(), threading.Lock()
        self._client, self._here = state.client, state.process_id
        self._count, self._first = state.num_processes, state.coordinator_address
        self._answered = time.monotonic()
        # Of every process its last heartbeat, and when it was seen. It may end before
        # its first one.
        never: tuple[str | None, float] = (None, time.monotonic())
        self._seen = dict.fromkeys(range(self._count), never)
        threading.Thread(target=self._run, name="watch", daemon=True).start()
        if not self.is_first:
            aborting.delay_aborts()
            threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def tell(self, error: object) -> None:
        """Lets the others know that this process ends with an error."""
        if self.verdict is None and not self.over.is_set():
            with contextlib.suppress(Exception):
                key = f"{_ENDED}{self._here}"
                self._client.key_value_set(key, message(error)[:2_000])

    def wait(self, seconds: float) -> str | None:
        """The verdict, if there is one within some seconds."""
        self._found.wait(seconds)
        return self.verdict

    def may_say(self) -> bool:
        """Whether the verdict has not been said; True for the first who asks."""
        return self._unsaid.acquire(blocking=False)

    def finish(self) -> None:
        """Lets the others know that this process needs no watching any more."""
        self.over.set()
        # A sign of life that is under way must not come after this one.
        self._beating.acquire(timeout=TOLD)
        with contextlib.suppress(Exception):
            self._client.key_value_set(
                f"{_ALIVE}{self._here}", "", allow_overwrite=True
            )

    def leave(self) -> None:
        """Ends the watch; process 0, whose service tells the others, leaves last."""
        self.over.set()
        if not self.is_first:
            # A call to a service that has ended may never return.
            told = threading.Thread(target=self._tell_that_it_left, daemon=True)
            told.start()
            told.join(TOLD)
            return
        end = time.monotonic() + FAREWELL
        while time.monotonic() < end and not self._all_left():
            time.sleep(PERIOD / 10)

    def _tell_that_it_left(self) -> None:
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{_LEFT}{self._here}", "")

    def _all_left(self) -> bool:
        """Whether the others have ended, or were lost before."""
        now, gone = time.monotonic(), {self._here}
        with contextlib.suppress(Exception):
            left = [key for key, _ in self._client.key_value_dir_get(_LEFT)]
            beats = dict(self._client.key_value_dir_get(_ALIVE))
            gone |= {int(key.rpartition("/")[2]) for key in left}
            gone |= {int(k.rpartition("/")[2]) for k, beat in beats.items() if not beat}
        gone |= {one for one, (_, when) in self._seen.items() if now - when > LOST}
        return len(gone) >= self._count

    def _run(self) -> None:
        found, number = None, 0
        while found is None:
            if self.over.wait(PERIOD):
                return
            number += 1
            with contextlib.suppress(Exception), self._beating:
                if self.over.is_set():
                    return
                self._beat(str(number))
                self._answered = time.monotonic()
            found = self._lost()
        # Process 0 stays for the others, so what they do with it never ends by itself.
        first_ended = not self.is_first and self._seen[0][1] == -math.inf
        self._end(found, HASTE if first_ended else GRACE)

    def _guard(self) -> None:
        """Notices the end of process 0, after which a heartbeat may never return."""
        while not self.over.wait(PERIOD / 4):
            silent = time.monotonic() - self._answered
            aborts = silent > SILENCE and aborting.is_aborting()
            if not (aborts or silent > LOST):
                continue
            if not accepts(self._first):
                self._end(self._killed(0), HASTE if aborts else GRACE)
            if aborts:  # if process 0 is there, it is for another reason
                return

    def _end(self, found: str, seconds: float) -> None:
        with self._deciding:  # what was found first is why the rest happened
            self.verdict = self.verdict or (
                f"{found.rstrip('.')}. All processes end. Run the same command again: "
                "it resumes from what is finished."
            )
        self._found.set()
        if not self.over.wait(seconds):  # the main thread waits in a collective
            if self.may_say():
                print(f"error: {self.verdict}", file=sys.stderr, flush=True)
            _leave(1)

    def _beat(self, value: str) -> None:
        client, now = self._client, time.monotonic()
        client.key_value_set(f"{_ALIVE}{self._here}", value, allow_overwrite=True)
        for key, beat in client.key_value_dir_get(_ALIVE):
            process = int(key.rpartition("/")[2])
            if beat != self._seen[process][0]:
                self._seen[process] = (beat, now if beat else math.inf)
        for key, text in client.key_value_dir_get(_ENDED):
            self._seen[int(key.rpartition("/")[2])] = (text, -math.inf)

    def _lost(self) -> str | None:
        """Which of the others has ended, if one has."""
        now = time.monotonic()
        for process, (last, when) in self._seen.items():
            if process == self._here:
                continue
            if when == -math.inf:
                return f"process {process} of {self._count} ended with an error: {last}"
            if now - when > LOST:
                return self._killed(process)
        return None

    def _killed(self, process: int) -> str:
        return f"process {process} of {self._count} was killed or is unreachable."


def accepts(address: str) -> bool:
    """Whether a process accepts connections at "host:port"."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        socket.create_connection((host.strip("[]"), int(port)), ACCEPTS).close()
        return True
    return False


_watch: _Watch | None = None
_joining: threading.Thread | None = None


def end_without(thread: threading.Thread) -> None:
    """Lets this process end while a thread still waits in JAX to join the others."""
    global _joining
    _joining = thread


def watch() -> int:
    """Notices, from now on, the ends of the other processes that JAX has joined.

    Returns:
        The number of processes, with this one; 0 if JAX has not joined any.
    """
    global _watch
    from jax._src import distributed

    if distributed.global_state.client is None:
        return 0
    if _watch is None:
        _watch = _Watch(distributed.global_state)
        atexit.register(_watch.finish)  # before JAX waits for the others
    return int(distributed.global_state.num_processes)


def tell(error: object) -> None:
    """Lets the other processes know that this one ends with an error."""
    if _watch is not None:
        _watch.tell(error)


def may_say() -> bool:
    """Whether the loss of another process is still to be said, by who asks first."""
    return _watch is None or _watch.may_say()


@contextlib.contextmanager
def naming_the_lost() -> Iterator[None]:
    """Replaces an error by the loss of another process if that is why it was raised.

    Raises:
        LostError: Another process has ended.
    """
    try:
        yield
    except Exception as error:
        if _watch is None:
            raise
        # A collective fails at once; only missing signs of life say why.
        own = isinstance(error, InputError)
        if verdict := _watch.wait(0.0 if own else LOST + GRACE):
            raise LostError(verdict) from error
        raise


@dataclasses.dataclass
class End:
    """How a command ends.

    Attributes:
        status: its exit status.
    """

    status: int = 0


@contextlib.contextmanager
def ending_together() -> Iterator[End]:
    """Ends this process after an error, without waiting for the others.

    JAX would wait for them for minutes.
    """
    end = End()
    try:
        yield end
    except SystemExit as error:
        if not _is_shared():
            raise
        tell("it received a signal")
        end.status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        if not _is_shared():
            raise
        tell(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        end.status = 1
    if end.status and _is_shared():
        if end.status > 1:  # 1: a command ended, and something is missing
            tell("its own message says which")
        _leave(end.status)


def _is_shared() -> bool:
    """Whether JAX has joined this process with others, or waits for them."""
    joins = _joining is not None and _joining.is_alive()
    return _watch is not None or joins


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if _watch is not None:
        _watch.leave()
    os._exit(status)
