"""A run small enough to be repeated: random records, a two-layer student, V = 48.

Imported by the tests, and started by them as a process:
`python tiny_run.py '{"model_dir": ..., "steps": 12}'`, or several by {"runs": [...]}.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

VOCABULARY = 48
# Rows of a student that writes texts, in ByT5's vocabulary.
BYTES = 384
LENGTHS = {"inputs": 24, "targets": 12}
K = 3
# What the tests of adapters train with.
ADAPTED = {
    "scan_layers": True,
    "dropout": 0.2,
    "ema_decay": 0.9,
    "learning_rate": 1e-2,
    "log_period": 1,
    "period": 100,
}


def examples(name="tiny", count=96, seed=0, teacher=True, longest=(14, 8)):
    """Random records in memory, as `load_tasks` would give them."""
    import numpy as np

    from specialize.training.data.examples import Examples

    rng = np.random.default_rng(seed)
    lengths = np.stack([rng.integers(2, most, count) for most in longest], axis=1)
    total = lengths.sum(0)
    features = {
        "inputs": rng.integers(2, VOCABULARY, total[0]).astype(np.uint16),
        "targets": rng.integers(2, VOCABULARY, total[1]).astype(np.uint16),
    }
    if teacher:
        probs = rng.dirichlet(np.ones(K + 1), total[1]).astype(np.float32)
        ids = np.argsort(rng.random((total[1], VOCABULARY)), axis=1)[:, :K]
        features |= {
            "teacher_ids": ids.astype(np.uint16),
            "teacher_probs": probs[:, :K],
            "teacher_tail": probs[:, K],
            "format_id": np.full(total[1], 1 + seed % 4, np.uint16),
        }
    return Examples.in_memory(
        name,
        features,
        lengths.astype(np.int32),
        [f"{name}-{i}" for i in range(count)],
        digest=f"{name}-{count}-{seed}",
    )


def mixture(teacher=True):
    from specialize.training.data.mixtures import Mixture

    tasks = [examples("a", 96, 0, teacher), examples("b", 40, 1, teacher)]
    return Mixture("tiny", tasks, [3.0, 1.0])


def asked():
    from specialize.training.data.mixtures import Mixture

    return Mixture("asked", [examples("gsm8k-train", 96, 0)], [1.0])


def source(examples=None, **fields):
    """Batches of 8 rows in windows of 16, of the tiny mixture unless given others."""
    from specialize.training.data.batches import BatchSource
    from specialize.training.data.spec import DataSpec

    examples = examples or mixture()
    fields = {"batch_size": 8, "window_rows": 16, **fields}
    return BatchSource(examples, DataSpec(examples, LENGTHS, **fields))


def student(dropout=0.0, heads=4, rows=VOCABULARY, loss=None, width=16, **fields):
    from specialize.student import model
    from specialize.student.loss import losses
    from specialize.student.network import transformer

    config = transformer.T5Config(
        vocab_size=rows,
        emb_dim=width,
        num_heads=heads,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=4,
        mlp_dim=2 * width,
        mlp_activations=("gelu", "linear"),
        dropout_rate=dropout,
        **fields,
    )
    loss = losses.LossConfig(**(loss or {}))
    return model.Student(transformer.Transformer(config), loss=loss)


def base(folder, seed=0, rows=VOCABULARY, width=16):
    """A Hugging Face folder of random weights for the tiny student; returns it."""
    import numpy as np

    from specialize.checkpoints import names
    from specialize.checkpoints.formats import huggingface, huggingface_companions
    from specialize.checkpoints.lazy_tensors import from_array

    os.makedirs(folder)
    network = student(rows=rows, width=width).module.config
    rng = np.random.default_rng(seed)
    weights = {
        name: rng.standard_normal(shape, np.float32) * shape[0] ** -0.5
        for name, shape in names.shapes(network).items()
    }
    path = pathlib.Path(folder)
    huggingface.write_weights(path, {n: from_array(a) for n, a in weights.items()})
    huggingface_companions.write_settings(path, network, "float32")
    return str(folder)


def run(
    model_dir,
    steps=12,
    *,
    mesh="1",
    dropout=0.0,
    optimizer="adamw",
    learning_rate=1e-3,
    lean=None,
    ema_decay=None,
    adapters=None,
    scan_layers=False,
    width=16,
    period=5,
    log_period=4,
    data=None,
    questions=False,
    rollouts=None,
    loss=None,
    checkpoints=None,
    evaluation=None,
    **options,
):
    """Trains the tiny student; everything off that would cost a second.

    `data`, `rollouts`, `loss`, `checkpoints`, `evaluation` and `adapters` hold fields
    of these specifications, and `lean` further ones of the optimizer's. With
    `rollouts`, even without any, the student has bytes.
    With `questions` every record answers a question of GSM8K's training file.
    """
    from specialize.checkpoints.spec import CheckpointSpec
    from specialize.student.adapters.spec import AdapterSpec
    from specialize.training.data.spec import DataSpec
    from specialize.training.logging.spec import LoggingSpec
    from specialize.training.loop.spec import PeriodicEvaluation
    from specialize.training.loop.train import train
    from specialize.training.optimization.spec import OptimizerSpec
    from specialize.training.rollouts.spec import RolloutSpec

    fields = {"mixture": None, "batch_size": 8, "window_rows": 16, **(data or {})}
    fields["mixture"] = fields["mixture"] or (asked() if questions else mixture())
    if rollouts:
        rollouts = {"vocabulary_path": "byt5", "batch_size": 8, **rollouts}
        fields["rollouts"] = RolloutSpec(**rollouts)
    return train(
        student(
            dropout,
            rows=VOCABULARY if rollouts is None else BYTES,
            loss=loss,
            scan_layers=scan_layers,
            width=width,
        ),
        DataSpec(feature_lengths=LENGTHS, **fields),
        OptimizerSpec(
            optimizer,
            learning_rate=learning_rate,
            schedule="cosine",
            # The same for a run and its shorter beginning.
            total_steps=1000,
            warmup_steps=3,
            ema_decay=ema_decay,
            adapters=adapters and AdapterSpec(**adapters),
            **(lean or {}),
        ),
        model_dir=model_dir,
        total_steps=steps,
        mesh=mesh,
        checkpoints=CheckpointSpec(period=period, **(checkpoints or {})),
        evaluation=PeriodicEvaluation(**(evaluation or {})),
        logging=LoggingSpec(log_period, tensorboard=False, peak_flops=1e9),
        **options,
    )


def parameters(result):
    """The weights by name, on the host, in float32, which has every bfloat16."""
    return on_host(result.params)


def on_host(params):
    import jax
    import numpy as np
    from flax.traverse_util import flatten_dict

    return jax.tree.map(np.float32, flatten_dict(jax.device_get(params), sep="/"))


def average(model_dir):
    """The moving average of a run's newest checkpoint, by canonical names."""
    from specialize.checkpoints.opening import open_checkpoint

    opened = open_checkpoint(f"{model_dir}#ema", activation="gelu")
    return {name: tensor.read() for name, tensor in opened.tensors.items()}


