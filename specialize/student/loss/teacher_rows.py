"""The configuration of the loss, and its input for each target position."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from specialize import checks
from specialize.errors import InputError

MODES = ("tail", "paper", "renormalize", "conditional", "sample")

# Below this tail the K ids have all mass that fp16 log-probabilities can express; the
# tail term would only add the noise of their rounding.
SMALLEST_TAIL = 1e-6


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The objective that is minimised; hashable, so jit may treat it as static.

    A target position costs `kl_weight * KL + ce_weight * CE + z_loss * logsumexp^2`,
    in nats. KL is the mode's term, where p are the teacher's probabilities on its K
    ids, M is their sum, q are the student's probabilities, Q is their sum on these ids:

    - `tail`: sum p log(p/q) + (1-M) log((1-M)/(1-Q)), a KL on K+1 events.
    - `paper`: sum p log(p/q) with p as it is; its minimum M log M is negative.
    - `renormalize`: KL(p/M || q), at `temperature` T times T^2.
    - `conditional`: KL(p/M || q/Q) on the K ids; it ignores the mass off K.
    - `sample`: -log q(target).

    Attributes:
        mode: one of `MODES`.
        kl_weight: weight of the mode's term.
        ce_weight: weight of the cross-entropy on the target ids.
        z_loss: weight of the squared logsumexp, which keeps logits from drifting.
        temperature: loss temperature of teacher and student, for `renormalize` only.

    Raises:
        InputError: a value is unknown or outside its range, there is nothing to
            minimise, or a combination has no meaning.
    """

    mode: str = "tail"
    kl_weight: float = 1.0
    ce_weight: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0

    def __post_init__(self):
        checks.one_of("loss mode", self.mode, MODES)
        for name in ("kl_weight", "ce_weight", "z_loss"):
            checks.real(name, getattr(self, name), least=0)
        if self.kl_weight == 0 and self.ce_weight == 0:
            raise InputError(
                "kl_weight and ce_weight are both 0: there is nothing to learn. "
                "Give one of them a positive value."
            )
        checks.real("temperature", self.temperature, above=0)
        if self.temperature != 1 and self.mode != "renormalize":
            raise InputError(
                f"temperature {self.temperature} with mode {self.mode!r}: only the K "
                "known probabilities have a temperature, not the mass off them, whose "
                "distribution is unknown. Use mode 'renormalize', or temperature 1."
            )
        if self.mode == "conditional" and self.ce_weight == 0:
            raise InputError(
                "mode 'conditional' ignores the mass that the student puts off the "
                "teacher's ids. Give ce_weight a positive value, or use mode 'tail'."
            )


class TeacherRows(NamedTuple):
    """The teacher rows of N target positions, with their targets and weights.

    Attributes:
        targets: ids of the target text.
        ids: teacher ids; each used id occurs once.
        probs: probabilities of these ids; exactly 0 in unused slots.
        tail: teacher probability off these ids; exactly 0 below `SMALLEST_TAIL`.
        weights: loss weights; 0 drops a position.
        formats: 1-based format of each position; 0: none.
    """

    targets: Int[Array, " N"]
    ids: Int[Array, "N K"]
    probs: Float[Array, "N K"]
    tail: Float[Array, " N"]
    weights: Float[Array, " N"]
    formats: Int[Array, " N"]

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
) -> TeacherRows:
    """Flattens the positions, sums repeated ids and drops negligible tails.

    Without a teacher K is 0. A slot with probability 0 is unused and may hold any id.
    `dtype` is the type in which the loss is computed.

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
    rows = TeacherRows(
        targets=targets,
        ids=ids,
        probs=probs,
        tail=jnp.where(tail < SMALLEST_TAIL, 0, tail),
        weights=weights.reshape(positions).astype(dtype),
        formats=formats.reshape(positions),
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
