"""The processes of one command: messages between them, and the end of one of them.

JAX's coordination service, which process 0 runs, notices a process that was killed or
whose machine is gone. A process that ends with an error tells the others. They end too,
each with one message that names it; otherwise they would wait for it in a collective.
"""

import atexit
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

from specialize import typed_json
from specialize.errors import InputError, message

# Seconds without a heartbeat until a process counts as lost.
HEARTBEAT = 25
# Seconds between two looks at what the others have told.
_PERIOD = 1.0
# Seconds in which a process may end by itself, and upload what it has, after a loss.
_GRACE = 10.0
# Seconds that process 0 stays after an error, so that the others learn whose it was.
_FAREWELL = 5.0
_ENDED = "specialize/ended/"


class LostError(RuntimeError):
    """Another process of the command has ended, so this one cannot go on."""


class _Watch:
    """What this process knows about the ends of the others.

    Attributes:
        verdict: which process has ended and why, in words; None while all are there.
        over: set when the command of this process has ended.
    """

    def __init__(self) -> None:
        self.verdict: str | None = None
        self.over = threading.Event()
        self._found = threading.Event()
        self._state: Any = None

    def start(self, state: Any) -> None:
        self._state = state
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    @property
    def is_first(self) -> bool:
        return self._state is None or self._state.process_id == 0

    def of_service(self, error: object) -> None:
        """Takes the message of JAX's service, which calls this in its own thread."""
        text = str(error)
        tasks = re.findall(r"(?:task:|/task/)(\d+)", text)
        # Without the service, which process 0 runs, no message has a number.
        unreachable = "Failed to send RPC" in text or not tasks
        process, all_of_them = (
            "0" if unreachable else tasks[0],
            self._state.num_processes,
        )
        self._conclude(
            f"process {process} of {all_of_them} was killed or is unreachable."
        )

    def tell(self, error: object) -> None:
        """Lets the others know that this process ends with an error."""
        if self.verdict is None and not self.over.is_set():
            with contextlib.suppress(Exception):
                key = f"{_ENDED}{self._state.process_id}"
                self._state.client.key_value_set(key, message(error)[:2_000])

    def wait(self, seconds: float) -> str | None:
        """The verdict, if there is one within some seconds."""
        self._found.wait(seconds)
        return self.verdict

    def _run(self) -> None:
        client, here = self._state.client, str(self._state.process_id)
        while self.verdict is None and not self.over.wait(_PERIOD):
            # Whether the service can be reached is its own heartbeats' question.
            with contextlib.suppress(Exception):
                for key, text in client.key_value_dir_get(_ENDED):
                    process = key.rpartition("/")[2]
                    if process != here:
                        self._conclude(
                            f"process {process} of {self._state.num_processes} ended "
                            f"with an error: {text}"
                        )
                        break

    def _conclude(self, what: str) -> None:
        if self.verdict is not None or self.over.is_set():
            return
        self.verdict = (
            f"{what.rstrip('.')}. All processes end. Run the same command again: it "
            "goes on from what is finished."
        )
        self._found.set()
        # In its own thread: JAX ends the process when a callback returns.
        if not self.over.wait(_GRACE):  # it waits in a collective
            print(f"error: {self.verdict}", file=sys.stderr, flush=True)
            _leave(1)
        time.sleep(10 * _FAREWELL)  # the main thread ends the process


_watch: _Watch | None = None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Joins JAX's processes in its block, and from then on notices their ends."""
    global _watch
    from jax._src import distributed

    watch = _Watch()
    library = distributed._jax
    plain = library.get_distributed_runtime_client
    library.get_distributed_runtime_client = functools.partial(
        plain, missed_heartbeat_callback=watch.of_service
    )
    try:
        yield
    finally:
        library.get_distributed_runtime_client = plain
    if distributed.global_state.client is not None:
        watch.start(distributed.global_state)
        atexit.register(watch.over.set)  # before JAX waits for the others
        _watch = watch


def tell(error: object) -> None:
    """Lets the other processes know that this one ends with an error."""
    if _watch is not None:
        _watch.tell(error)


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
        # A collective fails at once; the service needs some heartbeats to say why.
        own = isinstance(error, InputError)
        if verdict := _watch.wait(0.0 if own else HEARTBEAT + _GRACE):
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
        if _watch is None:
            raise
        tell("it received a signal")
        end.status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        if _watch is None:
            raise
        tell(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        end.status = 1
    if _watch is not None and end.status:
        if end.status > 1:  # 1: a command ended, and something is missing
            tell("its own message says which")
        _watch.over.set()
        _leave(end.status)


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    if _watch is None or _watch.is_first:
        time.sleep(_FAREWELL)
    os._exit(status)


class Messages:
    """JSON values that process 0 sends to the others, in order.

    They take no part of the devices, so the others may wait for any time.

    Args:
        name: Name of the conversation, which a command has once.
    """

    def __init__(self, name: str) -> None:
        from jax._src import distributed

        self._client = distributed.global_state.client
        self._keys = map(f"specialize/{name}/{{}}".format, itertools.count())
        self._last: str | None = None

    def send(self, value: Any) -> None:
        """Sends a value; nothing happens in the only process of a command."""
        if self._client is None:
            return
        key = next(self._keys)
        self._client.key_value_set(key, json.dumps(value))
        # They have read the last one: they decode what it asked for with this process.
        if self._last is not None:
            self._client.key_value_delete(self._last)
        self._last = key

    def receive(self) -> Any:
        """Waits for the next value."""
        key = next(self._keys)
        return typed_json.decode(self._received(key), object, "what process 0 sent")

    def _received(self, key: str) -> bytes:
        while True:
            try:
                return self._client.blocking_key_value_get(key, 10_000).encode()
            except RuntimeError as error:  # jaxlib's kind of error
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
