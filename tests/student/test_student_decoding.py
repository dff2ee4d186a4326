"""Decoding with a cache equals decoding without; search and sampling are as told."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5

from specialize import sharding
from specialize.errors import InputError
from specialize.student.decoding import decoding, source
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.network.transformer import T5Config, Transformer

NEVER = 10**6  # an EOS id that no vocabulary has


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Lets short sequences grow the cache several times."""
    monkeypatch.setattr(source, "FIRST_ROOM", 3)


def config(family="t5_1_1", **changes) -> T5Config:
    sizes = dict(
        vocab_size=47,
        emb_dim=12,
        num_heads=2,
        head_dim=5,
        mlp_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=2,
    )
    return T5Config(**(sizes | reference_t5.FAMILIES[family] | changes))


@functools.lru_cache
def model(family="t5_1_1", seed=0):
    cfg = config(family)
    params = jax.tree.map(jnp.asarray, reference_t5.random_params(cfg, seed))
    return Transformer(cfg), params


def prompts(rows=4, length=6):
    rng = np.random.default_rng(3)
    x = rng.integers(1, 47, (rows, length)).astype(np.int32)
    x[0, -2:] = 0
    x[1, :3] = 0
    x[2:3, 2] = 0
    return jnp.asarray(x)


# Arguments of `generate` beside its specification.
CALL = ("max_length", "rng", "eos_id", "alternatives")


def decode(module, params, x, **options):
    """`decoding.generate` with the fields of its specification as options."""
    call = {name: options.pop(name) for name in CALL if name in options}
    return decoding.generate(module, params, x, GenerationSpec(**options), **call)


@functools.lru_cache
def program(module, **options):
    return jax.jit(lambda p, x, rng: decode(module, p, x, rng=rng, **options))


def generate(module, params, x, rng=None, **options):
    return program(module, **options)(params, x, rng)


@functools.partial(jax.jit, static_argnums=0)
def logprobs(module, params, x, tokens):
    """Log-probabilities [B L V] after each prefix of `tokens`, without a cache."""
    inputs = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
    logits = module.apply(
        {"params": params}, x, inputs, jnp.ones_like(inputs), enable_dropout=False
    )
    return jax.nn.log_softmax(logits, axis=-1)


def greedy_without_cache(module, params, x, length, eos_id):
    tokens = np.zeros((len(x), length), np.int32)
    scores = np.zeros(len(x))
    done = np.zeros(len(x), bool)
    for position in range(length):
        rows = np.asarray(logprobs(module, params, x, tokens))[:, position]
        best = rows.argmax(-1)
        scores += np.where(done, 0, rows.max(-1))
        tokens[:, position] = np.where(done, 0, best)
        done |= best == eos_id
    return tokens, scores


@pytest.mark.parametrize("family", sorted(reference_t5.FAMILIES))
def test_greedy_with_a_cache_equals_greedy_without(family):
    module, params = model(family)
    x = prompts()
    endless, _ = greedy_without_cache(module, params, x, 11, NEVER)
    # An id that ends some rows early and others never.
    eos_id = int(endless[0, 4])
    tokens, scores = greedy_without_cache(module, params, x, 11, eos_id)
    found = generate(module, params, x, max_length=11, eos_id=eos_id)
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    ended = [row for row in tokens if eos_id in row]
    assert ended
    for row in ended:
        assert (row[list(row).index(eos_id) + 1 :] == 0).all()


def test_scanned_parameters_decode_the_same():
    module, params = model()
    scanned = Transformer(config(scan_layers=True, remat_policy="full"))
    x = prompts()
    np.testing.assert_array_equal(
        generate(scanned, reference_t5.scan_params(params), x, max_length=5).tokens,
        generate(module, params, x, max_length=5).tokens,
    )


def test_more_padding_and_more_room_change_no_token():
    module, params = model()
    x = prompts()
    wide = jnp.pad(x, ((0, 0), (2, 3)))
    short = generate(module, params, x, max_length=5).tokens
    long = generate(module, params, wide, max_length=7).tokens
    np.testing.assert_array_equal(long[:, :5], short)


def test_eight_devices_decode_what_one_decodes():
    module, params = model()
    x = prompts(rows=8)
    mesh = sharding.make_mesh(4, 1, 2)
    options = dict(max_length=5, eos_id=NEVER)
    expected = generate(module, params, x, **options)
    with sharding.activate(mesh, sharding.DEFAULT_RULES):
        batch = jax.device_put(x, sharding.batch_sharding(mesh))
        sharded = program.__wrapped__(module, **options)(params, batch, None)
    np.testing.assert_array_equal(sharded.tokens, expected.tokens)


