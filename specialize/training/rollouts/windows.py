"""The batches of a run whose student writes a part of its targets itself.

    window of examples --student--> texts --teacher--> rows --packing--> batches

The texts of a window of steps are written with the weights before its first step, so
the batches of later windows do not exist yet. A written example keeps the inputs, the
format and the place in the stream of the example whose target it replaces; its length
is another, so a window is packed when its texts are known. Examples that do not fit are
left out, as elsewhere.
"""

import concurrent.futures
import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from specialize.student.loss.spec import FORMATS, PART, LossConfig
from specialize.training.data.batches import Batch, BatchSource, Window, gathered
from specialize.training.data.mixtures import Mixture
from specialize.training.data.order import hashed
from specialize.training.data.spec import DataSpec
from specialize.training.data.stored_examples import Examples
from specialize.training.logging.step_results import SPEED
from specialize.training.rollouts.spec import MOST_STEPS

# Names of the metrics of examples with targets of the corpus and of the student.
CORPUS, ON_POLICY = "corpus", "on_policy"
_COT = tuple(i for i, name in enumerate(FORMATS, start=1) if name.endswith("_cot"))


class UnfinishedError(RuntimeError):
    """A signal came before the texts of a window were made."""


class Rows(NamedTuple):
    """What a teacher says about texts.

    The probability of an id lies between its entry and its entry plus the tail; a row
    without entries, whose tail is 1, says nothing and adds 0 to the loss.

    Attributes:
        teacher_ids: K ids of the teacher at each position; unused entries hold 0.
        teacher_probs: their probabilities; 0 in unused entries.
        teacher_tail: probability off these ids.
        scored: number of the teacher's tokens that were scored, of each text.
    """

    teacher_ids: Int[np.ndarray, "T K"]
    teacher_probs: Float[np.ndarray, "T K"]
    teacher_tail: Float[np.ndarray, " T"]
    scored: Int[np.ndarray, " M"]


class Written(NamedTuple):
    """What the student wrote for a window, with the teacher's rows.

    Attributes:
        lengths: tokens of each of the M texts, EOS included if it was written.
        ids: ids of all texts, one after the other.
        rows: what the teacher says about them.
        ended: whether the student ended the text.
        right: 1 or 0 as the text was judged, NaN if it was not.
        seconds: duration of writing, and of the teacher's reading.
    """

    lengths: Int[np.ndarray, " M"]
    ids: Int[np.ndarray, " T"]
    rows: Rows
    ended: Bool[np.ndarray, " M"]
    right: Float[np.ndarray, " M"]
    seconds: Float[np.ndarray, " 2"]


class Asked(NamedTuple):
    """The examples of a window whose targets the student writes.

    Attributes:
        inputs: input ids of each example, EOS last.
        records: ids of the records.
    """

    inputs: list[list[int]]
    records: list[str]


class _Drawn(NamedTuple):
    tasks: Int[np.ndarray, " N"]
    examples: Int[np.ndarray, " N"]
    written: Bool[np.ndarray, " N"]


