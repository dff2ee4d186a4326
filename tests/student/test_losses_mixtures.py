"""`jsd` and `skew` at every weight of their mixture, against 120 decimal digits."""

import decimal
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_losses_fused import make_mesh

from specialize.student.loss import divergences, logit_statistics, mixtures
from specialize.student.loss.losses import (
    LossConfig,
    distillation_loss,
    fused_distillation_loss,
    whole_vocabulary_loss,
)
from specialize.student.loss.spec import LEAST_SHARE
from specialize.student.loss.teacher_rows import make_rows

D = decimal.Decimal
decimal.getcontext().prec = 120
LOW = (LEAST_SHARE, 1e-12, 1e-9, 1e-7, 1e-4, 0.01, 0.3)
SHARES = (*LOW, 0.5, *(1 - low for low in LOW[1:]), math.nextafter(1, 0))
CONFIGS = {
    **{f"jsd {share}": LossConfig("jsd", jsd_beta=share) for share in SHARES},
    **{f"skew {share}": LossConfig("skew", skew_alpha=share) for share in SHARES},
}
VOCABULARY, SLOTS = 12, 4
EQUAL, CERTAIN = 5, (8, 9, 10)


def log(x: decimal.Decimal) -> decimal.Decimal:
    return x.ln() if x else D(0)


def exact_divergence(p, q, config):
    """The definition: its value, and q times the derivative for each q."""
    jsd = config.mode == "jsd"
    share = D(config.jsd_beta if jsd else config.skew_alpha)
    m = [share * x + (1 - share) * y for x, y in zip(p, q, strict=True)]
    forward = sum(x * (log(x) - log(c)) for x, c in zip(p, m, strict=True))
    if not jsd:
        rows = zip(p, q, m, strict=True)
        return forward, [-(1 - share) * y * x / c if c else D(0) for x, y, c in rows]
    backward = [y * (log(y) - log(c)) for y, c in zip(q, m, strict=True)]
    value = (share * forward + (1 - share) * sum(backward)) / (share * (1 - share))
    return value, [part / share for part in backward]


def exact_softmax(logits):
    shares = [D(float(z)).exp() for z in logits]
    return [share / sum(shares) for share in shares]


