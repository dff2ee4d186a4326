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
    """Measures loss and the loss's metrics on a split, without dropout.

    Args:
        model: the student.
        layout: mesh and rules.
        mixture: the held-out examples; each is counted once, rates play no part.
        data: lengths of a row, and whether rows hold several examples.
        evaluation: rows of a batch, and how many examples of each task.

    Returns:
        An evaluator of "held_out/<metric>".
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
    layout: StateLayout,
    model_dir: pathlib.Path,
) -> list[Evaluator]:
    """The evaluators that a specification asks for.

    Args:
        evaluation: what is measured.
        data: what is trained on.
        held_out: the examples whose loss is measured, if any.
        model: the student.
        layout: mesh and rules.
        model_dir: the run's folder.

    Raises:
        InputError: as `decoded_suites`.
    """
    found: list[Evaluator] = []
    if held_out is not None:
        found.append(held_out_loss(model, layout, held_out, data, evaluation))
    if suites := evaluation.decoded(data, sharding.batch_shards(layout.mesh)):
        folder = model_dir / run_folder.EVALUATION
        found.append(decoded_suites(model, layout.mesh, suites, folder))
    return found
