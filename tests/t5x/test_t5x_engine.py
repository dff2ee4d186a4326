"""The same recipe, Student and batch under T5X and under our own engine."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.trainer")

import t5x_cases as cases
from flax.core import unfreeze
from flax.traverse_util import flatten_dict
from t5x import adafactor, partitioning, trainer, utils
from t5x import optimizers as t5x_optimizers

from specialize.checkpoints.convert import convert
from specialize.checkpoints.opening import open_checkpoint
from specialize.config import neutral
from specialize.student import model as student
from specialize.student.loss.losses import LossConfig
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer
from specialize.training.optimization import optimizers, step
from specialize.training.optimization.spec import OptimizerSpec

ROWS, K = 96, 3
TINY = T5Config(
    vocab_size=ROWS,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
    dropout_rate=0.0,
)


def packed_batch(rows=8, source=24, target=16, seed=0):
    """Two examples a row, with teacher rows that leave mass in the tail."""
    rng = np.random.default_rng(seed)
    batch = {}
    for side, length, cut in (("encoder", source, 14), ("decoder", target, 9)):
        tokens = rng.integers(2, ROWS, (rows, length)).astype(np.int32)
        segments = np.where(np.arange(length) < cut, 1, 2) * np.ones((rows, 1))
        positions = np.where(
            np.arange(length) < cut, np.arange(length), np.arange(length) - cut
        )
        tokens[:, -2:], segments[:, -2:] = 0, 0
        batch[f"{side}_segment_ids"] = segments.astype(np.int32)
        batch[f"{side}_positions"] = (positions * (segments > 0)).astype(np.int32)
        name = "encoder_input_tokens" if side == "encoder" else "decoder_target_tokens"
        batch[name] = tokens
    targets, segments = batch["decoder_target_tokens"], batch["decoder_segment_ids"]
    shifted = np.concatenate([np.zeros((rows, 1), np.int32), targets[:, :-1]], axis=1)
    starts = np.diff(segments, axis=1, prepend=0) != 0
    batch["decoder_input_tokens"] = np.where(starts, 0, shifted).astype(np.int32)
    real = (targets > 0).astype(np.float32)
    probs = rng.dirichlet(np.ones(K + 1), targets.shape).astype(np.float32)
    batch |= {
        "decoder_loss_weights": real,
        "decoder_teacher_ids": np.argsort(rng.random((*targets.shape, ROWS)), -1)[
            ..., :K
        ].astype(np.int32),
        "decoder_teacher_probs": probs[..., :K] * real[..., None],
        "decoder_teacher_tail": probs[..., K] * real,
        "decoder_format_ids": (
            rng.integers(1, 5, targets.shape) * (targets > 0)
        ).astype(np.int32),
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


def flat(tree):
    return {
        "/".join(key): np.asarray(value)
        for key, value in flatten_dict(unfreeze(tree)).items()
    }


def assert_close(first, second, tolerance=1e-5):
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_allclose(
            array, second[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


CASES = [
    *((mode, scan, "adamw") for mode in ("tail", "paper", "sample") for scan in (0, 1)),
    ("tail", False, "adafactor"),
    ("tail", True, "adafactor"),
]


@pytest.mark.parametrize(("mode", "scan", "name"), CASES)
def test_one_batch_and_state_give_the_same_step_on_both_engines(mode, scan, name):
    """Loss, gradients and updated parameters to 1e-5, packed; rate 1e-3, decay 0.01."""
    batch = packed_batch()
    # With eps = 1e-8, AdamW's first update of a gradient near 0 is its rounding error.
    options = {"eps": 1e-4} if name == "adamw" else {}
    spec = OptimizerSpec(
        *(name, 1e-3), schedule="constant", weight_decay=0.01, options=options
    )
    chain = optimizers.make_optimizer(spec)
    if name == "adamw":
        theirs = t5x_optimizers.OptaxWrapper(chain)
    else:  # as runs/t5x_train.gin has it
        theirs = adafactor.Adafactor(
            logical_factor_rules=adafactor.standard_logical_factor_rules(),
            weight_decay_rate=0.01,
        )
    model = student.Student(
        Transformer(TINY.replace(scan_layers=bool(scan))),
        optimizer_def=theirs,
        loss=LossConfig(mode=mode),
    )
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    made = utils.TrainStateInitializer(
        model.optimizer_def,
        model.get_initial_variables,
        {name: value.shape for name, value in batch.items()},
        partitioner,
    )
    state = made.from_scratch(jax.random.PRNGKey(0))
    # Copies: T5X's trainer gives its state away.
    params = jax.tree.map(jnp.array, unfreeze(state.params))

    # T5X.
    key = jax.random.PRNGKey(1)
    gradient_t5x, metrics, _ = trainer.accumulate_grads_microbatched(
        model, state, batch, key, None
    )
    engine = trainer.Trainer(
        model,
        state,
        partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=made.train_state_axes,
        rng=key,
        learning_rate_fn=neutral.learning_rate(chain),
        num_microbatches=None,
    )
    engine.train(iter([batch]), 1)
    after_t5x = flat(engine.train_state.params)

    # Ours.
    sums, gradient = step.gradient_sums(model.loss_sums, params, batch, key, 1)
    gradient = jax.tree.map(lambda g: g / sums.weight, gradient)
    axes = jax.eval_shape(
        lambda: model.get_initial_variables(
            jax.random.PRNGKey(0), {name: value.shape for name, value in batch.items()}
        )
    )["params_axes"]
    own = chain.with_axes(axes)
    train_step = jax.jit(step.make_train_step(model.loss_sums, own, seed=0))
    ours, healthy, ours_metrics = train_step(
        step.initial_state(params, own), jnp.asarray(True), batch
    )
    assert bool(healthy)

    loss = float(sums.loss / sums.weight)
    assert np.isfinite(loss) and loss > 0
    their_loss = float(model.loss_fn(params, batch, None)[0])
    np.testing.assert_allclose(their_loss, loss, rtol=1e-5)
    total, weight = ours_metrics["loss"]
    np.testing.assert_allclose(float(total / weight), loss, rtol=1e-5)
    shown = metrics["loss"].compute()
    np.testing.assert_allclose(float(shown), loss, rtol=1e-5)
    assert_close(flat(gradient_t5x), flat(gradient))
    assert_close(after_t5x, flat(ours["params"]))
    # The step did something, everywhere.
    moved = [np.abs(after_t5x[n] - a).max() for n, a in flat(params).items()]
    assert min(moved) > 1e-5


@pytest.fixture(scope="module")
def initial(world, tmp_path_factory):
    """A random student of the miniature world as a T5X checkpoint, converted."""
    folder = tmp_path_factory.mktemp("initial")
    return cases.random_student(folder, world / "spiece.model")


def gin(**macros):
    return [f"--gin.{name}={value!r}" for name, value in macros.items()]


@pytest.fixture(scope="module")
def trained(world, initial, run, tmp_path_factory):
    """The quickstart's recipe under T5X: 20 packed steps."""
    folder = tmp_path_factory.mktemp("trained")
    shown = run(
        "t5x.train",
        "--gin_file=t5x_configs/runs/t5x_train.gin",
        "--gin_file=t5x_configs/recipes/quickstart.gin",
        *gin(
            MODEL_DIR=str(folder),
            INITIAL_CHECKPOINT_PATH=str(initial),
            CORPUS_DIR=str(world / "corpus"),
            VOCABULARY_PATH=str(world / "spiece.model"),
            TRAIN_STEPS=20,
            CHECKPOINT_PERIOD=20,
            EVAL_PERIOD=10,
            LOG_PERIOD=10,
            PACK=True,
        ),
    )
    return folder, shown


