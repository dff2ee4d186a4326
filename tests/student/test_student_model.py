"""`Student` keeps T5X's contract and divides only where it is told to."""

import functools
import inspect

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5

from specialize.errors import InputError
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.loss.losses import LossConfig
from specialize.student.model import Student
from specialize.student.network.transformer import T5Config, Transformer

SIZES = dict(
    vocab_size=53,
    emb_dim=12,
    num_heads=2,
    head_dim=5,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.2,
)
SHAPES = {"encoder_input_tokens": (2, 9), "decoder_input_tokens": (2, 6)}


def student(family="t5_1_1", **options) -> Student:
    config = T5Config(**(SIZES | reference_t5.FAMILIES[family]))
    return Student(Transformer(config), **options)


@pytest.fixture(scope="module")
def params():
    config = T5Config(**(SIZES | reference_t5.FAMILIES["t5_1_1"]))
    return jax.tree.map(jnp.asarray, reference_t5.random_params(config, 0))


@pytest.fixture(scope="module")
def batch():
    """Two rows, the second shorter; K = 3 teacher ids a position."""
    rng = np.random.default_rng(0)
    targets = rng.integers(2, 53, (2, 6)).astype(np.int32)
    targets[1, 4:] = 0
    probs = rng.dirichlet(np.ones(4), (2, 6)).astype(np.float32)
    ids = np.stack([rng.permutation(53)[:3] for _ in range(12)]).reshape(2, 6, 3)
    arrays = {
        "encoder_input_tokens": rng.integers(2, 53, (2, 9)).astype(np.int32),
        "decoder_input_tokens": reference_t5.shift_right(targets),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
        "decoder_teacher_ids": ids.astype(np.int32),
        "decoder_teacher_probs": probs[..., :3],
        "decoder_teacher_tail": probs[..., 3],
        "decoder_format_ids": np.full((2, 6), 3, np.int32),
    }
    return {key: jnp.asarray(value) for key, value in arrays.items()}


def plain(batch):
    return {key: value for key, value in batch.items() if "teacher" not in key}


@functools.partial(jax.jit, static_argnums=0)
def all_logits(module, params, batch):
    return module.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        enable_dropout=False,
    )


def log_softmax(model, params, batch):
    logits = all_logits(model.module, params, batch)
    return np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)


def nll(model, params, batch):
    """Negative log-probability [B L] of the targets."""
    targets = batch["decoder_target_tokens"]
    logq = log_softmax(model, params, batch)
    return -np.take_along_axis(logq, targets[..., None], -1)[..., 0]


@pytest.mark.parametrize("fused", [True, False])
def test_the_loss_is_the_kl_on_k_plus_1_events_summed_over_positions(
    params, batch, fused
):
    model = student(fused=fused)
    sums = jax.jit(model.loss_sums)(params, batch)
    logq = log_softmax(model, params, batch)
    on = np.take_along_axis(logq, batch["decoder_teacher_ids"], -1)
    p = np.asarray(batch["decoder_teacher_probs"], np.float64)
    tail = np.asarray(batch["decoder_teacher_tail"], np.float64)
    off = np.log1p(-np.exp(on).sum(-1))
    kl = (p * (np.log(p) - on)).sum(-1) + tail * (np.log(tail) - off)
    expected = (kl * batch["decoder_loss_weights"]).sum()
    np.testing.assert_allclose(sums.loss, expected, rtol=1e-5)
    assert sums.weight == 10
    total, count = sums.metrics["zero_shot_cot/kl"]
    np.testing.assert_allclose(total / count, expected / 10, rtol=1e-5)


def test_a_batch_without_teacher_is_learned_by_cross_entropy(params, batch):
    model = student()
    sums = jax.jit(model.loss_sums)(params, plain(batch))
    expected = (nll(model, params, batch) * batch["decoder_loss_weights"]).sum()
    np.testing.assert_allclose(sums.loss, expected, rtol=1e-5)
    without = {k: v for k, v in plain(batch).items() if k != "decoder_loss_weights"}
    np.testing.assert_allclose(
        jax.jit(model.loss_sums)(params, without).loss, expected, rtol=1e-5
    )


def test_half_a_teacher_is_refused(params, batch):
    rest = {key: value for key, value in batch.items() if not key.endswith("_tail")}
    with pytest.raises(InputError, match="teacher_tail"):
        jax.eval_shape(student().loss_sums, params, rest)


def test_loss_fn_divides_as_t5x_says_and_its_metrics_add(params, batch):
    factors = (None, 4.0, "NUM_REAL_TARGET_TOKENS", "num_total_target_tokens")

    @jax.jit
    def both(params, batch):
        models = [student(loss_normalizing_factor=factor) for factor in factors]
        return (
            models[0].loss_sums(params, batch),
            [model.loss_fn(params, batch, None) for model in models],
            [model.eval_fn(params, batch)[0] for model in models],
        )

    sums, found, evaluated = both(params, batch)
    divisors = (1, 4, 10, 12)
    for (loss, metrics), again, divisor in zip(found, evaluated, divisors, strict=True):
        np.testing.assert_allclose(loss, sums.loss / divisor, rtol=1e-6)
        np.testing.assert_allclose(metrics["loss"].compute(), sums.loss / 10, rtol=1e-6)
        metrics["learning_rate"] = None  # T5X adds to the same dict
        assert again == loss
    halves = [
        {key: value[row : row + 1] for key, value in batch.items()} for row in (0, 1)
    ]
    loss_fn = jax.jit(lambda batch: student().loss_fn(params, batch, None)[1])
    parts = [loss_fn(half) for half in halves]
    whole = found[2][1]
    for name in ("loss", "kl", "zero_shot_cot/kept_mass"):
        merged = parts[0][name].merge(parts[1][name]).compute()
        np.testing.assert_allclose(merged, whole[name].compute(), rtol=1e-5)


