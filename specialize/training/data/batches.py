"""The global batch as a function of (seed, step).

    mixture --order--> window of examples --packing--> rows --pack--> batch

A window is a fixed number of examples packed into a fixed number of rows, which are
dealt to a fixed number of steps. No window knows of another, so any step's batch can be
made without the ones before it, by any number of processes; each materialises only the
rows its own devices hold.
"""

import concurrent.futures
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from specialize.training.data import packing
from specialize.training.data.mixtures import Mixture
from specialize.training.data.order import MixtureOrder, hashed, questions_of, shuffled
from specialize.training.data.spec import DataSpec

# Rows of a window, at least; more fill no better and cost more
# (docs/explanation/batches.md).
WINDOW_ROWS = 512
# Sample windows by which the number of examples of all windows is chosen.
CALIBRATION_WINDOWS = 2

Batch = dict[str, Shaped[np.ndarray, "B ..."]]


class BatchLayout(NamedTuple):
    """Which example stands where in one global batch.

    Attributes:
        tasks: task number of every example, in the order of rows.
        examples: its number within the task.
        rows: its row in the batch, ascending.
        encoder_tokens: tokens in the encoder, padding apart.
        decoder_tokens: tokens in the decoder, padding apart.
    """

    tasks: Int[np.ndarray, " N"]
    examples: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " N"]
    encoder_tokens: int
    decoder_tokens: int


