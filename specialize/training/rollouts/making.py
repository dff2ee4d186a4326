"""Before the first step of a window: the student writes, the teacher reads."""

import hashlib
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from specialize import config, paths, sharding, typed_json
from specialize.corpus.records import Problem, RecordId
from specialize.corpus.tasks.known import find, index, read_problems
from specialize.corpus.vocabulary import read_vocabulary
from specialize.errors import InputError
from specialize.inference.weights import weights_digest
from specialize.judging.answers import verdict
from specialize.judging.spec import JudgeSpec
from specialize.progress import say
from specialize.training.data.spec import DataSpec
from specialize.training.optimization.step import TEACHER
from specialize.training.rollouts.keeping import Keeper
from specialize.training.rollouts.mesh_teacher import MeshTeacher, load_teacher
from specialize.training.rollouts.spec import Ends, RolloutSpec
from specialize.training.rollouts.whole import WholeStudent
from specialize.training.rollouts.windows import (
    Asked,
    RolloutSource,
    Rows,
    UnfinishedError,
    Written,
    nothing,
)
from specialize.training.rollouts.writing import Texts, Writer, lengths_of


class Teacher(Protocol):
    """Says how likely the pieces of texts are; all processes of a run call it."""

    def read(self, texts: Texts, ends: Ends) -> Rows:
        """The rows of all positions of all texts, one text after the other.

        Raises:
            UnfinishedError: `ends` has become true.
        """
        ...


class _InTheStep:
    """A `Teacher` that reads the texts within the step: nothing is said before."""

    def __init__(self, k: int) -> None:
        self._k = k

    def read(self, texts: Texts, ends: Ends) -> Rows:
        """Empty rows."""
        del ends
        sizes = np.asarray([len(ids) for ids in texts.ids], np.int64)
        total = int(sizes.sum())
        return Rows(
            np.zeros((total, self._k), np.int32),
            np.zeros((total, self._k), np.float32),
            np.ones(total, np.float32),
            sizes,
        )


