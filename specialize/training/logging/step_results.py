"""Reads the results of steps, each one step after it was dispatched."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from specialize.training.data.batches import BatchLayout, BatchSource
from specialize.training.logging.run_log import Clock, MetricSums, RunLog

# What the names of durations in the metrics of a batch begin with.
SPEED = "speed/"


class NotFinite(Exception):
    """A step's loss or gradient was infinite or NaN.

    Attributes:
        step: number of the step, from 0.
        metrics: (sum, count) pairs of the step.
    """

    def __init__(self, step: int, metrics: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(step)
        self.step = step
        self.metrics = metrics


class StepResults:
    """Reads the results of steps in order, and writes a log line when it is due.

    `enter` takes a step that was only dispatched and reads the one before it, so that
    the devices always have work while the host waits.

    Args:
        source: all batches.
        log: writes the log lines.
        names: names of the metrics, in the order of a step's results.
        period: number of steps between log lines.
        sums: metrics since the last log line; a resumed run begins with some.

    Attributes:
        latest: the means of the last log line, under "train/".
        log: writes the log lines.
    """

    def __init__(
        self,
        source: BatchSource,
        log: RunLog,
        names: Sequence[str],
        period: int,
        sums: MetricSums,
    ) -> None:
        self.latest: dict[str, float] = {}
        self.log = log
        self._sums = sums
        self._source = source
        self._names = names
        self._period = period
        self._clock = Clock()
        self._pending: tuple[int, Any, BatchLayout] | None = None
        lengths = source.lengths
        self._positions = source.batch_size * (lengths["inputs"] + lengths["targets"])

    def enter(self, step: int, results: Any, layout: BatchLayout) -> None:
        """Takes the results of a dispatched step, and reads those of the one before it.

        Args:
            step: number of the step, from 0.
            results: sums and counts on the devices, [n 2].
            layout: what the batch holds.

        Raises:
            NotFinite: the step before it was not finite.
        """
        self.settle()
        self._pending = (step, results, layout)

    def settle(self) -> None:
        """Waits for the results of the step that was entered last, and reads them.

        Raises:
            NotFinite: it was not finite.
        """
        if self._pending is None:
            return
        (step, results, layout), self._pending = self._pending, None
        self._read(step, np.asarray(results), layout)

    def restart_clock(self) -> None:
        """Leaves the time since the last step out of the seconds per step."""
        self._clock.restart()

    def spread(self, seconds: float, steps: int) -> None:
        """Counts the time since the last step as a part of the next ones.

        Args:
            seconds: how long it was.
            steps: number of steps that have a part of it.
        """
        self._clock.spread(seconds, steps)

    def _read(
        self, step: int, results: Float[np.ndarray, "N 2"], layout: BatchLayout
    ) -> None:
        pairs = {
            name: (float(total), float(count))
            for name, (total, count) in zip(self._names, results, strict=True)
        }
        self._clock.tick()
        finite, _ = pairs.pop("finite")
        learning_rate, _ = pairs.pop("learning_rate")
        if not finite:
            raise NotFinite(step, pairs)
        tokens = float(layout.encoder_tokens + layout.decoder_tokens)
        pairs["_tokens"] = (tokens, 1.0)
        pairs["_filled"] = (tokens, float(self._positions))
        pairs |= {
            # A duration is one of the step, however many examples it has.
            name: (total / count, 1.0) if name.startswith(SPEED) and count else pair
            for name, pair in layout.metrics.items()
            for total, count in [pair]
        }
        self._sums.add(pairs)
        taken = step + 1
        if taken % self._period and taken != self.log.total_steps:
            return
        means = self._sums.means()
        tokens, filled = means.pop("_tokens"), means.pop("_filled")
        speed = {n: means.pop(n) for n in [*means] if n.startswith(SPEED)}
        self.latest = {f"train/{name}": value for name, value in means.items()}
        self.log.line(
            taken,
            means,
            seconds=self._clock.read(),
            average=self._clock.average,
            tokens_per_step=tokens,
            learning_rate=learning_rate,
            padding=1.0 - filled,
            epochs=self._source.epochs(taken),
            speed={name.removeprefix(SPEED): value for name, value in speed.items()},
        )
        self._sums.clear()