class BatchSource:
    """All batches of a run.

    Without `data.window_rows`, a window has `WINDOW_ROWS` rows, or as many as one epoch
    of a small mixture fills, or one batch where questions stay together; rounded up to
    whole batches.

    Args:
        mixture: the examples.
        data: how they are made into batches.
    """

    def __init__(self, mixture: Mixture, data: DataSpec) -> None:
        self.mixture = mixture
        self.batch_size = batch_size = data.batch_size
        self.lengths = data.lengths
        self.capacities = list(self.lengths.values())
        self.packed = data.pack
        self.seed = data.seed
        self._stored = [examples.lengths for examples in mixture.tasks]
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
        self.window_examples = self._examples_of_a_window()
        self._windows: dict[int, concurrent.futures.Future[_Window]] = {}
        self._lock = threading.Lock()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "window")

    def identity(self) -> dict[str, Any]:
        """Everything that decides the batches; a resumed run must have the same."""
        return {
            "examples": self.mixture.digest,
            "batch_size": self.batch_size,
            "feature_lengths": self.lengths,
            "seed": self.seed,
            "pack": self.packed,
            "window_rows": self.window_rows,
            "window_examples": self.window_examples,
            # Absent where it decides nothing new: older runs can be taken up again.
            **({} if self.order == "random" else {"order": self.order}),
        }

    def layout(self, step: int) -> BatchLayout:
        """Which examples the global batch of a step holds; 0-based."""
        number, within = divmod(step, self.steps_per_window)
        window = self._window(number)
        low, high = within * self.batch_size, (within + 1) * self.batch_size
        first, last = np.searchsorted(window.rows, [low, high])
        part = slice(int(first), int(last))
        tasks, examples = window.tasks[part], window.examples[part]
        tokens = self._lengths(tasks, examples).sum(0)
        return BatchLayout(
            tasks, examples, window.rows[part] - low, int(tokens[0]), int(tokens[1])
        )

    def batch(self, step: int, rows: Int[np.ndarray, " R"] | None = None) -> Batch:
        """Materialises rows of a step's global batch.

        Args:
            step: 0-based.
            rows: which rows, ascending; all of them if None.

        Returns:
            Batch keys as `packing.pack` gives them, with R rows.
        """
        layout = self.layout(step)
        wanted = np.arange(self.batch_size) if rows is None else rows
        mine = np.isin(layout.rows, wanted)
        places = np.searchsorted(wanted, layout.rows[mine])
        return assemble(
            self.mixture,
            layout.tasks[mine],
            layout.examples[mine],
            places,
            len(wanted),
            self.lengths,
            segments=self.packed,
        )

    def record_ids(self, step: int) -> list[list[str]]:
        """The records in every row of a step's global batch."""
        layout = self.layout(step)
        ids: list[list[str]] = [[] for _ in range(self.batch_size)]
        for task, example, row in zip(
            layout.tasks, layout.examples, layout.rows, strict=True
        ):
            ids[row].append(self.mixture.tasks[task].record_id(int(example)))
        return ids

    def left_out(self, first: int, last: int) -> int:
        """Examples of the windows of these steps that no row had room for."""
        windows = range(
            first // self.steps_per_window, -(-last // self.steps_per_window)
        )
        return sum(self._window(number).left_out for number in windows)

    def epochs(self, step: int) -> dict[str, float]:
        """Epochs each task has been through before a step."""
        position = step * self.window_examples // self.steps_per_window
        names = [examples.task for examples in self.mixture.tasks]
        return dict(zip(names, self._order.epoch(position), strict=True))

    def statistics(self, first: int, last: int) -> dict[str, Any]:
        """What the batches of some steps hold.

        Args:
            first: 0-based step.
            last: step behind the last one.

        Returns:
            `examples` by task, `encoder_fill` and `decoder_fill` (tokens over
            positions), `left_out`.
        """
        counts = np.zeros(len(self.mixture.tasks), np.int64)
        tokens = np.zeros(2, np.int64)
        for step in range(first, last):
            layout = self.layout(step)
            counts += np.bincount(layout.tasks, minlength=len(counts))
            tokens += [layout.encoder_tokens, layout.decoder_tokens]
        positions = np.asarray(self.capacities) * self.batch_size * (last - first)
        names = [examples.task for examples in self.mixture.tasks]
        return {
            "examples": dict(zip(names, counts.tolist(), strict=True)),
            "encoder_fill": float(tokens[0] / positions[0]),
            "decoder_fill": float(tokens[1] / positions[1]),
            "left_out": self.left_out(first, last),
        }

    def prepare_ahead(self, step: int) -> None:
        """Makes the window after a step's in the background."""
        self._start(step // self.steps_per_window + 1)

    def _window(self, number: int) -> "_Window":
        return self._start(number).result()

    def _start(self, number: int) -> "concurrent.futures.Future[_Window]":
        with self._lock:
            if number not in self._windows:
                self._windows[number] = self._worker.submit(self._make, number)
                for old in [n for n in self._windows if n < number - 2]:
                    del self._windows[old]
            return self._windows[number]

    def _make(self, number: int) -> "_Window":
        tasks, examples = self._order.window(number, self.window_examples)
        seed = int(hashed(1, self.seed, 2, number)[0] >> np.uint64(1))
        if self.packed:
            lengths = self._lengths(tasks, examples)
            rows = packing.assign_rows(
                lengths, self.capacities, self.window_rows, seed=seed
            )
        else:
            rows = np.arange(self.window_rows)
        # Without this, rows that were hard to fill would share a batch.
        row_order = shuffled(self.window_rows, self.seed, 3, number)
        rows = np.where(rows < 0, -1, row_order[rows])
        order = np.argsort(rows, kind="stable")
        left_out = int((rows < 0).sum())
        order = order[left_out:]
        return _Window(tasks[order], examples[order], rows[order], left_out)

    def _lengths(
        self, tasks: Int[np.ndarray, " N"], examples: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, "N 2"]:
        found = np.zeros((len(tasks), 2), np.int64)
        for task, lengths in enumerate(self._stored):
            mine = tasks == task
            found[mine] = lengths[examples[mine]]
        return found

    def _epoch_rows(self) -> int:
        """Rows that one pass through the smallest epoch of the main task fills."""
        shares = [float(share) for share in self._order.shares]
        number = max(
            size / share for size, share in zip(self._order.sizes, shares, strict=True)
        )
        mean = sum(
            share * lengths.mean(0)
            for share, lengths in zip(shares, self._stored, strict=True)
        )
        per_row = (
            float((mean / np.asarray(self.capacities)).max()) if self.packed else 1
        )
        return max(1, int(number * per_row))

    def _examples_of_a_window(self) -> int:
        if not self.packed:
            return self.window_rows
        shares = [float(share) for share in self._order.shares]
        mean = sum(
            share * lengths.mean(0)
            for share, lengths in zip(shares, self._stored, strict=True)
        )
        per_row = float((np.asarray(self.capacities) / mean).min())
        most = max(
            int(self.window_rows * per_row * 1.1) + 1, self._order.smallest_window
        )
        windows = [
            self._lengths(*self._order.window(number, most))
            for number in range(CALIBRATION_WINDOWS)
        ]
        found = packing.greatest_count(
            windows, self.capacities, self.window_rows, seed=self.seed
        )
        return max(found, self._order.smallest_window)


class _Window(NamedTuple):
    tasks: Int[np.ndarray, " N"]
    examples: Int[np.ndarray, " N"]
    rows: Int[np.ndarray, " N"]
    left_out: int


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
    """Reads examples of several tasks and lays them out in rows.

    Args:
        mixture: where they are stored.
        tasks: task number of every example.
        examples: its number within the task.
        rows: its row, ascending.
        num_rows: B.
        feature_lengths: S and L.
        segments: whether the batch is packed.
    """
    names = set(mixture.tasks[0].features)
    for stored in mixture.tasks[1:]:
        names &= set(stored.features)
    features: dict[str, np.ndarray] = {}
    starts: dict[str, np.ndarray] = {}
    lengths: dict[str, np.ndarray] = {}
    for side, part in enumerate(("inputs", "targets")):
        sizes = np.zeros(len(tasks), np.int64)
        for task, stored in enumerate(mixture.tasks):
            mine = tasks == task
            sizes[mine] = stored.lengths[examples[mine], side]
        lengths[part] = sizes
        starts[part] = np.cumsum(sizes) - sizes
    for name in names:
        part = "inputs" if name == "inputs" else "targets"
        first = mixture.tasks[0].features[name]
        gathered = np.zeros((int(lengths[part].sum()), *first.shape[1:]), first.dtype)
        for task, stored in enumerate(mixture.tasks):
            mine = np.flatnonzero(tasks == task)
            source = _ranges(stored.starts[part][examples[mine]], lengths[part][mine])
            target = _ranges(starts[part][mine], lengths[part][mine])
            gathered[target] = stored.features[name][source]
        features[name] = gathered
    return packing.pack(
        features, starts, lengths, rows, num_rows, feature_lengths, segments=segments
    )


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
    """Every example of a held-out split exactly once, in as few rows as possible.

    Args:
        mixture: the examples; rates play no part.
        batch_size: B; the last batch is filled up with empty rows.
        feature_lengths: S and L.
        pack: whether a row holds several examples.
        max_examples: take only so many of each task, drawn with `seed`.
        seed: of the draw and the packing.

    Yields:
        (batch, number of examples in it).
    """
    tasks, examples = [], []
    for number, stored in enumerate(mixture.tasks):
        chosen = shuffled(len(stored), seed, 4, number)[:max_examples]
        tasks.append(np.full(len(chosen), number, np.int64))
        examples.append(np.sort(chosen))
    task, example = np.concatenate(tasks), np.concatenate(examples)
    lengths = np.zeros((len(task), 2), np.int64)
    for number, stored in enumerate(mixture.tasks):
        lengths[task == number] = stored.lengths[example[task == number]]
    sizes = [int(feature_lengths[part]) for part in ("inputs", "targets")]
    if pack:
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
