"""The student's loss: sums over target positions, never means.

`distillation_loss` takes logits; `fused_distillation_loss` takes hidden states and the
output head, and never stores the logits of more than one chunk of tokens. Both compute
the same statistics (`logit_statistics`) and objectives (`divergences`). Sums over
microbatches, devices and hosts add; the caller divides once.
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from specialize.errors import InputError
from specialize.student.loss import (
    diagnostics,
    divergences,
    fused_loss,
    logit_statistics,
    whole_vocabulary,
)
from specialize.student.loss.spec import FORMATS, MODES, LossConfig
from specialize.student.loss.teacher_rows import TeacherRows, make_rows

__all__ = [
    "FORMATS",
    "MODES",
    "LossConfig",
    "LossSums",
    "distillation_loss",
    "fused_distillation_loss",
    "whole_vocabulary_loss",
]

DEFAULT = LossConfig()


@flax.struct.dataclass
class LossSums:
    """Sums over target positions; `+` joins two parts of a batch.

    A pytree of scalars, also used for shardings or shapes; hence the types `Any`.

    Attributes:
        loss: sum of weight times nats; differentiable.
        weight: sum of weights. loss / weight is nats per target token.
        metrics: name -> (sum, count) as in `diagnostics.per_position`; not
            differentiable.
    """

    loss: Any
    weight: Any
    metrics: dict[str, Any]

    def __add__(self, other: "LossSums") -> "LossSums":
        return jax.tree.map(jnp.add, self, other)


def distillation_loss(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    teacher_ids: Int[Array, "B L K"] | None,
    teacher_probs: Float[Array, "B L K"] | None,
    teacher_tail: Float[Array, "B L"] | None,
    weights: Float[Array, "B L"],
    format_ids: Int[Array, "B L"] | None = None,
    config: LossConfig = DEFAULT,
) -> LossSums:
    """The configured loss of these logits, in nats, summed over positions.

    Slots with probability 0 and positions with weight 0 add exactly 0 to value and
    gradient. The teacher and the weights are constants: they have no gradient.

    Args:
        logits: unnormalised scores; reduced in their type, at least float32.
        targets: target ids.
        teacher_ids: the teacher's K ids; unused slots hold any id.
        teacher_probs: probabilities of these ids; 0 marks an unused slot.
        teacher_tail: probability of all other ids.
        weights: weights of the positions; 0 drops a position.
        format_ids: 1-based index into `FORMATS`, plus `spec.PART` times the
            part of the mixture; 0, or None, counts in the totals only.
        config: the objective.

    Returns:
        Sums of loss and weight, and the metrics. Without the three teacher arrays the
        loss is only the cross-entropy, with the configured z-loss.

    Raises:
        InputError: some teacher arrays are missing, or K differs between them.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    rows = make_rows(
        *(targets, teacher_ids, teacher_probs, teacher_tail, weights, format_ids),
        *(dtype, [weight for _, weight in config.parts]),
    )
    flat = logits.reshape(-1, logits.shape[-1]).astype(dtype)
    return _sums(_plain(config, flat, rows), _names(config, rows), config)


