"""Runs the cells of a study that are not done, by any number of processes.

A cell is done when the marker in its folder says so, which is written last. A killed
cell is run again: its commands go on where they stopped, as they do by themselves. A
process holds a lock of the cell that it runs, and so do the commands, so that a cell
whose process was killed is not begun again while its command still runs. (There are no
locks in buckets; there `train` itself refuses a folder that another process writes.)
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from specialize import checks, outputs, paths
from specialize.errors import InputError
from specialize.evaluation.study import outcome
from specialize.evaluation.study.cells import Cell, Work, cells_of
from specialize.evaluation.study.inputs import Inputs
from specialize.evaluation.study.records import Done, begin, done_of, is_done, made_of
from specialize.evaluation.study.spec import StudySpec
from specialize.processes import parts
from specialize.progress import say

# Runs the words of a command while the files of these numbers stay open.
Command = Callable[[Sequence[str], Sequence[int]], int]


def study(
    spec: StudySpec,
    *,
    out: str | os.PathLike[str],
    only: Sequence[int] = (),
    command: Command | None = None,
) -> outcome.Outcome:
    """Runs what is not done, then writes `study.json` and prints the tables.

    Args:
        spec: The study.
        out: Its folder, local or in a bucket.
        only: Numbers of the cells to run; () for all.
        command: Runs a command line; default: in a process of its own.

    Returns:
        What the cells that are done have measured.

    Raises:
        InputError: There is no such cell, `out` is not ours, a cell was begun by other
            commands or with another configuration, or a command failed; the other
            cells are run all the same.
    """
    every = cells_of(spec, out)
    cells = chosen(every, only)
    _claim(out)
    # Refuses what other commands have made, before any work.
    stages = {w.key: w for one in every for w in one.work.stages.values()}
    every_work = {**stages, **{one.work.key: one.work for one in every}}
    made = [one for one in map(done_of, every_work.values()) if one is not None]
    if before := sum(one.inputs is None for one in made):
        say(
            f"{before} of {len(made)} finished parts of {out} are by an earlier "
            "version, which did not record configurations: their commands are compared."
        )

    def write() -> None:
        # A report can be made of a study that is still running, or was killed.
        with contextlib.suppress(InputError):  # said in the end
            _write(spec, out)

    runner = _Runner(out, command or _in_a_process, write)
    waits, pending = False, cells
    while pending:
        later = [cell for cell in pending if not runner.attempt(cell, waits=waits)]
        # Others make what all of these need: then there is nothing to do but to wait.
        waits, pending = len(later) == len(pending), later
    failed = runner.failed
    for cell in runner.elsewhere:  # unless that process has died meanwhile
        if not runner.attempt(cell, waits=False):
            say(f"{cell} is run by another process.")
    found = _write(spec, out)
    while outcome.gather(spec, out).done > found.done:
        # Another process may have written an earlier outcome in the meantime.
        found = _write(spec, out)
    if failed:
        name, why = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(cells)} cells failed, {name} first: {why} Run the "
            "study again to go on; what is done is kept."
        )
    return found


def _write(spec: StudySpec, out: str | os.PathLike[str]) -> outcome.Outcome:
    """Writes `study.json` with what is done.

    Raises:
        InputError: As for `outcome.gather`.
    """
    found = outcome.gather(spec, out)
    outputs.write_json(paths.joined(out, outcome.FILE), dataclasses.asdict(found))
    return found


def chosen(cells: Sequence[Cell], only: Sequence[int]) -> list[Cell]:
    """The cells with these numbers; all if there are none.

    Raises:
        InputError: There is no such cell.
    """
    for number in only:
        checks.whole("--cell", number, 0, most=len(cells) - 1)
    return [cell for cell in cells if not only or cell.number in only]


def state(cell: Cell, out: str | os.PathLike[str]) -> str:
    """Whether a cell is "done", "running" or "to do"."""
    if is_done(cell.work):
        return "done"
    if not paths.in_bucket(out) and not _lock_of(out, cell.work).exists():
        return "to do"
    with _locked(out, cell.work, wait=False) as lock:
        return "to do" if lock is not None else "running"


class _Runner:
    """Runs cells one after another, calls `after` each, and notes what failed.

    Attributes:
        failed: cell -> why.
        elsewhere: cells that were left to another process.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        command: Command,
        after: Callable[[], None],
    ) -> None:
        self.failed: dict[str, str] = {}
        self.elsewhere: list[Cell] = []
        self._out, self._command, self._after = out, command, after
        self._unmade: set[str] = set()  # stages that failed

    def attempt(self, cell: Cell, *, waits: bool) -> bool:
        """Runs a cell, unless it is done or run by another process.

        Args:
            cell: The cell.
            waits: Whether to wait for a stage that another process makes, and to leave
                the cell to the process that runs it.

        Returns:
            Whether this process has nothing more to do for it.
        """
        if is_done(cell.work):
            return True
        with _locked(self._out, cell.work, wait=False) as lock:
            if lock is None:
                self.elsewhere += [cell] if waits else []
                return waits
            try:
                return is_done(cell.work) or self._run(cell, lock, waits)
            except InputError as error:
                self.failed[str(cell)] = str(error)
                say(f"{cell} failed: {error}")
        return True

    def _run(self, cell: Cell, lock: int, waits: bool) -> bool:
        for stage in cell.work.stages.values():
            if stage.key in self._unmade:
                raise InputError(f"it needs {stage.name}, which failed.")
            if is_done(stage):
                continue
            with _locked(self._out, stage, wait=waits) as shared:
                if shared is None:
                    return False
                if not is_done(stage):
                    self._unmade.add(stage.key)
                    held = [one for one in (lock, shared) if one >= 0]
                    _make(stage, held, self._command)
                    self._unmade.remove(stage.key)
        _make(cell.work, [lock] if lock >= 0 else [], self._command)
        self._after()
        return True


