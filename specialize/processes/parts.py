"""Commands that are parts of a longer one, such as those of a study's cell.

`train` ends with 0 after a signal, since a scheduler has what it asked for. The command
that started it must not go on with half a model, so a part ends with 128 + the number
of the signal, as shells do it.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from specialize.processes.signals import Arrivals

# Set in the environment of a part.
_VARIABLE = "SPECIALIZE_PART"
# Seconds after which a signal is noticed that interrupted nothing.
_LOOK = 0.5
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def status(number: int) -> int:
    """The exit status of a command that has saved its work.

    Args:
        number: Number of the signal that asked it to end; 0 if there was none.
    """
    return 128 + number if number and os.environ.get(_VARIABLE) else 0


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """Makes the commands that are called in the block parts of the one around it."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def run(words: Sequence[str], held: Sequence[int] = ()) -> int:
    """Runs a command as a part, in a process of its own, and waits for its end.

    A signal to this process is passed on; it takes effect here when the command has
    ended, so that none runs on without the process that started it, and each can save
    its work. The command has a process group of its own, so that it gets each signal
    once: what a terminal sends to the group of this process comes from here alone.

    Args:
        words: The command line.
        held: Numbers of files that stay open in it.

    Returns:
        Its exit status; -N if signal N ended it.

    Raises:
        KeyboardInterrupt: SIGINT was received; after other signals what their handlers
            raise.
    """
    environment = {**os.environ, _VARIABLE: "1"}
    if threading.current_thread() is not threading.main_thread():
        return subprocess.run(words, pass_fds=held, env=environment).returncode
    with _received() as passing:
        process = subprocess.Popen(
            words, pass_fds=held, env=environment, process_group=0
        )
        passing.to(process)
        return _end_of(process)


def _end_of(process: "subprocess.Popen[bytes]") -> int:
    """The exit status of a process, with an ear for signals until it has ended.

    Python handles a signal between two instructions. One that comes in the moment
    before the system waits, or that another thread receives, would be handled when the
    process has ended.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_LOOK)


class _Passing:
    """Signals on their way to a process, which may not have started yet."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._waiting: list[int] = []
        self._arrivals = Arrivals()
        self._process: subprocess.Popen[bytes] | None = None

    def take(self, number: int, frame: Any) -> None:
        """Handles a signal."""
        del frame
        self.received.append(number)
        if self._arrivals.is_new(number):
            self._waiting.append(number)
            self._deliver()

    def suspend(self, number: int, frame: Any) -> None:
        """Handles Ctrl-Z: the process stops and goes on as this one does."""
        del number, frame
        self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(signal.SIGCONT)

    def to(self, process: "subprocess.Popen[bytes]") -> None:
        """Names the process, which gets what was received before."""
        self._process = process
        self._deliver()

    def _deliver(self) -> None:
        # Another signal may be handled between any two of these instructions.
        while self._process is not None and self._waiting:
            with contextlib.suppress(IndexError):
                self._send(self._waiting.pop(0))

    def _send(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)


@contextlib.contextmanager
def _received() -> Iterator[_Passing]:
    """Takes the signals of the block, and raises them again at its end."""
    passing = _Passing()
    wanted: dict[int, Any] = dict.fromkeys(_PASSED_ON, passing.take)
    wanted[signal.SIGTSTP] = passing.suspend
    # The command is in the background of the terminal, and may write there.
    wanted[signal.SIGTTOU] = signal.SIG_IGN
    before = {
        number: handler
        for number in wanted
        if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    try:
        for number in before:
            signal.signal(number, wanted[number])
        yield passing
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in passing.received[:1]:
            signal.raise_signal(number)
