"""The order of the examples, as a pure function of (seed, position).

There is no generator with a state: each position of the stream determines its example.
Therefore a resumed run, or a run with another number of processes, has the same order,
and any step takes the same time. The random numbers are SplitMix64 hashes of a key;
unlike NumPy's generators they are the same in every version of every library.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

from specialize.corpus.records import RecordId
from specialize.errors import InputError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hashed(count: int, *key: int) -> UInt64[np.ndarray, " N"]:
    """Returns `count` pseudo-random 64-bit numbers that depend on `key` alone.

    SplitMix64 (Steele, Lea, Flood 2014); its first state is a chain of its outputs over
    the parts of the key.
    """
    with np.errstate(over="ignore"):
        state = np.zeros(1, np.uint64)
        for part in (*key, 0x5EED):
            state = _mix((state ^ np.uint64(part & 0xFFFFFFFFFFFFFFFF)) + _GOLDEN)
        return _mix(
            state + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        )


def shuffled(count: int, *key: int) -> Int[np.ndarray, " N"]:
    """Returns a permutation of range(count) that depends on `key` alone."""
    return np.argsort(hashed(count, *key), kind="stable")


def questions_of(tasks: Sequence[Any]) -> list[Int[np.ndarray, " _"]]:
    """Returns, for each task (`examples.Examples`), every example's question number.

    An id that is not a record's is a question's of its own.
    """
    numbers: dict[str, int] = {}

    def number(stored: Any, example: int) -> int:
        question = RecordId.read(stored.record_id(example)).problem
        return numbers.setdefault(question, len(numbers))

    return [
        np.asarray([number(stored, i) for i in range(len(stored))]) for stored in tasks
    ]


def _exact(rate: float) -> Fraction:
    """A rate as it was written: 0.1 is a tenth. Small or long ones are as they are."""
    found = Fraction(rate)
    written = found.limit_denominator(10**6)
    return written if abs(written - found) * 10**6 <= found else found


class MixtureOrder:
    """An endless stream of several tasks' examples, mixed at exact rates.

    Every task goes through its own epochs, each in a new order. In the first x examples
    of the mixture, a task with share r has r·x examples, up to one.

    Args:
        sizes: number of examples of every task.
        rates: relative rate of every task.
        seed: seed of all orders.
        questions: question number of every example, for each task. An epoch then goes
            from question to question, in one order for all tasks, and takes all
            examples of each. None: an epoch shuffles the examples.

    Raises:
        InputError: a task has no examples, or its rate is not positive.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rates: Sequence[float],
        seed: int,
        questions: Sequence[Int[np.ndarray, " _"]] | None = None,
    ) -> None:
        if not sizes or len(sizes) != len(rates):
            raise InputError(
                f"{len(sizes)} tasks have {len(rates)} rates. Give one rate per task."
            )
        if any(size < 1 for size in sizes) or any(not rate > 0 for rate in rates):
            raise InputError(
                f"task sizes {list(sizes)} and rates {list(rates)} must be positive. "
                "Leave empty tasks out of the mixture."
            )
        exact = [_exact(float(rate)) for rate in rates]
        self.sizes = tuple(int(size) for size in sizes)
        self.shares = tuple(rate / sum(exact) for rate in exact)
        self.seed = seed
        self._questions = questions
        self._by_question = functools.lru_cache(maxsize=32)(self._question_order)
        # The task with the greatest share takes the rest that rounding leaves.
        self._main = max(range(len(sizes)), key=lambda task: self.shares[task])

    @property
    def smallest_window(self) -> int:
        """The length of the shortest window in which no task has a negative count."""
        return len(self.sizes) * max(1, len(self.sizes) - 1)

    def starts(self, position: int) -> list[int]:
        """The number of every task's examples in the first `position` of the stream."""
        number = len(self.sizes)
        counts = [
            # Phases distribute rare tasks over different windows.
            int(position * share + Fraction(2 * task + 1, 2 * number))
            for task, share in enumerate(self.shares)
        ]
        counts[self._main] = 0
        counts[self._main] = position - sum(counts)
        return counts

    def window(
        self, index: int, count: int
    ) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Returns the examples of a window in the order of the stream.

        The tasks alternate as evenly as their counts allow.

        Args:
            index: number of the window, from 0.
            count: number N of examples of all windows, at least `smallest_window`.

        Returns:
            (task number, number within the task) of every example.
        """
        begin, end = self.starts(index * count), self.starts((index + 1) * count)
        tasks, examples, when = [], [], []
        for task, (first, last) in enumerate(zip(begin, end, strict=True)):
            number = last - first
            assert number >= 0, (task, first, last)
            tasks.append(np.full(number, task, np.int64))
            examples.append(self._examples(task, first, last))
            when.append((np.arange(number) + 0.5) / max(1, number))
        order = np.argsort(np.concatenate(when), kind="stable")
        return np.concatenate(tasks)[order], np.concatenate(examples)[order]

    def epoch(self, position: int) -> list[float]:
        """The number of epochs of every task after `position` examples."""
        starts = self.starts(position)
        return [start / size for start, size in zip(starts, self.sizes, strict=True)]

    def _examples(self, task: int, first: int, last: int) -> Int[np.ndarray, " N"]:
        size = self.sizes[task]
        parts = [np.zeros(0, np.int64)]
        for epoch in range(first // size, -(-last // size)):
            if self._questions is None:
                order = _epoch_order(size, self.seed, task, epoch)
            else:
                order = self._by_question(task, epoch)
            low, high = max(first - epoch * size, 0), min(last - epoch * size, size)
            parts.append(order[low:high])
        return np.concatenate(parts)

    def _question_order(self, task: int, epoch: int) -> Int[np.ndarray, " N"]:
        assert self._questions is not None
        number = 1 + max(int(questions.max()) for questions in self._questions)
        turns = hashed(number, self.seed, 5, epoch)[self._questions[task]]
        within = hashed(self.sizes[task], self.seed, 1, task, epoch)
        return np.lexsort((within, turns))


@functools.lru_cache(maxsize=32)
def _epoch_order(size: int, seed: int, task: int, epoch: int) -> Int[np.ndarray, " N"]:
    return shuffled(size, seed, 1, task, epoch)


def _mix(value: UInt64[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
