"""What is measured during training: loss on held-out records, decoded answers."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from specialize import run_folder, sharding
from specialize.evaluation.spec import EvaluationSpec
from specialize.training.data.batches import held_out_batches
from specialize.training.data.feed import local_rows, to_global_arrays
from specialize.training.data.mixtures import Mixture
from specialize.training.data.spec import DataSpec
from specialize.training.loop.spec import PeriodicEvaluation
from specialize.training.optimization.step import LossSums, make_eval_step

# (params, steps taken) -> metric -> value. Called by every process of a run.
Evaluator = Callable[[Any, int], Mapping[str, float]]


def held_out_loss(
    loss_sums: LossSums,
    mixture: Mixture,
    mesh: Mesh,
    rules: sharding.Rules,
    *,
    batch_size: int,
    feature_lengths: Mapping[str, int],
    pack: bool = True,
    max_examples: int | None = None,
) -> Evaluator:
    """Measures loss and the loss's metrics on a split, without dropout.

    Args:
        loss_sums: (params, batch, dropout key) -> sums.
        mixture: the held-out examples; each is counted once, rates play no part.
        mesh: the device mesh.
        rules: logical axes to mesh axes.
        batch_size: rows of a batch.
        feature_lengths: lengths of a row.
        pack: whether rows hold several examples.
        max_examples: of each task; None is all.

    Returns:
        An evaluator of "held_out/<metric>".
    """
    step = jax.jit(make_eval_step(loss_sums))
    place = sharding.batch_sharding(mesh)

    def evaluate(params: Any, taken: int) -> dict[str, float]:
        del taken
        rows = local_rows(batch_size, mesh)
        results = []
        for batch, _ in held_out_batches(
            mixture,
            batch_size=batch_size,
            feature_lengths=feature_lengths,
            pack=pack,
            max_examples=max_examples,
        ):
            mine = {name: values[rows] for name, values in batch.items()}
            with sharding.activate(mesh, rules):
                results.append(
                    step(params, to_global_arrays(mine, rows, batch_size, place))
                )
            if sharding.simulated(mesh):
                jax.block_until_ready(results[-1])
        sums: dict[str, np.ndarray] = {}
        for result in jax.device_get(results):
            for name, pair in result.items():
                values = np.asarray([float(v) for v in pair])
                sums[name] = sums.get(name, np.zeros(2)) + values
        return {
            f"held_out/{name}": float(total / count)
            for name, (total, count) in sums.items()
            if count
        }

    return evaluate


def decoded_suites(
    model: Any, mesh: Mesh, spec: EvaluationSpec, folder: pathlib.Path
) -> Evaluator:
    """Decodes and judges suites as `specialize evaluate` does.

    Args:
        model: the student.
        mesh: where to decode.
        spec: what is asked, and how it is judged.
        folder: predictions go to its `<step>`.

    Returns:
        An evaluator of "<suite>/accuracy".

    Raises:
        InputError: the benchmarks or the vocabulary are not named.
    """
    from specialize.evaluation.evaluate import evaluate_weights

    # Refuse what is not named before the first step is taken.
    spec = dataclasses.replace(
        spec, benchmarks_dir=spec.benchmarks(), vocabulary_path=spec.vocabulary()
    )

    def evaluate(params: Any, taken: int) -> Mapping[str, float]:
        out = folder / str(taken)
        results = evaluate_weights(spec, model.module, params, mesh, out=out)
        return results.metrics()

    return evaluate


def measurements(
    evaluation: PeriodicEvaluation,
    data: DataSpec,
    held_out: Mixture | None,
    model: Any,
    mesh: Mesh,
    rules: sharding.Rules,
    model_dir: pathlib.Path,
) -> list[Evaluator]:
    """The evaluators that a specification asks for.

    Args:
        evaluation: what is measured.
        data: what is trained on: lengths, and whether rows are packed.
        held_out: the examples whose loss is measured, if any.
        model: the student.
        mesh: the device mesh.
        rules: logical axes to mesh axes.
        model_dir: the run's folder.

    Raises:
        InputError: as `decoded_suites`.
    """
    found: list[Evaluator] = []
    shards = sharding.batch_shards(mesh)
    if held_out is not None:
        found.append(
            held_out_loss(
                model.loss_sums,
                held_out,
                mesh,
                rules,
                batch_size=evaluation.rows(shards),
                feature_lengths=data.feature_lengths,
                pack=data.pack,
                max_examples=evaluation.max_examples,
            )
        )
    if suites := evaluation.decoded(data, shards):
        folder = model_dir / run_folder.EVALUATION
        found.append(decoded_suites(model, mesh, suites, folder))
    return found