def _make(work: Work, held: Sequence[int], command: Command) -> None:
    began = time.monotonic()
    inputs: list[Inputs] = []
    for number, words in enumerate(work.commands):
        say(f"{work.name}: specialize {shlex.join(words)}")
        inputs.append(begin(work, number))
        status = command(words, held)
        if status:
            raise InputError(f"'specialize {shlex.join(words)}' {_ended(status)}")
    seconds = round(time.monotonic() - began, 1)
    stages = {name: made_of(stage) for name, stage in work.stages.items()}
    done = Done(work.record, seconds, inputs, stages)
    outputs.write_json(work.marker, dataclasses.asdict(done))
    say(f"{work.name}: done in {seconds:,.0f} s")


def _ended(status: int) -> str:
    number = -status if status < 0 else status - 128
    if number <= 0:
        return f"ended with {status}; its own message says why."
    with contextlib.suppress(ValueError):
        return f"was ended by a signal, {signal.Signals(number).name}."
    return f"was ended by signal {number}."


def _in_a_process(words: Sequence[str], held: Sequence[int]) -> int:
    return parts.run([sys.executable, "-m", "specialize", *words], held)


@contextlib.contextmanager
def _locked(
    out: str | os.PathLike[str], work: Work, *, wait: bool
) -> Iterator[int | None]:
    """Yields the number of the locked file; None if another process holds it.

    -1 in a bucket, where nothing is locked.
    """
    if paths.in_bucket(out):
        yield -1
        return
    file = _lock_of(out, work)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield descriptor
    finally:
        os.close(descriptor)


def _lock_of(out: str | os.PathLike[str], work: Work) -> pathlib.Path:
    return pathlib.Path(out) / "locks" / work.key


def _claim(out: str | os.PathLike[str]) -> None:
    if not paths.in_bucket(out):
        outputs.claim(out, "study")
    elif not outputs.check_writable(out, "study"):
        with outputs.working_folder(out, "study"):
            pass
