"""The global batch as a function of (seed, step).

    mixture --order--> window of examples --packing--> rows --pack--> batch

A window is a fixed number of examples, packed into a fixed number of sequences, which
are dealt to a fixed number of steps. Windows do not depend on each other, so any step's
batch can be made without the earlier ones, by any number of processes; each makes only
the sequences of its own devices. In the code a row is a sequence.
"""

import concurrent.futures
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from specialize.training.data import packing
from specialize.training.data.mixtures import Mixture
from specialize.training.data.order import MixtureOrder, hashed, questions_of, shuffled
from specialize.training.data.spec import DataSpec

# Sequences of a window. More of them reduce the padding no further and take more time
# (docs/explanation/batches.md).
WINDOW_ROWS = 512
# Number of sample windows by which the number of examples per window is chosen.
CALIBRATION_WINDOWS = 2

Batch = dict[str, Shaped[np.ndarray, "B ..."]]


class BatchLayout(NamedTuple):
    """The assignment of examples to the sequences of one global batch.

    Attributes:
        tasks: task number of every example.
        examples: number of every example within its task.
        rows: sequence of every example, ascending.
        encoder_tokens: number of encoder tokens, without padding.
        decoder_tokens: number of decoder tokens, without padding.
        metrics: what else is to be logged of the batch, name -> (sum, count).
    """

    tasks: Int[np.ndarray, " N"]
    examples: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " N"]
    encoder_tokens: int
    decoder_tokens: int
    metrics: Mapping[str, tuple[float, float]] = {}


