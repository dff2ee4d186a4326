"""Random positions and dense float64 references for the tests of the loss."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from specialize.student.loss.divergences import TAIL_FLOOR
from specialize.student.loss.losses import LossConfig

CONFIGS = {
    "tail": LossConfig("tail"),
    "paper": LossConfig("paper"),
    "renormalize": LossConfig("renormalize"),
    "conditional": LossConfig("conditional", ce_weight=0.7),
    "reverse": LossConfig("reverse"),
    "jsd": LossConfig("jsd", jsd_beta=0.3, ce_weight=0.2),
    "skew": LossConfig("skew", skew_alpha=0.4, z_loss=1e-3),
    "sample": LossConfig("sample"),
    "everything": LossConfig("tail", kl_weight=0.8, ce_weight=0.3, z_loss=1e-2),
    "renormalize at T=2.5": LossConfig(
        "renormalize", kl_weight=0.5, ce_weight=0.3, z_loss=1e-2, temperature=2.5
    ),
}


@dataclasses.dataclass
class Case:
    """A batch of positions; rows have 1..K alternatives, some positions weight 0."""

    logits: Any
    targets: Any
    ids: Any
    probs: Any
    tail: Any
    weights: Any
    formats: Any

    def teacher(self):
        """Arguments 2 to 7 of the loss, on the device, in the width now enabled."""
        return tuple(jnp.asarray(x) for x in dataclasses.astuple(self)[1:])

    def rows(self, chosen) -> "Case":
        return Case(*(x[chosen] for x in dataclasses.astuple(self)))

    def cast(self, dtype) -> "Case":
        return Case(
            *(
                x.astype(dtype) if x.dtype.kind == "f" else x
                for x in dataclasses.astuple(self)
            )
        )


def random_case(seed=0, batch=3, length=5, slots=4, vocabulary=29, scale=3.0) -> Case:
    random = np.random.default_rng(seed)
    positions = batch * length
    ids = np.zeros((positions, slots), np.int32)
    probs = np.zeros((positions, slots))
    tail = np.zeros(positions)
    for row in range(positions):
        used = random.integers(1, slots + 1)
        ids[row, :used] = random.permutation(vocabulary)[:used]
        events = random.dirichlet(np.ones(used + 1))
        probs[row, :used] = np.sort(events[:used])[::-1]
        tail[row] = events[used]
        if row % 4 == 0:  # an answer-only or unaligned position: one-hot
            probs[row], tail[row] = np.eye(slots)[0], 0.0
    targets = np.where(
        random.random(positions) < 0.7,
        ids[:, 0],
        random.integers(0, vocabulary, positions),
    )
    weights = (random.random(positions) < 0.8).astype(np.float64)
    weights[:2] = 1.0, 0.5
    shape = (batch, length)
    return Case(
        logits=random.normal(size=(*shape, vocabulary)) * scale,
        targets=targets.reshape(shape).astype(np.int32),
        ids=ids.reshape(*shape, slots),
        probs=probs.reshape(*shape, slots),
        tail=tail.reshape(shape),
        weights=weights.reshape(shape),
        formats=random.integers(0, 5, shape).astype(np.int32),
    )


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def dense_rows(case: Case):
    """The teacher as [B, L, V]: probabilities, and which ids are its own."""
    dense = np.zeros(case.logits.shape)
    for slot in range(case.ids.shape[-1]):
        at = np.eye(case.logits.shape[-1])[case.ids[..., slot]]
        dense += at * case.probs[..., slot, None]
    return dense, dense > 0


def xlogy(x, y):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, x * np.log(y), 0.0)


def dense_events(case: Case, *, floor=0.0):
    """Both sides on K+1 events, [B, L, V+1]: the ids of the teacher, then the rest."""
    p, own = dense_rows(case)
    q = softmax(case.logits)
    tail = np.maximum(case.tail, floor)
    scale = np.where(tail > case.tail, (1 - tail) / p.sum(-1), 1)
    rest = np.where(own, 0, q).sum(-1)
    teacher = np.concatenate([p * scale[..., None], tail[..., None]], -1)
    return teacher, np.concatenate([np.where(own, q, 0), rest[..., None]], -1)


def dense_divergence(p, q, config: LossConfig):
    """The divergence of two distributions over any events, and d/d(log q) of it."""
    if config.mode == "reverse":
        parts = xlogy(q, q) - xlogy(q, p)
        return parts.sum(-1), parts
    if config.mode == "jsd":
        b = config.jsd_beta
        m = b * p + (1 - b) * q
        forward = (xlogy(p, p) - xlogy(p, m)).sum(-1)
        backward = xlogy(q, q) - xlogy(q, m)
        value = (b * forward + (1 - b) * backward.sum(-1)) / (b * (1 - b))
        return value, backward / b
    m = config.skew_alpha * p + (1 - config.skew_alpha) * q
    value = (xlogy(p, p) - xlogy(p, m)).sum(-1)
    with np.errstate(invalid="ignore"):
        slope = np.where(m > 0, -(1 - config.skew_alpha) * q * p / m, 0)
    return value, slope


ON_EVENTS = ("reverse", "jsd", "skew")


def dense_value(case: Case, config: LossConfig):
    """LOSS.md's formulas, written over the whole vocabulary in float64; [B, L]."""
    p, own = dense_rows(case)
    q = softmax(case.logits)
    kept, mass = p.sum(-1), np.where(own, q, 0).sum(-1)
    one_hot = np.eye(q.shape[-1])[case.targets]
    ce = -xlogy(one_hot, q).sum(-1)
    if config.mode == "sample":
        term = ce
    elif config.mode in ON_EVENTS:
        floor = TAIL_FLOOR if config.mode == "reverse" else 0.0
        term = dense_divergence(*dense_events(case, floor=floor), config)[0]
    elif config.mode in ("tail", "paper"):
        term = (xlogy(p, p) - xlogy(p, q)).sum(-1)
        if config.mode == "tail":
            term += xlogy(case.tail, case.tail) - xlogy(case.tail, 1 - mass)
    elif config.mode == "renormalize":
        heat = config.temperature
        p = np.where(own, p, 0) ** (1 / heat)
        p /= p.sum(-1, keepdims=True)
        q = softmax(case.logits / heat)
        term = heat**2 * (xlogy(p, p) - xlogy(p, q)).sum(-1)
    else:
        p = p / kept[..., None]
        term = (xlogy(p, p) - xlogy(p, q / mass[..., None])).sum(-1)
    lse = np.log(np.exp(case.logits).sum(-1))
    return config.kl_weight * term + config.ce_weight * ce + config.z_loss * lse**2


