"""Interruptions of a run: signals, non-finite steps, full disks."""

import contextlib
import json
import os
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from specialize import outputs
from specialize.errors import InputError
from specialize.processes.signals import Arrivals


class NonFiniteError(FloatingPointError):
    """A step's loss or gradient was not finite; the state before it was saved."""


class Stop:
    """Whether a signal asked this run to end.

    Attributes:
        signal: number of the signal, SIGTERM or SIGINT; 0 if there was none.
    """

    def __init__(self) -> None:
        self.signal = 0

    def now(self) -> bool:
        """Whether this process ends before its next step, as the only one of a run.

        Several processes agree on a step that all of them take.
        """
        return self.signal != 0 and jax.process_count() == 1

    def at(self, step: int) -> bool:
        """Whether all processes end after this step.

        If processes receive the signal at different times, the coordination service of
        `jax.distributed` chooses one step for all of them.
        """
        if jax.process_count() == 1:
            return self.signal != 0
        from jax.experimental import multihost_utils

        if multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return self.signal != 0


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Makes SIGTERM and the first SIGINT stop the run after the current step.

    A second SIGINT interrupts at once, unless it is a double of the first. With several
    processes JAX's preemption service listens for SIGTERM, and gets one for the first
    SIGINT.
    """
    stop, arrivals = Stop(), Arrivals()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        del frame
        again = stop.signal and number == signal.SIGINT
        if arrivals.is_new(number) and again:
            raise KeyboardInterrupt
        stop.signal = number

    asked: list[int] = []

    def ask_all(number: int, frame: Any) -> None:
        del frame
        if arrivals.is_new(number):
            asked.append(number)
            if asked[1:]:
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)

    handlers = {signal.SIGTERM: ask, signal.SIGINT: ask}
    if jax.process_count() > 1:
        handlers = {signal.SIGINT: ask_all}
    before = {number: signal.signal(number, one) for number, one in handlers.items()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def full_disk(model_dir: pathlib.Path) -> Iterator[None]:
    """Turns the error of a full disk into one clear message.

    Raises:
        InputError: the disk of `model_dir` is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in outputs.DISK_FULL:
            raise
        raise InputError(
            f"The disk of {model_dir} is full ({error.strerror}; "
            f"{outputs.free_space(model_dir)}). Its finished checkpoints are intact. "
            "Free some space; the same command then resumes from the newest checkpoint."
        ) from error


def record_nonfinite(
    model_dir: pathlib.Path | str,
    step: int,
    metrics: Mapping[str, tuple[float, float]],
    batch: Mapping[str, np.ndarray],
    record_ids: list[list[str]],
) -> str:
    """Records the batch whose loss or gradient was not finite.

    Args:
        model_dir: the run's folder, or its URL.
        step: number of the step, from 0.
        metrics: (sum, count) pairs of the step.
        batch: this process's sequences.
        record_ids: records in every sequence of the global batch.

    Returns:
        The JSON file of process 0. Each process writes its arrays to the same folder.
    """
    stem = os.path.join(model_dir, f"nonfinite-{step}")
    path, arrays = f"{stem}.json", f"{stem}.{jax.process_index()}.npz"
    with outputs.staged_file(arrays) as staged:
        with open(staged, "wb") as file:
            named: dict[str, Any] = dict(batch)
            np.savez_compressed(file, **named)
    if jax.process_index() != 0:
        return path
    shown = {name: [repr(float(v)) for v in pair] for name, pair in metrics.items()}
    outputs.write_text(
        path,
        json.dumps(
            {"step": step, "metrics": shown, "record_ids": record_ids}, indent=1
        ),
    )
    return path


def nonfinite_message(
    step: int, path: str, saved: int, record_ids: list[list[str]]
) -> str:
    """The error message for a step that was not finite."""
    ids = [record for row in record_ids for record in row]
    some = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
    return (
        f"loss or gradient of step {step + 1} is not finite. The state before it is "
        f"saved as checkpoint {saved}; the batch is in {path} (records {some}). Lower "
        "LEARNING_RATE, set CLIP_NORM, or look at those records; then start again."
    )
