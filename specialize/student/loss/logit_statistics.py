"""Statistics of logits, and the gradient that follows from them, for every objective.

Every objective is a function of a few numbers per token (`Statistics`), so its gradient
with respect to the logits z always has the form

    dL/dz = a exp(z - lse) + w exp(z/T - warm)/T + c exp(z - off) [off K] + sparse

with a, w, c and the sparse part given by the objective's `Cotangent`. `summarise`
computes the statistics and keeps the exponentials off K, which `logits_gradient` uses
again. Both also work on a shard of the vocabulary; maxima and sums are then reduced
over the mesh axis of the shards.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialize.student.loss.divergences import Cotangent, Statistics
from specialize.student.loss.teacher_rows import TeacherRows


class Vocabulary(NamedTuple):
    """The ids of a shard's logits.

    Attributes:
        axis: mesh axis over which the vocabulary is split. None: it is whole.
        start: first id of this shard.
    """

    axis: str | None = None
    start: Int[Array, ""] | int = 0

    def max(self, x: Array) -> Array:
        """The maximum over shards."""
        return x if self.axis is None else jax.lax.pmax(x, self.axis)

    def sum(self, x: Array) -> Array:
        """The sum over shards."""
        return x if self.axis is None else jax.lax.psum(x, self.axis)

    def slots(self, ids: Array, used: Array, size: int) -> Array:
        """Columns of this shard; other ids become `size`, which is out of range."""
        columns = ids - self.start
        return jnp.where(used & (columns >= 0) & (columns < size), columns, size)


WHOLE = Vocabulary()


class Exponentials(NamedTuple):
    """What `logits_gradient` needs from `summarise`.

    Attributes:
        off: exp(z - off_max) off the teacher's ids, 0 on them.
        off_warm: the same for exp((z - off_max)/T); None at temperature 1.
        sum: sum of `off` over the vocabulary.
    """

    off: Float[Array, "N V"]
    off_warm: Float[Array, "N V"] | None
    sum: Float[Array, " N"]


def summarise(
    logits: Float[Array, "N V"],
    rows: TeacherRows,
    temperature: float = 1.0,
    vocabulary: Vocabulary = WHOLE,
) -> tuple[Statistics, Exponentials]:
    """Reduces the logits to what objectives and metrics need.

    Args:
        logits: float32 or wider, of the ids from `vocabulary.start`.
        rows: teacher ids and targets of the same positions.
        temperature: temperature of `Statistics.warm`.
        vocabulary: the shard of the logits.

    Returns:
        The statistics, equal on all shards, and the exponentials of this shard.
    """
    size = logits.shape[-1]
    on_slots = vocabulary.slots(rows.ids, rows.used, size)
    target_slots = vocabulary.slots(rows.targets, rows.targets >= 0, size)[:, None]
    slots = jnp.concatenate([on_slots, target_slots], axis=-1)
    gathered = vocabulary.sum(
        jnp.take_along_axis(logits, slots, axis=-1, mode="fill", fill_value=0)
    )
    on, target = gathered[:, :-1], gathered[:, -1]

    # The teacher's columns are removed before summing, not subtracted afterwards.
    lines = jnp.arange(logits.shape[0])[:, None]
    off_logits = logits.at[lines, on_slots].set(-jnp.inf, mode="drop")
    off_max = vocabulary.max(jnp.max(off_logits, axis=-1))
    base = jnp.where(jnp.isfinite(off_max), off_max, 0)
    shifted = off_logits - base[:, None]
    exponentials = jnp.exp(shifted)
    total = vocabulary.sum(jnp.sum(exponentials, axis=-1))
    off = base + jnp.log(total)

    on_masked = jnp.where(rows.used, on, -jnp.inf)
    lse = logsumexp_with(off, on_masked)
    warm, warm_exponentials = lse, None
    if temperature != 1:
        warm_exponentials = jnp.exp(shifted / temperature)
        off_warm = vocabulary.sum(jnp.sum(warm_exponentials, axis=-1))
        off_warm = base / temperature + jnp.log(off_warm)
        warm = logsumexp_with(off_warm, on_masked / temperature)
    above = vocabulary.sum(_count_above(off_logits, on))
    statistics = Statistics(
        lse=lse,
        warm=warm,
        off=off,
        on=on,
        target=target,
        off_max=off_max,
        above=above.astype(logits.dtype),
    )
    return statistics, Exponentials(exponentials, warm_exponentials, total)


def _count_above(x: Float[Array, "N V"], bounds: Float[Array, "N K"]) -> Array:
    """Number of entries of each line that exceed each of its bounds, int32 [N K].

    Comparisons replace a partial sort of the vocabulary. One reduction makes all sums
    and reads a line once: on a CPU it takes a ninth of the time of K reductions, for
    each of which XLA stores the comparisons.
    """
    exceeds = [
        (x > bounds[:, slot, None]).astype(jnp.int32) for slot in range(bounds.shape[1])
    ]
    if not exceeds:
        return jnp.zeros(bounds.shape, jnp.int32)
    zeros = [jnp.int32(0)] * len(exceeds)
    counts = jax.lax.reduce(
        exceeds, zeros, lambda a, b: [m + n for m, n in zip(a, b, strict=True)], (1,)
    )
    return jnp.stack(counts, axis=-1)


def logits_gradient(
    statistics: Statistics,
    exponentials: Exponentials,
    cotangent: Cotangent,
    rows: TeacherRows,
    temperature: float = 1.0,
    vocabulary: Vocabulary = WHOLE,
) -> Float[Array, "N V"]:
    """Returns dL/dz of this shard, exactly 0 where the cotangent is 0.

    `statistics` and `exponentials` are the result of `summarise`, whose other arguments
    were the same; `cotangent` is the derivative with respect to the statistics.
    """
    size = exponentials.off.shape[-1]
    base = jnp.where(jnp.isfinite(statistics.off_max), statistics.off_max, 0)
    if exponentials.off_warm is None:  # then `warm` is `lse`
        cotangent = cotangent._replace(lse=cotangent.lse + cotangent.warm)
    # exp(z - lse) and exp(z - off) are exp(z - base) times one number per position.
    scale = cotangent.lse * jnp.exp(base - statistics.lse)
    scale += cotangent.off / jnp.where(exponentials.sum > 0, exponentials.sum, 1)
    gradient = scale[:, None] * exponentials.off
    on = cotangent.lse[:, None] * jnp.exp(statistics.on - statistics.lse[:, None])
    on += cotangent.on
    if exponentials.off_warm is not None:
        share = cotangent.warm / temperature
        scale = share * jnp.exp(base / temperature - statistics.warm)
        gradient += scale[:, None] * exponentials.off_warm
        warm = statistics.on / temperature - statistics.warm[:, None]
        on += share[:, None] * jnp.exp(warm)
    slots = jnp.concatenate(
        [
            vocabulary.slots(rows.ids, rows.used, size),
            vocabulary.slots(rows.targets, rows.targets >= 0, size)[:, None],
        ],
        axis=-1,
    )
    lines = jnp.arange(gradient.shape[0])[:, None]
    sparse = jnp.concatenate([on, cotangent.target[:, None]], axis=-1)
    return gradient.at[lines, slots].add(sparse, mode="drop")


def logsumexp_with(
    off: Float[Array, " N"], on: Float[Array, "N K"]
) -> Float[Array, " N"]:
    """Logsumexp of K entries and of one that is a logsumexp itself."""
    return jax.nn.logsumexp(jnp.concatenate([on, off[:, None]], axis=-1), axis=-1)
