"""The loss against a teacher with all probabilities, chunked and sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from loss_cases import dense_divergence, softmax
from test_losses_fused import assert_equal, make_mesh

from specialize.errors import InputError
from specialize.student.loss.losses import (
    LossConfig,
    fused_distillation_loss,
    whole_vocabulary_loss,
)
from specialize.student.loss.spec import PART

BATCH, LENGTH, WIDTH, TEACHER_WIDTH, VOCABULARY = 4, 5, 12, 20, 64
CONFIGS = {
    "tail": LossConfig(),
    "reverse": LossConfig("reverse"),
    "jsd": LossConfig("jsd", jsd_beta=0.3),
    "skew": LossConfig("skew", skew_alpha=0.2),
    "sample": LossConfig("sample"),
    "everything": LossConfig("jsd", kl_weight=0.8, ce_weight=0.3, z_loss=1e-2),
}


def draw(seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(BATCH, LENGTH, WIDTH))
    head = random.normal(size=(WIDTH, VOCABULARY)) / 2
    teacher = random.normal(size=(BATCH, LENGTH, TEACHER_WIDTH))
    teacher_head = random.normal(size=(TEACHER_WIDTH, VOCABULARY)) / 2
    targets = random.integers(0, VOCABULARY, (BATCH, LENGTH)).astype(np.int32)
    weights = (random.random((BATCH, LENGTH)) < 0.8).astype(dtype)
    weights[0, :2] = 1.0, 0.5
    formats = random.integers(0, 5, (BATCH, LENGTH)).astype(np.int32)
    floats = (x.astype(dtype) for x in (hidden, head, teacher, teacher_head))
    return (*floats, targets, weights, formats)


def dense(config, hidden, head, teacher, teacher_head, targets, weights, formats):
    """(loss, (d_hidden, d_head)) in float64, with all logits."""
    hidden, head = hidden.astype(np.float64), head.astype(np.float64)
    logits = hidden @ head
    q = softmax(logits)
    p = softmax(teacher.astype(np.float64) @ teacher_head.astype(np.float64))
    lse = np.log(np.exp(logits).sum(-1))
    one_hot = np.eye(VOCABULARY)[targets]
    ce = -np.log((q * one_hot).sum(-1))
    if config.mode == "sample":
        value, gradient = ce, q - one_hot
    elif config.mode == "tail":
        value, gradient = (p * np.log(p / q)).sum(-1), q - p
    else:
        value, slope = dense_divergence(p, q, config)
        gradient = slope - q * slope.sum(-1, keepdims=True)
    value = config.kl_weight * value + config.ce_weight * ce + config.z_loss * lse**2
    gradient = config.kl_weight * gradient + config.ce_weight * (q - one_hot)
    gradient += 2 * config.z_loss * lse[..., None] * q
    gradient *= weights[..., None]
    d_head = np.einsum("bld,blv->dv", hidden, gradient)
    return (value * weights).sum(), (gradient @ head.T, d_head)


@functools.cache
def compiled(config, chunk=7, mesh=None):
    def loss(hidden, head, *rest):
        sums = whole_vocabulary_loss(
            hidden, head, *rest, config, chunk=chunk, mesh=mesh
        )
        return sums.loss, sums

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_value_and_gradients_equal_the_dense_formulas(name):
    arguments = draw()
    (value, _), gradients = compiled(CONFIGS[name])(*arguments)
    assert_equal((value, gradients), dense(CONFIGS[name], *arguments))


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_equal_finite_differences(name):
    hidden, *rest = draw(1, np.float64)
    function, step = compiled(CONFIGS[name]), 1e-5
    with jax.enable_x64(True):
        _, (gradient, _) = function(hidden, *rest)
        for at in np.random.default_rng(0).permutation(hidden.size)[:20]:
            values = []
            for sign in (1, -1):
                moved = hidden.copy()
                moved.flat[at] += sign * step
                values.append(float(function(moved, *rest)[0][0]))
            slope = (values[0] - values[1]) / (2 * step)
            found = np.asarray(gradient).flat[at]
            np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (8, 1)])
@pytest.mark.parametrize("name", ["tail", "reverse", "everything"])
def test_eight_devices_are_one_device(name, shape):
    mesh, arguments = make_mesh(shape), draw(2)
    columns, whole = (NamedSharding(mesh, P(*axes)) for axes in ((None, "model"), ()))
    placed = [
        jax.device_put(x, columns if index in (1, 3) else whole)  # the heads
        for index, x in enumerate(arguments)
    ]
    many = compiled(CONFIGS[name], 3, mesh)(*placed)
    assert_equal(many, compiled(CONFIGS[name])(*arguments))


@pytest.mark.parametrize("mode", ["tail", "reverse", "jsd", "skew"])
def test_rows_of_the_teacher_give_a_lower_bound(mode):
    """What a corpus keeps of the same teacher, K of all ids, says less."""
    hidden, head, teacher, teacher_head, targets, weights, formats = draw(3)
    p = softmax((teacher @ teacher_head).astype(np.float64)).astype(np.float32)
    ids = np.argsort(-p, -1)[..., :4].astype(np.int32)
    probs = np.take_along_axis(p, ids.astype(np.int64), -1)
    config = LossConfig(mode)
    kept = jax.jit(functools.partial(fused_distillation_loss, config=config, chunk=7))(
        hidden, head, targets, ids, probs, 1 - probs.sum(-1), weights, formats
    )
    (whole, _), _ = compiled(config)(*draw(3))
    assert 0 < kept.loss <= whole


def test_metrics_are_dense_quantities_in_every_mode():
    arguments = draw(4)
    hidden, head, teacher, teacher_head, targets, weights, formats = arguments
    logits = hidden.astype(np.float64) @ head.astype(np.float64)
    q, p = softmax(logits), softmax(teacher.astype(np.float64) @ teacher_head)
    expected = {
        "ce": -np.log(np.take_along_axis(q, targets[..., None], -1)[..., 0]),
        "accuracy": q.argmax(-1) == targets,
        "kl": (p * np.log(p / q)).sum(-1),
        "reverse_kl": (q * np.log(q / p)).sum(-1),
        "teacher_entropy": -(p * np.log(p)).sum(-1),
        "top1_agreement": p.argmax(-1) == q.argmax(-1),
    }
    for name in ("tail", "everything"):
        (_, sums), _ = compiled(CONFIGS[name])(*arguments)
        for prefix, chosen in (
            ("", weights),
            ("zero_shot_cot/", weights * (formats == 3)),
        ):
            for metric, values in expected.items():
                np.testing.assert_allclose(
                    sums.metrics[prefix + metric],
                    ((values * chosen).sum(), chosen.sum()),
                    rtol=1e-4,
                    atol=1e-5,
                )


def test_dropped_positions_add_nothing_even_if_broken():
    hidden, head, teacher, *rest = draw(5)
    dropped = rest[2] == 0
    assert dropped.any()
    sums = compiled(CONFIGS["jsd"])(hidden, head, teacher, *rest)
    broken = np.where(dropped[..., None], np.float32(np.nan), teacher)
    again = compiled(CONFIGS["jsd"])(hidden, head, broken, *rest)
    assert_equal(again, sums, 1e-6)


def test_parts_of_a_mixture_have_weights_and_metrics():
    arguments = draw(6)
    *rest, weights, formats = arguments
    parts = np.random.default_rng(1).integers(1, 3, formats.shape).astype(np.int32)
    config = LossConfig(parts=(("a", 1.0), ("b", 0.25)))
    (value, sums), _ = compiled(config)(*rest, weights, formats + PART * parts)
    scaled = weights * np.array([0, 1.0, 0.25], np.float32)[parts]
    (expected, _), _ = compiled(LossConfig())(*rest, scaled, formats)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert "b/kl" in sums.metrics


def test_modes_and_vocabularies_that_do_not_fit_are_refused():
    hidden, head, teacher, teacher_head, *rest = map(jnp.asarray, draw())
    with pytest.raises(InputError, match="'conditional' is for the K known"):
        config = LossConfig("conditional", ce_weight=1.0)
        whole_vocabulary_loss(hidden, head, teacher, teacher_head, *rest, config)
    with pytest.raises(InputError, match="64 vocabulary rows and the teacher 63"):
        whole_vocabulary_loss(hidden, head, teacher, teacher_head[:, :63], *rest)


@pytest.mark.slow
def test_neither_teacher_nor_student_ever_has_all_logits():
    """8,192 tokens of T5's vocabulary; compiled, not run."""
    shape, lines, vocabulary = jax.ShapeDtypeStruct, (16, 512), 32128
    arguments = (
        shape((*lines, 256), jnp.float32),
        shape((256, vocabulary), jnp.float32),
        shape((*lines, 512), jnp.float32),
        shape((512, vocabulary), jnp.float32),
        shape(lines, jnp.int32),
        shape(lines, jnp.float32),
        shape(lines, jnp.int32),
    )
    for name in ("tail", "jsd"):
        program = compiled(CONFIGS[name], None).lower(*arguments).compile()
        used = program.memory_analysis().temp_size_in_bytes
        assert used < 0.25 * 8192 * vocabulary * 4
