"""train(): one page, read from top to bottom.

A run is its folder. `train` makes it or takes it up again where its newest checkpoint
stands; which of the two follows from the folder alone, so the same command starts a
run, resumes it after a kill, and does nothing when it is complete.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from specialize import config, memory, outputs, sharding
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError
from specialize.progress import console
from specialize.training.data import feed
from specialize.training.data.batches import BatchSource
from specialize.training.data.mixtures import Mixture, load_mixture
from specialize.training.data.order import check_order
from specialize.training.logging import throughput
from specialize.training.logging.run_log import MetricSums, RunLog
from specialize.training.logging.step_results import NotFinite, StepResults
from specialize.training.loop import interruptions
from specialize.training.loop.evaluating import Evaluator, decoded_suites, held_out_loss
from specialize.training.loop.profiling import Profiler
from specialize.training.optimization.optimizers import Optimizer
from specialize.training.optimization.state import create_state, plan_state
from specialize.training.optimization.step import make_train_step, stack_metrics

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
    checkpoint_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    seed: int = 0,
    mesh: Mesh | Mapping[str, int] | str | None = None,
    rules: sharding.Rules = sharding.DEFAULT_RULES,
    microbatches: int = 1,
    pack: bool = True,
    window_rows: int | None = None,
    order: str = "random",
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
        checkpoint_dir: where checkpoints go, a folder or a bucket (gs://, s3://);
            `<model_dir>/checkpoints` if None.
        split: of the data.
        seed: of initial weights, order, packing and dropout.
        mesh: as `sharding.read_mesh` takes it.
        rules: logical axes to mesh axes.
        microbatches: parts a batch is gone through in; less memory, same result.
        pack: whether a row holds several examples.
        window_rows: rows packed together; None chooses.
        order: "random", or "same_question" to keep a question's records together.
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
    mesh = sharding.read_mesh(mesh)
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
    check_order(order)
    if batch_size % (shards * microbatches):
        raise InputError(
            f"batch_size={batch_size} does not divide over {microbatches} microbatches "
            f"and {shards} devices along data x fsdp. Use a multiple of "
            f"{shards * microbatches}."
        )
    model_dir = pathlib.Path(model_dir)
    if jax.process_index() == 0:
        outputs.claim(model_dir, "run")
        config.save(model_dir)  # every value and its origin
    sharding.barrier("run folder")

    # -- 2. Data: prepared once, then any step's batch is a function of (seed, step). --
    lengths = {name: int(size) for name, size in feature_lengths.items()}

    def examples(chosen: str | Mixture, part: str) -> Mixture:
        if isinstance(chosen, Mixture):
            return chosen
        folder = examples_dir or model_dir / "examples"
        with sharding.one_after_another():
            return load_mixture(chosen, part, lengths, folder, reuse=reuse_examples)

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
        order=order,
    )

    # -- 3. State: of the newest checkpoint, of given weights, or random. ----------
    sample = source.batch(0)
    layout = plan_state(model, optimizer, sample, mesh, rules)
    identity = {**source.identity(), "mixture": data.name, "split": split}
    interval, metrics, step = MetricSums(), dict[str, float](), 0
    evaluation_due = False
    with contextlib.ExitStack() as exits:
        exits.enter_context(interruptions.full_disk(model_dir))
        stop = exits.enter_context(interruptions.stop_on_signals())
        store = exits.enter_context(
            CheckpointStore(
                checkpoint_dir or model_dir / CHECKPOINTS,
                keep=keep,
                best_metric=best_metric,
                best_mode=best_mode,
            )
        )
        if store.latest() is not None:
            state, saved = store.restore(None, layout.abstract)
            interruptions.check_resumable(saved["run"], identity)
            interval, metrics = MetricSums(saved["interval"]), dict(saved["latest"])
            step, evaluation_due = int(saved["step"]), bool(saved["evaluation_due"])
            _say(f"resuming {model_dir} at step {step}")
        else:
            state = create_state(
                model,
                layout,
                sample,
                mesh,
                seed=seed,
                initial_checkpoint_path=initial_checkpoint_path,
            )
        if step >= total_steps:
            _say(f"{model_dir} is complete: {step} of {total_steps} steps")
            return TrainResult(step, metrics, False, model_dir, state["params"])

        # -- 4. The step, compiled once; and what is measured on the way. ------------
        began = time.perf_counter()
        names, train_step = stack_metrics(
            make_train_step(
                model.loss_sums,
                layout.chain,
                seed=seed,
                microbatches=microbatches,
                learning_rate=optimizer.learning_rate,
            )
        )
        whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        healthy = jax.device_put(jnp.ones((), bool), whole)
        with sharding.activate(mesh, layout.rules):
            compiled = (
                jax.jit(
                    train_step,
                    in_shardings=(layout.shardings, whole, rows),
                    out_shardings=(layout.shardings, whole, whole),
                    donate_argnums=0,
                )
                .lower(state, healthy, feed.global_batch(source, step, mesh))
                .compile()
            )
        if jax.process_index() == 0:
            config.save_operative(model_dir)  # defaults included
        eval_rows = -(-eval_batch_size // shards) * shards
        measure: list[Evaluator] = list(evaluators)
        if held_out is not None:
            measure.append(
                held_out_loss(
                    model.loss_sums,
                    held_out,
                    mesh,
                    layout.rules,
                    batch_size=eval_rows,
                    feature_lengths=lengths,
                    pack=pack,
                    max_examples=eval_examples,
                )
            )
        if suites:
            measure.append(
                decoded_suites(
                    model,
                    mesh,
                    model_dir,
                    suites=suites,
                    prompt=prompt,
                    benchmarks_dir=benchmarks_dir,
                    vocabulary_path=vocabulary_path,
                    batch_size=eval_rows,
                    max_examples=eval_examples,
                    feature_lengths=lengths,
                )
            )
        sight = RunLog(
            model_dir,
            total_steps=total_steps,
            first_step=step,
            flops_per_step=throughput.training_flops(
                throughput.Shape.of(model.module.config),
                batch_size,
                lengths["inputs"],
                lengths["targets"],
            ),
            peak=peak_flops or throughput.peak_flops(mesh.size)[0],
            active=jax.process_index() == 0,
            tensorboard=tensorboard,
        )
        exits.callback(sight.close)
        ledger = StepResults(
            source, sight, names, log_period=log_period, interval=interval
        )
        profiler = Profiler(model_dir / "profile", profile_steps)
        exits.callback(profiler.stop)
        _say(
            f"{data.name}: {sum(map(len, data.tasks))} examples; {batch_size} rows of "
            f"{lengths['inputs']}/{lengths['targets']}; mesh {dict(mesh.shape)}; "
            f"compiled in {time.perf_counter() - began:.1f} s"
        )

        # -- 5. The loop. Results are read one step late; only evaluating and saving ---
        # --    hold the devices up. ---------------------------------------------------
        scores: dict[str, float] = {}

        def save(taken: int, *, evaluation_due: bool = False) -> None:
            metrics.update(ledger.latest)
            if store.latest() != taken:
                record = {
                    # A checkpoint is judged by what was measured on it alone.
                    "metrics": ledger.latest | scores,
                    "latest": metrics,
                    "interval": ledger.interval.to_json(),
                    "evaluation_due": evaluation_due,
                    "run": identity,
                }
                store.save(taken, state, record)

        def evaluate(taken: int) -> None:
            for evaluator in measure:
                scores.update(evaluator(state["params"], taken))
            memory.return_freed()
            sight.evaluation(taken, scores)
            metrics.update(scores)
            ledger.restart_clock()

        # Simulated devices of one CPU share a pool of threads. Two steps at once could
        # each hold some of them and wait for ever for the rest to join a reduction.
        one_at_a_time = sharding.simulated(mesh)
        if evaluation_due and measure:
            evaluate(step)
        stopped = False
        memory.return_freed()  # of building and compiling
        fed = exits.enter_context(
            contextlib.closing(feed.feed(source, mesh, step, total_steps))
        )
        try:
            for number, batch, plan in fed:
                profiler.before(number)
                state, healthy, results = compiled(state, healthy, batch)
                if one_at_a_time:
                    jax.block_until_ready((state, results))
                ledger.enter(number, results, plan)
                step = number + 1
                last = step == total_steps
                stopped = stop.at(step) and not last
                evaluated = bool(measure) and (step % eval_period == 0 or last)
                saved = stopped or last or step % checkpoint_period == 0
                if not (evaluated or saved):
                    continue
                ledger.settle()
                if evaluated and not stopped:
                    evaluate(step)
                else:
                    scores.clear()
                if saved or best_metric is not None:
                    # Whoever asks us to stop does not wait for an evaluation.
                    save(step, evaluation_due=evaluated and stopped)
                    ledger.restart_clock()
                if stopped:
                    break
        except NotFinite as fault:
            # The step froze the state: it is still the one before the fault.
            taken = int(state["step"])
            save(taken)
            store.wait()
            mine = feed.local_rows(batch_size, mesh)
            ids = source.record_ids(fault.step)
            path = interruptions.record_nonfinite(
                model_dir,
                fault.step,
                fault.metrics,
                source.batch(fault.step, mine),
                ids,
            )
            sharding.barrier("batch that is not finite")
            raise interruptions.NonFiniteError(
                interruptions.nonfinite_message(fault.step, path, taken, ids)
            ) from None
        store.wait()
        if stopped:
            _say(f"asked to stop: step {step} is saved; the same command goes on")
        left_out = source.left_out(0, step)
        if left_out:
            _say(f"packing left {left_out} examples out of their windows")
        metrics.update(ledger.latest)
        return TrainResult(step, metrics, stopped, model_dir, state["params"])


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")


def _say(text: str) -> None:
    if jax.process_index() == 0:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
