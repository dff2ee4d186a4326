"""`train()`, which starts or resumes a run.

A run is stored in its folder. Whether `train` starts the run or resumes it from its
newest checkpoint follows from the folder, so the same command starts a run, resumes it
after an interruption, and does nothing if the run is complete.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from specialize import checks, config, outputs, paths, run_folder, sharding
from specialize.checkpoints.spec import CheckpointSpec
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError
from specialize.mesh import MeshSpec
from specialize.progress import say
from specialize.student.adapters import trees
from specialize.training.data import feed
from specialize.training.data.batches import BatchSource
from specialize.training.data.mixtures import Mixture, load_mixture
from specialize.training.data.spec import DataSpec
from specialize.training.logging import throughput
from specialize.training.logging.run_log import RunLog
from specialize.training.logging.spec import LoggingSpec
from specialize.training.logging.step_results import StepResults
from specialize.training.loop import interruptions, resuming
from specialize.training.loop.evaluating import Evaluator, measurements
from specialize.training.loop.profiling import Profiler
from specialize.training.loop.running import Loop, OwnTexts, Progress
from specialize.training.loop.spec import PeriodicEvaluation
from specialize.training.loop.together import check_same_everywhere, other_weights
from specialize.training.optimization import averaging
from specialize.training.optimization.optimizers import Optimizer, make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.state import (
    StateLayout,
    adapted,
    create_state,
    load_frozen,
    lower_step,
    plan_state,
)
from specialize.training.rollouts.making import Rollouts
from specialize.training.rollouts.windows import RolloutSource, with_parts

# What a resumed run does not need a local copy of.
_LARGE = tuple(
    f"{name}/*"
    for name in (
        *(run_folder.CHECKPOINTS, run_folder.TENSORBOARD, run_folder.PROFILE),
        *(run_folder.EXAMPLES, "selection"),
    )
)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        step: number of optimizer steps taken in all.
        metrics: metrics of the last evaluation, and those of the last log line, under
            "train/".
        stopped: True if a signal ended the run before its last step.
        signal: number of a signal that asked the run to end, early enough or not; 0
            if there was none.
        model_dir: the run's folder, or its URL.
        params: the weights, on the mesh; those of the base and of the adapters, if
            adapters are trained.
    """

    step: int
    metrics: dict[str, float]
    stopped: bool
    signal: int
    model_dir: pathlib.Path | str
    params: Any = dataclasses.field(repr=False)


