"""The keys and values that a decoding step reads.

Axes: B prompts, N continuations of each (beams or samples), M = B N, H heads, T
positions, d size of a head. The encoder's keys and values are stored once per prompt
and shared by its continuations.

The axes of a cache are those of the batched product that reads it. With one more axis,
even of size 1, XLA writes each new position twice, once for the product and once for
the next step, and copies the whole cache four times (half of a step's time on a CPU).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialize.student.attention.attention import MASKED


class KeysValues(NamedTuple):
    """Keys and values of one layer. M = B for those of the encoder."""

    keys: Float[Array, "M H T d"]
    values: Float[Array, "M H T d"]


class View(NamedTuple):
    """What one decoding step sees.

    Attributes:
        position: number of the step, the same for all prompts.
        past: bias of the scores of the T cached positions; `MASKED` after `position`.
        source: bias of the scores of the encoder's positions; `MASKED` at padding.
        ancestors: for beam search, the continuation whose slot holds position t of the
            history of continuation n. None: every continuation has its own history.
    """

    position: Int[Array, ""]
    past: Float[Array, "H T"]
    source: Float[Array, "B S"]
    ancestors: Int[Array, "B N T"] | None = None


def arrange(
    keys: Float[Array, "M T H d"], values: Float[Array, "M T H d"]
) -> KeysValues:
    """Puts whole sequences into the order of axes that steps read."""
    return KeysValues(jnp.swapaxes(keys, 1, 2), jnp.swapaxes(values, 1, 2))


def empty(
    sequences: int, heads: int, length: int, size: int, dtype: jnp.dtype
) -> KeysValues:
    """Returns room for `length` positions of M sequences."""
    shape = (sequences, heads, length, size)
    return KeysValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def grow(past: KeysValues, length: int) -> KeysValues:
    """Returns `past` with room for `length` positions."""
    extra = length - past.keys.shape[2]
    widths = ((0, 0), (0, 0), (0, extra), (0, 0))
    return KeysValues(jnp.pad(past.keys, widths), jnp.pad(past.values, widths))


def append(
    past: KeysValues,
    keys: Float[Array, "B N H d"],
    values: Float[Array, "B N H d"],
    position: Int[Array, ""],
) -> KeysValues:
    """Returns `past` with the keys and values of one position."""

    def write(kept: jax.Array, new: jax.Array) -> jax.Array:
        new = new.reshape(-1, *new.shape[2:])[:, :, None]
        return jax.lax.dynamic_update_slice_in_dim(
            kept, new.astype(kept.dtype), position, axis=2
        )

    return KeysValues(write(past.keys, keys), write(past.values, values))


def attend_own(
    queries: Float[Array, "B N H d"], past: KeysValues, view: View
) -> Float[Array, "B N H d"]:
    """Attends from each continuation to its own history."""
    if view.ancestors is not None:
        return _attend_ancestors(queries, past, view)
    each = queries.reshape(-1, *queries.shape[2:])
    scores = jnp.einsum(
        "mhd,mhtd->mht", each, past.keys, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores + view.past[None], axis=-1)
    mixed = jnp.einsum("mht,mhtd->mhd", weights.astype(queries.dtype), past.values)
    return mixed.reshape(queries.shape)


def _attend_ancestors(
    queries: Float[Array, "B N H d"], past: KeysValues, view: View
) -> Float[Array, "B N H d"]:
    # Beams exchange histories at every step. Attending to all slots and masking those
    # of other beams reads the cache once; reordering it would read and write it too.
    assert view.ancestors is not None
    by_row = (queries.shape[0], -1, *past.keys.shape[1:])
    keys, values = past.keys.reshape(by_row), past.values.reshape(by_row)
    slots = jnp.arange(keys.shape[1])
    own = view.ancestors[:, :, None, :] == slots[None, None, :, None]  # B N M T
    scores = jnp.einsum(
        "bnhd,bmhtd->bnhmt", queries, keys, preferred_element_type=jnp.float32
    )
    scores = scores + view.past[None, None, :, None]
    scores = jnp.where(own[:, :, None], scores, jnp.float32(MASKED))
    weights = jax.nn.softmax(scores, axis=(-2, -1)).astype(queries.dtype)
    return jnp.einsum("bnhmt,bmhtd->bnhd", weights, values)


def attend_shared(
    queries: Float[Array, "B N H d"], source: KeysValues, bias: Float[Array, "B S"]
) -> Float[Array, "B N H d"]:
    """Attends from every continuation to the keys and values of its prompt."""
    scores = jnp.einsum(
        "bnhd,bhsd->bhns", queries, source.keys, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores + bias[:, None, None], axis=-1)
    weights = weights.astype(queries.dtype)
    return jnp.einsum("bhns,bhsd->bnhd", weights, source.values)