class BatchSource:
    """All batches of a run.

    Unless `data.window_rows` is set, a window has `WINDOW_ROWS` sequences, or fewer if
    one epoch of a small mixture fills fewer, or one batch if questions stay together.
    It is rounded up to whole batches.

    Args:
        mixture: the examples.
        data: how batches are made of them.
        by_batch: whether the examples of a window, in the order of the stream, are
            divided among its batches before each is packed.
    """

    def __init__(
        self, mixture: Mixture, data: DataSpec, *, by_batch: bool = False
    ) -> None:
        self.mixture = mixture
        self.batch_size = batch_size = data.batch_size
        self.lengths = data.lengths
        self.capacities = list(self.lengths.values())
        self.packed = data.pack
        self.seed = data.seed
        self.order = data.order
        together = data.order == "same_question"
        self._order = MixtureOrder(
            [len(examples) for examples in mixture.tasks],
            mixture.rates,
            data.seed,
            questions_of(mixture.tasks) if together else None,
        )
        window_rows = data.window_rows or (
            batch_size if together else min(WINDOW_ROWS, self._epoch_rows())
        )
        rows = max(window_rows, self._order.smallest_window)
        self.steps_per_window = -(-rows // batch_size)
        self.window_rows = self.steps_per_window * batch_size
        self._groups = self.steps_per_window if by_batch else 1
        self._group_rows = self.window_rows // self._groups
        self.window_examples = self._examples_of_a_window()
        self._windows: dict[int, concurrent.futures.Future[Window]] = {}
        self._lock = threading.Lock()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "window")

    def identity(self) -> dict[str, Any]:
        """Everything that determines the batches; a resumed run must have the same."""
        return {
            "examples": self.mixture.digest,
            "batch_size": self.batch_size,
            "feature_lengths": self.lengths,
            "seed": self.seed,
            "pack": self.packed,
            "window_rows": self.window_rows,
            "window_examples": self.window_examples,
            # Absent for "random", so that older runs can be resumed.
            **({} if self.order == "random" else {"order": self.order}),
            **({} if self._groups == 1 else {"packed_rows": self._group_rows}),
        }

    def layout(self, step: int) -> BatchLayout:
        """Returns the layout of the global batch of a step, counted from 0."""
        number, within = divmod(step, self.steps_per_window)
        window = self._window(number)
        low, high = within * self.batch_size, (within + 1) * self.batch_size
        first, last = np.searchsorted(window.rows, [low, high])
        part = slice(int(first), int(last))
        tasks, examples = window.tasks[part], window.examples[part]
        tokens = lengths_of(window.mixture, tasks, examples).sum(0)
        return BatchLayout(
            *(tasks, examples, window.rows[part] - low),
            *(int(tokens[0]), int(tokens[1]), window.metrics_of(part)),
        )

    def batch(self, step: int, rows: Int[np.ndarray, " R"] | None = None) -> Batch:
        """Makes sequences of a step's global batch.

        Args:
            step: number of the step, from 0.
            rows: numbers of the sequences, ascending. None: all.

        Returns:
            R sequences with the batch keys of `packing.pack`.
        """
        layout = self.layout(step)
        wanted = np.arange(self.batch_size) if rows is None else rows
        mine = np.isin(layout.rows, wanted)
        places = np.searchsorted(wanted, layout.rows[mine])
        mixture = self._window(step // self.steps_per_window).mixture
        tasks, examples = layout.tasks[mine], layout.examples[mine]
        return self._laid_out(mixture, tasks, examples, places, len(wanted))

    def padding(self) -> Batch:
        """A batch without examples, for its shapes and types."""
        none = np.zeros(0, np.int64)
        return self._laid_out(self.mixture, none, none, none, self.batch_size)

    def record_ids(self, step: int) -> list[list[str]]:
        """The records in every sequence of a step's global batch."""
        layout = self.layout(step)
        mixture = self._window(step // self.steps_per_window).mixture
        ids: list[list[str]] = [[] for _ in range(self.batch_size)]
        for task, example, row in zip(
            layout.tasks, layout.examples, layout.rows, strict=True
        ):
            ids[row].append(mixture.tasks[task].record_id(int(example)))
        return ids

    def left_out(self, first: int, last: int) -> int:
        """The number of examples in the windows of these steps that did not fit."""
        windows = range(
            first // self.steps_per_window, -(-last // self.steps_per_window)
        )
        return sum(self._window(number).left_out for number in windows)

    def epochs(self, step: int) -> dict[str, float]:
        """The number of epochs of each task before a step."""
        position = step * self.window_examples // self.steps_per_window
        names = [examples.task for examples in self.mixture.tasks]
        return dict(zip(names, self._order.epoch(position), strict=True))

    def prepare_ahead(self, step: int) -> None:
        """Makes the window after a step's in the background."""
        self._start(step // self.steps_per_window + 1)

    def _window(self, number: int) -> "Window":
        return self._start(number).result()

    def _start(self, number: int) -> "concurrent.futures.Future[Window]":
        with self._lock:
            if number not in self._windows:
                self._windows[number] = self._worker.submit(self._make, number)
                for old in [n for n in self._windows if n < number - 2]:
                    del self._windows[old]
            return self._windows[number]

    def _make(self, number: int) -> "Window":
        tasks, examples = self._order.window(number, self.window_examples)
        return self._packed(number, self.mixture, tasks, examples)

    def _packed(
        self,
        number: int,
        mixture: Mixture,
        tasks: Int[np.ndarray, " N"],
        examples: Int[np.ndarray, " N"],
    ) -> "Window":
        """Assigns the examples of a window, in the order of the stream, to its rows."""
        lengths = lengths_of(mixture, tasks, examples)
        rows = np.concatenate(
            [
                self._rows(number * self._groups + group, lengths[mine], group)
                for group, mine in enumerate(
                    np.array_split(np.arange(len(lengths)), self._groups)
                )
            ]
        )
        order = np.argsort(rows, kind="stable")
        left_out = int((rows < 0).sum())
        order = order[left_out:]
        return Window(mixture, tasks[order], examples[order], rows[order], left_out)

    def _rows(
        self, number: int, lengths: Int[np.ndarray, "N 2"], group: int
    ) -> Int[np.ndarray, " N"]:
        """The row in the window of each example of a group; -1: it did not fit."""
        count = self._group_rows
        seed = int(hashed(1, self.seed, 2, number)[0] >> np.uint64(1))
        if self.packed:
            rows = packing.assign_rows(lengths, self.capacities, count, seed=seed)
        else:
            rows = np.arange(count)
        # Otherwise sequences that were hard to fill would share a batch.
        row_order = shuffled(count, self.seed, 3, number)
        return np.where(rows < 0, -1, row_order[rows] + group * count)

    def _laid_out(
        self,
        mixture: Mixture,
        tasks: Int[np.ndarray, " N"],
        examples: Int[np.ndarray, " N"],
        rows: Int[np.ndarray, " N"],
        num_rows: int,
    ) -> Batch:
        return assemble(
            *(mixture, tasks, examples, rows, num_rows, self.lengths),
            segments=self.packed,
        )

    def _mean_lengths(self) -> Float[np.ndarray, " 2"]:
        """Mean tokens of an example of the mixture."""
        parts = zip(self._order.shares, self.mixture.tasks, strict=True)
        means = (float(share) * task.lengths.mean(0) for share, task in parts)
        return np.asarray(sum(means))

    def _epoch_rows(self) -> int:
        """Sequences that the mixture fills until every task had one epoch."""
        parts = zip(self._order.sizes, self._order.shares, strict=True)
        number = max(size / float(share) for size, share in parts)
        filled = self._mean_lengths() / np.asarray(self.capacities)
        return max(1, int(number * (float(filled.max()) if self.packed else 1)))

    def _examples_of_a_window(self) -> int:
        if not self.packed:
            return self.window_rows
        per_row = float((np.asarray(self.capacities) / self._mean_lengths()).min())
        smallest = self._order.smallest_window
        most = max(int(self._group_rows * per_row * 1.1) + 1, smallest)
        windows = [
            lengths_of(self.mixture, *self._order.window(number, most))
            for number in range(CALIBRATION_WINDOWS)
        ]
        found = packing.greatest_count(
            windows, self.capacities, self._group_rows, seed=self.seed
        )
        return max(found * self._groups, smallest)


class Window(NamedTuple):
    """The examples of a window with the sequences that they are in.

    Attributes:
        mixture: where the examples are.
        tasks: task number of every example.
        examples: number of every example within its task.
        rows: sequence of every example, ascending.
        left_out: number of examples that did not fit.
        metrics: what is to be logged: name -> value of every example, NaN for none.
    """

    mixture: Mixture
    tasks: Int[np.ndarray, " N"]
    examples: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " N"]
    left_out: int
    metrics: Mapping[str, Float[np.ndarray, " N"]] = {}

    def metrics_of(self, part: slice) -> dict[str, tuple[float, float]]:
        """Sum and count of the values that a part of the examples has."""
        known = {
            name: values[part][~np.isnan(values[part])]
            for name, values in self.metrics.items()
        }
        return {name: (float(v.sum()), float(len(v))) for name, v in known.items()}


def lengths_of(
    mixture: Mixture, tasks: Int[np.ndarray, " N"], examples: Int[np.ndarray, " N"]
) -> Int[np.ndarray, "N 2"]:
    """Encoder and decoder tokens of examples of several tasks."""
    found = np.zeros((len(tasks), 2), np.int64)
    for task, stored in enumerate(mixture.tasks):
        mine = tasks == task
        found[mine] = stored.lengths[examples[mine]]
    return found


def assemble(
    mixture: Mixture,
    tasks: Int[np.ndarray, " N"],
    examples: Int[np.ndarray, " N"],
    rows: Int[np.ndarray, " N"],
    num_rows: int,
    feature_lengths: Mapping[str, int],
    *,
    segments: bool,
) -> Batch:
    """Reads examples of several tasks and lays them out in sequences.

    Args:
        mixture: the stored examples.
        tasks: task number of every example.
        examples: number of every example within its task.
        rows: sequence of every example, ascending.
        num_rows: number B of sequences.
        feature_lengths: S and L, the lengths of "inputs" and "targets".
        segments: whether the batch is packed.
    """
    features, lengths, starts = gathered(mixture, tasks, examples)
    return packing.pack(
        features, starts, lengths, rows, num_rows, feature_lengths, segments=segments
    )


def gathered(
    mixture: Mixture, tasks: Int[np.ndarray, " N"], examples: Int[np.ndarray, " N"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Reads examples of several tasks.

    Returns:
        (the flat values of every feature that all tasks have; the lengths [N] and the
        starts [N] of the examples, for "inputs" and "targets").
    """
    names = set.intersection(*(set(stored.features) for stored in mixture.tasks))
    features: dict[str, np.ndarray] = {}
    sizes = lengths_of(mixture, tasks, examples)
    lengths = {"inputs": sizes[:, 0], "targets": sizes[:, 1]}
    starts = {part: np.cumsum(size) - size for part, size in lengths.items()}
    for name in names:
        part = "inputs" if name == "inputs" else "targets"
        first = mixture.tasks[0].features[name]
        values = np.zeros((int(lengths[part].sum()), *first.shape[1:]), first.dtype)
        for task, stored in enumerate(mixture.tasks):
            mine = np.flatnonzero(tasks == task)
            source = _ranges(stored.starts[part][examples[mine]], lengths[part][mine])
            target = _ranges(starts[part][mine], lengths[part][mine])
            values[target] = stored.features[name][source]
        features[name] = values
    return features, lengths, starts


def _ranges(
    starts: Int[np.ndarray, " N"], lengths: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " T"]:
    """The concatenation of range(start, start + length)."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def held_out_batches(
    mixture: Mixture,
    *,
    batch_size: int,
    feature_lengths: Mapping[str, int],
    pack: bool = True,
    max_examples: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[Batch, int]]:
    """Yields every example of a held-out split once, in as few sequences as possible.

    Args:
        mixture: the examples; their rates are not used.
        batch_size: number B of sequences; the last batch ends with empty ones.
        feature_lengths: S and L, the lengths of "inputs" and "targets".
        pack: whether a sequence holds several examples.
        max_examples: number of examples of each task, drawn at random. None: all.
        seed: seed of the draw and of the packing.

    Yields:
        (batch, number of examples in it).
    """
    tasks, examples = [], []
    for number, stored in enumerate(mixture.tasks):
        chosen = shuffled(len(stored), seed, 4, number)[:max_examples]
        tasks.append(np.full(len(chosen), number, np.int64))
        examples.append(np.sort(chosen))
    task, example = np.concatenate(tasks), np.concatenate(examples)
    sizes = [int(feature_lengths[part]) for part in ("inputs", "targets")]
    if pack:
        lengths = lengths_of(mixture, task, example)
        rows = packing.assign_rows(lengths, sizes, None, seed=seed)
    else:
        rows = np.arange(len(task))
    order = np.argsort(rows, kind="stable")
    task, example, rows = task[order], example[order], rows[order]
    for low in range(0, int(rows[-1]) + 1, batch_size):
        first, last = np.searchsorted(rows, [low, low + batch_size])
        part = slice(int(first), int(last))
        batch = assemble(
            mixture,
            task[part],
            example[part],
            rows[part] - low,
            batch_size,
            feature_lengths,
            segments=pack,
        )
        yield batch, int(last - first)