class RolloutSource(BatchSource):
    """All batches of a run with rollouts; those of a window exist once it is `put`.

    Args:
        mixture: the examples.
        data: how batches are made of them, and `data.rollouts`.
        loss: the objective, from `loss_with_parts`.
    """

    def __init__(self, mixture: Mixture, data: DataSpec, loss: LossConfig) -> None:
        spec = data.rollouts
        steps = spec.steps or _steps(mixture, data)
        rows = steps * data.batch_size
        super().__init__(
            mixture,
            dataclasses.replace(data, window_rows=rows),
            by_batch=data.order == "same_question",
        )
        self.spec = spec
        self._written = loss.written
        self._parts = len(loss.parts) - loss.written
        rows = [one.features.get("teacher_ids") for one in mixture.tasks]
        self.k = spec.entries(one.shape[1] for one in rows if one is not None)
        self._left_out = 0

    def identity(self) -> dict[str, Any]:
        """As `BatchSource.identity`, with what the texts depend on."""
        return {**super().identity(), "rollouts": self.spec.identity()}

    @property
    def usual_texts(self) -> int:
        """The number of texts that few windows exceed."""
        share, number = self.spec.share, self.window_examples
        spread = 2 * math.sqrt(number * share * (1 - share))
        return min(number, max(1, math.ceil(number * share + spread)))

    def has(self, number: int) -> bool:
        """Whether a window was put."""
        return number in self._windows

    def asked(self, number: int) -> Asked:
        """The examples of a window whose targets the student writes."""
        drawn = self._drawn(number)
        inputs, records = [], []
        for task, example in zip(
            drawn.tasks[drawn.written], drawn.examples[drawn.written], strict=True
        ):
            stored = self.mixture.tasks[task]
            first = int(stored.starts["inputs"][example])
            last = first + int(stored.lengths[example, 0])
            inputs.append(stored.features["inputs"][first:last].tolist())
            records.append(stored.record_id(int(example)))
        return Asked(inputs, records)

    def put(self, number: int, written: Written) -> None:
        """Packs a window, whose texts are known."""
        drawn = self._drawn(number)
        mixture = self._merged(number, drawn, written)
        tasks = drawn.written.astype(np.int64)
        within = np.where(drawn.written, tasks.cumsum(), (1 - tasks).cumsum()) - 1
        window = self._packed(number, mixture, tasks, within)
        self._left_out += window.left_out
        done: concurrent.futures.Future[Window] = concurrent.futures.Future()
        done.set_result(window._replace(metrics=self._metrics(window, written)))
        with self._lock:
            self._windows[number] = done
            for old in [n for n in self._windows if n < number - 2]:
                del self._windows[old]

    def padding(self) -> Batch:
        """As `BatchSource.padding`."""
        none = np.zeros(0, np.int64)
        drawn = _Drawn(none, none, np.zeros(0, bool))
        mixture = self._merged(0, drawn, nothing(self.k))
        return self._laid_out(mixture, none, none, none, self.batch_size)

    def prepare_ahead(self, step: int) -> None:
        """Nothing: the next window needs weights that do not exist yet."""

    def left_out(self, first: int, last: int) -> int:
        """The number of examples of this process's windows that did not fit."""
        return self._left_out

    def _drawn(self, number: int) -> _Drawn:
        tasks, examples = self._order.window(number, self.window_examples)
        draws = hashed(len(tasks), self.seed, 6, number)
        written = draws.astype(np.float64) < self.spec.share * 2.0**64
        if self.spec.server is not None:
            written &= np.isin(self._formats(tasks, examples) % PART, _COT)
        return _Drawn(tasks, examples, written)

    def _formats(
        self, tasks: Int[np.ndarray, " N"], examples: Int[np.ndarray, " N"]
    ) -> Int[np.ndarray, " N"]:
        """The format of each example, plus `PART` times its part of the mixture."""
        found = np.zeros(len(tasks), np.int64)
        for task, stored in enumerate(self.mixture.tasks):
            if "format_id" in stored.features:
                mine = tasks == task
                first = stored.starts["targets"][examples[mine]]
                found[mine] = stored.features["format_id"][first]
        return found

    def _merged(self, number: int, drawn: _Drawn, written: Written) -> Mixture:
        """Two tasks: the examples of the corpus, and those that the student wrote."""
        parts = []
        for name, mine in ((CORPUS, ~drawn.written), (ON_POLICY, drawn.written)):
            chosen = drawn.tasks[mine], drawn.examples[mine]
            features, lengths, _ = gathered(self.mixture, *chosen)
            if name == CORPUS:
                features = _with_rows(features, self.k)
            else:
                formats, part = self._formats(*chosen), self._parts + 1
                if self._written > 1:  # each part of the mixture has its own
                    part = self._parts + np.maximum(formats // PART, 1)
                formats = formats % PART + PART * part
                features = _of_written(features["inputs"], written, formats)
                lengths = {**lengths, "targets": written.lengths}
            table = np.stack([lengths["inputs"], lengths["targets"]], axis=1)
            ids = [
                self.mixture.tasks[task].record_id(int(example))
                for task, example in zip(*chosen, strict=True)
            ]
            if name == ON_POLICY:
                ids = [f"{one}/rollout-{number}.{i}" for i, one in enumerate(ids)]
            parts.append(
                Examples.in_memory(name, features, table.astype(np.int32), ids)
            )
        return Mixture(self.mixture.name, parts, [1.0, 1.0])

    def _metrics(
        self, window: Window, written: Written
    ) -> dict[str, Float[np.ndarray, " N"]]:
        """The values to be logged of every example of a window."""
        mine = window.tasks == 1

        def of_written(values: np.ndarray) -> Float[np.ndarray, " N"]:
            found = np.full(len(mine), np.nan)
            found[mine] = values[window.examples[mine]]
            return found

        def of_all(value: float) -> Float[np.ndarray, " N"]:
            return np.full(len(mine), value)

        lost = window.left_out / max(1, window.left_out + len(mine))
        writing, scoring = (float(s) / self.steps_per_window for s in written.seconds)
        found = {
            f"{ON_POLICY}/share": mine.astype(np.float64),
            f"{ON_POLICY}/length": of_written(written.lengths),
            f"{ON_POLICY}/ended": of_written(written.ended),
            f"{ON_POLICY}/right": of_written(written.right),
            f"{ON_POLICY}/teacher_tokens": of_written(written.rows.scored),
            f"{ON_POLICY}/left_out": of_all(lost),
            f"{SPEED}writing_seconds": of_all(writing),
            f"{SPEED}scoring_seconds": of_all(scoring),
        }
        if self.spec.server is not None:
            found[f"{ON_POLICY}/unscored"] = of_written(written.rows.scored == 0)
        return found


def loss_with_parts(loss: LossConfig) -> LossConfig:
    """The objective of a run with rollouts, whose texts have metrics of their own.

    A text has the weight of the part of the mixture whose inputs it answers. If these
    weights differ, the texts have a part for each of them.

    Raises:
        InputError: it has no form for texts of the student.
    """
    parts = loss.parts or ((CORPUS, 1.0),)
    own = tuple((f"{ON_POLICY}/{name}", weight) for name, weight in parts)
    if len({weight for _, weight in own}) == 1:
        own = ((ON_POLICY, own[0][1]),)
    return dataclasses.replace(loss, parts=(*parts, *own), written=len(own))


def with_parts(model: Any) -> Any:
    """The student of a run with rollouts, which has that objective."""
    model = copy.copy(model)
    model.loss = loss_with_parts(model.loss)
    return model


def nothing(k: int) -> Written:
    """The texts of a window in which the student writes none."""
    return Written(
        lengths=np.zeros(0, np.int64),
        ids=np.zeros(0, np.int32),
        rows=Rows(
            np.zeros((0, k), np.int32),
            np.zeros((0, k), np.float32),
            np.zeros(0, np.float32),
            np.zeros(0, np.int64),
        ),
        ended=np.zeros(0, bool),
        right=np.zeros(0),
        seconds=np.zeros(2),
    )


def _steps(mixture: Mixture, data: DataSpec) -> int:
    """The smallest number of steps whose texts fill a batch of the decoder.

    With a small share it would have no bound.
    """
    one = BatchSource(mixture, dataclasses.replace(data, window_rows=data.batch_size))
    texts = data.rollouts.share * one.window_examples / one.steps_per_window
    needed = min(MOST_STEPS, data.rollouts.batch_size / max(texts, 1e-9))
    return max(1, math.ceil(needed))


def _with_rows(features: Mapping[str, np.ndarray], k: int) -> dict[str, np.ndarray]:
    """Features of the corpus with K entries per row; one-hot if there is no teacher."""
    targets = features["targets"].astype(np.int32)
    total = len(targets)
    ids, probs = np.zeros((total, k), np.int32), np.zeros((total, k), np.float32)
    tail = np.zeros(total, np.float32)
    if "teacher_ids" in features:
        given = features["teacher_ids"].shape[1]
        ids[:, :given] = features["teacher_ids"]
        probs[:, :given] = features["teacher_probs"]
        tail = features["teacher_tail"].astype(np.float32)
    else:
        ids[:, 0], probs[:, 0] = targets, 1.0
    formats = features.get("format_id", np.zeros(total, np.int32)).astype(np.int32)
    return {
        "inputs": features["inputs"].astype(np.int32),
        "targets": targets,
        "teacher_ids": ids,
        "teacher_probs": probs,
        "teacher_tail": tail,
        # In a mixture of one part it has no number.
        "format_id": np.where(formats < PART, formats + PART, formats),
    }


def _of_written(
    inputs: np.ndarray, written: Written, formats: Int[np.ndarray, " M"]
) -> dict[str, np.ndarray]:
    return {
        "inputs": inputs.astype(np.int32),
        "targets": written.ids.astype(np.int32),
        "teacher_ids": written.rows.teacher_ids.astype(np.int32),
        "teacher_probs": written.rows.teacher_probs.astype(np.float32),
        "teacher_tail": written.rows.teacher_tail.astype(np.float32),
        "format_id": np.repeat(formats, written.lengths).astype(np.int32),
    }