def events(folder: pathlib.Path) -> dict[str, list[float]]:
    """Scalars that T5X wrote for TensorBoard, by name."""
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    reader = event_accumulator.EventAccumulator(str(folder / "train"))
    reader.Reload()
    return {
        tag: [
            float(tensor_util.make_ndarray(e.tensor_proto)) for e in reader.Tensors(tag)
        ]
        for tag in reader.Tags()["tensors"]
        if not tag.startswith("config")
    }


def test_twenty_packed_steps_under_t5x_learn(trained, initial):
    folder, _ = trained
    after = open_checkpoint(str(folder), activation="gelu")
    before = open_checkpoint(str(initial))
    assert after.step == 20
    moved = [
        np.abs(after.tensors[name].read() - tensor.read()).max()
        for name, tensor in before.tensors.items()
    ]
    assert min(moved) > 1e-4
    losses = events(folder)["loss"]
    assert len(losses) == 2 and np.all(np.isfinite(losses)) and losses[1] < losses[0]


@pytest.fixture(scope="module")
def questions(world, trained):
    folder, _ = trained
    return [
        "--gin_file=t5x_configs/recipes/quickstart_evaluate.gin",
        *gin(
            CHECKPOINT_PATH=str(folder / "checkpoint_20"),
            BENCHMARKS_DIR=str(world / "world"),
            VOCABULARY_PATH=str(world / "spiece.model"),
            SUITES=("gsm8k",),
            EVAL_BATCH_SIZE=8,
            OUTPUT_LENGTH=24,
        ),
    ]


def test_t5x_evaluates_with_our_judge(run, questions, tmp_path):
    run(
        "t5x.eval",
        "--gin_file=t5x_configs/runs/t5x_evaluate.gin",
        *questions,
        *gin(OUTPUT_DIR=str(tmp_path), MAX_EXAMPLES=8),
    )
    scores = [
        json.loads(line)
        for path in tmp_path.rglob("*-metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert scores and any("accuracy" in key for key in scores[-1])


def test_t5x_infers_the_texts_that_we_infer(run, questions, trained, tmp_path):
    run(
        "t5x.infer",
        "--gin_file=t5x_configs/runs/t5x_infer.gin",
        *questions,
        *gin(OUTPUT_DIR=str(tmp_path)),
    )
    theirs = [
        json.loads(line)
        for path in sorted(tmp_path.rglob("*.jsonl*"))
        for line in path.read_text().splitlines()
    ]
    assert len(theirs) > 8 and all("prediction" in row for row in theirs)
    prompts = [row["inputs"]["inputs_pretokenized"] for row in theirs[:16]]
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"input": prompt}) + "\n" for prompt in prompts)
    )
    run(
        "specialize",
        "infer",
        *questions,
        "--prompts",
        tmp_path / "prompts.jsonl",
        "--out",
        tmp_path / "ours.jsonl",
    )
    ours = [
        json.loads(line) for line in (tmp_path / "ours.jsonl").read_text().splitlines()
    ]
    assert [row["prediction"] for row in ours] == [
        row["prediction"] for row in theirs[: len(ours)]
    ]


def test_what_t5x_trained_becomes_an_hf_folder(trained, initial, tmp_path):
    folder, _ = trained
    convert(str(folder), str(tmp_path / "hf"), to="hf", activation="gelu")
    opened = open_checkpoint(str(tmp_path / "hf"))
    assert opened.config.mlp_activations == ("gelu", "linear")
    assert convert(str(tmp_path / "hf"), None).fingerprint == (
        convert(str(folder), None, activation="gelu").fingerprint
    )
