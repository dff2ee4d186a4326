"""Divergences over the whole vocabulary, where the teacher's logits are at hand.

A teacher on the mesh with the student's vocabulary needs no teacher rows: both heads
are applied to the same chunk of tokens, and the two distributions are compared as they
are. The values of the K+1 events (`divergences`) are lower bounds of these.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialize.student.loss import mixtures
from specialize.student.loss.logit_statistics import WHOLE, Vocabulary
from specialize.student.loss.spec import LossConfig

Metrics = dict[str, tuple[Float[Array, " N"], Float[Array, " N"]]]


class WholeRows(NamedTuple):
    """What the teacher says at N target positions, before its head.

    Attributes:
        targets: ids of the target text.
        hidden: final decoder states of the teacher, normalised (and scaled).
        weights: loss weights; 0 drops a position.
        formats: 1-based format of each position; 0: none.
        parts: 1-based part of the mixture of each position; 0: there is one part.
    """

    targets: Int[Array, " N"]
    hidden: Float[Array, "N D"]
    weights: Float[Array, " N"]
    formats: Int[Array, " N"]
    parts: Int[Array, " N"]


def compare(
    logits: Float[Array, "N V"],
    teacher: Float[Array, "N V"],
    rows: WholeRows,
    config: LossConfig,
    vocabulary: Vocabulary = WHOLE,
) -> tuple[Metrics, Float[Array, "N V"]]:
    """The metrics of each position, and the gradient of the weighted cost.

    Args:
        logits: of the student, for the ids from `vocabulary.start`.
        teacher: logits of the teacher for the same ids.
        rows: targets and weights of the same positions.
        config: the objective; `tail` is the forward KL.
        vocabulary: the shard of the logits.

    Returns:
        Name -> (value, weight), as `diagnostics.per_position`: loss, ce, accuracy, kl,
        reverse_kl, teacher_entropy, top1_agreement, and z_loss if configured. And
        dL/dz of this shard, exactly 0 where the weight is 0.
    """
    size = logits.shape[-1]
    q_lse, q_max, q_first = _normaliser(logits, vocabulary)
    p_lse, _, p_first = _normaliser(teacher, vocabulary)
    log_q, log_p = logits - q_lse[:, None], teacher - p_lse[:, None]
    p, q = jnp.exp(log_p), jnp.exp(log_q)

    def total(x: Float[Array, "N V"]) -> Float[Array, " N"]:
        return vocabulary.sum(jnp.sum(x, axis=-1))

    forward, reverse = total(p * (log_p - log_q)), total(q * (log_q - log_p))
    slots = vocabulary.slots(rows.targets, rows.targets >= 0, size)[:, None]
    gathered = jnp.take_along_axis(logits, slots, -1, mode="fill", fill_value=0)
    target = vocabulary.sum(gathered[:, 0])
    ce = q_lse - target
    if config.mode == "tail":
        cost, gradient = forward, q - p
    elif config.mode == "sample":
        cost, gradient = jnp.zeros_like(ce), jnp.zeros_like(q)
    else:
        if config.mode == "reverse":
            cost, slope = reverse, log_q - log_p
        elif config.mode == "jsd":
            terms, slope = mixtures.jensen_shannon(log_p, log_q, config.jsd_beta)
            cost = total(terms)
        else:
            terms, slope = mixtures.skewed(log_p, log_q, config.skew_alpha)
            cost = total(terms)
        gradient = q * (slope - total(q * slope)[:, None])
    ce_weight = config.ce_weight
    if config.mode == "sample":
        ce_weight += config.kl_weight
    else:
        cost, gradient = config.kl_weight * cost, config.kl_weight * gradient
    if ce_weight:
        cost += ce_weight * ce
        lines = jnp.arange(logits.shape[0])[:, None]
        one_hot = jnp.zeros_like(q).at[lines, slots].add(1, mode="drop")
        gradient += ce_weight * (q - one_hot)
    weights = rows.weights
    metrics = {
        "loss": (cost, weights),
        "ce": (ce, weights),
        "accuracy": (target >= q_max, weights),
        "kl": (forward, weights),
        "reverse_kl": (reverse, weights),
        "teacher_entropy": (-total(p * log_p), weights),
        "top1_agreement": (p_first == q_first, weights),
    }
    if config.z_loss:
        penalty = config.z_loss * q_lse**2
        metrics["loss"] = (cost + penalty, weights)
        metrics["z_loss"] = (penalty, weights)
        gradient += 2 * config.z_loss * q_lse[:, None] * q
    counts = weights[:, None] != 0
    return metrics, jnp.where(counts, gradient * weights[:, None], 0)


def names(config: LossConfig) -> tuple[str, ...]:
    """The metrics of `compare`, in order."""
    found = ("loss", "ce", "accuracy", "kl", "reverse_kl", "teacher_entropy")
    last = ("z_loss",) if config.z_loss else ()
    return (*found, "top1_agreement", *last)


def _normaliser(
    logits: Float[Array, "N V"], vocabulary: Vocabulary
) -> tuple[Float[Array, " N"], Float[Array, " N"], Int[Array, " N"]]:
    """Logsumexp, maximum and the id of the maximum, of all shards."""
    here = jnp.max(logits, axis=-1)
    most = vocabulary.max(here)
    lse = most + jnp.log(
        vocabulary.sum(jnp.sum(jnp.exp(logits - most[:, None]), axis=-1))
    )
    first = jnp.argmax(logits, axis=-1).astype(jnp.int32) + vocabulary.start
    # Of equals the largest id, whichever shard has it.
    first = vocabulary.max(jnp.where(here == most, first, -1))
    return lse, most, first