@pytest.mark.parametrize(("method", "expected"), [("greedy", 1), ("beam", 4)])
def test_the_loop_ends_when_all_rows_have_and_empty_rows_keep_nobody_waiting(
    method, expected, monkeypatch
):
    steps = []
    step = source.Source.step

    def counted(self, tokens, position, *rest):
        jax.debug.callback(lambda p: steps.append(int(p)), position)
        return step(self, tokens, position, *rest)

    monkeypatch.setattr(source.Source, "step", counted)
    module, params = model()
    # All ids are equally likely, and of equals the lowest id comes first: EOS here. A
    # search with 4 beams finishes one of them a step. Without a length penalty equals
    # compare as equals: there is no division to round them apart.
    params = {**params, "decoder": {**params["decoder"]}}
    params["decoder"]["logits_dense"] = {"kernel": jnp.zeros((12, 47))}
    x = prompts().at[3].set(0)
    counting = program.__wrapped__(
        module, method=method, max_length=9, length_penalty=0.0, eos_id=0
    )
    found = counting(params, x, None)
    jax.effects_barrier()
    assert len(steps) == expected
    assert (np.asarray(found.tokens)[3] == 0).all()
    assert found.scores[3] == 0


def test_beams_wide_enough_find_the_best_of_all_sequences():
    cfg = config(vocab_size=6)
    module = Transformer(cfg)
    params = reference_t5.random_params(cfg, 5)
    x = prompts(rows=3) % 5 + 1
    length, eos_id = 3, 2

    def candidates():
        for sequence in itertools.product(range(6), repeat=length):
            if eos_id in sequence:
                end = sequence.index(eos_id) + 1
                if any(sequence[end:]):
                    continue
            yield sequence

    everything = np.array(list(candidates()), np.int32)
    for row in range(3):
        rows = np.asarray(
            logprobs(module, params, jnp.tile(x[row], (len(everything), 1)), everything)
        )
        chosen = np.take_along_axis(rows, everything[..., None], -1)[..., 0]
        counted = np.cumsum(everything == eos_id, 1) - (everything == eos_id) == 0
        total = (chosen * counted).sum(1)
        for penalty in (0.0, 1.0):
            scores = total / counted.sum(1) ** penalty
            order = np.argsort(-scores)
            found = generate(
                module,
                params,
                x,
                max_length=length,
                method="beam",
                num_beams=40,
                num_samples=3,
                length_penalty=penalty,
                early_stopping="never",
                eos_id=eos_id,
            )
            np.testing.assert_array_equal(found.tokens[row], everything[order[:3]])
            np.testing.assert_allclose(found.scores[row], scores[order[:3]], rtol=1e-4)


def test_one_beam_is_greedy_search():
    module, params = model()
    x = prompts()
    options = dict(max_length=8, eos_id=NEVER)
    np.testing.assert_array_equal(
        generate(module, params, x, method="beam", num_beams=1, **options).tokens,
        generate(module, params, x, **options).tokens,
    )


def frequencies(module, params, x, **options):
    """How often each id is drawn first, of 4,000."""
    found = generate(
        module,
        params,
        x,
        method="sample",
        max_length=1,
        num_samples=4000,
        rng=jax.random.key(1),
        **options,
    )
    return np.stack([np.bincount(row, minlength=47) for row in found.tokens[..., 0]])


def test_samples_follow_the_models_distribution():
    module, params = model()
    x = prompts(rows=2)
    logits = np.asarray(logprobs(module, params, x, np.zeros((2, 1), np.int32)))[:, 0]
    for temperature in (1.0, 3.0):
        expected = np.exp(logits / temperature)
        expected /= expected.sum(-1, keepdims=True)
        counts = frequencies(module, params, x, temperature=temperature)
        deviation = np.sqrt(4000 * expected * (1 - expected)) + 1
        assert (np.abs(counts - 4000 * expected) < 5 * deviation).all()


def test_nucleus_and_top_k_draw_nothing_else():
    module, params = model()
    x = prompts(rows=2)
    probs = np.exp(logprobs(module, params, x, np.zeros((2, 1), np.int32)))[:, 0]
    order = np.argsort(-probs, axis=-1)
    counts = frequencies(module, params, x, temperature=2.0, top_k=3)
    for row in range(2):
        assert set(np.flatnonzero(counts[row])) == set(order[row, :3])
    tempered = np.sqrt(probs) / np.sqrt(probs).sum(-1, keepdims=True)
    counts = frequencies(module, params, x, temperature=2.0, top_p=0.6)
    for row in range(2):
        ranked = tempered[row, order[row]].cumsum()
        size = int(np.searchsorted(ranked, 0.6)) + 1
        assert set(np.flatnonzero(counts[row])) <= set(order[row, :size])
        assert len(set(np.flatnonzero(counts[row]))) >= size - 1


