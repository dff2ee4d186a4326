"""Maximum, top-k and sampling over a vocabulary.

XLA's argmax and top-k reduce (value, index) pairs one by one; over 32 thousand logits
that takes a third of a decoding step on a CPU. Here blocks of the logits are reduced by
a plain maximum, which every backend vectorises, and pairs only within few blocks.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 128


def greatest(
    scores: Float[Array, "*B V"],
) -> tuple[Float[Array, "*B"], Int[Array, "*B"]]:
    """Returns the greatest score along the last axis and its lowest index.

    Among scores with NaN these are NaN and the index of a NaN.
    """
    blocks = _blocks(scores, -jnp.inf)
    maxima = jnp.max(blocks, axis=-1)
    block = jnp.argmax(maxima, axis=-1)
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    index = block * BLOCK + jnp.argmax(inside, axis=-1)
    return jnp.max(maxima, axis=-1), index.astype(jnp.int32)


def logsumexp(
    scores: Float[Array, "*B V"], peak: Float[Array, "*B"]
) -> Float[Array, "*B"]:
    """Returns log(sum(exp(scores))) along the last axis, given the greatest score."""
    return peak + jnp.log(jnp.sum(jnp.exp(scores - peak[..., None]), axis=-1))


def top_k(
    scores: Float[Array, "*B V"], k: int
) -> tuple[Float[Array, "*B K"], Int[Array, "*B K"]]:
    """Returns the k greatest scores along the last axis, descending, and their indices.

    They are in the k blocks with the greatest maxima; only those are sorted.
    """
    size = scores.shape[-1]
    if size <= k * BLOCK:
        values, indices = jax.lax.top_k(scores, k)
        return values, indices
    blocks = _blocks(scores, -jnp.inf)
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=-1), k)
    chosen = jnp.sort(chosen, axis=-1)  # equal scores: the lowest index wins
    few = jnp.take_along_axis(blocks, chosen[..., None], axis=-2)
    values, places = jax.lax.top_k(few.reshape(*few.shape[:-2], -1), k)
    block = jnp.take_along_axis(chosen, places // BLOCK, axis=-1)
    return values, block * BLOCK + places % BLOCK


def draw(
    uniform: Float[Array, "*B"], weights: Float[Array, "*B V"]
) -> Int[Array, "*B"]:
    """Returns the index at which the running sum of `weights` passes u times the total.

    `uniform` has one number in [0, 1) per draw; Gumbel noise would need one per logit.
    Entries of weight 0 are never drawn.
    """
    blocks = _blocks(weights, 0.0)
    sums = jnp.sum(blocks, axis=-1)
    block, rest = _pass(sums, uniform * jnp.sum(sums, axis=-1))
    inside = jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
    place, _ = _pass(inside, rest)
    return block * BLOCK + place


def _pass(
    weights: Float[Array, "*B M"], goal: Float[Array, "*B"]
) -> tuple[Int[Array, "*B"], Float[Array, "*B"]]:
    """Returns the index at which the running sum passes `goal`, and the rest of it."""
    sums = jnp.cumsum(weights, axis=-1)
    possible = weights > 0
    size = weights.shape[-1]
    # By rounding, the goal may exceed the last sum; then take the last possible entry.
    last = size - 1 - jnp.argmax(possible[..., ::-1], axis=-1)
    passed = possible & (sums > goal[..., None])
    index = jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), last)
    before = jnp.take_along_axis(sums - weights, index[..., None], axis=-1)[..., 0]
    return index.astype(jnp.int32), goal - before


def nucleus(probs: Float[Array, "*B V"], top_p: float) -> Float[Array, "*B V"]:
    """Zeroes all but the smallest set of greatest probabilities with sum >= top_p.

    Bisects the threshold over the bit patterns of float32, whose order is that of the
    positive numbers: it is exact after 31 passes, without sorting. Entries equal to the
    threshold are kept.
    """

    def halve(_, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # sum(probs >= low) >= top_p > sum(probs >= high)
        middle = low + (high - low) // 2
        threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)
        kept = jnp.sum(jnp.where(probs >= threshold[..., None], probs, 0.0), axis=-1)
        enough = kept >= goal
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    goal = top_p * jnp.sum(probs, axis=-1)
    low = jnp.zeros(probs.shape[:-1], jnp.int32)
    high = jnp.full_like(low, 0x7F800000)  # infinity
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    threshold = jax.lax.bitcast_convert_type(low, jnp.float32)
    return jnp.where(probs >= threshold[..., None], probs, 0.0)


def _blocks(scores: Float[Array, "*B V"], fill: float) -> Float[Array, "*B M b"]:
    size = scores.shape[-1]
    extra = -size % BLOCK
    if extra:
        widths = [(0, 0)] * (scores.ndim - 1) + [(0, extra)]
        scores = jnp.pad(scores, widths, constant_values=fill)
    return scores.reshape(*scores.shape[:-1], -1, BLOCK)
