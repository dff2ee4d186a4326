"""The objectives, as functions of a token's statistics, with their derivatives.

A mode returns its value per position and the derivative of that value with respect
to the statistics it used. Everything that involves the vocabulary (plain, chunked or
sharded) is done once for all modes, in `logit_statistics`. To add an objective, write
one function here, and name it in `FUNCTIONS` and `MODES`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from specialize.student.loss import mixtures
from specialize.student.loss.spec import LossConfig
from specialize.student.loss.teacher_rows import SMALLEST_TAIL, TeacherRows

# Least tail of the teacher in the reverse KL, which a tail of 0 would make infinite.
TAIL_FLOOR = SMALLEST_TAIL


class Statistics(NamedTuple):
    """What objectives and metrics use of the logits z of N positions.

    Attributes:
        lse: logsumexp of z.
        warm: logsumexp of z / temperature; `lse` itself if that is 1.
        off: logsumexp of z off the teacher's ids. It is not computed as log(1 - Q): if
            the student is certain, that is the difference of nearly equal numbers.
        on: z at the teacher's ids; 0 in unused slots.
        target: z at the target id.
        off_max: largest z off the teacher's ids.
        above: number of z off the teacher's ids that exceed each of `on`.
    """

    lse: Float[Array, " N"]
    warm: Float[Array, " N"]
    off: Float[Array, " N"]
    on: Float[Array, "N K"]
    target: Float[Array, " N"]
    off_max: Float[Array, " N"]
    above: Float[Array, "N K"]


class Cotangent(NamedTuple):
    """Derivatives of a value per position with respect to its statistics."""

    lse: Float[Array, " N"]
    warm: Float[Array, " N"]
    off: Float[Array, " N"]
    on: Float[Array, "N K"]
    target: Float[Array, " N"]


Mode = Callable[
    [Statistics, TeacherRows, LossConfig],
    tuple[Float[Array, " N"], dict[str, Float[Array, "..."]]],
]
DEFAULT = LossConfig()


def tail_kl(statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT):
    """KL on K+1 events, the teacher's ids and "any other"; 0 iff they agree."""
    del config
    value, cotangent = paper_kl(statistics, rows)
    tail = rows.tail
    # If every id is the teacher's, `off` is -inf; a tail of 0 must still add 0.
    surprise = jnp.log(jnp.where(tail > 0, tail, 1)) - statistics.off + statistics.lse
    value += jnp.where(tail > 0, tail * surprise, 0)
    return value, cotangent | {"lse": cotangent["lse"] + tail, "off": -tail}


def paper_kl(statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT):
    """Sum p log(p/q), p not renormalised, as in the paper."""
    del config
    kept = jnp.sum(rows.probs, axis=-1)
    value = negative_entropy(rows.probs) + kept * statistics.lse
    value -= expectation(rows.probs, statistics.on)
    return value, {"lse": kept, "on": -rows.probs}


def renormalized_kl(
    statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT
):
    """T^2 KL(p_T || q_T), with the teacher's K probabilities tempered and normalised.

    The factor T^2 keeps the size of the gradient, T (q_T - p_T), as T grows.
    """
    temperature = config.temperature
    probs = conditioned(rows, temperature)
    kept = jnp.sum(probs, axis=-1)  # 1, or 0 if the teacher row is empty
    value = negative_entropy(probs) + kept * statistics.warm
    value -= expectation(probs, statistics.on) / temperature
    return temperature**2 * value, {
        "warm": temperature**2 * kept,
        "on": -temperature * probs,
    }


def conditional_kl(
    statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT
):
    """KL(p/M || q/Q) on the teacher's ids only."""
    del config
    probs = conditioned(rows, 1.0)
    used = rows.used
    lowest = jnp.finfo(statistics.on.dtype).min
    if not rows.ids.shape[-1]:
        return jnp.zeros_like(rows.tail), {}
    student = jax.nn.log_softmax(jnp.where(used, statistics.on, lowest), axis=-1)
    value = negative_entropy(probs) - expectation(probs, student)
    return value, {"on": jnp.where(used, jnp.exp(student) - probs, 0)}


def sample_nll(statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT):
    """Minus log q of the target id: cross-entropy on the sampled text."""
    del rows, config
    ones = jnp.ones_like(statistics.lse)
    return statistics.lse - statistics.target, {"lse": ones, "target": -ones}


class Events(NamedTuple):
    """The K+1 events of both sides: the teacher's ids, and any other id.

    Logarithms of 0 are -inf; an unused slot is impossible for both sides.

    Attributes:
        teacher: log-probabilities of the teacher.
        student: log-probabilities of the student.
    """

    teacher: Float[Array, "N E"]
    student: Float[Array, "N E"]


def reverse_kl(statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT):
    """KL(q || p) on K+1 events; the teacher's tail is at least `TAIL_FLOOR`.

    A teacher without a tail would make every student infinitely bad; where the floor
    replaces the tail, the probabilities of the ids are scaled to sum to the rest.
    """
    del config
    tail = jnp.maximum(rows.tail, TAIL_FLOOR)
    kept = jnp.sum(rows.probs, axis=-1)
    floored = (rows.tail < TAIL_FLOOR) & (kept > 0)
    scale = jnp.where(floored, (1 - tail) / jnp.where(kept > 0, kept, 1), 1)
    events = _events(statistics, rows.probs * scale[:, None], tail)
    share = jnp.exp(events.student)
    surprise = jnp.where(share > 0, events.student - events.teacher, 0)
    return jnp.sum(share * surprise, axis=-1), _cotangent(share, surprise)