def test_sample_scores_are_log_probabilities_and_samples_differ():
    module, params = model()
    x = prompts(rows=2)
    options = dict(method="sample", max_length=6, num_samples=3, temperature=3.0)
    found = generate(module, params, x, rng=jax.random.key(0), **options)
    assert found.tokens.shape == (2, 3, 6)
    assert len({tuple(row) for row in np.asarray(found.tokens).reshape(6, 6)}) > 1
    for sample in range(3):
        tokens = np.asarray(found.tokens)[:, sample]
        rows = np.asarray(logprobs(module, params, x, tokens))
        chosen = np.take_along_axis(rows, tokens[..., None], -1)[..., 0]
        before_end = np.cumsum(tokens == 1, 1) - (tokens == 1) == 0
        np.testing.assert_allclose(
            found.scores[:, sample], (chosen * before_end).sum(1), rtol=1e-4
        )
    again = generate(module, params, x, rng=jax.random.key(0), **options)
    np.testing.assert_array_equal(found.tokens, again.tokens)
    other = generate(module, params, x, rng=jax.random.key(1), **options)
    assert (np.asarray(found.tokens) != np.asarray(other.tokens)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="best"), "greedy, sample, beam"),
        (dict(max_length=0), "max_length = 0"),
        (dict(method="sample"), "random key"),
        (dict(method="sample", temperature=0.0), "method 'greedy'"),
        (dict(method="sample", top_p=1.5), "top_p = 1.5"),
        (dict(method="sample", top_k=-1), "top_k = -1"),
        (dict(method="beam", num_beams=0), "num_beams = 0"),
        (dict(method="beam", num_beams=2, num_samples=3), "num_samples = 3"),
        (dict(method="beam", early_stopping="soon"), "'soon'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    module, params = model()
    with pytest.raises(InputError, match=message):
        decode(module, params, prompts(), **({"max_length": 2} | options))


@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_alternatives_are_the_models_own_whatever_the_temperature(method):
    module, params = model()
    x = prompts()
    options = {"num_samples": 2, "temperature": 0.5, "top_p": 0.9}
    found = generate(
        module,
        params,
        x,
        jax.random.key(4),
        max_length=9,
        method=method,
        alternatives=5,
        **(options if method == "sample" else {}),
    )
    for n in range(found.steps.logprobs.shape[1]):
        tokens = np.asarray(found.tokens).reshape(len(x), -1, 9)[:, n]
        every = np.asarray(logprobs(module, params, x, tokens))
        written = np.cumsum(np.cumsum(tokens == 1, axis=1), axis=1) <= 1  # EOS too
        own = np.take_along_axis(every, tokens[..., None], axis=-1)[..., 0]
        steps = jax.tree.map(lambda a, n=n: np.asarray(a)[:, n], found.steps)
        np.testing.assert_allclose(
            steps.logprobs[written], own[written], rtol=1e-4, atol=1e-5
        )
        assert (steps.logprobs[~written] == 0).all()
        best = np.argsort(-every, axis=-1, kind="stable")[..., :5]
        np.testing.assert_array_equal(steps.top_ids[written], best[written])
        np.testing.assert_allclose(
            steps.top_logprobs[written],
            np.take_along_axis(every, best, axis=-1)[written],
            rtol=1e-4,
            atol=1e-5,
        )


def test_a_row_with_a_key_of_its_own_draws_the_same_wherever_it_stands():
    module, params = model()
    x = prompts()
    keys = jax.vmap(jax.random.key)(jnp.arange(len(x), dtype=jnp.uint32))
    options = {"max_length": 9, "method": "sample", "num_samples": 3}
    found = generate(module, params, x, keys, **options)
    order = np.array([2, 0, 3, 1])
    moved = generate(module, params, x[order], keys[order], **options)
    np.testing.assert_array_equal(moved.tokens, np.asarray(found.tokens)[order])
    assert len(np.unique(np.asarray(found.tokens).reshape(-1, 9), axis=0)) > 4


def test_alternatives_beyond_the_vocabulary_or_of_beams_are_refused():
    module, params = model()
    with pytest.raises(InputError, match=r"alternatives = 10000.*the vocabulary"):
        generate(module, params, prompts(), max_length=2, alternatives=10_000)
    with pytest.raises(InputError, match="beam search keeps no"):
        generate(module, params, prompts(), max_length=2, method="beam", alternatives=2)