def train(
    model: Any,
    data: DataSpec,
    optimizer: OptimizerSpec | Optimizer,
    *,
    model_dir: str | os.PathLike[str],
    total_steps: int,
    initial_checkpoint_path: str | None = None,
    mesh: MeshSpec | Mesh | Mapping[str, int] | str | None = None,
    rules: sharding.Rules = sharding.DEFAULT_RULES,
    checkpoints: CheckpointSpec = CheckpointSpec(),
    evaluation: PeriodicEvaluation = PeriodicEvaluation(),
    logging: LoggingSpec = LoggingSpec(),
    evaluators: Sequence[Evaluator] = (),
) -> TrainResult:
    """Trains a student, or continues its training.

    Args:
        model: the student (`student.model.Student`).
        data: the examples and their batches.
        optimizer: the optimizer and schedule, or an optax chain as an `Optimizer`.
        model_dir: the run's folder, new or of an earlier run; or its URL.
        total_steps: total number of optimizer steps, those of an earlier run included.
        initial_checkpoint_path: weights in any layout that `convert` reads, or None;
            the base of `OptimizerSpec.adapters`, which a resumed run reads again.
        mesh: the device mesh, in any spelling that `MeshSpec.read` takes.
        rules: the sharding rules.
        checkpoints: where checkpoints are stored, and which are kept.
        evaluation: what is measured during training.
        logging: what is reported.
        evaluators: additional evaluations, (params, step) -> metrics.

    Returns:
        The outcome, also if the run was complete already.

    Raises:
        InputError: the folder was not made by `train` or belongs to a run with other
            settings or base, mesh and microbatches do not divide the batch, adapters
            have no base, or the processes have no folder or no examples in common.
        NonFiniteError: a step was not finite; the state before it was saved.

    Example:
        >>> import specialize_tasks  # registers the tasks of the corpus
        >>> teacher = ("targets", "teacher_ids", "teacher_probs", "teacher_tail")
        >>> lengths = {"inputs": 128} | dict.fromkeys((*teacher, "format_id"), 64)
        >>> specialize.train(
        ...     specialize.load("runs/student").model,
        ...     specialize.DataSpec("specialize_gsm8k_zero_shot_cot", lengths, 8),
        ...     specialize.OptimizerSpec(total_steps=2),
        ...     model_dir="runs/new",
        ...     total_steps=2,
        ... ).step
        2
    """
    # -- 1. Check the arguments, before anything is written or compiled. --------------
    where = _where(model_dir)
    _check(total_steps, checkpoints, evaluation, evaluators)
    mesh = _mesh(mesh, data)
    chain = _chain(optimizer)
    model = adapted(model, chain)

    with contextlib.ExitStack() as exits:
        work = exits.enter_context(_working(where, checkpoints))
        # -- 2. Data, prepared once; a step's batch then follows from (seed, step). ---
        mixture, held_out = _load(data, evaluation, where, model)
        model, source = _batched(model, mixture, data)
        about = resuming.about(
            *(source, data, optimizer, checkpoints, evaluation, logging),
            *(model.module.config, getattr(model, "loss", None)),
            total_steps=total_steps,
            initial_checkpoint_path=initial_checkpoint_path,
            mesh=str(MeshSpec(**mesh.shape)),
        )
        check_same_everywhere(about, held_out)
        about |= other_weights(chain, initial_checkpoint_path, data)

        # -- 3. State, from the newest checkpoint, from given weights, or random. -----
        exits.enter_context(interruptions.full_disk(work.path))
        stop = exits.enter_context(interruptions.stop_on_signals())
        store = exits.enter_context(_open_store(checkpoints, where))
        layout = _planned(model, chain, source, mesh, rules, evaluation)
        start = (model, layout, source.padding(), data.seed, initial_checkpoint_path)
        run = _resumed(store, layout, about, where)
        run = run or Progress(create_state(*start), about)
        frozen = load_frozen(layout, resuming.base_in(about), chain.adapters)
        if run.step >= total_steps:
            _say(f"{where} is complete: {run.step} of {total_steps} steps")
            return _result(run, frozen, where, stop, stopped=False)

        # -- 4. The step, compiled once, and the evaluations. -------------------------
        began = time.perf_counter()
        own = _own_texts(source, data, model, mesh, work, store, where, about)
        names, compiled = _compiled(own, chain, data, layout, source)
        _save_configuration(work.path)  # after the last check
        measured = measurements(evaluation, data, held_out, model, layout, work.path)
        log = _open_log(logging, model, data, mesh, work, run.step, total_steps)
        exits.callback(log.close)
        profiler = Profiler(work.path / run_folder.PROFILE, logging.profile_steps)
        exits.callback(profiler.stop)
        _say(_summary(mixture, data, mesh, time.perf_counter() - began))

        # -- 5. The loop. -------------------------------------------------------------
        loop = Loop(
            model_dir=where,
            progress=run,
            take_step=compiled,
            source=source,
            mesh=mesh,
            store=store,
            checkpoints=checkpoints,
            results=StepResults(source, log, names, logging.period, run.sums),
            evaluators=[*evaluators, *measured],
            evaluation=evaluation,
            total_steps=total_steps,
            own=own,
            frozen=frozen,
        )
        stopped = loop.run(stop, profiler)
        _say_how_it_ended(source, run.step, stopped=stopped)
        return _result(run, frozen, where, stop, stopped=stopped)


def _check(
    total_steps: int,
    checkpoints: CheckpointSpec,
    evaluation: PeriodicEvaluation,
    evaluators: Sequence[Evaluator],
) -> None:
    checks.whole("total_steps", total_steps)
    # Nobody knows what other evaluators measure.
    if checkpoints.best_metric is not None and not evaluators:
        evaluation.check_metric(checkpoints.best_metric)


def _save_configuration(folder: pathlib.Path) -> None:
    if jax.process_index() == 0:
        config.save(folder)  # all values and their origins
        config.save_operative(folder)  # with defaults


def _say_how_it_ended(source: BatchSource, step: int, *, stopped: bool) -> None:
    if stopped:
        _say(f"stopped: step {step} is saved; the same command resumes the run")
    if left_out := source.left_out(0, step):
        _say(f"packing left out {left_out} examples")


def _batched(model: Any, mixture: Mixture, data: DataSpec) -> tuple[Any, BatchSource]:
    """The batches, and the student, whose loss has metrics of its own texts."""
    if not data.rollouts.on:
        return model, BatchSource(mixture, data)
    model = with_parts(model)
    return model, RolloutSource(mixture, data, model.loss)


def _own_texts(
    source: BatchSource,
    data: DataSpec,
    model: Any,
    mesh: Mesh,
    work: outputs.Working,
    store: CheckpointStore,
    where: pathlib.Path | str,
    about: Mapping[str, Any],
) -> OwnTexts:
    """The student and its batches, also if these depend on the weights."""
    if not isinstance(source, RolloutSource):
        return OwnTexts(model)
    found = Rollouts(
        *(source, data, model, mesh),
        folder=work.path,
        publish=lambda: work.publish(now=True),
        teacher=resuming.teacher_of(about),
        responses=os.path.join(where, run_folder.ROLLOUTS, run_folder.RESPONSES),
        checkpoints=store.after_a_kill,
    )
    return OwnTexts(found.model, found.fixed, found.begin)


def _compiled(
    own: OwnTexts, chain: Optimizer, data: DataSpec, layout: StateLayout, source: Any
) -> tuple[list[str], Any]:
    """The names of the metrics of a step, and the compiled step."""
    shapes = {**feed.global_padding(source, layout.mesh), **own.fixed}
    names, lowered = lower_step(own.model, chain, data, layout, shapes)
    return names, lowered.compile()


