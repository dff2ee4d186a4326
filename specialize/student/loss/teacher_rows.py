"""The input of the loss for each target position."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from specialize.errors import InputError
from specialize.student.loss.spec import PART

# Below this tail the K ids have all mass that fp16 log-probabilities can express; the
# tail term would only add the noise of their rounding.
SMALLEST_TAIL = 1e-6


class TeacherRows(NamedTuple):
    """The teacher rows of N target positions, with their targets and weights.

    Attributes:
        targets: ids of the target text.
        ids: teacher ids; each used id occurs once.
        probs: probabilities of these ids; exactly 0 in unused slots.
        tail: teacher probability off these ids; exactly 0 below `SMALLEST_TAIL`.
        weights: loss weights; 0 drops a position.
        formats: 1-based format of each position; 0: none.
        parts: 1-based part of the mixture of each position; 0: there is one part.
    """

    targets: Int[Array, " N"]
    ids: Int[Array, "N K"]
    probs: Float[Array, "N K"]
    tail: Float[Array, " N"]
    weights: Float[Array, " N"]
    formats: Int[Array, " N"]
    parts: Int[Array, " N"]

    @property
    def used(self) -> Bool[Array, "N K"]:
        """Which slots hold an alternative."""
        return self.probs > 0


def make_rows(
    targets: Int[Array, "*N"],
    ids: Int[Array, "*N K"] | None,
    probs: Float[Array, "*N K"] | None,
    tail: Float[Array, "*N"] | None,
    weights: Float[Array, "*N"],
    formats: Int[Array, "*N"] | None,
    dtype: jnp.dtype,
    part_weights: Sequence[float] = (),
) -> TeacherRows:
    """Flattens the positions, sums repeated ids and drops negligible tails.

    Without a teacher K is 0. A slot with probability 0 is unused and may hold any id.
    `dtype` is the type in which the loss is computed. `formats` hold format and part
    (`PART`); weights are multiplied by those of the parts.

    Raises:
        InputError: only some of the teacher's arrays are given, or their K differ.
    """
    given = {"teacher_ids": ids, "teacher_probs": probs, "teacher_tail": tail}
    missing = [name for name, value in given.items() if value is None]
    targets = targets.reshape(-1)
    positions = targets.shape[0]
    if ids is None or probs is None or tail is None:
        if len(missing) < len(given):
            raise InputError(
                f"the batch lacks {', '.join(missing)} but has the rest of the "
                "teacher rows. Give all three arrays, or none for the cross-entropy."
            )
        ids = jnp.zeros((positions, 0), targets.dtype)
        probs = jnp.zeros((positions, 0), dtype)
        tail = jnp.zeros((positions,), dtype)
    if ids.shape[-1] != probs.shape[-1]:
        raise InputError(
            f"teacher_ids has K={ids.shape[-1]} but teacher_probs has "
            f"K={probs.shape[-1]}. Both come from one record; rebuild the corpus."
        )
    slots = ids.shape[-1]
    ids, probs = sum_repeated(
        ids.reshape(positions, slots), probs.reshape(positions, slots).astype(dtype)
    )
    tail = tail.reshape(positions).astype(dtype)
    if formats is None:
        formats = jnp.zeros((positions,), jnp.int32)
    formats = formats.reshape(positions)
    weights = weights.reshape(positions).astype(dtype)
    if part_weights:
        weights *= jnp.asarray((1.0, *part_weights), dtype)[formats // PART]
    rows = TeacherRows(
        targets=targets,
        ids=ids,
        probs=probs,
        tail=jnp.where(tail < SMALLEST_TAIL, 0, tail),
        weights=weights,
        formats=formats % PART,
        parts=formats // PART,
    )
    # The teacher and the weights are data and have no gradient.
    return jax.tree.map(jax.lax.stop_gradient, rows)


def sum_repeated(
    ids: Int[Array, "N K"], probs: Float[Array, "N K"]
) -> tuple[Int[Array, "N K"], Float[Array, "N K"]]:
    """Moves the probability of an id that occurs twice to its first used slot.

    In our records each id occurs once. For records of other programs this keeps the
    K+1 events distinct, with K^2 operations per position.
    """
    slots = ids.shape[-1]
    same = ids[:, :, None] == ids[:, None, :]  # N K K
    same &= (probs > 0)[:, :, None] & (probs > 0)[:, None, :]
    earlier = jnp.tril(jnp.ones((slots, slots), bool), k=-1)
    repeated = jnp.any(same & earlier[None], axis=-1)
    total = jnp.sum(jnp.where(same, probs[:, None, :], 0), axis=-1)
    return ids, jnp.where(repeated, 0, total)
