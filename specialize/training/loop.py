"""train(): one page, read from top to bottom.

A run is its folder. `train` makes it or takes it up again where its newest checkpoint
stands; which of the two follows from the folder alone, so the same command starts a run,
resumes it after a kill, and does nothing when it is complete.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from specialize import outputs, sharding
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError
from specialize.progress import console
from specialize.training import batches as batches_lib
from specialize.training import survival, throughput
from specialize.training.batches import BatchSource, Mixture
from specialize.training.evaluating import Evaluator, held_out_loss
from specialize.training.optimizers import Optimizer
from specialize.training.sight import Clock, Interval, Sight
from specialize.training.step import initial_state, make_train_step

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        step: optimizer steps taken in all.
        metrics: of the last evaluation, and the last line's under "train/".
        stopped: True if a signal ended the run before its last step.
        model_dir: the run's folder.
        params: the weights, on the mesh.
    """

    step: int
    metrics: dict[str, float]
    stopped: bool
    model_dir: pathlib.Path
    params: Any = dataclasses.field(repr=False)


def train(
    *,
    model: Any,
    model_dir: str | os.PathLike[str],
    mixture: str | Mixture,
    feature_lengths: Mapping[str, int],
    batch_size: int,
    total_steps: int,
    optimizer: Optimizer,
    initial_checkpoint_path: str | None = None,
    split: str = "train",
    seed: int = 0,
    mesh: Mesh | Mapping[str, int] | str | None = None,
    rules: sharding.Rules = sharding.DEFAULT_RULES,
    microbatches: int = 1,
    pack: bool = True,
    window_rows: int | None = None,
    checkpoint_period: int = 500,
    keep: int = 3,
    best_metric: str | None = None,
    best_mode: str = "max",
    log_period: int = 10,
    eval_period: int = 500,
    eval_split: str | None = None,
    eval_mixture: str | Mixture | None = None,
    eval_batch_size: int = 32,
    eval_examples: int | None = None,
    suites: Sequence[str] = (),
    prompt: str = "zero_shot_cot",
    benchmarks_dir: str | None = None,
    vocabulary_path: str | None = None,
    evaluators: Sequence[Evaluator] = (),
    examples_dir: str | os.PathLike[str] | None = None,
    reuse_examples: bool = True,
    tensorboard: bool = True,
    peak_flops: float | None = None,
    profile_steps: tuple[int, int] | None = None,
) -> TrainResult:
    """Trains a student, or takes its training up again.

    Args:
        model: the student (`student.model.Student`).
        model_dir: the run's folder, new or of an earlier run with the same settings.
        mixture: name of a registered SeqIO mixture or task, or examples in memory.
        feature_lengths: greatest lengths by task feature; "inputs" and "targets" are
            the lengths of a row.
        batch_size: rows of the global batch.
        total_steps: optimizer steps in all, those of an earlier run included.
        optimizer: of `optimizers.make_optimizer`.
        initial_checkpoint_path: weights to start from, in any layout that
            `checkpoints.load_params` reads; None starts from random weights.
        split: of the data.
        seed: of initial weights, order, packing and dropout.
        mesh: a mesh, sizes by axis ({"data": 2, "model": 4}), text ("2x4"), or None
            for all devices along data.
        rules: logical axes to mesh axes.
        microbatches: parts a batch is gone through in; less memory, same result.
        pack: whether a row holds several examples.
        window_rows: rows packed together; None chooses.
        checkpoint_period: steps between checkpoints; the last step is always saved.
        keep: how many checkpoints to keep.
        best_metric: metric of the evaluation ("held_out/loss",
            "gsm8k/accuracy") whose best checkpoint is kept too.
        best_mode: "max" or "min".
        log_period: steps between lines.
        eval_period: steps between evaluations; the last step is always evaluated.
        eval_split: split whose loss is measured; None for none.
        eval_mixture: mixture it belongs to; the trained one if None.
        eval_batch_size: rows of an evaluation batch, and prompts decoded together.
        eval_examples: examples of each task and suite that are evaluated; None is all.
        suites: benchmarks to decode and judge during training.
        prompt: how they are asked.
        benchmarks_dir: where they lie.
        vocabulary_path: the SentencePiece model they are asked through.
        evaluators: further measurements, (params, step) -> metrics.
        examples_dir: where prepared examples lie; `<model_dir>/examples` if None.
        reuse_examples: whether examples prepared earlier may be used.
        tensorboard: whether to write summaries.
        peak_flops: FLOP/s of all devices, for the MFU; None looks it up or measures.
        profile_steps: (first, last) steps to trace into `<model_dir>/profile`.

    Returns:
        The result; also where the run was complete already.

    Raises:
        InputError: the folder is not ours or belongs to a run with other settings,
            the batch does not divide over mesh and microbatches, or as the parts say.
        NonFiniteError: loss or gradient became infinite or NaN; the state before
            it was saved.
    """
    # -- 1. Refuse what cannot work, before anything is written or compiled. --------
    outputs.check_writable(model_dir, "run")
    mesh = _mesh(mesh)
    shards = sharding.batch_shards(mesh)
    _check_positive(
        batch_size=batch_size,
        total_steps=total_steps,
        microbatches=microbatches,
        checkpoint_period=checkpoint_period,
        log_period=log_period,
        eval_period=eval_period,
        eval_batch_size=eval_batch_size,
    )
    if batch_size % (shards * microbatches):
        raise InputError(
            f"batch_size={batch_size} does not divide over {microbatches} microbatches "
            f"and {shards} devices along data x fsdp. Use a multiple of "
            f"{shards * microbatches}."
        )
    model_dir = pathlib.Path(model_dir)
    if jax.process_index() == 0:
        outputs.claim(model_dir, "run")
    _together("run folder")

    # -- 2. Data: prepared once, then any step's batch is a function of (seed, step). --
    lengths = {name: int(size) for name, size in feature_lengths.items()}
    cache_dir = examples_dir or model_dir / "examples"

    def examples(chosen: str | Mixture, part: str) -> Mixture:
        if isinstance(chosen, Mixture):
            return chosen
        with _one_after_another():
            return batches_lib.load_mixture(
                chosen, part, lengths, cache_dir, reuse=reuse_examples
            )

    data = examples(mixture, split)
    held_out = None
    if eval_split is not None or isinstance(eval_mixture, Mixture):
        held_out = examples(eval_mixture or mixture, eval_split or "validation")
    source = BatchSource(
        data,
        batch_size=batch_size,
        feature_lengths=lengths,
        seed=seed,
        pack=pack,
        window_rows=window_rows,
    )

    # -- 3. State: shapes, shardings, and whose values it starts from. -------------
    first_batch = source.batch(0, np.arange(batch_size))
    shapes = {name: values.shape for name, values in first_batch.items()}
    types = {name: jnp.dtype(values.dtype) for name, values in first_batch.items()}

    def variables(key: jax.Array) -> Any:
        return model.get_initial_variables(key, shapes, types)

    abstract = jax.eval_shape(variables, jax.random.key(seed))
    axes, abstract_params = abstract["params_axes"], abstract["params"]
    fitting = sharding.fit_rules(mesh, abstract_params, axes, rules)
    chain = optimizer.with_axes(axes)
    abstract_state = jax.eval_shape(
        lambda params: initial_state(params, chain), abstract_params
    )
    shardings = sharding.state_shardings(
        mesh, abstract_params, axes, fitting, abstract_state=abstract_state
    )
    abstract_state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        abstract_state,
        shardings,
    )
    store = CheckpointStore(
        model_dir / CHECKPOINTS, keep=keep, best_metric=best_metric, best_mode=best_mode
    )
    identity = {**source.identity(), "mixture": data.name, "split": split}
    interval = Interval()
    metrics: dict[str, float] = {}
    with contextlib.ExitStack() as exits:
        exits.callback(store.close)
        stop = exits.enter_context(survival.stop_on_signals())
        if store.latest() is not None:
            state, saved = store.restore(None, abstract_state)
            survival.check_resumable(saved["run"], identity)
            interval = Interval(saved["interval"])
            metrics = dict(saved["metrics"])
            step = int(saved["step"])
            _say(f"resuming {model_dir} at step {step}")
        else:
            with sharding.activate(mesh, fitting):
                if initial_checkpoint_path is None:
                    create = jax.jit(
                        lambda key: variables(key)["params"],
                        out_shardings=shardings["params"],
                    )
                    params = create(jax.random.key(seed))
                else:
                    from specialize.checkpoints import load_params

                    params = load_params(
                        initial_checkpoint_path, abstract_state["params"]
                    )
                state = jax.jit(
                    lambda params: initial_state(params, chain),
                    out_shardings=shardings,
                    donate_argnums=0,
                )(params)
                del params
            step = 0
        if step >= total_steps:
            _say(f"{model_dir} is complete: {step} of {total_steps} steps")
            return TrainResult(step, metrics, False, model_dir, state["params"])

        # -- 4. The step, compiled once. ---------------------------------------------
        train_step = make_train_step(
            model.loss_sums,
            chain,
            seed=seed,
            microbatches=microbatches,
            learning_rate=optimizer.learning_rate,
        )
        names, stacked = _stack_metrics(train_step)
        whole = sharding.replicated(mesh)
        healthy = jax.device_put(jnp.ones((), bool), whole)
        placed = batches_lib.place(source, step, mesh)
        began = time.perf_counter()
        with sharding.activate(mesh, fitting):
            compiled = (
                jax.jit(
                    stacked,
                    in_shardings=(shardings, whole, sharding.batch_sharding(mesh)),
                    out_shardings=(shardings, whole, whole),
                    donate_argnums=0,
                )
                .lower(state, healthy, placed)
                .compile()
            )
        del placed
        flops = throughput.training_flops(
            throughput.Shape.of(model.module.config),
            batch_size,
            lengths["inputs"],
            lengths["targets"],
        )
        sight = Sight(
            model_dir,
            total_steps=total_steps,
            first_step=step,
            flops_per_step=flops,
            peak=peak_flops or throughput.peak_flops(mesh.size)[0],
            active=jax.process_index() == 0,
            tensorboard=tensorboard,
        )
        exits.callback(sight.close)
        measure: list[Evaluator] = list(evaluators)
        if held_out is not None:
            measure.append(
                held_out_loss(
                    model.loss_sums,
                    held_out,
                    mesh,
                    fitting,
                    batch_size=-(-eval_batch_size // shards) * shards,
                    feature_lengths=lengths,
                    pack=pack,
                    max_examples=eval_examples,
                )
            )
        if suites:
            from specialize.training.evaluating import decoded_suites

            measure.append(
                decoded_suites(
                    model,
                    mesh,
                    model_dir,
                    suites=suites,
                    prompt=prompt,
                    benchmarks_dir=benchmarks_dir,
                    vocabulary_path=vocabulary_path,
                    batch_size=-(-eval_batch_size // shards) * shards,
                    max_examples=eval_examples,
                    feature_lengths=lengths,
                )
            )
        _say(
            f"{data.name}: {sum(map(len, data.tasks))} examples; batch {batch_size} x "
            f"{lengths['inputs']}/{lengths['targets']}; mesh {dict(mesh.shape)}; compiled "
            f"in {time.perf_counter() - began:.1f} s"
        )

        # -- 5. The loop. Results are read one step late: the host never holds up ---
        # --    the devices, except to evaluate or to save. ----------------------------
        clock = Clock()
        positions = batch_size * (lengths["inputs"] + lengths["targets"])
        pending: tuple[int, Any, batches_lib.Plan] | None = None

        def absorb(done: tuple[int, Any, batches_lib.Plan]) -> None:
            """Takes in the metrics of a step that has been dispatched."""
            index, values, plan = done
            pairs = {
                name: (float(total), float(count))
                for name, (total, count) in zip(names, np.asarray(values), strict=True)
            }
            clock.tick()
            learning_rate, _ = pairs.pop("learning_rate")
            if not pairs.pop("finite")[0]:
                _end_at_nonfinite(index, pairs)
            tokens = float(plan.encoder_tokens + plan.decoder_tokens)
            pairs["_tokens"] = (tokens, 1.0)
            pairs["_filled"] = (tokens, float(positions))
            interval.add(pairs)
            taken = index + 1
            if taken % log_period == 0 or taken == total_steps:
                means = interval.means()
                tokens, filled = means.pop("_tokens"), means.pop("_filled")
                metrics.update({f"train/{name}": v for name, v in means.items()})
                sight.line(
                    taken,
                    means,
                    seconds=clock.read(),
                    average=clock.average,
                    tokens_per_step=tokens,
                    learning_rate=learning_rate,
                    padding=1.0 - filled,
                    epochs=source.epochs(taken),
                )
                interval.clear()

        def save(taken: int) -> None:
            if store.latest() != taken:
                store.save(
                    taken,
                    state,
                    {
                        "metrics": metrics,
                        "interval": interval.to_json(),
                        "run": identity,
                    },
                )
            clock.pause()

        def _end_at_nonfinite(index: int, pairs: Any) -> None:
            taken = int(state["step"])
            save(taken)
            store.wait()
            ids = source.record_ids(index)
            rows = batches_lib.local_rows(batch_size, mesh)
            path = survival.record_nonfinite(
                model_dir, index, pairs, source.batch(index, rows), ids
            )
            _together("batch that is not finite")
            raise survival.NonFiniteError(
                survival.nonfinite_message(index, path, taken, ids)
            )

        profiling = _Profiler(model_dir / "profile", profile_steps)
        exits.callback(profiling.stop)
        stopped = False
        # Simulated devices of one CPU share a small pool of threads. Two steps at once
        # can each hold some of them and wait for ever for the rest to join a reduction.
        one_at_a_time = sharding.simulated(mesh)
        feed = batches_lib.feed(source, mesh, step, total_steps)
        exits.callback(feed.close)
        for fed in feed:
            profiling.before(fed.step)
            state, healthy, values = compiled(state, healthy, fed.batch)
            if one_at_a_time:
                jax.block_until_ready((state, values))
            if pending is not None:
                absorb(pending)
            pending = (fed.step, values, fed.plan)
            step = fed.step + 1
            stopped = stop.at(step) and step < total_steps
            evaluated = bool(measure) and (
                step % eval_period == 0 or step == total_steps
            )
            saved = step % checkpoint_period == 0 or step == total_steps or stopped
            if evaluated or saved:
                absorb(pending)
                pending = None
            if evaluated and not stopped:
                scores: dict[str, float] = {}
                for evaluator in measure:
                    scores.update(evaluator(state["params"], step))
                sight.evaluation(step, scores)
                metrics.update(scores)
            if saved or (evaluated and best_metric is not None):
                save(step)
            if evaluated:
                clock.pause()
            if stopped:
                break
        store.wait()
        if stopped:
            _say(f"asked to stop: step {step} is saved; the same command goes on")
        left_out = source.left_out(0, step)
        if left_out:
            _say(f"packing left {left_out} examples out of their windows")
        return TrainResult(step, metrics, stopped, model_dir, state["params"])


def _mesh(mesh: Mesh | Mapping[str, int] | str | None) -> Mesh:
    if isinstance(mesh, Mesh):
        return mesh
    if isinstance(mesh, str):
        return sharding.mesh_from_text(mesh)
    sizes = dict(mesh or {})
    unknown = sizes.keys() - set(sharding.MESH_AXES)
    if unknown:
        raise InputError(
            f"mesh has no axis {sorted(unknown)}; its axes are "
            f"{', '.join(sharding.MESH_AXES)}."
        )
    return sharding.make_mesh(**sizes)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")


def _stack_metrics(
    train_step: Callable[..., Any],
) -> tuple[list[str], Callable[..., Any]]:
    """The step with its metrics as one [n, 2] array, and their names once traced.

    One array is one transfer; sixty scalars would be a hundred and twenty.
    """
    names: list[str] = []

    def stacked(state: Any, healthy: Any, batch: Any) -> tuple[Any, Any, Any]:
        state, healthy, metrics = train_step(state, healthy, batch)
        names[:] = sorted(metrics)
        rows = [jnp.stack([v.astype(jnp.float32) for v in metrics[n]]) for n in names]
        return state, healthy, jnp.stack(rows)

    return names, stacked


def _say(text: str) -> None:
    if jax.process_index() == 0:
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _together(what: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def _one_after_another() -> Iterator[None]:
    """Process 0 first: the others then find on a shared disk what it prepared."""
    if jax.process_index() != 0:
        _together("prepared by process 0")
        yield
    else:
        yield
        _together("prepared by process 0")


class _Profiler:
    """Traces some steps for TensorBoard's or Perfetto's viewer."""

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None) -> None:
        self._folder, self._steps, self._active = folder, steps, False

    def before(self, step: int) -> None:
        """Starts and ends the trace."""
        if self._steps is None:
            return
        if step >= self._steps[0] and not self._active and step < self._steps[1]:
            jax.profiler.start_trace(os.fspath(self._folder))
            self._active = True
        if step >= self._steps[1]:
            self.stop()

    def stop(self) -> None:
        """Ends the trace if one is being made."""
        if self._active:
            jax.profiler.stop_trace()
            self._active = False
            self._steps = None
            _say(f"trace written to {self._folder}")