def fused_distillation_loss(
    hidden: Float[Array, "B L D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    teacher_ids: Int[Array, "B L K"] | None,
    teacher_probs: Float[Array, "B L K"] | None,
    teacher_tail: Float[Array, "B L"] | None,
    weights: Float[Array, "B L"],
    format_ids: Int[Array, "B L"] | None = None,
    config: LossConfig = DEFAULT,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> LossSums:
    """`distillation_loss` of `hidden @ head`, one chunk of tokens at a time.

    One pass computes the value and, when differentiated, both gradients; logits of more
    than `chunk` tokens never exist. Tokens of weight 0 are left out of the pass.

    Arguments that `distillation_loss` does not have:

    - `hidden`: final decoder states, normalised (and scaled, for T5 1.0).
    - `head`: output projection, `embedding.T` if it is tied; used in the type of
      `hidden`, accumulated in float32.
    - `chunk`: number of tokens at a time on one device. None: by the memory they take.
    - `mesh`: devices over which the axes data and fsdp split the tokens, and the axis
      model the columns of `head`. None: the mesh in whose context this is traced.
      Without one the compiler decides what to exchange, with the same result.

    Raises:
        InputError: as for `distillation_loss`, or `chunk` is below 1.
    """
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    rows = make_rows(
        *(targets, teacher_ids, teacher_probs, teacher_tail, weights, format_ids),
        *(dtype, [weight for _, weight in config.parts]),
    )
    tiling = fused_loss.make_tiling(mesh, head.shape[1], chunk)
    flat = hidden.reshape(-1, hidden.shape[-1])
    result = fused_loss.fused(config, tiling, flat, head, rows)
    return _sums(result, _names(config, rows), config)


def whole_vocabulary_loss(
    hidden: Float[Array, "B L D"],
    head: Float[Array, "D V"],
    teacher_hidden: Float[Array, "B L E"],
    teacher_head: Float[Array, "E W"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    format_ids: Int[Array, "B L"] | None = None,
    config: LossConfig = DEFAULT,
    *,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> LossSums:
    """The loss against a teacher that has the student's vocabulary, without rows.

    Both heads are applied to a chunk of tokens at a time, so neither the student's nor
    the teacher's logits [B L V] ever exist. The teacher is a constant. Mode `tail` is
    the forward KL. Arguments that `fused_distillation_loss` does not have:

    - `teacher_hidden`: final decoder states of the teacher for the same targets.
    - `teacher_head`: its output projection, sharded like `head`.

    Raises:
        InputError: the mode has no form over the whole vocabulary, the vocabularies
            have different sizes, or `chunk` is below 1.
    """
    config.check_whole_vocabulary()
    if head.shape[1] != teacher_head.shape[1]:
        raise InputError(
            f"the student has {head.shape[1]} vocabulary rows and the teacher "
            f"{teacher_head.shape[1]}. A teacher on the mesh needs the same vocabulary."
        )
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    # Targets, weights, formats and parts are those of rows without probabilities.
    empty = make_rows(
        *(targets, None, None, None, weights, format_ids),
        *(dtype, [weight for _, weight in config.parts]),
    )
    states = teacher_hidden.reshape(-1, teacher_hidden.shape[-1])
    rows = whole_vocabulary.WholeRows(
        empty.targets,
        jax.lax.stop_gradient(states),
        *(empty.weights, empty.formats, empty.parts),
    )
    tiling = fused_loss.make_tiling(mesh, head.shape[1], chunk)
    if chunk is None:  # the memory of a chunk holds two logits of a token
        tiling = dataclasses.replace(tiling, chunk=max(16, tiling.chunk // 32 * 16))
    flat = hidden.reshape(-1, hidden.shape[-1])
    result = fused_loss.fused(
        config, tiling, flat, head, rows, jax.lax.stop_gradient(teacher_head)
    )
    return _sums(result, whole_vocabulary.names(config), config)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _plain(config: LossConfig, logits: Float[Array, "N V"], rows: TeacherRows) -> Any:
    return _plain_forward(config, logits, rows)[0]


def _plain_forward(config: LossConfig, logits: Float[Array, "N V"], rows: TeacherRows):
    statistics, exponentials = logit_statistics.summarise(
        logits, rows, config.temperature
    )
    value, cotangent = divergences.objective(statistics, rows, config)
    metrics = diagnostics.per_position(value, statistics, rows, config)
    table = diagnostics.tabulate(metrics, rows, config)
    return (table[0, 0, 0], table), (statistics, exponentials, cotangent, rows)


def _plain_backward(config: LossConfig, residuals, cotangents):
    statistics, exponentials, cotangent, rows = residuals
    cotangent = jax.tree.map(lambda x: x * cotangents[0], cotangent)
    gradient = logit_statistics.logits_gradient(
        statistics, exponentials, cotangent, rows, config.temperature
    )
    return gradient, None


_plain.defvjp(_plain_forward, _plain_backward)


def _names(config: LossConfig, rows: TeacherRows) -> tuple[str, ...]:
    return diagnostics.names(config, rows.ids.shape[-1])


def _sums(result: Any, columns: tuple[str, ...], config: LossConfig) -> LossSums:
    loss, table = result
    table = jax.lax.stop_gradient(table)
    return LossSums(loss, table[1, 0, 0], diagnostics.label(table, columns, config))
