"""Beam search by the rules of Hugging Face's transformers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from specialize.student.attention import cache
from specialize.student.decoding import vocabulary_search
from specialize.student.decoding.source import Source
from specialize.student.decoding.spec import GenerationSpec


class _Beams(NamedTuple):
    """State of a beam search; the beams are sorted, best first."""

    position: Int[Array, ""]
    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    ancestors: Int[Array, "B N T"]
    ended_tokens: Int[Array, "B N L"]
    ended_scores: Float[Array, "B N"]
    ended: Bool[Array, "B N"]
    improvable: Bool[Array, " B"]
    pasts: list[cache.KeysValues]


# Hugging Face's substitute for minus infinity, with which it compares scores.
_NEVER = -1.0e9


def search(
    source: Source, spec: GenerationSpec, eos_id: int
) -> tuple[Int[Array, "B N L"], Float[Array, "B N"]]:
    """Searches by the rules of transformers' `generate` (v5).

    Of the 2N best continuations of N beams, at least N do not end; the N best of these
    are the next beams. Those that end and are among the N best of all become finished
    sequences, which are ranked by log-probability / length ** length_penalty.
    """
    beams = spec.num_beams

    def step(state: _Beams) -> _Beams:
        position = state.position
        last = jax.lax.dynamic_index_in_dim(
            state.tokens, jnp.maximum(position - 1, 0), axis=2, keepdims=False
        )
        last = jnp.where(position > 0, last, 0)
        own = jnp.broadcast_to(jnp.arange(beams)[None, :, None], (*last.shape, 1))
        ancestors = jax.lax.dynamic_update_slice_in_dim(
            state.ancestors, own, position, axis=2
        )
        logits, pasts = source.step(last, position, state.pasts, ancestors)
        scores, tokens, parents = _continuations(logits, state.scores, 2 * beams)
        sequences = jnp.take_along_axis(state.tokens, parents[..., None], axis=1)
        sequences = jax.lax.dynamic_update_slice_in_dim(
            sequences, tokens[..., None], position, axis=2
        )
        length = position + 1
        ends = (tokens == eos_id) | (length == source.length)

        # The running beams of the next step.
        kept_scores, kept = jax.lax.top_k(scores + jnp.where(ends, _NEVER, 0.0), beams)
        ancestors = jnp.take_along_axis(
            ancestors, jnp.take_along_axis(parents, kept, axis=1)[..., None], axis=1
        )

        # The finished ones, old and new.
        penalty = length.astype(jnp.float32) ** spec.length_penalty
        joins = ends & (jnp.arange(2 * beams) < beams)[None]
        open_ = joins & state.improvable[:, None]
        if spec.early_stopping is True:
            open_ = open_ & ~jnp.all(state.ended, axis=1, keepdims=True)
        candidates = jnp.where(open_, scores / penalty, _NEVER)
        merged_scores = jnp.concatenate([state.ended_scores, candidates], axis=1)
        ended_scores, best = jax.lax.top_k(merged_scores, beams)
        ended = jnp.concatenate([state.ended, open_], axis=1)
        ended_tokens = jnp.concatenate([state.ended_tokens, sequences], axis=1)
        ended = jnp.take_along_axis(ended, best, axis=1)
        ended_tokens = jnp.take_along_axis(ended_tokens, best[..., None], axis=1)

        # Whether the best running beam may still replace the worst finished one.
        if spec.early_stopping == "never" and spec.length_penalty > 0:
            penalty = jnp.float32(source.length**spec.length_penalty)
        worst = jnp.where(jnp.all(ended, axis=1), jnp.min(ended_scores, axis=1), _NEVER)
        improvable = state.improvable & (kept_scores[:, 0] / penalty > worst)
        if spec.early_stopping is True:
            improvable = improvable & ~jnp.all(ended, axis=1)
        return _Beams(
            position + 1,
            jnp.take_along_axis(sequences, kept[..., None], axis=1),
            kept_scores,
            ancestors,
            ended_tokens,
            ended_scores,
            ended,
            improvable,
            pasts,
        )

    shape = (source.rows, beams)
    blank = jnp.zeros((*shape, source.length), jnp.int32)
    rooms = source.stretches()
    state = _Beams(
        position=jnp.int32(0),
        tokens=blank,
        # All beams are equal at first: the first step continues only one of them.
        scores=jnp.broadcast_to(
            jnp.where(jnp.arange(beams) > 0, _NEVER, 0.0)[None], shape
        ).astype(jnp.float32),
        ancestors=jnp.zeros((*shape, rooms[0]), jnp.int32),
        ended_tokens=blank,
        ended_scores=jnp.full(shape, _NEVER, jnp.float32),
        ended=jnp.zeros(shape, bool),
        improvable=~source.empty_rows,
        pasts=source.no_past(beams),
    )
    for room in rooms:
        extra = room - state.ancestors.shape[2]
        state = state._replace(
            pasts=[cache.grow(past, room) for past in state.pasts],
            ancestors=jnp.pad(state.ancestors, ((0, 0), (0, 0), (0, extra))),
        )
        state = jax.lax.while_loop(
            lambda s, room=room: (s.position < room) & jnp.any(s.improvable),
            step,
            state,
        )
    scores = jnp.where(source.empty_rows[:, None], 0.0, state.ended_scores)
    return state.ended_tokens, scores


def _continuations(
    logits: Float[Array, "B N V"], scores: Float[Array, "B N"], count: int
) -> tuple[Float[Array, "B C"], Int[Array, "B C"], Int[Array, "B C"]]:
    """Returns score, token and parent of the `count` best continuations of a prompt."""
    rows, beams, vocabulary = logits.shape
    # The best continuations of all beams are among the best of each beam.
    each = min(count, vocabulary)
    best, tokens = vocabulary_search.top_k(logits, each)  # B N C
    logprobs = best - jax.nn.logsumexp(logits, axis=-1)[..., None]
    totals = (logprobs + scores[..., None]).reshape(rows, beams * each)
    chosen_scores, chosen = jax.lax.top_k(totals, count)
    tokens = jnp.take_along_axis(tokens.reshape(rows, beams * each), chosen, axis=1)
    return chosen_scores, tokens, (chosen // each).astype(jnp.int32)
