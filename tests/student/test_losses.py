"""Values and gradients of every mode against dense float64 formulas."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import (
    CONFIGS,
    Case,
    dense_divergence,
    dense_gradient,
    dense_value,
    random_case,
    softmax,
)

from specialize.errors import InputError
from specialize.student.loss.losses import (
    LossConfig,
    distillation_loss,
    fused_distillation_loss,
)
from specialize.student.loss.spec import PART


@functools.partial(jax.jit, static_argnames="config")
@functools.partial(jax.value_and_grad, argnums=0)
def compiled(logits, *teacher, config):
    return distillation_loss(logits, *teacher, config).loss


def value_and_gradient(case: Case, config: LossConfig):
    return compiled(jnp.asarray(case.logits), *case.teacher(), config=config)


def one_position(logits, ids, probs, tail, target=0) -> Case:
    """A batch of the shape of `random_case()` in which one position counts.

    One shape for the whole file: each program is compiled once.
    """
    case = random_case()
    case.weights[:] = 0
    case.weights[0, 0] = 1
    # Columns that the case does not speak of are impossible.
    case.logits[0, 0] = -1e9
    case.logits[0, 0, : len(logits)] = logits
    case.ids[0, 0], case.probs[0, 0], case.tail[0, 0] = 0, 0, tail
    case.ids[0, 0, : len(ids)] = ids
    case.probs[0, 0, : len(probs)] = probs
    case.targets[0, 0] = target
    return case


@pytest.mark.parametrize("name", CONFIGS)
def test_value_and_gradient_equal_the_dense_formulas(name):
    case, config = random_case(), CONFIGS[name]
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(case, config)
    expected = (dense_value(case, config) * case.weights).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(
        gradient,
        dense_gradient(case, config) * case.weights[..., None],
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_equals_finite_differences(name):
    case, config, step = random_case(seed=1), CONFIGS[name], 1e-5
    with jax.enable_x64(True):
        _, gradient = value_and_gradient(case, config)
        for at in np.random.default_rng(0).permutation(case.logits.size)[:60]:
            values = []
            for sign in (1, -1):
                moved = case.logits.copy()
                moved.flat[at] += sign * step
                moved = dataclasses.replace(case, logits=moved)
                values.append(float(value_and_gradient(moved, config)[0]))
            slope = (values[0] - values[1]) / (2 * step)
            np.testing.assert_allclose(
                np.asarray(gradient).flat[at], slope, rtol=1e-6, atol=1e-8
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_float32_agrees_with_float64(name):
    case, config = random_case(scale=8.0), CONFIGS[name]
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(case, config)
    narrow_value, narrow_gradient = value_and_gradient(case.cast(np.float32), config)
    np.testing.assert_allclose(narrow_value, value, rtol=1e-5)
    np.testing.assert_allclose(
        narrow_gradient, gradient, atol=1e-5 * np.abs(gradient).max()
    )


def test_tail_is_zero_with_zero_gradient_where_student_and_teacher_agree():
    case = random_case(seed=2)
    with jax.enable_x64(True):
        q = softmax(case.logits)
        agreeing = dataclasses.replace(
            case, probs=np.take_along_axis(q, case.ids.astype(np.int64), -1)
        )
        # Distinct ids in every row, so that all four slots are used.
        agreeing.ids = np.broadcast_to(np.arange(4, dtype=np.int32), case.ids.shape)
        agreeing.probs = q[..., :4]
        agreeing.tail = q[..., 4:].sum(-1)
        value, gradient = value_and_gradient(agreeing, LossConfig("tail"))
    assert abs(float(value)) < 1e-12
    np.testing.assert_allclose(gradient, 0, atol=1e-13)


def test_tail_is_never_negative_on_normalised_rows():
    for seed in range(100):
        case = random_case(seed=seed, scale=0.1).cast(np.float32)
        case.weights[:] = 0
        case.weights.flat[seed % case.weights.size] = 1
        assert value_and_gradient(case, LossConfig())[0] > 0


def test_paper_reaches_m_log_m_where_the_student_is_the_teacher_renormalised():
    probs = np.array([0.5, 0.2, 0.1])
    kept = probs.sum()
    case = one_position(np.log(probs / kept), [0, 1, 2], probs, 1 - kept)
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(case, LossConfig("paper"))
    np.testing.assert_allclose(value, kept * np.log(kept), rtol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_unused_slots_add_exactly_nothing_whatever_their_id(name):
    config = CONFIGS[name]
    case = random_case(seed=4).cast(np.float32)
    # Here id 0 is a real alternative of the row, and its empty slots repeat it.
    case.ids[0, 0], case.probs[0, 0] = (0, 3, 0, 0), (0.6, 0.3, 0, 0)
    case.tail[0, 0] = 0.1
    empty = case.probs == 0
    assert empty.sum() > 10
    value, gradient = value_and_gradient(case, config)
    np.testing.assert_allclose(
        gradient, dense_gradient(case, config) * case.weights[..., None], atol=1e-5
    )
    for other in (7, 28, 999_999, -1):
        moved = dataclasses.replace(case, ids=np.where(empty, other, case.ids))
        moved_value, moved_gradient = value_and_gradient(moved, config)
        np.testing.assert_array_equal(value, moved_value)
        np.testing.assert_array_equal(gradient, moved_gradient)


@pytest.mark.parametrize("name", CONFIGS)
def test_positions_of_weight_zero_get_exactly_no_gradient(name):
    case = random_case(seed=5).cast(np.float32)
    case.logits[case.weights == 0] *= 1e4
    _, gradient = value_and_gradient(case, CONFIGS[name])
    dropped = np.asarray(gradient)[case.weights == 0]
    assert dropped.size and not dropped.any()


def test_an_id_given_twice_counts_as_one_with_the_summed_probability():
    logits = np.random.default_rng(6).normal(size=9)
    twice = one_position(logits, [4, 2, 4, 4], [0.4, 0.2, 0.3, 0.0], 0.1)
    once = one_position(logits, [4, 2, 0, 0], [0.7, 0.2, 0.0, 0.0], 0.1)
    with jax.enable_x64(True):
        for config in CONFIGS.values():
            for a, b in zip(
                value_and_gradient(twice, config),
                value_and_gradient(once, config),
                strict=True,
            ):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_a_tail_below_one_millionth_is_dropped():
    logits = np.zeros(9)
    logits[0] = 60.0  # the student gives the tail e^-58
    tiny = one_position(logits, [0, 1], [0.9, 0.1], 9.9e-7).cast(np.float32)
    none = one_position(logits, [0, 1], [0.9, 0.1], 0.0).cast(np.float32)
    small = one_position(logits, [0, 1], [0.9, 0.1], 1.1e-6).cast(np.float32)
    config = LossConfig("tail")
    values = [value_and_gradient(case, config) for case in (tiny, none, small)]
    np.testing.assert_array_equal(values[0][0], values[1][0])
    np.testing.assert_array_equal(values[0][1], values[1][1])
    assert values[2][0] > values[1][0]


@pytest.mark.parametrize("mode", ["tail", "paper", "renormalize"])
def test_all_mass_on_one_id_is_cross_entropy_in_every_mode(mode):
    case = random_case(seed=7)
    case.ids[..., 0] = case.targets
    case.probs[:], case.tail[:] = np.eye(4)[0], 0.0
    expected = (dense_value(case, LossConfig("sample")) * case.weights).sum()
    with jax.enable_x64(True):
        value, gradient = value_and_gradient(case, LossConfig(mode))
        other = value_and_gradient(case, LossConfig("sample"))[1]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, other, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kept", [1e-3, 1e-7, 1e-30])
def test_vanishing_kept_mass_stays_finite_and_exact(name, kept):
    config = CONFIGS[name]
    logits = np.random.default_rng(8).normal(size=9)
    case = one_position(logits, [3, 5], [0.75 * kept, 0.25 * kept], 1 - kept)
    value, gradient = value_and_gradient(case.cast(np.float32), config)
    np.testing.assert_allclose(
        value, (dense_value(case, config) * case.weights).sum(), rtol=1e-5
    )
    expected = dense_gradient(case, config) * case.weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=3e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_empty_row_stays_finite(name):
    logits = np.random.default_rng(9).normal(size=9)
    case = one_position(logits, [0, 0], [0.0, 0.0], 1.0)
    for x in value_and_gradient(case.cast(np.float32), CONFIGS[name]):
        assert np.isfinite(x).all()


# What seeks modes feels nothing where the student is certain of another id.
SEEKING = ("reverse", "jsd", "skew")


@pytest.mark.parametrize(
    "name", [name for name, one in CONFIGS.items() if one.mode not in SEEKING]
)
def test_gradient_survives_where_the_student_underflows(name):
    """At q = e^-200 float32 holds 0, and log q must still be -200."""
    config = CONFIGS[name]
    logits = np.linspace(-1, 1, 9)
    logits[8] = 200.0
    case = one_position(logits, [3, 5], [0.6, 0.3], 0.1, target=3)
    value, gradient = value_and_gradient(case.cast(np.float32), config)
    np.testing.assert_allclose(
        value, (dense_value(case, config) * case.weights).sum(), rtol=1e-5
    )
    expected = dense_gradient(case, config) * case.weights[..., None]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", [name for name, one in CONFIGS.items() if one.mode in SEEKING]
)
def test_a_divergence_is_exact_where_one_side_underflows(name):
    config = CONFIGS[name]
    logits = np.linspace(-1, 1, 9)
    logits[8] = 200.0
    for tail, probs in ((0.1, [0.6, 0.3]), (0.0, [0.7, 0.3]), (1e-5, [1 - 1e-5, 0.0])):
        case = one_position(logits, [3, 5], probs, tail, target=3)
        value, gradient = value_and_gradient(case.cast(np.float32), config)
        np.testing.assert_allclose(
            value, (dense_value(case, config) * case.weights).sum(), rtol=1e-5
        )
        expected = dense_gradient(case, config) * case.weights[..., None]
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_jsd_tends_to_the_forward_and_the_reverse_kl(seed):
    """Undivided by b (1 - b) it would tend to 0."""
    case = random_case(seed=seed, scale=1.0)
    case.tail[case.tail == 0] = 1e-3  # without a tail the reverse KL is infinite
    case.probs *= ((1 - case.tail) / case.probs.sum(-1))[..., None]
    with jax.enable_x64(True):
        for beta, mode in ((1e-9, "tail"), (1 - 1e-9, "reverse")):
            near = value_and_gradient(case, LossConfig("jsd", jsd_beta=beta))
            limit = value_and_gradient(case, LossConfig(mode))
            np.testing.assert_allclose(near[0], limit[0], rtol=1e-6)
            np.testing.assert_allclose(near[1], limit[1], atol=1e-6)
        skewed = value_and_gradient(case, LossConfig("skew", skew_alpha=1e-12))
        np.testing.assert_allclose(
            skewed[0], value_and_gradient(case, LossConfig("tail"))[0], rtol=1e-6
        )


@pytest.mark.parametrize("mode", ["tail", "reverse", "jsd", "skew"])
@pytest.mark.parametrize("seed", range(4))
def test_divergences_on_events_are_lower_bounds_of_those_on_the_vocabulary(mode, seed):
    """Joining events loses information: the data-processing inequality."""
    random = np.random.default_rng(seed)
    case = random_case(seed=seed, scale=random.uniform(0.1, 4))
    vocabulary = case.logits.shape[-1]
    config = LossConfig(
        mode, jsd_beta=random.uniform(0.01, 0.99), skew_alpha=random.uniform(0.01, 0.99)
    )
    teacher = softmax(random.normal(size=case.logits.shape) * random.uniform(0.1, 4))
    slots = case.ids.shape[-1]
    case.ids = np.argsort(-teacher, -1)[..., :slots].astype(np.int32)
    case.probs = np.take_along_axis(teacher, case.ids.astype(np.int64), -1)
    case.tail = 1 - case.probs.sum(-1)
    student = softmax(case.logits)
    assert vocabulary > slots
    if mode == "tail":
        exact = (teacher * np.log(teacher / student)).sum(-1)
    else:
        exact = dense_divergence(teacher, student, config)[0]
    with jax.enable_x64(True):
        for at in np.ndindex(case.tail.shape):
            alone = dataclasses.replace(case, weights=np.zeros_like(case.weights))
            alone.weights[at] = 1
            value = float(value_and_gradient(alone, config)[0])
            assert -1e-12 <= value <= exact[at] + 1e-12


def test_a_student_certain_of_the_teachers_ids_still_feels_the_tail():
    """1 - Q is 1e-30 here: any form of log(1 - sum q) gives infinity or noise."""
    logits = np.zeros(9)
    logits[:2] = 70.0
    logits[2:] = np.linspace(0, 1, 7)
    case = one_position(logits, [0, 1], [0.5, 0.4], 0.1)
    value, gradient = value_and_gradient(case.cast(np.float32), LossConfig("tail"))
    off = np.log(np.exp(logits[2:]).sum())
    lse = 70 + np.log(2)
    expected = 0.5 * np.log(0.5) + 0.4 * np.log(0.4) - 0.9 * 70 + lse
    expected += 0.1 * (np.log(0.1) - off)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    shares = np.exp(logits[2:]) / np.exp(off)
    np.testing.assert_allclose(gradient[0, 0, 2:9], -0.1 * shares, rtol=1e-5)


def test_bfloat16_logits_are_reduced_in_float32():
    case = random_case(seed=10)
    logits = jnp.asarray(case.logits, jnp.bfloat16)
    exact = dataclasses.replace(case, logits=np.asarray(logits, np.float64))
    config = CONFIGS["everything"]
    value, gradient = compiled(logits, *case.cast(np.float32).teacher(), config=config)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    expected = (dense_value(exact, config) * case.weights).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_a_vocabulary_that_is_all_the_teachers_has_no_tail():
    case = random_case(vocabulary=4).cast(np.float32)
    case.ids[:] = np.arange(4)
    case.probs[:] = 0.25
    case.tail[:] = 0
    config = LossConfig("renormalize", ce_weight=0.3)
    value, gradient = value_and_gradient(case, config)
    expected = (dense_value(case, config) * case.weights).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    expected = dense_gradient(case, config) * case.weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_without_a_teacher_the_loss_is_cross_entropy():
    case = random_case(seed=11)
    config = LossConfig("tail", kl_weight=0.25, z_loss=1e-2)
    with jax.enable_x64(True):
        sums = distillation_loss(
            jnp.asarray(case.logits),
            jnp.asarray(case.targets),
            *(None, None, None),
            jnp.asarray(case.weights),
            jnp.asarray(case.formats),
            config,
        )
    expected = dense_value(case, LossConfig("sample", z_loss=1e-2)) * case.weights
    np.testing.assert_allclose(sums.loss, expected.sum(), rtol=1e-12)
    np.testing.assert_allclose(sums.weight, case.weights.sum())
    assert "kl" not in sums.metrics and "ce" in sums.metrics


@pytest.mark.parametrize("fused", [False, True])
def test_parts_of_a_mixture_have_their_weights_and_their_metrics(fused):
    case = random_case()
    parts = np.random.default_rng(3).integers(1, 4, case.formats.shape)
    config = LossConfig(parts=(("tickets", 1.0), ("flan", 0.25), ("base", 3.0)))
    weighted = dataclasses.replace(
        case, weights=case.weights * np.array([0, 1.0, 0.25, 3.0])[parts]
    )
    both = dataclasses.replace(
        case, formats=(case.formats + PART * parts).astype(np.int32)
    )
    with jax.enable_x64(True):
        if fused:
            eye = jnp.eye(case.logits.shape[-1])
            found, wanted = (
                fused_distillation_loss(
                    jnp.asarray(one.logits), eye, *one.teacher(), how, chunk=16
                )
                for one, how in ((both, config), (weighted, LossConfig()))
            )
        else:
            found, wanted = (
                distillation_loss(jnp.asarray(one.logits), *one.teacher(), how)
                for one, how in ((both, config), (weighted, LossConfig()))
            )
        np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-12)
        np.testing.assert_allclose(found.weight, wanted.weight, rtol=1e-12)
        for name, pair in wanted.metrics.items():  # those of all and of the formats
            np.testing.assert_allclose(found.metrics[name], pair, rtol=1e-9)
        for number, (name, weight) in enumerate(config.parts, start=1):
            alone = dataclasses.replace(
                case, weights=case.weights * weight * (parts == number)
            )
            kl = distillation_loss(jnp.asarray(case.logits), *alone.teacher())
            for metric in ("kl", "ce", "loss"):
                np.testing.assert_allclose(
                    found.metrics[f"{name}/{metric}"], kl.metrics[metric], rtol=1e-9
                )


@pytest.mark.parametrize("fused", [False, True])
def test_texts_of_the_student_itself_have_no_cross_entropy(fused):
    """Value and gradient of two parts, of which the student wrote the last."""
    case = random_case()
    parts = np.random.default_rng(3).integers(1, 4, case.formats.shape)
    own = parts > 1
    names = (("corpus", 1.0), ("on_policy/a", 0.5), ("on_policy/b", 2.0))
    config = LossConfig("reverse", ce_weight=0.3, parts=names, written=2)
    both = dataclasses.replace(
        case, formats=(case.formats + PART * parts).astype(np.int32)
    )
    weights = case.weights * np.array([0, 1.0, 0.5, 2.0])[parts]

    def loss(logits, one, how):
        if fused:
            eye = jnp.eye(logits.shape[-1])
            return fused_distillation_loss(logits, eye, *one.teacher(), how).loss
        return distillation_loss(logits, *one.teacher(), how).loss

    def of_each(logits):
        found = 0.0
        for mine, ce in ((own, 0.0), (~own, 0.3)):
            alone = dataclasses.replace(case, weights=weights * mine)
            how = LossConfig("reverse", ce_weight=ce)
            found += distillation_loss(logits, *alone.teacher(), how).loss
        return found

    with jax.enable_x64(True):
        logits = jnp.asarray(case.logits)
        value, gradient = jax.value_and_grad(loss)(logits, both, config)
        wanted, slope = jax.value_and_grad(of_each)(logits)
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mode": "sample"}, "no answers to be learnt"),
        ({"kl_weight": 0.0, "ce_weight": 1.0}, "no answers to be learnt"),
        ({"mode": "conditional", "ce_weight": 1.0}, "ignores the mass"),
        ({"written": 2}, "written = 2"),
    ],
)
def test_a_loss_without_a_form_for_own_texts_is_refused(fields, said):
    LossConfig(**{**fields, "written": 0})
    with pytest.raises(InputError, match=said):
        LossConfig(**{"parts": (("on_policy", 1.0),), "written": 1, **fields})


def test_a_part_without_a_weight_is_refused():
    with pytest.raises(InputError, match="the loss weight of .flan. = 0.0"):
        LossConfig(parts=(("flan", 0.0),))