@functools.cache
def table():
    """One line for each kind of teacher and student, and the two as exact numbers."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(13, VOCABULARY)) * 2
    probs, tail = np.zeros((13, SLOTS)), np.zeros(13)
    probs[:, :3], tail[:] = (0.5, 0.3, 0.1), 0.1
    probs[1], tail[1] = (1, 0, 0, 0), 0  # one-hot
    probs[2], tail[2] = (0.4, 0.3, 0.2, 0.1), 0
    probs[3], tail[3] = 0, 1
    probs[4], tail[4] = (1 - 1e-5, 0, 0, 0), 1e-5
    for line, size in zip(CERTAIN, (30, 80, 200), strict=True):
        logits[line, 7] = size  # certain of what the teacher does not name
    logits[11, 0] = 30  # certain of the teacher's first
    probs[11], tail[11] = (1, 0, 0, 0), 0
    logits[12, SLOTS:] = -1e9  # nothing but the teacher's
    logits[6] /= 100  # close to the teacher
    probs[6], tail[6] = 1 / VOCABULARY, 1 - SLOTS / VOCABULARY
    logits = logits.astype(np.float32)
    q = [exact_softmax(line) for line in logits]
    probs[EQUAL] = [float(share) for share in q[EQUAL][:SLOTS]]
    tail[EQUAL] = float(sum(q[EQUAL][SLOTS:]))
    probs, tail = probs.astype(np.float32), tail.astype(np.float32)
    return logits, probs, tail, q


def exact_events(line):
    """The slots that a line uses, and what both sides say of these and of the rest."""
    _, probs, tail, q = table()
    used = [slot for slot in range(SLOTS) if probs[line, slot]]
    # In float32 the sum misses 1 by 1e-8: more than the value of `skew` near 1.
    teacher = [D(float(x)) for x in (*probs[line, used], tail[line])]
    teacher = [x / sum(teacher) for x in teacher]
    rest = sum(share for v, share in enumerate(q[line]) if v not in used)
    return used, teacher, [*(q[line][slot] for slot in used), rest]


@functools.cache
def exact_lines(config):
    """Values and gradients with respect to the logits of `table`."""
    values, gradients = [], []
    for line, q in enumerate(table()[-1]):
        used, teacher, student = exact_events(line)
        value, flows = exact_divergence(teacher, student, config)
        # An event's share is spread over its ids as the student spreads it.
        spread = flows[-1] / student[-1] if student[-1] else D(0)
        gradient = [share * (spread - sum(flows)) for share in q]
        for slot, flow in zip(used, flows[:-1], strict=True):
            gradient[slot] = flow - q[slot] * sum(flows)
        values.append(float(value))
        gradients.append([float(x) for x in gradient])
    return np.array(values), np.array(gradients)


def computed_lines(config):
    """The same from the statistics that the plain, fused and sharded losses share."""
    logits, probs, tail, _ = table()
    lines = len(logits)
    ids = np.broadcast_to(np.arange(SLOTS, dtype=np.int32), (lines, SLOTS))
    rows = make_rows(
        jnp.zeros(lines, jnp.int32),
        *(jnp.asarray(ids), jnp.asarray(probs), jnp.asarray(tail)),
        *(jnp.ones(lines), None, jnp.dtype(jnp.float32)),
    )
    found, exponentials = logit_statistics.summarise(jnp.asarray(logits), rows)
    value, cotangent = divergences.objective(found, rows, config)
    return value, logit_statistics.logits_gradient(found, exponentials, cotangent, rows)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_have_the_exact_value_and_gradient_at_every_weight(name):
    value, gradient = map(np.asarray, computed_lines(CONFIGS[name]))
    exact_value, exact_gradient = exact_lines(CONFIGS[name])
    assert value.dtype == np.float32 and (value >= 0).all()
    assert value[EQUAL] < 1e-12 and np.abs(gradient[EQUAL]).max() < 1e-7
    rest = np.arange(len(value)) != EQUAL
    np.testing.assert_allclose(value[rest], exact_value[rest], rtol=5e-6, atol=1e-36)
    largest = np.abs(exact_gradient).max(-1, keepdims=True)
    error = np.abs(gradient - exact_gradient)
    assert (error <= 1e-5 * largest + 1e-36)[rest].all()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_event_has_the_exact_value_and_slope_at_every_weight(name):
    config = CONFIGS[name]
    logs = np.array(
        [0, -1e-6, -0.5, -0.500001, -0.51, -0.9, -2, -5, -20, -30, -80, -np.inf],
        np.float32,
    )
    p, q = (x.reshape(1, -1) for x in np.meshgrid(logs, logs))
    form = mixtures.jensen_shannon if config.mode == "jsd" else mixtures.skewed
    share = config.jsd_beta if config.mode == "jsd" else config.skew_alpha
    value, slope = (
        np.asarray(x)[0] for x in form(jnp.asarray(p), jnp.asarray(q), share)
    )
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    assert (value >= 0).all() and not value[p[0] == q[0]].any()
    for index in range(value.size):
        x, y = (D(float(side[0, index])).exp() for side in (p, q))
        exact, (flow,) = exact_divergence([x], [y], config)
        if config.mode == "skew":  # the sum over events of m - p is 0
            exact += (1 - D(share)) * (y - x)
            flow += (1 - D(share)) * y
        np.testing.assert_allclose(value[index], float(exact), rtol=2e-5, atol=1e-36)
        flow = float(flow)
        found = float(slope[index]) * float(y)
        np.testing.assert_allclose(found, flow, rtol=2e-5, atol=1e-36)


@pytest.mark.parametrize("share", [LEAST_SHARE, 1e-12])
def test_the_limits_are_the_forward_and_the_reverse_kl(share):
    last = min(1 - share, math.nextafter(1, 0))
    near = {
        "forward": LossConfig("jsd", jsd_beta=share),
        "skewed": LossConfig("skew", skew_alpha=share),
        "reverse": LossConfig("jsd", jsd_beta=last),
    }
    values = {name: computed_lines(config)[0] for name, config in near.items()}
    for line in (0, 4, 7):  # with a tail, and a student that is not certain
        _, p, q = exact_events(line)
        forward = sum(x * (log(x) - log(y)) for x, y in zip(p, q, strict=True))
        reverse = sum(y * (log(y) - log(x)) for x, y in zip(p, q, strict=True))
        limits = {"forward": forward, "skewed": forward, "reverse": reverse}
        for name, limit in limits.items():
            np.testing.assert_allclose(values[name][line], float(limit), rtol=1e-6)


def test_no_value_is_negative_close_to_the_teacher():
    random = np.random.default_rng(1)
    log_p = random.normal(size=(400, 6))
    log_q = (
        log_p
        + random.normal(size=(400, 6)) * 10.0 ** random.integers(-8, 0, 400)[:, None]
    )
    log_p, log_q = (
        jax.nn.log_softmax(jnp.asarray(x, jnp.float32), axis=-1) for x in (log_p, log_q)
    )
    for share in SHARES:
        for form in (mixtures.jensen_shannon, mixtures.skewed):
            assert (form(log_p, log_q, share)[0] >= 0).all()


@pytest.mark.parametrize(
    ("name", "chosen"), [(f"jsd {1 - 1e-9}", 5), ("skew 1e-09", 2)]
)
def test_all_forms_agree_near_the_limits(name, chosen):
    """Rows that name every id say what a teacher with all probabilities does."""
    config, size = CONFIGS[name], 8
    random = np.random.default_rng(2)
    logits = (random.normal(size=(2, 3, size)) * 2).astype(np.float32)
    logits[0, 0, 3], logits[0, 1, 5] = 30, 90
    log_p = jax.nn.log_softmax(jnp.asarray(random.normal(size=(2, 3, size)) * 2))
    probs, targets, weights = jnp.exp(log_p), jnp.zeros((2, 3), int), jnp.ones((2, 3))
    ids = jnp.broadcast_to(jnp.arange(size), probs.shape)
    rows = (targets, ids, probs, jnp.zeros((2, 3)), weights, None, config)
    mesh, eye = make_mesh((2, 2)), jnp.eye(size)
    whole = (log_p, eye, targets, weights, None, config)
    forms = {
        "plain": lambda x: distillation_loss(x, *rows),
        "fused": lambda x: fused_distillation_loss(x, eye, *rows, chunk=6),
        "sharded": lambda x: fused_distillation_loss(x, eye, *rows, mesh=mesh),
        "whole": lambda x: whole_vocabulary_loss(x, eye, *whole, chunk=6),
        "whole, sharded": lambda x: whole_vocabulary_loss(x, eye, *whole, mesh=mesh),
    }
    exact, gradient = D(0), []
    for line, z in zip(probs.reshape(-1, size), logits.reshape(-1, size), strict=True):
        q = exact_softmax(z)
        value, flows = exact_divergence([D(float(x)) for x in line], q, config)
        exact += value
        pairs = zip(flows, q, strict=True)
        gradient.append([float(flow - share * sum(flows)) for flow, share in pairs])
    gradient = np.reshape(gradient, logits.shape)
    for form in list(forms.values())[-chosen:]:
        loss = jax.jit(jax.value_and_grad(lambda x, form=form: form(x).loss))
        found, slopes = loss(jnp.asarray(logits))
        np.testing.assert_allclose(found, float(exact), rtol=2e-6)
        np.testing.assert_allclose(slopes, gradient, atol=2e-6)
