"""What a run reports: log lines, `metrics.jsonl` and TensorBoard.

Metrics are (sum, count) pairs of one step; a log line shows the quotient of the sums
over the steps since the last line. The sums are float64 on the host and are saved in
checkpoints, so a resumed run writes the same lines as an uninterrupted one.
"""

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from specialize import outputs, run_folder, typed_json
from specialize.errors import InputError
from specialize.progress import say
from specialize.student.loss.spec import parts_with
from specialize.training.logging import throughput
from specialize.training.logging.spec import LoggingSpec

Pair = tuple[float, float]


class MetricSums:
    """Metrics and tokens since the last log line.

    Attributes:
        sums: name -> [sum, count].
        steps: number of steps that were added.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {}
        self.sums: dict[str, list[float]] = {
            name: [float(total), float(count)]
            for name, (total, count) in saved.get("sums", {}).items()
        }
        self.steps = int(saved.get("steps", 0))

    def add(self, metrics: Mapping[str, Pair]) -> None:
        """Adds one step's metrics."""
        self.steps += 1
        for name, (total, count) in metrics.items():
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0] += float(total)
            pair[1] += float(count)

    def clear(self) -> None:
        """Begins the next log period."""
        self.sums, self.steps = {}, 0

    def means(self) -> dict[str, float]:
        """Sum over count of every metric whose count is not 0."""
        return {
            name: total / count for name, (total, count) in self.sums.items() if count
        }

    def to_json(self) -> dict[str, Any]:
        """What the constructor reads; JSON keeps floats exactly."""
        return {"sums": self.sums, "steps": self.steps}