def _planned(
    model: Any,
    chain: Optimizer,
    source: BatchSource,
    mesh: Mesh,
    rules: sharding.Rules,
    evaluation: PeriodicEvaluation,
) -> StateLayout:
    """The layout of the state, which has the weights that are to be evaluated."""
    layout = plan_state(model, chain, source.padding(), mesh, rules)
    averaging.weights_of(layout.abstract, evaluation.weights)
    return layout


def _chain(optimizer: OptimizerSpec | Optimizer) -> Optimizer:
    if isinstance(optimizer, OptimizerSpec):
        return make_optimizer(optimizer)
    return optimizer


def _mesh(mesh: Any, data: DataSpec) -> Mesh:
    """The mesh, which divides the batch."""
    found = sharding.read_mesh(mesh)
    data.check_batch(sharding.batch_shards(found))
    return found


def _where(model_dir: str | os.PathLike[str]) -> pathlib.Path | str:
    """The run's folder or URL, which can be written."""
    where = pathlib.Path(model_dir)
    if paths.in_bucket(model_dir):
        where = paths.checked_for_checkpoints(model_dir, "model_dir")
    outputs.check_writable(where, "run")
    return where


@contextlib.contextmanager
def _working(
    where: pathlib.Path | str, checkpoints: CheckpointSpec
) -> Iterator[outputs.Working]:
    """Makes the run's folder, or checks that it is one; the folder to write in.

    All processes write checkpoints; what else is in the folder, process 0 writes.
    """
    leader = jax.process_index() == 0
    with outputs.working_folder(where, "run", leader=leader, but=_LARGE) as working:
        name = "MODEL_DIR" if checkpoints.dir is None else "CHECKPOINT_DIR"
        outputs.check_shared(checkpoints.dir or where, name)
        yield working


def _load(
    data: DataSpec,
    evaluation: PeriodicEvaluation,
    where: pathlib.Path | str,
    model: Any,
) -> tuple[Mixture, Mixture | None]:
    """Loads the examples to train on, and those whose loss is measured, if any."""
    folder = paths.folder() if isinstance(where, str) else where
    folder = data.examples_dir or folder / run_folder.EXAMPLES

    def load(chosen: str | Mapping[str, Any] | Mixture | None, split: str) -> Mixture:
        if isinstance(chosen, Mixture):
            return chosen
        if chosen is None:
            raise InputError("There is no mixture to train on. Set data.mixture.")
        return load_mixture(
            chosen,
            split,
            data.feature_lengths,
            folder,
            reuse=data.reuse_examples,
            tasks=data.tasks,
            rows=model.module.config.vocab_size,
            exchange=os.path.join(where, run_folder.EXAMPLES),
        )

    mixture = load(data.mixture, data.split)
    if evaluation.split is None and not isinstance(evaluation.mixture, Mixture):
        return mixture, None
    split = evaluation.split or "validation"
    return mixture, load(evaluation.mixture or data.mixture, split)


def _open_store(spec: CheckpointSpec, where: pathlib.Path | str) -> CheckpointStore:
    return CheckpointStore(
        spec.dir or os.path.join(where, run_folder.CHECKPOINTS),
        keep=spec.keep,
        best_metric=spec.best_metric,
        best_mode=spec.best_mode,
    )


def _resumed(
    store: CheckpointStore,
    layout: StateLayout,
    about: Mapping[str, Any],
    where: pathlib.Path | str,
) -> Progress | None:
    """The progress at the newest checkpoint, if there is one."""
    if store.latest() is None:
        return None
    run = Progress.restored(store, layout.abstract, about)
    _say("\n".join([f"resuming {where} at step {run.step}", *run.changes]))
    return run


def _open_log(
    logging: LoggingSpec,
    model: Any,
    data: DataSpec,
    mesh: Mesh,
    working: outputs.Working,
    first_step: int,
    total_steps: int,
) -> RunLog:
    rows, lengths = data.batch_size, data.lengths.values()
    return RunLog(
        working.path,
        logging,
        total_steps=total_steps,
        first_step=first_step,
        flops=throughput.training_flops(model.module.config, rows, *lengths),
        devices=mesh.size,
        publish=working.publish,
    )


def _summary(mixture: Mixture, data: DataSpec, mesh: Mesh, seconds: float) -> str:
    lengths = "/".join(map(str, data.lengths.values()))
    return (
        f"{mixture.name}: {sum(map(len, mixture.tasks))} examples; {data.batch_size} "
        f"sequences of {lengths} tokens per batch; mesh {MeshSpec(**mesh.shape)}; "
        f"compiled in {seconds:.1f} s"
    )


def _result(
    run: Progress,
    frozen: Mapping[str, Any],
    where: pathlib.Path | str,
    stop: interruptions.Stop,
    *,
    stopped: bool,
) -> TrainResult:
    params = trees.join(run.state["params"], frozen)
    return TrainResult(run.step, run.metrics, stopped, stop.signal, where, params)


def _say(text: str) -> None:
    if jax.process_index() == 0:
        say(text)