def lines(model_dir):
    """The run's training lines without what depends on the clock."""
    path = os.path.join(model_dir, "metrics.jsonl")
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    for record in records:
        record.pop("speed", None)
    return records


def losses(model_dir):
    """The loss of each of the run's training lines."""
    return [line["train"]["loss"] for line in lines(model_dir) if "train" in line]


def observed(model_dir, steps, **options):
    """A run with an average: (result, folder, the average as evaluators saw it)."""
    import jax

    seen = []
    result = run(
        *(model_dir, steps),
        evaluators=[lambda params, _: seen.append(jax.device_get(params)) or {}],
        evaluation={"period": steps, "weights": "ema"},
        **options,
    )
    return result, model_dir, seen


def run_and_save(save_as=None, **options):
    """A run whose weights the test that started this process can read."""
    import jax
    import numpy as np

    from specialize import sharding

    outcome = run(**options)
    if save_as:
        values = on_host(sharding.gathered(outcome.params))
        if jax.process_index() == 0:
            np.savez(save_as, **values)
    print("stopped" if outcome.stopped else "done", outcome.step, flush=True)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if processes := given.pop("processes", None):
        from specialize import sharding

        sharding.initialize_distributed(*processes)
    for each in given.pop("runs", [given]):
        run_and_save(**each)