class Rollouts:
    """Makes the windows of a run; all processes call it together.

    Attributes:
        model: the student for the optimizer step.
        fixed: what every batch has for it.

    Args:
        source: the batches, which it completes.
        data: lengths, seed and rollouts of the run.
        model: the student.
        mesh: the devices.
        folder: the run's folder, or the local copy of one in a bucket.
        publish: uploads what has changed in it.
        teacher: what the teacher's rows depend on besides, as digests.
        responses: database of a served teacher's answers, or its URL.
        checkpoints: the steps from which the run may resume if it is killed now.

    Raises:
        InputError: the teacher, the vocabulary or the problems cannot be read.
    """

    def __init__(
        self,
        source: RolloutSource,
        data: DataSpec,
        model: Any,
        mesh: Mesh,
        *,
        folder: pathlib.Path,
        publish: Callable[[], None],
        teacher: Any,
        responses: str,
        checkpoints: Callable[[], Sequence[int]],
    ) -> None:
        spec, network = data.rollouts, model.module.config
        path = config.place(spec.vocabulary_path, "VOCABULARY_PATH", "VOCABULARY")
        self._vocabulary = read_vocabulary(path, network=network)
        self._problems, self._judge = _problems(spec)
        self._source, self._mesh = source, mesh
        self.model, self.fixed = model, dict[str, Any]()
        self._teacher: Teacher
        rows = network.vocab_size
        if spec.teacher is not None:
            loaded = load_teacher(
                *(spec.teacher, self._vocabulary, mesh, network.dtype),
                rows if spec.whole_vocabulary else None,
            )
            self._teacher = MeshTeacher(loaded, mesh, source.k, rows)
            rows = min(rows, loaded.module.config.vocab_size)
            if spec.whole_vocabulary:
                self.model = WholeStudent(model, loaded.module)
                self.fixed = {TEACHER: loaded.params}
                self._teacher = _InTheStep(source.k)
        else:
            self._teacher = _served()(
                *(spec, self._problems, self._vocabulary, responses, source.k)
            )
        self._writer = Writer(
            *(model.module, self._vocabulary, mesh, data, source.usual_texts), rows
        )
        self._keeper = Keeper(folder, source.identity(), teacher, publish)
        self._checkpoints = checkpoints

    def begin(self, step: int, params: Any, ends: Ends) -> int | None:
        """Makes the window of a step, if it is not made.

        Args:
            step: number of optimizer steps taken.
            params: the weights after them.
            ends: whether the run ends; asked again and again.

        Returns:
            The window's last step, plus 1; None if the run ends before it is made.
        """
        number, steps = divmod(step, self._source.steps_per_window)
        if not self._source.has(number):
            weights = None if steps else weights_digest(params)
            written = self._keeper.read(number, weights)
            if written is None:
                if steps:
                    _say(
                        f"the texts that the student wrote before step {step - steps} "
                        "are not in the run's folder: it writes others, so this run "
                        "differs from one that was not stopped"
                    )
                try:
                    written = self._make(number, params, ends)
                except UnfinishedError:
                    return None
                digest = weights or weights_digest(params)
                self._keeper.write(number, digest, written)
            self._source.put(number, written)
            needed = min([step, *self._checkpoints()])
            self._keeper.remove_before(needed // self._source.steps_per_window)
        return (number + 1) * self._source.steps_per_window

    def _make(self, number: int, params: Any, ends: Ends) -> Written:
        asked = self._source.asked(number)
        if not asked.inputs:
            return nothing(self._source.k)
        began = time.perf_counter()
        texts = self._write(number, params, asked, ends)
        read = time.perf_counter()
        rows = self._teacher.read(texts, ends)
        done = time.perf_counter()
        return Written(
            lengths=np.asarray([len(ids) for ids in texts.ids], np.int64),
            ids=np.concatenate(texts.ids).astype(np.int32),
            rows=rows,
            ended=texts.ended,
            right=self._rights(texts),
            seconds=np.asarray([read - began, done - read]),
        )

    def _write(self, number: int, params: Any, asked: Asked, ends: Ends) -> Texts:
        count = len(asked.inputs)
        ids: list[np.ndarray] = [np.zeros(0, np.int32)] * count
        ended = np.zeros(count, bool)
        groups = []
        for group in self._writer.write(params, number, asked.inputs):
            if sharding.simulated(self._mesh):
                jax.block_until_ready(group.tokens)
            groups.append(group)
            if ends():
                raise UnfinishedError
        for group in groups:
            if ends():
                raise UnfinishedError
            tokens = np.asarray(group.tokens)
            sizes, whole = lengths_of(tokens, self._vocabulary.eos_id)
            for row, example in enumerate(group.examples):
                ids[example] = tokens[row, : sizes[row]]
                ended[example] = whole[row]
        return Texts(asked, groups, ids, ended)

    def _rights(self, texts: Texts) -> Float[np.ndarray, " M"]:
        found = np.full(len(texts.ids), np.nan)
        for number, (record, ids) in enumerate(
            zip(texts.asked.records, texts.ids, strict=True)
        ):
            if problem := self._problems.get(RecordId.read(record).problem):
                text = self._vocabulary.decode(ids.tolist())
                found[number] = verdict(text, problem.answers, self._judge).correct
        return found


def _served() -> Any:
    """`ServedTeacher`, which needs what other runs do without."""
    try:
        from specialize.training.rollouts.served_teacher import ServedTeacher
    except ModuleNotFoundError as error:
        raise InputError(
            "asking a server needs the extra 'teacher': pip install "
            "'specialize[teacher]'."
        ) from error
    return ServedTeacher


def _problems(spec: RolloutSpec) -> tuple[dict[str, Problem], JudgeSpec]:
    """The questions by their ids, if they are named, and the judge of their task."""
    if spec.problems_path is None:
        return {}, JudgeSpec()
    task = find(spec.task or index().default)
    problems = read_problems(paths.local(spec.problems_path), task)
    return {one.id: one for one in problems}, task.judge


def read_by_server(spec: RolloutSpec) -> dict[str, str]:
    """What the prompts of a served teacher are made of, by macro; a run keeps it.

    Returns:
        The name of the task, and the beginnings of the digests of the files; that of a
        task file is the digest of its settings.

    Raises:
        InputError: a file cannot be read, or the task is unknown.
    """
    files = {
        "ROLLOUT_PROMPT_PATH": spec.prompt_path,
        "ROLLOUT_PROBLEMS_PATH": spec.problems_path,
    }
    task = find(spec.task or index().default)
    found = {"ROLLOUT_TASK": task.name}
    if spec.task is not None and str(spec.task) not in index().tasks:
        found["the content of ROLLOUT_TASK"] = task.digest
    for name, path in files.items():
        content = b""
        if path is not None:
            file = pathlib.Path(paths.local(path))
            typed_json.refuse_device(file, remedy=f"Name a text file as {name}.")
            try:
                content = file.read_bytes()
            except OSError as error:
                raise InputError(f"{name}: {path} cannot be read ({error}).") from error
        found[name] = hashlib.sha256(content).hexdigest()[:16]
    return found


def _say(text: str) -> None:
    if jax.process_index() == 0:
        say(text)
