"""What the loss is told about each target position, and how it is weighed."""

import dataclasses
import difflib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from specialize.errors import InputError

MODES = ("tail", "paper", "renormalize", "conditional", "sample")

# Below this tail the K ids hold all mass that fp16 log-probabilities can express; the
# tail term would only add the noise of their rounding (LOSS.md).
SMALLEST_TAIL = 1e-6


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which objective is minimised; hashable, so jit may treat it as static.

    A target position costs `kl_weight * KL + ce_weight * CE + z_loss * logsumexp^2`,
    in nats. KL is the term the mode names, with p the teacher's probabilities on its
    K ids, M their sum, q the student's probabilities and Q those on the same ids:

    - `tail`: sum p log(p/q) + (1-M) log((1-M)/(1-Q)), a KL on K+1 events.
    - `paper`: sum p log(p/q) with p as it is; its minimum M log M is negative.
    - `renormalize`: KL(p/M || q), at `temperature` T times T^2.
    - `conditional`: KL(p/M || q on the K ids / Q); blind to the mass off K.
    - `sample`: -log q(target).

    Attributes:
        mode: one of `MODES`.
        kl_weight: weight of the mode's term.
        ce_weight: weight of the cross-entropy on the target ids.
        z_loss: weight of the squared logsumexp; keeps logits from drifting.
        temperature: of teacher and student alike, `renormalize` only.

    Raises:
        InputError: an unknown mode, a weight that is negative or not finite, nothing
            to minimise, or a combination that has no meaning.
    """

    mode: str = "tail"
    kl_weight: float = 1.0
    ce_weight: float = 0.0
    z_loss: float = 0.0
    temperature: float = 1.0

    def __post_init__(self):
        if self.mode not in MODES:
            close = difflib.get_close_matches(str(self.mode), MODES, n=1, cutoff=0.5)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise InputError(
                f"unknown loss mode {self.mode!r}; there are {', '.join(MODES)}.{hint}"
            )
        for name in ("kl_weight", "ce_weight", "z_loss"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise InputError(
                    f"{name} is {value}; it must be finite and at least 0."
                )
        if self.kl_weight == 0 and self.ce_weight == 0:
            raise InputError(
                "kl_weight and ce_weight are both 0: there is nothing to learn. "
                "Give one of them a positive value."
            )
        if not math.isfinite(self.temperature) or self.temperature <= 0:
            raise InputError(f"temperature is {self.temperature}; it must be positive.")
        if self.temperature != 1 and self.mode != "renormalize":
            raise InputError(
                f"temperature {self.temperature} with mode {self.mode!r}: only the K "
                "known probabilities can be tempered, the mass off them cannot "
                "(its own distribution is unknown). Use mode 'renormalize', or "
                "temperature 1."
            )
        if self.mode == "conditional" and self.ce_weight == 0:
            raise InputError(
                "mode 'conditional' does not see how much mass the student puts off "
                "the teacher's ids. Give ce_weight a positive value, or use 'tail'."
            )


class TeacherRows(NamedTuple):
    """What is known about N target positions, made ready for the kernel.

    Attributes:
        targets: ids that stand in the target text.
        ids: teacher ids; each used id once.
        probs: their probabilities; exactly 0 in unused slots.
        tail: teacher probability off those ids; exactly 0 below `SMALLEST_TAIL`.
        weights: 0 drops a position.
        formats: 1-based format of each position, 0 for none.
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

    Args:
        targets: target ids.
        ids: teacher ids, or None where there is no teacher (then K is 0).
        probs: teacher probabilities; 0 marks an unused slot, whatever its id.
        tail: teacher probability off `ids`.
        weights: loss weights.
        formats: format of each position, or None.
        dtype: in which the loss is computed.

    Returns:
        The rows, with N the product of the leading axes.

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
                "teacher's rows. Give all three, or none for cross-entropy alone."
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
    # The teacher and the weights are data; no gradient flows to them.
    return jax.tree.map(jax.lax.stop_gradient, rows)


def sum_repeated(
    ids: Int[Array, "N K"], probs: Float[Array, "N K"]
) -> tuple[Int[Array, "N K"], Float[Array, "N K"]]:
    """Moves the probability of an id that occurs twice to its first used slot.

    Records are made with each id once; this guards the K+1 events against a
    writer that did not, at K^2 operations a position.
    """
    slots = ids.shape[-1]
    same = ids[:, :, None] == ids[:, None, :]  # N K K
    same &= (probs > 0)[:, :, None] & (probs > 0)[:, None, :]
    earlier = jnp.tril(jnp.ones((slots, slots), bool), k=-1)
    repeated = jnp.any(same & earlier[None], axis=-1)
    total = jnp.sum(jnp.where(same, probs[:, None, :], 0), axis=-1)
    return ids, jnp.where(repeated, 0, total)
