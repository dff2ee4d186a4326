"""The protocol between a benchmark's parent and its workers.

Every implementation runs in its own process, so that none shares memory, threads or
libraries with another. A worker builds its step, warms up, and then runs one step per
request; the parent cycles through all workers, so that other load on the machine
affects all of them equally. Baselines in environments without `specialize` use this
module too, so workers need only the standard library.

    worker -> parent   @bench {"ready": true, ...facts of the case}
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
        facts: facts for the row: "device", "versions", and of one step
            "useful_tokens", "positions", "flops" if they apply.
        device_peak: returns the peak bytes on the accelerator, if there is one.
        times: number of repetitions per step, for work that comes in bursts; seconds
            are per repetition.
    """

    step: Callable[[], Any]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    device_peak: Callable[[], int] | None = None
    times: int = 1


def serve(build: Callable[[], Case], *, warm_up: int = 3) -> None:
    """Builds a case and runs it at each request, until the end of standard input.

    Args:
        build: makes the case; called after the libraries were imported, so that
            `growth_bytes` does not include them.
        warm_up: number of steps before the first timed one.
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
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
    """One worker, seen from the parent.

    Args:
        name: name of the row.
        command: command that starts the worker.
        environment: variables added to those of this process.
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
        """Runs one step; returns its wall and CPU seconds."""
        self._write("run")
        return self._read()

    def end(self) -> dict[str, int]:
        """Ends the worker; returns its memory in bytes."""
        self._write("end")
        found = self._read()
        self.close()
        return found

    def close(self) -> None:
        """Terminates the worker, whatever it is doing."""
        self._process.terminate()
        self._process.communicate()

    def _write(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        from specialize import typed_json  # not in the environment of a baseline

        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                text = line[len(MARK) :]
                return typed_json.decode(text, typed_json.Object, self.name)
        _, errors = self._process.communicate()
        raise WorkerError(
            f"{self.name} ended with status {self._process.returncode}: "
            f"{errors.strip()[-2000:]}"
        )


class WorkerError(RuntimeError):
    """A worker ended before the parent requested it."""


def resident_bytes() -> int:
    """Resident memory of this process; 0 if the system does not report it."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Peak resident memory of this process, since `reset_peak` if the system can."""
    found = _status("VmHWM")
    if found:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Resets `peak_bytes`, to exclude compilation, if the system can (Linux)."""
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
