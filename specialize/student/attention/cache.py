"""The keys and values that a decoding step reads.

Axes: B prompts, N continuations of each (beams or samples), M = B N, H heads, T
positions, d size of a head. The encoder's keys and values are stored once per prompt
and shared by its continuations.

The axes of a cache are those of the batched product that reads it. With one more axis,
even of size 1, XLA writes each new position twice, once for the product and once for
the next step, and copies the whole cache four times (half of a step's time on a CPU).

With 8-bit weights the keys and values have 8 bits, too (`student.int8`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialize.student import int8
from specialize.student.attention.attention import MASKED


class KeysValues(NamedTuple):
    """Keys and values of one layer, [M, H, T, d]. M = B for those of the encoder."""

    keys: Float[Array, "M H T d"] | int8.Vectors
    values: Float[Array, "M H T d"] | int8.Vectors

    @property
    def room(self) -> int:
        """The number of positions T."""
        return jax.tree.leaves(self.keys)[0].shape[2]

    def in_8_bits(self) -> "KeysValues":
        """Returns the same, quantised."""
        return jax.tree.map(int8.vectors, self)


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
    widths = ((0, 0), (0, 0), (0, length - past.room), (0, 0))
    return jax.tree.map(lambda x: jnp.pad(x, widths), past)


def append(
    past: KeysValues,
    keys: Float[Array, "B N H d"],
    values: Float[Array, "B N H d"],
    position: Int[Array, ""],
) -> KeysValues:
    """Returns `past` with the keys and values of one position."""

    def of_one_position(new: jax.Array) -> jax.Array:
        return new.reshape(-1, *new.shape[2:])[:, :, None]

    def write(kept: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(
            kept, new.astype(kept.dtype), position, axis=2
        )

    new = KeysValues(of_one_position(keys), of_one_position(values))
    if isinstance(past.keys, int8.Vectors):
        new = new.in_8_bits()
    return jax.tree.map(write, past, new)


def attend_own(
    queries: Float[Array, "B N H d"], past: KeysValues, view: View
) -> Float[Array, "B N H d"]:
    """Attends from each continuation to its own history."""
    if view.ancestors is not None:
        return _attend_ancestors(queries, past, view)
    each = queries.reshape(-1, *queries.shape[2:])
    keys, values = past
    if isinstance(keys, int8.Vectors) and isinstance(values, int8.Vectors):
        bias = view.past[None, :, None]
        mixed = _attend_in_8_bits(each[:, :, None], keys, values, bias)
        return mixed.reshape(queries.shape)
    scores = jnp.einsum("mhd,mhtd->mht", each, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores + view.past[None], axis=-1)
    mixed = jnp.einsum("mht,mhtd->mhd", weights.astype(queries.dtype), values)
    return mixed.reshape(queries.shape)


def _attend_ancestors(
    queries: Float[Array, "B N H d"], past: KeysValues, view: View
) -> Float[Array, "B N H d"]:
    # Beams exchange histories at every step. Attending to all slots and masking those
    # of other beams reads the cache once; reordering it would read and write it too.
    assert view.ancestors is not None
    slots = jnp.arange(queries.shape[1])
    own = view.ancestors[:, :, None, :] == slots[None, None, :, None]  # B N M T
    scores = _scores_of_slots(queries, past.keys) + view.past[None, None, :, None]
    scores = jnp.where(own[:, :, None], scores, jnp.float32(MASKED))
    weights = jax.nn.softmax(scores, axis=(-2, -1)).astype(queries.dtype)
    return _mix_slots(weights, past.values)


def _scores_of_slots(
    queries: Float[Array, "B N H d"], keys: Any
) -> Float[Array, "B N H M T"]:
    batch, beams, heads, size = queries.shape
    if not isinstance(keys, int8.Vectors):
        keys = keys.reshape(batch, beams, *keys.shape[1:])
        return jnp.einsum(
            "bnhd,bmhtd->bnhmt", queries, keys, preferred_element_type=jnp.float32
        )
    asked = jnp.swapaxes(queries, 1, 2)[:, None]
    asked = jnp.broadcast_to(asked, (batch, beams, heads, beams, size))
    scores = int8.scores(asked.reshape(-1, heads, beams, size), keys)
    return jnp.einsum("bmhnt->bnhmt", scores.reshape(batch, beams, *scores.shape[1:]))


def _mix_slots(
    weights: Float[Array, "B N H M T"], values: Any
) -> Float[Array, "B N H d"]:
    batch, beams = weights.shape[:2]
    if not isinstance(values, int8.Vectors):
        values = values.reshape(batch, beams, *values.shape[1:])
        return jnp.einsum("bnhmt,bmhtd->bnhd", weights, values)
    each = jnp.einsum("bnhmt->bmhnt", weights)
    mixed = int8.mixed(each.reshape(-1, *each.shape[2:]), values)
    mixed = mixed.reshape(batch, beams, *mixed.shape[1:])
    return jnp.einsum("bmhnd->bnhd", mixed).astype(weights.dtype)


def attend_shared(
    queries: Float[Array, "B N H d"], source: KeysValues, bias: Float[Array, "B S"]
) -> Float[Array, "B N H d"]:
    """Attends from every continuation to the keys and values of its prompt."""
    keys, values = source
    if isinstance(keys, int8.Vectors) and isinstance(values, int8.Vectors):
        each, bias = jnp.swapaxes(queries, 1, 2), bias[:, None, None]
        return jnp.swapaxes(_attend_in_8_bits(each, keys, values, bias), 1, 2)
    scores = jnp.einsum(
        "bnhd,bhsd->bhns", queries, keys, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores + bias[:, None, None], axis=-1)
    weights = weights.astype(queries.dtype)
    return jnp.einsum("bhns,bhsd->bnhd", weights, values)


def _attend_in_8_bits(
    queries: Float[Array, "B H N d"],
    keys: int8.Vectors,
    values: int8.Vectors,
    bias: Float[Array, "#B #H #N T"],
) -> Float[Array, "B H N d"]:
    weights = jax.nn.softmax(int8.scores(queries, keys) + bias, axis=-1)
    return int8.mixed(weights, values).astype(queries.dtype)
