"""Greedy decoding and sampling, which continue each sequence separately."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from specialize.student.attention import cache
from specialize.student.decoding import vocabulary_search
from specialize.student.decoding.source import Source
from specialize.student.decoding.spec import GenerationSpec


class Steps(NamedTuple):
    """The model's distribution at every decoded token, before temperature and top_p.

    Attributes:
        logprobs: log-probability of the token in nats; 0 after EOS.
        top_ids: the K likeliest ids, likeliest first.
        top_logprobs: log-probabilities of `top_ids` in nats.
    """

    logprobs: Float[Array, "B n L"]
    top_ids: Int[Array, "B n L K"]
    top_logprobs: Float[Array, "B n L K"]


class _Single(NamedTuple):
    """State of the loop."""

    position: Int[Array, ""]
    last: Int[Array, "B N"]
    done: Bool[Array, "B N"]
    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    steps: Steps | None
    pasts: list[cache.KeysValues]


Choice = Callable[[jax.Array, jax.Array], jax.Array]


def continue_rows(
    source: Source,
    continuations: int,
    choose: Choice | None,
    eos_id: int,
    alternatives: int,
) -> tuple[jax.Array, jax.Array, Steps | None]:
    """Continues every sequence by the tokens of `choose`, or by the likeliest ones."""

    def step(state: _Single) -> _Single:
        logits, pasts = source.step(state.last, state.position, state.pasts)
        peak, chosen = vocabulary_search.greatest(logits)
        total = vocabulary_search.logsumexp(logits, peak)
        score = peak
        if choose is not None:
            chosen = choose(logits, state.position)
            score = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
        logprob = jnp.where(state.done, 0.0, score - total)
        steps = state.steps
        if steps is not None:
            values, ids = vocabulary_search.top_k(logits, alternatives)
            found = Steps(logprob, ids, values - total[..., None])
            steps = jax.tree.map(
                lambda kept, new: jax.lax.dynamic_update_index_in_dim(
                    kept, new, state.position, axis=2
                ),
                steps,
                found,
            )
        chosen = jnp.where(state.done, 0, chosen)
        return _Single(
            state.position + 1,
            chosen,
            state.done | (chosen == eos_id),
            jax.lax.dynamic_update_slice_in_dim(
                state.tokens, chosen[..., None], state.position, axis=2
            ),
            state.scores + logprob,
            steps,
            pasts,
        )

    shape = (source.rows, continuations)
    steps = None
    if alternatives:
        each = (*shape, source.length)
        steps = Steps(
            jnp.zeros(each, jnp.float32),
            jnp.zeros((*each, alternatives), jnp.int32),
            jnp.zeros((*each, alternatives), jnp.float32),
        )
    state = _Single(
        position=jnp.int32(0),
        last=jnp.zeros(shape, jnp.int32),
        done=jnp.broadcast_to(source.empty_rows[:, None], shape),
        tokens=jnp.zeros((*shape, source.length), jnp.int32),
        scores=jnp.zeros(shape, jnp.float32),
        steps=steps,
        pasts=source.no_past(continuations),
    )
    for room in source.stretches():
        state = state._replace(pasts=[cache.grow(past, room) for past in state.pasts])
        state = jax.lax.while_loop(
            lambda s, room=room: (s.position < room) & ~jnp.all(s.done), step, state
        )
    return state.tokens, state.scores, state.steps


def sampled(spec: GenerationSpec, rng: jax.Array) -> Choice:
    """Returns the random choice (logits, position) -> token ids."""

    def choose(logits: jax.Array, position: jax.Array) -> jax.Array:
        probs = jax.nn.softmax(logits / spec.temperature, axis=-1)
        if 0 < spec.top_k < logits.shape[-1]:
            least = vocabulary_search.top_k(probs, spec.top_k)[0][..., -1:]
            probs = jnp.where(probs >= least, probs, 0.0)
        if spec.top_p < 1.0:
            probs = vocabulary_search.nucleus(probs, spec.top_p)
        if _one_for_each_row(rng):

            def of_row(key: jax.Array) -> jax.Array:
                key = jax.random.fold_in(key, position)
                return jax.random.uniform(key, logits.shape[1:-1])

            uniform = jax.vmap(of_row)(rng)
        else:
            key = jax.random.fold_in(rng, position)
            uniform = jax.random.uniform(key, logits.shape[:-1])
        return vocabulary_search.draw(uniform, probs)

    return choose


def _one_for_each_row(keys: jax.Array) -> bool:
    # T5X passes keys of the old kind, whose numbers are one more axis.
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    return keys.ndim > (0 if typed else 1)
