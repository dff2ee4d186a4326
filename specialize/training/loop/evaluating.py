"""Evaluations during training: loss of held-out records, accuracy on suites."""

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
from specialize.training.optimization.state import StateLayout
from specialize.training.optimization.step import make_eval_step

# (params, steps taken) -> metric -> value. Called by every process of a run.
Evaluator = Callable[[Any, int], Mapping[str, float]]


def held_out_loss(
    model: Any,
    layout: StateLayout,
    mixture: Mixture,
    data: DataSpec,
    evaluation: PeriodicEvaluation,
) -> Evaluator:
    """Makes an evaluator of "held_out/<metric>": loss and metrics without dropout.

    Every example of the held-out mixture counts once; its rates are not used.
    """
    step, mesh = jax.jit(make_eval_step(model.loss_sums)), layout.mesh
    place = sharding.batch_sharding(mesh)
    batch_size = evaluation.rows(sharding.batch_shards(mesh))

    def evaluate(params: Any, taken: int) -> dict[str, float]:
        del taken
        rows = local_rows(batch_size, mesh)
        results = []
        for batch, _ in held_out_batches(
            mixture,
            batch_size=batch_size,
            feature_lengths=data.lengths,
            pack=data.pack,
            max_examples=evaluation.max_examples,
        ):
            mine = {name: values[rows] for name, values in batch.items()}
            with sharding.activate(mesh, layout.rules):
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
    """Makes an evaluator of "<suite>/accuracy", as `specialize evaluate` measures it.

    It writes predictions to `folder/<step>`.

    Raises:
        InputError: the benchmarks or the vocabulary are not named.
    """
    from specialize.evaluation.evaluate import evaluate_weights
    from specialize.evaluation.suites.loading import suites_of

    suites_of(spec)  # fail before the first step if a name is missing
    spec = dataclasses.replace(spec, vocabulary_path=spec.vocabulary())

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
    layout: StateLayout,
    model_dir: pathlib.Path,
) -> list[Evaluator]:
    """Makes the evaluators of a specification.

    `held_out` has the examples whose loss is measured, if any.

    Raises:
        InputError: as for `decoded_suites`.
    """
    found: list[Evaluator] = []
    if held_out is not None:
        found.append(held_out_loss(model, layout, held_out, data, evaluation))
    if suites := evaluation.decoded(data, sharding.batch_shards(layout.mesh)):
        folder = model_dir / run_folder.EVALUATION
        found.append(decoded_suites(model, layout.mesh, suites, folder))
    return found
