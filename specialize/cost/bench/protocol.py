"""How a benchmark's parent and its workers talk; the standard library alone.

Every implementation under comparison runs in a process of its own, so that none shares
the other's memory, threads or libraries. A worker builds its step, warms up, and then
takes one step whenever the parent says so; the parent goes round all workers, so that
whatever else the machine does meets all of them alike. Peers that run in environments
without `specialize` use this module too, hence no import beyond the standard library.

    worker -> parent   @bench {"ready": true, ...what the case says of itself}
    parent -> worker   run                                      (any number of times)
    worker -> parent   @bench {"seconds": 0.93, "cpu_seconds": 1.8}
    parent -> worker   end
    worker -> parent   @bench {"peak_bytes": ..., "growth_bytes": ...}
"""

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

MARK = "@bench "
_STATUS = pathlib.Path("/proc/self/status")


@dataclasses.dataclass
class Case:
    """One thing to time.

    Attributes:
        step: does the work `times` times and returns when it is done.
        facts: what the row should say of it: "device", "versions", and of one step
            "useful_tokens", "positions", "flops" where they apply.
        device_peak: bytes in use at most on the accelerator, if there is one.
        times: more than once where the work comes in bursts; seconds are of one.
    """

    step: Callable[[], Any]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    device_peak: Callable[[], int] | None = None
    times: int = 1


def serve(build: Callable[[], Case], *, warm_up: int = 3) -> None:
    """Builds a case and runs it as the parent asks, until the end of standard input.

    Args:
        build: makes the case; called after the libraries have been imported, so that
            `growth_bytes` is what the work takes beyond them.
        warm_up: steps before the first timed one.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    before = resident_bytes()
    case = build()
    for _ in range(warm_up):
        case.step()
    reset_peak()
    _say(answers, {"ready": True, **case.facts})
    for line in sys.stdin:
        if line.strip() == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            case.step()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            taken = {"seconds": wall / case.times, "cpu_seconds": cpu / case.times}
            _say(answers, taken)
        elif line.strip() == "end":
            peak = peak_bytes()
            found = {"peak_bytes": peak, "growth_bytes": peak - before}
            if case.device_peak is not None:
                found["device_peak_bytes"] = case.device_peak()
            _say(answers, found)
            return


class Worker:
    """The parent's end of one worker.

    Args:
        name: of the row.
        command: starts the worker.
        environment: added to this process's own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ):
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ready(self) -> dict[str, Any]:
        """Waits until the worker is warm; returns the facts of its case."""
        facts = self._read()
        del facts["ready"]
        return facts

    def run(self) -> dict[str, float]:
        """One step: seconds and seconds of all its threads."""
        self._write("run")
        return self._read()

    def end(self) -> dict[str, int]:
        """Ends the worker; returns its memory."""
        self._write("end")
        found = self._read()
        self.close()
        return found

    def close(self) -> None:
        """Ends the worker whatever it does."""
        self._process.terminate()
        self._process.communicate()

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line[len(MARK) :])
        _, errors = self._process.communicate()
        raise WorkerError(
            f"{self.name} ended with status {self._process.returncode}: "
            f"{errors.strip()[-2000:]}"
        )


class WorkerError(RuntimeError):
    """A worker ended before it was asked to."""


def resident_bytes() -> int:
    """Memory this process holds now; 0 where the system does not tell."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most memory this process has held, since `reset_peak` where that works."""
    found = _status("VmHWM")
    if found:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Makes `peak_bytes` forget what compilation took, where the system can (Linux)."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _status(field: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _say(answers: TextIO, value: Mapping[str, Any]) -> None:
    print(MARK + json.dumps(value), file=answers, flush=True)
