"""What is measured during training: loss on held-out records, decoded answers."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from specialize import config, sharding
from specialize.evaluation.spec import EvaluationSpec
from specialize.inference.spec import DecodingSpec
from specialize.training.data.batches import held_out_batches
from specialize.training.data.feed import local_rows, to_global_arrays
from specialize.training.data.mixtures import Mixture
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
    model: Any,
    mesh: Mesh,
    model_dir: pathlib.Path,
    *,
    suites: Sequence[str],
    prompt: str,
    benchmarks_dir: str | os.PathLike[str] | None,
    vocabulary_path: str | os.PathLike[str] | None,
    batch_size: int,
    max_examples: int | None,
    feature_lengths: Mapping[str, int],
) -> Evaluator:
    """Decodes and judges suites as `specialize evaluate` does.

    Args:
        model: the student.
        mesh: where to decode.
        model_dir: the run's folder; predictions go to its `evaluation/<step>`.
        suites: names as `load_suite` takes them.
        prompt: how suites are asked that do not say it themselves.
        benchmarks_dir: where the benchmark files lie; the environment says it if None.
        vocabulary_path: the student's SentencePiece model; as above.
        batch_size: prompts decoded together.
        max_examples: of each suite; None is all.
        feature_lengths: lengths of prompts and answers.

    Returns:
        An evaluator of "<suite>/accuracy".

    Raises:
        InputError: the benchmarks or the vocabulary are not named.
    """
    from specialize.evaluation.evaluate import evaluate_weights

    evaluation = EvaluationSpec(
        suites=tuple(suites),
        benchmarks_dir=config.place(benchmarks_dir, "BENCHMARKS_DIR", "BENCHMARKS_DIR"),
        vocabulary_path=config.place(vocabulary_path, "VOCABULARY_PATH", "VOCABULARY"),
        prompt=prompt,
        split="validation",
        max_examples=max_examples,
        decoding=DecodingSpec(
            batch_size=batch_size,
            input_length=int(feature_lengths["inputs"]),
            output_length=int(feature_lengths["targets"]),
        ),
    )

    def evaluate(params: Any, taken: int) -> Mapping[str, float]:
        out = model_dir / "evaluation" / str(taken)
        results = evaluate_weights(evaluation, model.module, params, mesh, out=out)
        return results.metrics()

    return evaluate
