"""Greedy search, sampling and beam search over token ids; knows no tokenizer.

The encoder runs once, its keys and values are computed once and shared by all
continuations of a row, and the loop ends when every row has. The cache of the decoder's
own keys and values grows in steps, so that early positions do not read room that late
ones will need.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from specialize.errors import InputError
from specialize.student.attention import cache
from specialize.student.attention.attention import MASKED
from specialize.student.decoding import vocabulary_search
from specialize.student.layers import constrain
from specialize.student.network.layout import unroll_params
from specialize.student.network.transformer import Transformer

METHODS = ("greedy", "sample", "beam")

# Room for positions in the first stretch of the loop; doubled until it suffices.
FIRST_ROOM = 64


class Steps(NamedTuple):
    """The model's distribution at every decoded token, before temperature or nucleus.

    Attributes:
        logprobs: of the token itself, in nats; 0 behind EOS.
        top_ids: the K likeliest ids, likeliest first.
        top_logprobs: theirs, in nats.
    """

    logprobs: Float[Array, "B n L"]
    top_ids: Int[Array, "B n L K"]
    top_logprobs: Float[Array, "B n L K"]


class Generated(NamedTuple):
    """What was decoded.

    Attributes:
        tokens: ids up to and including EOS, then 0; [B, L], or [B, n, L] if several
            continuations of each row were asked for, best first after a beam search.
        scores: log-probability under the model, in nats, of each sequence, EOS
            included; after a beam search divided by length ** length_penalty.
        steps: the distributions, where `alternatives` were asked for; always with the
            axis n.
    """

    tokens: Int[Array, "B L"] | Int[Array, "B n L"]
    scores: Float[Array, " B"] | Float[Array, "B n"]
    steps: Steps | None = None


def generate(
    module: Transformer,
    params: PyTree,
    encoder_input_tokens: Int[Array, "B S"],
    *,
    max_length: int,
    method: str = "greedy",
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    num_samples: int = 1,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    rng: jax.Array | None = None,
    eos_id: int = 1,
    alternatives: int = 0,
) -> Generated:
    """Decodes every row; to be called inside `jax.jit`, under whatever mesh.

    Args:
        module: the network, scanned or not.
        params: its parameters.
        encoder_input_tokens: 0 is padding, wherever it stands. A row of nothing but
            padding is finished before it begins and yields zeros.
        max_length: most tokens of a sequence, EOS included.
        method: "greedy", "sample" or "beam".
        temperature: of sampling; logits are divided by it.
        top_p: sample from the smallest set with at least this probability.
        top_k: sample from the k likeliest tokens; 0 for all.
        num_samples: sequences a row to draw; of a beam search, the best to return.
        num_beams: sequences a beam search follows.
        length_penalty: beam scores are log-probability / length ** this.
        early_stopping: False: stop when the best running beam, at its present length,
            cannot beat the worst finished one; True: as soon as `num_beams` are
            finished; "never": as False, with the most favourable length (the three
            rules of Hugging Face).
        rng: of sampling. Row i of a batch of the same shape draws the same numbers
            whatever the other rows hold. Or one key a row, [B]: then what a row draws
            depends on neither its place nor the batch.
        eos_id: ends a sequence.
        alternatives: K of the distributions to return beside the tokens; 0 for none.
            Not of a beam search.

    Raises:
        InputError: an unknown method or a value out of its range.
    """
    _check(
        method=method,
        max_length=max_length,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        num_samples=num_samples,
        num_beams=num_beams,
        early_stopping=early_stopping,
        rng=rng,
        alternatives=alternatives,
        vocabulary=module.config.vocab_size,
    )
    source = _Source(module, params, encoder_input_tokens, max_length)
    if method == "beam":
        tokens, scores = _beam(
            source, num_beams, length_penalty, early_stopping, eos_id
        )
        tokens, scores = tokens[:, :num_samples], scores[:, :num_samples]
        steps = None
    else:
        if method == "greedy":
            continuations, choose = 1, None
        else:
            continuations = num_samples
            choose = _sampled_choice(rng, temperature, top_p, top_k)
        tokens, scores, steps = _single(
            source, continuations, choose, eos_id, alternatives
        )
    if tokens.shape[1] == 1 and num_samples == 1 or method == "greedy":
        return Generated(tokens[:, 0], scores[:, 0], steps)
    return Generated(tokens, scores, steps)


def _check(**given: Any) -> None:
    if given["method"] not in METHODS:
        raise InputError(
            f"unknown decoding method {given['method']!r}; use one of "
            f"{', '.join(METHODS)}."
        )
    for name in ("max_length", "num_samples", "num_beams"):
        if given[name] < 1:
            raise InputError(f"{name} = {given[name]}; it must be at least 1.")
    if given["method"] == "sample":
        if not (given["temperature"] > 0 and math.isfinite(given["temperature"])):
            raise InputError(
                f"temperature = {given['temperature']}; it must be positive. For the "
                "likeliest token use method 'greedy'."
            )
        if not 0 < given["top_p"] <= 1:
            raise InputError(f"top_p = {given['top_p']}; it must lie in (0, 1].")
        if given["top_k"] < 0:
            raise InputError(f"top_k = {given['top_k']}; it must be 0 (off) or more.")
        if given["rng"] is None:
            raise InputError("sampling needs a random key: pass rng.")
    if not 0 <= given["alternatives"] <= given["vocabulary"]:
        raise InputError(
            f"alternatives = {given['alternatives']}; it must be 0 (none) to the "
            f"{given['vocabulary']} rows of the vocabulary."
        )
    if given["method"] == "beam":
        if given["alternatives"]:
            raise InputError(
                "alternatives of a beam search are not kept; use 'greedy' or 'sample'."
            )
        if given["num_samples"] > given["num_beams"]:
            raise InputError(
                f"num_samples = {given['num_samples']} sequences cannot be returned "
                f"from num_beams = {given['num_beams']}."
            )
        if given["early_stopping"] not in (True, False, "never"):
            raise InputError(
                f"early_stopping = {given['early_stopping']!r}; it can be True, False "
                "or 'never'."
            )


class _Source:
    """The encoded rows and one step of the decoder, ready for a loop."""

    def __init__(
        self, module: Transformer, params: PyTree, tokens: jax.Array, length: int
    ):
        # A scan would copy the whole cache at every step.
        config = dataclasses.replace(
            module.config, scan_layers=False, remat_policy="none"
        )
        self.module = module.clone(config=config)
        self.params = _in_compute_dtype(unroll_params(params), config.dtype)
        self.config = config
        self.rows = tokens.shape[0]
        self.length = length
        real = tokens > 0
        self.empty_rows = ~jnp.any(real, axis=1)
        encoded = self._apply("encode", tokens, enable_dropout=False)
        self.layers = self._apply("remember", encoded)
        self.bias = jnp.where(real, 0.0, MASKED).astype(jnp.float32)
        self.distances = self._apply("position_bias", length)

    def _apply(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.module.apply(
            {"params": self.params}, *args, method=method, **kwargs
        )

    def stretches(self) -> list[int]:
        """Room for positions in each stretch of the loop, growing to the length."""
        rooms = [min(FIRST_ROOM, self.length)]
        while rooms[-1] < self.length:
            rooms.append(min(2 * rooms[-1], self.length))
        return rooms

    def no_past(self, continuations: int) -> list[cache.KeysValues]:
        """Returns empty keys and values with the room of the first stretch."""
        past = cache.empty(
            self.rows * continuations,
            self.config.num_heads,
            self.stretches()[0],
            self.config.head_dim,
            jnp.dtype(self.config.dtype),
        )
        axes = ("batch", "heads", "length", "kv")
        past = jax.tree.map(lambda x: constrain(x, *axes), past)
        return [past] * self.config.num_decoder_layers

    def step(
        self,
        tokens: Int[Array, "B N"],
        position: Int[Array, ""],
        pasts: list[cache.KeysValues],
        ancestors: Int[Array, "B N T"] | None = None,
    ) -> tuple[Float[Array, "B N V"], list[cache.KeysValues]]:
        """Returns the logits after `tokens` at `position`, and the longer past."""
        room = pasts[0].keys.shape[2]
        # Slot t lies t - position away; beyond the table all is future.
        table = jnp.pad(
            self.distances, ((0, 0), (0, room)), constant_values=jnp.float32(MASKED)
        )
        past_bias = jax.lax.dynamic_slice_in_dim(
            table, self.length - 1 - position, room, axis=1
        )
        view = cache.View(position, past_bias, self.bias, ancestors)
        return self._apply("step", tokens, pasts, self.layers, view)


def _in_compute_dtype(params: PyTree, dtype: Any) -> PyTree:
    """Casts once what every step would cast: matrices, but neither norms nor biases."""

    def cast(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        if path[-1].key in ("kernel", "embedding"):
            return value.astype(dtype)
        return value

    return jax.tree_util.tree_map_with_path(cast, params)


class _Single(NamedTuple):
    """State of the loop without beams."""

    position: Int[Array, ""]
    last: Int[Array, "B N"]
    done: Bool[Array, "B N"]
    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    steps: Steps | None
    pasts: list[cache.KeysValues]


Choice = Callable[[jax.Array, jax.Array], jax.Array]


def _single(
    source: _Source,
    continuations: int,
    choose: Choice | None,
    eos_id: int,
    alternatives: int,
) -> tuple[jax.Array, jax.Array, Steps | None]:
    """Follows every continuation for itself; without `choose`, the likeliest token."""

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


def _sampled_choice(
    rng: jax.Array | None, temperature: float, top_p: float, top_k: int
) -> Choice:
    assert rng is not None

    def choose(logits: jax.Array, position: jax.Array) -> jax.Array:
        probs = jax.nn.softmax(logits / temperature, axis=-1)
        if 0 < top_k < logits.shape[-1]:
            least = vocabulary_search.top_k(probs, top_k)[0][..., -1:]
            probs = jnp.where(probs >= least, probs, 0.0)
        if top_p < 1.0:
            probs = vocabulary_search.nucleus(probs, top_p)
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
    # T5X passes keys of the old kind, whose numbers are an axis of their own.
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    return keys.ndim > (0 if typed else 1)


class _Beams(NamedTuple):
    """State of a beam search; beams are sorted, best first."""

    position: Int[Array, ""]
    tokens: Int[Array, "B N L"]
    scores: Float[Array, "B N"]
    ancestors: Int[Array, "B N T"]
    ended_tokens: Int[Array, "B N L"]
    ended_scores: Float[Array, "B N"]
    ended: Bool[Array, "B N"]
    improvable: Bool[Array, " B"]
    pasts: list[cache.KeysValues]


# Hugging Face's stand-in for minus infinity; part of its scores' comparisons.
_NEVER = -1.0e9


def _beam(
    source: _Source,
    beams: int,
    length_penalty: float,
    early_stopping: bool | str,
    eos_id: int,
) -> tuple[jax.Array, jax.Array]:
    """Beam search with the rules of transformers' `generate` (v5).

    Of the 2N best continuations of N beams, those that do not end go on (N of them
    always exist); those that end and are among the N best join the finished ones, which
    are ranked by log-probability / length ** length_penalty.
    """

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
        penalty = length.astype(jnp.float32) ** length_penalty
        joins = ends & (jnp.arange(2 * beams) < beams)[None]
        open_ = joins & state.improvable[:, None]
        if early_stopping is True:
            open_ = open_ & ~jnp.all(state.ended, axis=1, keepdims=True)
        candidates = jnp.where(open_, scores / penalty, _NEVER)
        merged_scores = jnp.concatenate([state.ended_scores, candidates], axis=1)
        ended_scores, best = jax.lax.top_k(merged_scores, beams)
        ended = jnp.concatenate([state.ended, open_], axis=1)
        ended_tokens = jnp.concatenate([state.ended_tokens, sequences], axis=1)
        ended = jnp.take_along_axis(ended, best, axis=1)
        ended_tokens = jnp.take_along_axis(ended_tokens, best[..., None], axis=1)

        # Whether the best running beam might still displace the worst finished one.
        if early_stopping == "never" and length_penalty > 0:
            penalty = jnp.float32(source.length**length_penalty)
        worst = jnp.where(jnp.all(ended, axis=1), jnp.min(ended_scores, axis=1), _NEVER)
        improvable = state.improvable & (kept_scores[:, 0] / penalty > worst)
        if early_stopping is True:
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
        # All beams begin alike: only the first may be continued at the first step.
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
    """Returns score, token and parent of the `count` best of all continuations."""
    rows, beams, vocabulary = logits.shape
    # The best of all beams are among the best of each.
    each = min(count, vocabulary)
    best, tokens = vocabulary_search.top_k(logits, each)  # B N C
    logprobs = best - jax.nn.logsumexp(logits, axis=-1)[..., None]
    totals = (logprobs + scores[..., None]).reshape(rows, beams * each)
    chosen_scores, chosen = jax.lax.top_k(totals, count)
    tokens = jnp.take_along_axis(tokens.reshape(rows, beams * each), chosen, axis=1)
    return chosen_scores, tokens, (chosen // each).astype(jnp.int32)
