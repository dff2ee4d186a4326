"""Keys and values that a decoding step looks back at.

Axes: B rows (prompts), N continuations of each (beams or samples), H heads, T
positions, d size of a head. The encoder's keys and values are kept once a row and
shared by its continuations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from specialize.student.layers import MASKED


class KeysValues(NamedTuple):
    """Of one layer; `keys` and `values` [B N H T d] (N = 1: shared by all)."""

    keys: Float[Array, "B N H T d"]
    values: Float[Array, "B N H T d"]


class View(NamedTuple):
    """What one decoding step may see.

    Attributes:
        position: of the step; the same for all rows.
        past: added to the scores of the T kept positions; `MASKED` beyond `position`.
        source: added to the scores of the encoder's positions; `MASKED` at padding.
        ancestors: of beam search: which continuation's slot holds position t of the
            history of continuation n; None if every continuation has its own.
    """

    position: Int[Array, ""]
    past: Float[Array, "H T"]
    source: Float[Array, "B S"]
    ancestors: Int[Array, "B N T"] | None = None


def arrange(
    keys: Float[Array, "B N T H d"], values: Float[Array, "B N T H d"]
) -> KeysValues:
    """Puts whole sequences into the order that steps read fastest."""
    return KeysValues(jnp.moveaxis(keys, 3, 2), jnp.moveaxis(values, 3, 2))


def empty(
    rows: int, continuations: int, heads: int, length: int, size: int, dtype: jnp.dtype
) -> KeysValues:
    """Returns room for `length` positions."""
    shape = (rows, continuations, heads, length, size)
    return KeysValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def grow(past: KeysValues, length: int) -> KeysValues:
    """Returns `past` with room for `length` positions."""
    extra = length - past.keys.shape[3]
    widths = ((0, 0), (0, 0), (0, 0), (0, extra), (0, 0))
    return KeysValues(jnp.pad(past.keys, widths), jnp.pad(past.values, widths))


def append(
    past: KeysValues,
    keys: Float[Array, "B N H d"],
    values: Float[Array, "B N H d"],
    position: Int[Array, ""],
) -> KeysValues:
    """Writes one position."""

    def write(kept: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(
            kept, new[:, :, :, None].astype(kept.dtype), position, axis=3
        )

    return KeysValues(write(past.keys, keys), write(past.values, values))


def attend_own(
    queries: Float[Array, "B N H d"], past: KeysValues, view: View
) -> Float[Array, "B N H d"]:
    """Attends from each continuation to its own history."""
    if view.ancestors is not None:
        return _attend_ancestors(queries, past, view)
    scores = jnp.einsum(
        "bnhd,bnhtd->bnht", queries, past.keys, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores + view.past[None, None], axis=-1)
    return jnp.einsum("bnht,bnhtd->bnhd", weights.astype(queries.dtype), past.values)


def _attend_ancestors(
    queries: Float[Array, "B N H d"], past: KeysValues, view: View
) -> Float[Array, "B N H d"]:
    # Beams exchange histories at every step. Attending to all slots and masking the
    # foreign ones reads the cache once; reordering it would read and write it as well.
    assert view.ancestors is not None
    slots = jnp.arange(past.keys.shape[1])
    own = view.ancestors[:, :, None, :] == slots[None, None, :, None]  # B N M T
    scores = jnp.einsum(
        "bnhd,bmhtd->bnhmt", queries, past.keys, preferred_element_type=jnp.float32
    )
    scores = scores + view.past[None, None, :, None]
    scores = jnp.where(own[:, :, None], scores, jnp.float32(MASKED))
    weights = jax.nn.softmax(scores, axis=(-2, -1)).astype(queries.dtype)
    return jnp.einsum("bnhmt,bmhtd->bnhd", weights, past.values)


def attend_shared(
    queries: Float[Array, "B N H d"],
    source: KeysValues,
    bias: Float[Array, "B S"],
) -> Float[Array, "B N H d"]:
    """Attends from every continuation to the keys and values of its row."""
    keys, values = source.keys[:, 0], source.values[:, 0]
    scores = jnp.einsum(
        "bnhd,bhsd->bhns", queries, keys, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores + bias[:, None, None], axis=-1)
    return jnp.einsum("bhns,bhsd->bnhd", weights.astype(queries.dtype), values)
