"""The loop of a run: steps, evaluations and checkpoints."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from specialize import memory, sharding
from specialize.checkpoints.spec import CheckpointSpec
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.checkpoints.store import CheckpointStore
from specialize.student.adapters import trees
from specialize.training.data import feed
from specialize.training.data.batches import BatchSource
from specialize.training.logging.run_log import MetricSums
from specialize.training.logging.step_results import NotFinite, StepResults
from specialize.training.loop import interruptions, resuming
from specialize.training.loop.evaluating import Evaluator
from specialize.training.loop.interruptions import NonFiniteError, Stop
from specialize.training.loop.profiling import Profiler
from specialize.training.loop.spec import PeriodicEvaluation
from specialize.training.optimization import averaging


@dataclasses.dataclass
class Progress:
    """The progress of a run, which a checkpoint contains.

    Attributes:
        state: weights, optimizer and number of steps, on the mesh.
        about: the run's "run", "tasks", "settings" and "adapters" (`resuming.about`).
        step: number of optimizer steps taken.
        sums: metrics since the last log line.
        metrics: latest metrics of training and of evaluations.
        evaluation_due: whether a stop prevented the evaluation after this step.
        changes: which settings a resumed run changed, in words.
    """

    state: Any
    about: Mapping[str, Any]
    step: int = 0
    sums: MetricSums = dataclasses.field(default_factory=MetricSums)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    evaluation_due: bool = False
    changes: Sequence[str] = ()

    @classmethod
    def restored(
        cls,
        store: CheckpointStore,
        abstract_state: Any,
        about: Mapping[str, Any],
    ) -> "Progress":
        """Reads the progress from the newest intact checkpoint.

        Raises:
            InputError: the checkpoint belongs to another run, or none can be read.
        """
        newest = store.latest()
        # Another optimizer has another state, whose arrays would all be named.
        with contextlib.suppress(DamagedCheckpointError):
            resuming.check(store.metadata(newest or 0), about)
        state, saved = store.restore(None, abstract_state)
        resuming.check(saved, about)
        return cls(
            state,
            about,
            int(saved["step"]),
            MetricSums(saved["interval"]),
            dict(saved["latest"]),
            bool(saved["evaluation_due"]),
            resuming.changes(saved.get("settings", {}), about["settings"]),
        )


class OwnTexts(NamedTuple):
    """What the texts of the student change in a run, if it writes any.

    Attributes:
        model: the student for the optimizer step.
        fixed: what every batch has for the step besides its arrays.
        begin: called before the first of some steps with the number of steps taken,
            the weights, and what says whether the run ends; returns the step before
            which it is to be called again, or None if the run ends first. None: the
            batches do not depend on the weights.
    """

    model: Any
    fixed: Mapping[str, Any] = {}
    begin: Callable[[int, Any, Callable[[], bool]], int | None] | None = None


@dataclasses.dataclass
class Loop:
    """The loop of one run.

    The results of a step are read one step later, so that the devices always have work.
    They wait only for evaluations and checkpoints.

    Attributes:
        model_dir: the run's folder, or its URL.
        progress: progress of the run, which every step changes.
        take_step: (state, healthy, batch, frozen) -> (state, healthy, results),
            compiled.
        source: the batches.
        mesh: the device mesh.
        store: the checkpoints.
        checkpoints: which checkpoints are saved.
        results: reads the results of steps.
        evaluators: the evaluations.
        evaluation: how often the evaluations are made, and of which weights.
        total_steps: number of steps of the whole run.
        own: what changes if the student writes texts.
        frozen: the parameters beside the adapters, on the mesh; {} if all are trained.
        scores: metrics of the last evaluation.
        scored: number of steps that had been taken at the last evaluation.
    """

    model_dir: pathlib.Path | str
    progress: Progress
    take_step: Callable[..., Any]
    source: BatchSource
    mesh: Mesh
    store: CheckpointStore
    checkpoints: CheckpointSpec
    results: StepResults
    evaluators: Sequence[Evaluator]
    evaluation: PeriodicEvaluation
    total_steps: int
    own: "OwnTexts"
    frozen: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    scored: int = -1

    def run(self, stop: Stop, profiler: Profiler) -> bool:
        """Takes the remaining steps.

        Returns:
            Whether a signal ended the run before its last step.

        Raises:
            NonFiniteError: a step was not finite; the state before it was saved.
        """
        try:
            return self._run(stop, profiler)
        except NotFinite as fault:
            raise self._failure(fault) from None

    def _run(self, stop: Stop, profiler: Profiler) -> bool:
        run, stopped = self.progress, False
        healthy = jax.device_put(jnp.ones((), bool), sharding.replicated(self.mesh))
        # Simulated devices of one CPU share a pool of threads. Two steps at once could
        # each hold some of the threads and wait forever for the others.
        one_at_a_time = sharding.simulated(self.mesh)
        if run.evaluation_due and self.evaluators:
            self._make_up_for_evaluation()
        memory.return_freed()  # after building and compiling
        with contextlib.closing(self._batches(stop)) as batches:
            for number, batch, layout in batches:
                profiler.before(number)
                run.state, healthy, results = self.take_step(
                    run.state, healthy, {**batch, **self.own.fixed}, self.frozen
                )
                self.results.enter(number, results, layout)
                if one_at_a_time:
                    jax.block_until_ready((run.state, results))
                    self.results.settle()  # else its time would count as the next's
                run.step = number + 1
                stopped = stop.at(run.step) and run.step < self.total_steps
                self._evaluate_and_save(stopped)
                if stopped:
                    break
        if run.step < self.total_steps and not stopped:
            stopped = True  # before the texts of a window were written
            run.evaluation_due = False
            self._save()
        self.store.wait()
        run.metrics.update(self.results.latest)
        return stopped

    def _batches(self, stop: Stop) -> Generator[feed.Fed]:
        """The batches of the remaining steps, each when the one before it is taken."""
        run = self.progress
        while run.step < self.total_steps:
            last = self.total_steps
            if self.own.begin is not None:
                self.results.settle()  # else the time of a step would count here
                weights = trees.join(run.state["params"], self.frozen)
                began = time.perf_counter()
                again = self.own.begin(run.step, weights, stop.now)
                if again is None:
                    return
                last = min(last, again)
                self.results.spread(time.perf_counter() - began, last - run.step)
            yield from feed.feed(self.source, self.mesh, run.step, last)

    def _evaluate_and_save(self, stopped: bool) -> None:
        """Makes the evaluation and the checkpoint that are due after a step."""
        step = self.progress.step
        last = step == self.total_steps
        evaluated = bool(self.evaluators) and (
            last or step % self.evaluation.period == 0
        )
        saved = stopped or last or step % self.checkpoints.period == 0
        if not (evaluated or saved):
            return
        self.results.settle()
        if evaluated and not stopped:
            self._evaluate()
        if saved or self.checkpoints.best_metric is not None:
            # A run that was asked to stop does not evaluate first.
            self.progress.evaluation_due = evaluated and stopped
            self._save()
            self.results.restart_clock()

    def _make_up_for_evaluation(self) -> None:
        """Makes the evaluation that a stop prevented, also for the saved checkpoint.

        Without its metrics, the checkpoint would never be the best one.
        """
        run = self.progress
        self._evaluate()
        run.evaluation_due = False
        self.results.log.upload()
        self.store.amend(
            run.step, self.scores, latest=run.metrics, evaluation_due=False
        )

    def _evaluate(self) -> None:
        run = self.progress
        trained = averaging.weights_of(run.state, self.evaluation.weights)
        weights = trees.join(trained, self.frozen)
        self.scores, self.scored = {}, run.step
        for evaluator in self.evaluators:
            self.scores.update(evaluator(weights, run.step))
        memory.return_freed()
        self.results.log.evaluation(run.step, self.scores)
        run.metrics.update(self.scores)
        self.results.restart_clock()

    def _save(self) -> None:
        run = self.progress
        run.metrics.update(self.results.latest)
        if self.store.latest() == run.step:
            return
        record = {
            # Checkpoints are compared only by evaluations of their own weights.
            "metrics": self.results.latest
            | (self.scores if self.scored == run.step else {}),
            "latest": run.metrics,
            "interval": run.sums.to_json(),
            "evaluation_due": run.evaluation_due,
            **run.about,
        }
        self.results.log.upload()
        self.store.save(run.step, run.state, record)

    def _failure(self, fault: NotFinite) -> NonFiniteError:
        """Saves the state before a step that was not finite, and records its batch."""
        run, source = self.progress, self.source
        run.step, run.evaluation_due = int(run.state["step"]), False
        self._save()
        self.store.wait()
        batch = source.batch(fault.step, feed.local_rows(source.batch_size, self.mesh))
        ids = source.record_ids(fault.step)
        path = interruptions.record_nonfinite(
            self.model_dir, fault.step, fault.metrics, batch, ids
        )
        sharding.barrier("batch that is not finite")
        return NonFiniteError(
            interruptions.nonfinite_message(fault.step, path, run.step, ids)
        )
