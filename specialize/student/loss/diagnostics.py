"""Metrics of a distillation per format and part, as (sum, count) pairs that add.

All metrics have temperature 1 and do not depend on the loss mode, so that runs with
different objectives can be compared; only `loss` is the objective that was minimised.
A distillation without effect shows here first: `soft_share` is 0, `kl` stays constant.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from specialize.student.loss.divergences import (
    Statistics,
    negative_entropy,
    sample_nll,
    tail_kl,
)
from specialize.student.loss.spec import (
    FORMATS,
    METRICS,
    ROW_METRICS,
    Z_LOSS,
    LossConfig,
)
from specialize.student.loss.teacher_rows import TeacherRows
from specialize.student.loss.whole_vocabulary import WholeRows

Metrics = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


def per_position(
    value: Float[Array, " N"],
    statistics: Statistics,
    rows: TeacherRows,
    config: LossConfig,
) -> dict[str, tuple[Float[Array, " N"], Float[Array, " N"]]]:
    """Returns name -> (value, weight) of the metrics of each position.

    - `loss`: the configured objective, which is the argument `value`.
    - `ce`: -log q of the target. `accuracy`: whether no logit exceeds the target's.
    - `z_loss`: the weighted term, if it is configured.
    - `kl`: KL on K+1 events as in mode `tail`, in every mode; 0 iff they agree.
    - `soft_kl`: the same over soft rows only, those that are not one-hot.
    - `soft_share`: share of soft rows, that is of positions aligned with the teacher.
    - `teacher_entropy`: -sum p log p over the K ids.
    - `kept_mass`, `student_mass`: probability on the K ids, of teacher and student.
    - `top1_agreement`: whether the teacher's likeliest id is the student's.
    - `topk_overlap`: share of the teacher's k ids among the student's k likeliest.
    """
    weights = rows.weights
    ce, _ = sample_nll(statistics, rows)
    used = rows.used
    on = jnp.where(used, statistics.on, -jnp.inf)
    first = jnp.max(jnp.concatenate([on, statistics.off_max[:, None]], -1), -1)
    metrics = {
        "loss": (value, weights),
        "ce": (ce, weights),
        "accuracy": (statistics.target >= first, weights),
    }
    if config.z_loss:
        metrics["z_loss"] = (config.z_loss * statistics.lse**2, weights)
    if not rows.ids.shape[-1]:
        return metrics

    kl, _ = tail_kl(statistics, rows)
    slots = jnp.sum(used, axis=-1)
    soft = (slots > 1) | (rows.tail > 0)
    student = jnp.where(used, jnp.exp(on - statistics.lse[:, None]), 0)
    favourite = jnp.argmax(rows.probs, axis=-1)
    agrees = jnp.take_along_axis(on, favourite[:, None], -1)[:, 0] >= first
    # Rank of each teacher id: the number of larger logits, off the ids and on them.
    rank = statistics.above + jnp.sum(on[:, None, :] > on[:, :, None], axis=-1)
    overlap = jnp.sum(used & (rank < slots[:, None]), axis=-1) / jnp.maximum(slots, 1)
    return metrics | {
        "kl": (kl, weights),
        "soft_kl": (jnp.where(soft, kl, 0), jnp.where(soft, weights, 0)),
        "soft_share": (soft, weights),
        "teacher_entropy": (-negative_entropy(rows.probs), weights),
        "kept_mass": (jnp.sum(rows.probs, axis=-1), weights),
        "student_mass": (jnp.sum(student, axis=-1), weights),
        "top1_agreement": (agrees & (slots > 0), weights),
        "topk_overlap": (overlap, weights),
    }


def tabulate(
    metrics: dict[str, tuple[Float[Array, " N"], Float[Array, " N"]]],
    rows: TeacherRows | WholeRows,
    config: LossConfig,
) -> Float[Array, "2 F M"]:
    """Sums and counts of M metrics: of all positions, each format and each part."""
    dtype = rows.weights.dtype
    # A position of weight 0 may have any value, even NaN, and must add exactly 0.
    sums = [
        jnp.where(weight != 0, value.astype(dtype) * weight, 0)
        for value, weight in metrics.values()
    ]
    counts = [weight for _, weight in metrics.values()]
    columns = jnp.stack([jnp.stack(sums, -1), jnp.stack(counts, -1)])  # 2 N M
    of_format = rows.formats[:, None] == 1 + jnp.arange(len(FORMATS))[None]
    of_part = rows.parts[:, None] == 1 + jnp.arange(len(config.parts))[None]
    every = jnp.ones_like(of_format[:, :1])
    member = jnp.concatenate([every, of_format, of_part], -1)  # N F
    return jnp.einsum(
        "nf,cnm->cfm",
        member.astype(dtype),
        columns,
        precision=jax.lax.Precision.HIGHEST,
    )


def names(config: LossConfig, slots: int) -> tuple[str, ...]:
    """The columns of `tabulate`, in order, for teacher rows with this many slots."""
    of_loss = (Z_LOSS,) if config.z_loss else ()
    return (*METRICS, *of_loss, *(ROW_METRICS if slots else ()))


def label(
    table: Float[Array, "2 F M"], columns: tuple[str, ...], config: LossConfig
) -> Metrics:
    """Names the table: "kl" over all positions, "zero_shot_cot/kl" over one format."""
    result: Metrics = {}
    lines = [*FORMATS, *(name for name, _ in config.parts)]
    for line, prefix in enumerate(["", *(f"{name}/" for name in lines)]):
        for column, name in enumerate(columns):
            result[prefix + name] = (table[0, line, column], table[1, line, column])
    return result