@pytest.mark.parametrize("factor", ["AVERAGE", 0, -1.0])
def test_an_unknown_normalizer_is_refused(factor):
    with pytest.raises(InputError, match="loss_normalizing_factor"):
        student(loss_normalizing_factor=factor)


def test_a_key_drops_out_and_none_does_not(params, batch):
    model = student()
    # Untyped keys are what T5X passes; those of this generator compile faster.
    with jax.default_prng_impl("unsafe_rbg"):
        loss = jax.jit(lambda key: model.loss_fn(params, batch, key)[0])
        first, again, other = (loss(jax.random.PRNGKey(seed)) for seed in (0, 0, 1))
    evaluated = jax.jit(lambda: model.eval_fn(params, batch)[0])()
    assert first == again
    assert first != other
    assert first != evaluated


def test_initial_variables_take_the_call_of_t5x():
    for family in reference_t5.FAMILIES:
        model = student(family)
        call = functools.partial(
            model.get_initial_variables,
            input_shapes=SHAPES,
            input_types=dict.fromkeys(SHAPES, jnp.float32),
        )
        variables = jax.eval_shape(call, jax.random.PRNGKey(0))
        assert set(variables) == {"params", "params_axes"}
        expected = reference_t5.random_params(model.module.config, 0)
        assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(
            jnp.shape, expected
        )
    assert inspect.ismethod(model.get_initial_variables)


def test_predictions_fill_the_decoder_length_and_end_in_padding(params, batch):
    inputs = {k: v for k, v in batch.items() if k.split("_")[1] == "input"}
    model = student()
    tokens = jax.jit(model.predict_batch)(params, inputs)
    assert tokens.shape == (2, 6) and tokens.dtype == jnp.int32
    eos_id = int(tokens[0, 2])
    ended = student(eos_id=eos_id)
    cut, aux = jax.jit(ended.predict_batch_with_aux)(params, inputs)
    end = list(np.asarray(tokens[0])).index(eos_id)
    np.testing.assert_array_equal(cut[0, : end + 1], tokens[0, : end + 1])
    assert (np.asarray(cut[0, end + 1 :]) == 0).all()
    assert aux["scores"].shape == (2,)


def test_scores_of_predictions_are_the_scores_of_the_batch_they_make(params, batch):
    model = student(eos_id=10**6)
    tokens, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
    echo = dict(
        encoder_input_tokens=batch["encoder_input_tokens"],
        decoder_input_tokens=jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
        decoder_target_tokens=tokens,
        decoder_loss_weights=jnp.ones((2, 6)),
    )
    np.testing.assert_allclose(
        jax.jit(model.score_batch)(params, echo), aux["scores"], rtol=1e-5
    )


def test_score_batch_is_the_log_probability_of_the_weighted_targets(params, batch):
    model = student()
    expected = -(nll(model, params, batch) * batch["decoder_loss_weights"]).sum(-1)
    found = jax.jit(model.score_batch)(params, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sampling_takes_its_key_under_the_name_t5x_looks_for(params, batch):
    model = student(decoding=GenerationSpec("sample", 2.0, num_samples=3))
    assert "rng" in inspect.signature(model.predict_batch).parameters
    assert "rng" in inspect.signature(model.predict_batch_with_aux).parameters
    predict = jax.jit(model.predict_batch_with_aux)
    tokens, aux = predict(params, batch, rng=jax.random.PRNGKey(0))
    assert tokens.shape == (2, 3, 6) and aux["scores"].shape == (2, 3)
    with pytest.raises(InputError, match="random key"):
        model.predict_batch(params, batch)


def test_gin_builds_a_student():
    gin.parse_config(
        """
        from __gin__ import dynamic_registration
        from specialize.student.loss import losses
        from specialize.student import model
        from specialize.student import network

        MODEL = @model.Student()
        model.Student:
          module = @network.Transformer()
          loss = @losses.LossConfig()
          feature_converter_cls = %CONVERTER
        CONVERTER = 'a converter'
        losses.LossConfig.mode = 'paper'
        network.Transformer.config = @network.T5Config()
        network.T5Config:
          vocab_size = 64
          mlp_activations = ['gelu', 'linear']
          dtype = 'bfloat16'
        """
    )
    built = gin.query_parameter("%MODEL").scoped_configurable_fn()
    assert isinstance(built, Student)
    assert built.loss == LossConfig("paper")
    assert built.module.config.mlp_activations == ("gelu", "linear")
    assert built.FEATURE_CONVERTER_CLS == "a converter"
    assert Student.FEATURE_CONVERTER_CLS is None