def dense_gradient(case: Case, config: LossConfig):
    """LOSS.md's gradients, written over the whole vocabulary in float64; [B, L, V]."""
    p, own = dense_rows(case)
    q = softmax(case.logits)
    kept, mass = p.sum(-1)[..., None], np.where(own, q, 0).sum(-1)[..., None]
    one_hot = np.eye(q.shape[-1])[case.targets]
    if config.mode == "sample":
        term = q - one_hot
    elif config.mode in ON_EVENTS:
        floor = TAIL_FLOOR if config.mode == "reverse" else 0.0
        slope = dense_divergence(*dense_events(case, floor=floor), config)[1]
        # An event's share is spread over its ids as the student spreads it.
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.where(own | (mass == 1), 0, q / (1 - mass)) * slope[..., -1:]
        term = slope[..., :-1] + spread - q * slope.sum(-1, keepdims=True)
    elif config.mode == "paper":
        term = kept * q - p
    elif config.mode == "tail":
        tail = case.tail[..., None]
        term = np.where(own, q - p, q * (1 - tail / (1 - mass)))
    elif config.mode == "renormalize":
        heat = config.temperature
        p = np.where(own, p, 0) ** (1 / heat)
        p /= p.sum(-1, keepdims=True)
        term = heat * (softmax(case.logits / heat) - p)
    else:
        term = np.where(own, q / mass - p / kept, 0)
    lse = np.log(np.exp(case.logits).sum(-1))[..., None]
    total = config.kl_weight * term + config.ce_weight * (q - one_hot)
    return total + config.z_loss * 2 * lse * q