class Clock:
    """Seconds per step, between the arrivals of results; the first step is left out."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._average: float | None = None
        self._interval = 0.0
        self._steps = 0
        self._share = 0.0

    def tick(self) -> None:
        """Counts one more step, which has just ended."""
        now = time.perf_counter()
        if self._last is not None:
            self._interval += now - self._last + self._share
            self._steps += 1
        self._last = now

    def restart(self) -> None:
        """Leaves out what happened since the last tick (evaluation, saving)."""
        if self._last is not None:
            self._last = time.perf_counter()

    def spread(self, seconds: float, steps: int) -> None:
        """Counts what happened since the last tick as a part of the next steps.

        Otherwise it would be in the log line of the first of them alone.

        Args:
            seconds: how long it took.
            steps: number of steps for which it was done; each has the same part, until
                this is called again.
        """
        self.restart()
        self._share = seconds / steps

    def read(self) -> float | None:
        """Mean seconds per step since the last reading."""
        if not self._steps:
            return self._average
        seconds = self._interval / self._steps
        self._interval, self._steps = 0.0, 0
        old = self._average
        self._average = seconds if old is None else 0.7 * old + 0.3 * seconds
        return seconds

    @property
    def average(self) -> float | None:
        """Seconds per step, smoothed over log lines; for the remaining time."""
        return self._average


class RunLog:
    """Writes log lines on process 0, and nothing on the others.

    Args:
        model_dir: the run's folder.
        spec: whether summaries for TensorBoard are written, and the peak FLOP/s.
        total_steps: number of steps of the run.
        first_step: number of steps already taken; later lines are dropped.
        flops: model FLOPs per step.
        devices: number of devices of the mesh.
        publish: called after each line, to upload what has changed.
    """

    def __init__(
        self,
        model_dir: pathlib.Path,
        spec: LoggingSpec,
        *,
        total_steps: int,
        first_step: int,
        flops: float,
        devices: int,
        publish: Callable[..., None] = lambda **_: None,
    ) -> None:
        self._publish = publish
        self.total_steps = total_steps
        self.flops_per_step = flops
        self.peak = spec.peak_flops or throughput.peak_flops(devices)[0]
        self.active = jax.process_index() == 0
        self._path = model_dir / run_folder.METRICS
        self._writer = None
        if not self.active:
            return
        _drop_after(self._path, first_step)
        self._file = open(self._path, "a", encoding="utf-8")
        if spec.tensorboard:
            from clu import metric_writers

            folder = os.fspath(model_dir / run_folder.TENSORBOARD)
            self._writer = metric_writers.AsyncWriter(
                metric_writers.SummaryWriter(folder)
            )

    def line(
        self,
        step: int,
        means: Mapping[str, float],
        *,
        seconds: float | None,
        average: float | None,
        tokens_per_step: float,
        learning_rate: float,
        padding: float,
        epochs: Mapping[str, float],
        speed: Mapping[str, float] = {},
    ) -> None:
        """Prints and writes the training metrics up to a step.

        Args:
            step: number of steps taken.
            means: metric -> value.
            seconds: seconds per step since the last line, if known.
            average: smoothed seconds per step, if known.
            tokens_per_step: encoder and decoder tokens, without padding.
            learning_rate: learning rate of the last step.
            padding: padding fraction.
            epochs: task -> number of epochs so far.
            speed: other durations, per step.
        """
        if not self.active:
            return
        speed = dict(speed)
        if seconds:
            speed |= {
                "seconds_per_step": seconds,
                "tokens_per_second": tokens_per_step / seconds,
                "flops_per_second": self.flops_per_step / seconds,
                "model_flops_utilization": self.flops_per_step / seconds / self.peak,
            }
        if average:
            speed["eta_seconds"] = average * (self.total_steps - step)
        record = {
            "step": step,
            "train": dict(sorted(means.items())),
            "learning_rate": learning_rate,
            "padding": padding,
            "epochs": dict(epochs),
            "speed": speed,
        }
        self._write(record)
        self._summaries(
            step,
            {f"train/{name}": value for name, value in means.items()}
            | {f"speed/{name}": value for name, value in speed.items()}
            | {f"epochs/{name}": value for name, value in epochs.items()}
            | {"train/learning_rate": learning_rate, "train/padding": padding},
        )
        say(step_line(step, self.total_steps, record))
        self._publish()

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Prints and writes the metrics of an evaluation at a step."""
        if not self.active:
            return
        self._write({"step": step, "eval": dict(sorted(metrics.items()))})
        self._summaries(step, {f"eval/{name}": v for name, v in metrics.items()})
        # The metrics of single formats are only in the files.
        shown = [n for n in metrics if n.count("/") <= 1 and n.endswith(_SHOWN)]
        text = "  ".join(f"{name} {_short(metrics[name])}" for name in shown)
        say(f"step {step}  evaluation  {text}")
        self._publish()

    def upload(self) -> None:
        """Uploads the lines so far: a resumed run does not write them again."""
        if self.active:
            self._publish(now=True)

    def close(self) -> None:
        """Closes the files."""
        if self.active:
            self._file.close()
        if self._writer is not None:
            self._summarise(lambda writer: writer.close())
            self._writer = None

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()

    def _summaries(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is not None:
            finite = {n: v for n, v in scalars.items() if math.isfinite(v)}
            self._summarise(lambda writer: writer.write_scalars(step, finite))

    def _summarise(self, call: Callable[[Any], None]) -> None:
        """Calls the writer of summaries; a run goes on if they cannot be written.

        It writes in the background and reports the failure of an earlier call, such as
        a full disk, at any later one, even while the run itself is ending with an
        error.
        """
        try:
            call(self._writer)
        except Exception as error:
            self._writer = None
            reason = str(error.__cause__ or error).partition("\n")[0]
            say(f"summaries for TensorBoard cannot be written ({reason:.200})")


_SHOWN = ("loss", "kl", "ce", "accuracy")


def step_line(step: int, total_steps: int, record: Mapping[str, Any]) -> str:
    """The log line that is printed.

    `step 120/4000  3.1 s  41 TFLOP/s  MFU 38 %  8.7k tok/s (pad 3 %)  kl .412 ce .88
    lr 4e-4  eta 2h10`
    """
    speed, means = record["speed"], record["train"]
    parts = [f"step {step}/{total_steps}"]
    if "seconds_per_step" in speed:
        parts += [
            f"{speed['seconds_per_step']:.3g} s",
            f"{_scaled(speed['flops_per_second'])}FLOP/s",
            f"MFU {100 * speed['model_flops_utilization']:.0f} %",
            f"{_scaled(speed['tokens_per_second']).replace(' ', '')} tok/s "
            f"(pad {100 * record['padding']:.0f} %)",
        ]
    losses = [f"{name} {_short(means[name])}" for name in ("kl", "ce") if name in means]
    parts.append(" ".join(losses) or f"loss {_short(means.get('loss', math.nan))}")
    mixed = [f"{p} {_short(means[f'{p}/kl'])}" for p in parts_with("kl", means)]
    parts += [f"kl of {', '.join(mixed)}"] if mixed else []
    parts += [_own_texts(means)] if "on_policy/length" in means else []
    parts.append(f"lr {_rate(record['learning_rate'])}")
    if "eta_seconds" in speed:
        parts.append(f"eta {_duration(speed['eta_seconds'])}")
    return "  ".join(parts)


def _own_texts(means: Mapping[str, float]) -> str:
    """`own 50 % (31 tokens, ended 98 %, right 40 %, unscored 2 %)`, of rollouts."""
    about = [f"{means['on_policy/length']:.0f} tokens"]
    for name in ("ended", "right"):
        if (value := means.get(f"on_policy/{name}")) is not None:
            about.append(f"{name} {100 * value:.0f} %")
    if unscored := means.get("on_policy/unscored"):
        about.append(f"unscored {100 * unscored:.0f} %")
    return f"own {100 * means['on_policy/share']:.0f} % ({', '.join(about)})"


def _scaled(value: float) -> str:
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.3g} "


def _short(value: float) -> str:
    text = f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def _rate(value: float) -> str:
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _duration(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02d}h"
    if hours:
        return f"{hours}h{minute:02d}"
    return f"{minute}m{second:02d}" if minute else f"{second}s"


@dataclasses.dataclass(frozen=True)
class _Line:
    step: typed_json.Count


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Drops the lines after a step, and lines that a kill cut or damaged."""
    if not path.exists():
        return
    kept: list[str] = []
    *lines, cut = typed_json.read_bytes(path).split(b"\n")
    damaged: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = typed_json.decode(line, _Line, path, infinities=True)
            text = line.decode()  # fields that are not read may be no UTF-8
        except (InputError, UnicodeDecodeError):
            damaged.append(number)
            continue
        if found.step <= step:
            kept.append(text)
    if damaged:
        numbers = ", ".join(map(str, damaged[:5]))
        say(f"{path}: {len(damaged)} damaged lines are dropped, first {numbers}")
    if cut or len(kept) < len(lines):
        outputs.write_text(path, "".join(f"{line}\n" for line in kept))


def _finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
