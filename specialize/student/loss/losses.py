"""The student's loss: sums over target positions, never means.

`distillation_loss` takes logits; `fused_distillation_loss` takes the hidden states and
the head and never holds the logits of more than a chunk of tokens. Both are the same
kernel (`logit_statistics`) under the same objectives (`divergences`). Sums of
microbatches, devices and hosts add; who divides, divides once.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from specialize.student.loss import (
    diagnostics,
    divergences,
    fused_loss,
    logit_statistics,
)
from specialize.student.loss.diagnostics import FORMATS
from specialize.student.loss.teacher_rows import (
    MODES,
    LossConfig,
    TeacherRows,
    make_rows,
)

__all__ = [
    "FORMATS",
    "MODES",
    "LossConfig",
    "LossSums",
    "cross_entropy_loss",
    "distillation_loss",
    "fused_cross_entropy_loss",
    "fused_distillation_loss",
]

DEFAULT = LossConfig()


@flax.struct.dataclass
class LossSums:
    """Sums over target positions; `+` joins two parts of a batch.

    A pytree of scalars. Its fields are annotated loosely because a tree of shardings
    or shapes takes the same form.

    Attributes:
        loss: sum of weight times nats; differentiable.
        weight: sum of weights. loss / weight is nats per target token.
        metrics: name -> (sum, count), see `diagnostics.per_position`; not
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
    gradient. The teacher and the weights are constants: no gradient flows to them.

    Args:
        logits: unnormalised scores; reduced in float32, or wider if they are.
        targets: target ids.
        teacher_ids: the teacher's K ids; unused slots hold any id.
        teacher_probs: their probabilities; 0 marks an unused slot.
        teacher_tail: probability off these ids; with the K it sums to 1.
        weights: 0 drops a position.
        format_ids: 1-based index into `FORMATS`; 0, or None, counts in the totals only.
        config: the objective.

    Returns:
        Sums of loss and weight, and the metrics. Without the three teacher arrays
        the loss is cross-entropy (with `z_loss`) alone.

    Raises:
        InputError: some teacher arrays are missing, or K differs between them.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    rows = make_rows(
        targets, teacher_ids, teacher_probs, teacher_tail, weights, format_ids, dtype
    )
    flat = logits.reshape(-1, logits.shape[-1]).astype(dtype)
    return _sums(_plain(config, flat, rows), rows, config)


def cross_entropy_loss(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    format_ids: Int[Array, "B L"] | None = None,
    config: LossConfig = DEFAULT,
) -> LossSums:
    """Cross-entropy on the target ids, with the configured z-loss and nothing else."""
    return distillation_loss(
        logits, targets, None, None, None, weights, format_ids, config
    )


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

    When differentiated, value and both gradients come from one pass, and logits of
    more than `chunk` tokens never exist. Tokens of weight 0 are set aside before the
    pass and cost nothing. Where the head is tied, pass `embedding.T`.

    Args:
        hidden: final decoder states, normalised (and scaled, for T5 1.0).
        head: output projection; used in the type of `hidden`, accumulated in float32.
        targets: as in `distillation_loss`, like all arguments up to `config`.
        teacher_ids: see there.
        teacher_probs: see there.
        teacher_tail: see there.
        weights: see there.
        format_ids: see there.
        config: see there.
        chunk: tokens at a time on one device; None chooses by the memory they take.
        mesh: devices over which tokens and vocabulary are split; None takes the mesh
            in whose context this is traced, if any. Data and fsdp split the tokens,
            model the columns of `head`. Without a mesh the compiler decides what to
            exchange, with the same result.

    Returns:
        As `distillation_loss`.

    Raises:
        InputError: as `distillation_loss`, or `chunk` is not positive.
    """
    dtype = jnp.promote_types(hidden.dtype, jnp.float32)
    rows = make_rows(
        targets, teacher_ids, teacher_probs, teacher_tail, weights, format_ids, dtype
    )
    tiling = fused_loss.make_tiling(mesh, head.shape[1], chunk)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return _sums(fused_loss.fused(config, tiling, flat, head, rows), rows, config)


def fused_cross_entropy_loss(
    hidden: Float[Array, "B L D"],
    head: Float[Array, "D V"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    format_ids: Int[Array, "B L"] | None = None,
    config: LossConfig = DEFAULT,
    **how,
) -> LossSums:
    """`cross_entropy_loss` of `hidden @ head`; `how`: see `fused_distillation_loss`."""
    return fused_distillation_loss(
        hidden, head, targets, None, None, None, weights, format_ids, config, **how
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _plain(config: LossConfig, logits: Float[Array, "N V"], rows: TeacherRows) -> Any:
    return _plain_forward(config, logits, rows)[0]


def _plain_forward(config: LossConfig, logits: Float[Array, "N V"], rows: TeacherRows):
    statistics, exponentials = logit_statistics.summarise(
        logits, rows, config.temperature
    )
    value, cotangent = divergences.objective(statistics, rows, config)
    metrics = diagnostics.per_position(value, statistics, rows, config)
    table = diagnostics.tabulate(metrics, rows)
    return (table[0, 0, 0], table), (statistics, exponentials, cotangent, rows)


def _plain_backward(config: LossConfig, residuals, cotangents):
    statistics, exponentials, cotangent, rows = residuals
    cotangent = jax.tree.map(lambda x: x * cotangents[0], cotangent)
    gradient = logit_statistics.logits_gradient(
        statistics, exponentials, cotangent, rows, config.temperature
    )
    return gradient, None


_plain.defvjp(_plain_forward, _plain_backward)


def _sums(result: Any, rows: TeacherRows, config: LossConfig) -> LossSums:
    loss, table = result
    columns = diagnostics.names(config, rows.ids.shape[-1])
    table = jax.lax.stop_gradient(table)
    return LossSums(loss, table[1, 0, 0], diagnostics.label(table, columns))