def jensen_shannon(
    statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT
):
    """(b KL(p || m) + (1-b) KL(q || m)) / (b (1-b)), m = b p + (1-b) q, on K+1 events.

    Divided like this it tends to the forward KL as b -> 0 and to the reverse KL as
    b -> 1; undivided it would vanish. (Agarwal et al., arXiv 2306.13649, without the
    division.)
    """
    events = _events(statistics, rows.probs, rows.tail)
    terms, slope = mixtures.jensen_shannon(*events, config.jsd_beta)
    return jnp.sum(terms, axis=-1), _cotangent(jnp.exp(events.student), slope)


def skewed_kl(statistics: Statistics, rows: TeacherRows, config: LossConfig = DEFAULT):
    """KL(p || a p + (1-a) q) on K+1 events, finite whatever the student does.

    (Lee, ACL 1999; Ko et al., arXiv 2402.03898, for distillation.)
    """
    events = _events(statistics, rows.probs, rows.tail)
    terms, slope = mixtures.skewed(*events, config.skew_alpha)
    return jnp.sum(terms, axis=-1), _cotangent(jnp.exp(events.student), slope)


def _events(
    statistics: Statistics, probs: Float[Array, "N K"], tail: Float[Array, " N"]
) -> Events:
    used = probs > 0
    on = jnp.where(used, statistics.on - statistics.lse[:, None], -jnp.inf)
    off = statistics.off - statistics.lse
    known = jnp.where(used, safe_log(probs), -jnp.inf)
    rest = jnp.where(tail > 0, jnp.log(jnp.where(tail > 0, tail, 1)), -jnp.inf)
    return Events(
        jnp.concatenate([known, rest[:, None]], -1),
        jnp.concatenate([on, off[:, None]], -1),
    )


def _cotangent(
    share: Float[Array, "N E"], slope: Float[Array, "N E"]
) -> dict[str, Float[Array, "..."]]:
    """The derivative with respect to an event's log-probability, of all with sum 0.

    It is share times slope up to a multiple of the share, which the softmax removes.
    Taken as sum_j q_i q_j (s_i - s_j) it is exact where one event has nearly all mass,
    and the derivative with respect to `lse` is 0.

    Args:
        share: the student's probabilities q.
        slope: the derivative with respect to them, up to a constant.
    """
    steps = slope[:, :, None] - slope[:, None, :]
    events = share * jnp.sum(share[:, None, :] * steps, axis=-1)
    return {"on": events[:, :-1], "off": events[:, -1]}


FUNCTIONS: dict[str, Mode] = {
    "tail": tail_kl,
    "paper": paper_kl,
    "renormalize": renormalized_kl,
    "conditional": conditional_kl,
    "reverse": reverse_kl,
    "jsd": jensen_shannon,
    "skew": skewed_kl,
    "sample": sample_nll,
}


def objective(
    statistics: Statistics, rows: TeacherRows, config: LossConfig
) -> tuple[Float[Array, " N"], Cotangent]:
    """The configured cost of each position and the derivative of the weighted cost.

    Without a teacher (K=0) the cost is the cross-entropy.

    Returns:
        Nats per position, and the derivative of `weights * cost` with respect to the
        statistics; exactly 0 in unused slots and where the weight is 0.
    """
    terms: list[tuple[Any, Mode]] = []
    if not rows.ids.shape[-1]:
        terms.append((1.0, sample_nll))
    elif config.kl_weight:
        terms.append((config.kl_weight, FUNCTIONS[config.mode]))
    if rows.ids.shape[-1] and config.ce_weight:
        counts = rows.parts <= len(config.parts) - config.written
        terms.append((config.ce_weight * counts, sample_nll))
    value = jnp.zeros_like(statistics.lse)
    total = {
        name: jnp.zeros_like(getattr(statistics, name)) for name in Cotangent._fields
    }
    for weight, function in terms:
        cost, cotangent = function(statistics, rows, config)
        value += weight * cost
        for name, derivative in cotangent.items():
            total[name] += weight * derivative
    if config.z_loss:
        value += config.z_loss * statistics.lse**2
        total["lse"] += 2 * config.z_loss * statistics.lse
    total["on"] *= rows.weights[:, None]
    for name in ("lse", "warm", "off", "target"):
        total[name] *= rows.weights
    return value, Cotangent(**total)


def conditioned(rows: TeacherRows, temperature: float) -> Float[Array, "N K"]:
    """The teacher's probabilities on its ids: p^(1/T), normalised; 0 if empty."""
    if not rows.ids.shape[-1]:
        return rows.probs
    logits = safe_log(rows.probs) / temperature
    logits = jnp.where(rows.used, logits, -jnp.inf)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    shares = jnp.exp(logits - jnp.where(jnp.isfinite(largest), largest, 0))
    total = jnp.sum(shares, axis=-1, keepdims=True)
    return shares / jnp.where(total > 0, total, 1)


def negative_entropy(probs: Float[Array, "N K"]) -> Float[Array, " N"]:
    """Sum p log p, with 0 log 0 = 0."""
    return jnp.sum(probs * safe_log(probs), axis=-1)


def expectation(
    probs: Float[Array, "N K"], values: Float[Array, "N K"]
) -> Float[Array, " N"]:
    """Sum p x over used slots; an infinite x in an unused slot adds 0."""
    return jnp.sum(jnp.where(probs > 0, probs * values, 0), axis=-1)


def safe_log(probs: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log p, and 0 where p is 0."""
    return jnp.log(jnp.where(probs > 0, probs, 1))
