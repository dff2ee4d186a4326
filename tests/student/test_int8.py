"""Decoding with 8-bit weights: bounds of the error, all layouts, all heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize import sharding
from specialize.errors import InputError
from specialize.student import int8
from specialize.student.attention import cache
from specialize.student.decoding import decoding
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.network.transformer import T5Config, Transformer


@functools.lru_cache
def model(family="t5_1_1"):
    config = T5Config(
        vocab_size=130,
        emb_dim=32,
        num_heads=4,
        head_dim=8,
        mlp_dim=48,
        num_encoder_layers=2,
        num_decoder_layers=2,
        **reference_t5.FAMILIES[family],
    )
    params = reference_t5.random_params(config, 0)
    return Transformer(config), jax.tree.map(jnp.asarray, params)


def prompts(rows=8, length=6):
    return jnp.asarray(np.random.default_rng(3).integers(1, 130, (rows, length)))


def decode(module, params, **options):
    spec = GenerationSpec(weights="int8", **options)

    @jax.jit
    def run(params, x):
        return decoding.generate(module, params, x, spec, max_length=9)

    return run


@settings(max_examples=40)  # each shape is compiled
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9)),
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from([1e-20, 1.0, 1e20]),
)
def test_the_error_of_a_product_is_that_of_rounding_both_sides(
    seed, sizes, dtype, size
):
    rows, inputs, outputs = sizes
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.standard_normal((rows, inputs)) * size, dtype)
    kernel = rng.standard_normal((inputs, outputs)) / size
    kernel *= rng.integers(0, 2, outputs)  # some columns are zero
    tokens = tokens.at[rng.integers(rows)].set(0)
    found = int8.product(tokens, *int8.quantize(jnp.asarray(kernel)), jnp.float32)
    x, w = np.asarray(tokens, np.float64), np.asarray(kernel, np.float32)
    half_x = np.abs(x).max(1, keepdims=True) / 254
    half_w = np.abs(w).max(0, keepdims=True) / 254
    bound = np.abs(x) @ np.broadcast_to(half_w, w.shape)
    bound += half_x * np.abs(w).sum(0) + inputs * half_x * half_w
    # The rounding of float32 is beside that of 8 bits.
    assert (np.abs(np.asarray(found) - x @ w) <= bound * 1.001 + 1e-30).all()


def test_whole_numbers_are_exact():
    rng = np.random.default_rng(0)
    tokens = rng.integers(-127, 128, (5, 300))
    kernel = rng.integers(-127, 128, (300, 7))
    tokens[:, 0], kernel[0] = 127, -127
    found = int8.product(
        jnp.asarray(tokens, jnp.float32), *int8.quantize(jnp.asarray(kernel, "float32"))
    )
    np.testing.assert_array_equal(found, tokens @ kernel)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(wrong):
    tokens = jnp.ones((2, 4)).at[1, 2].set(wrong)
    found = int8.product(tokens, *int8.quantize(jnp.ones((4, 3))))
    np.testing.assert_allclose(found[0], 4, rtol=1e-6)
    assert np.isnan(found[1]).all()


# Few, because each is compiled: batch, heads, rows, positions, width.
SIZES = st.sampled_from([(1, 1, 1, 1, 1), (2, 3, 1, 20, 8), (3, 2, 3, 7, 9)])


@given(st.integers(0, 10**6), SIZES, st.sampled_from([1e-20, 1.0, 1e15]))
def test_queries_and_weights_have_15_bits(seed, sizes, size):
    batch, heads, rows, positions, width = sizes
    rng = np.random.default_rng(seed)
    kept = int8.vectors(
        jnp.asarray(rng.standard_normal((batch, heads, positions, width)) * size)
    )
    known = np.asarray(kept.codes, np.float64) * np.asarray(kept.scales, np.float64)
    for product, letters, length in (
        (int8.scores, "bhnd,bhtd->bhnt", width),
        (int8.mixed, "bhnt,bhtd->bhnd", positions),
    ):
        asked = rng.standard_normal((batch, heads, rows, length)).astype(np.float32)
        asked[rng.integers(batch)] = 0
        scaled = asked
        if product is int8.mixed:  # a value's scale is a part of its weight
            scaled = asked * np.asarray(kept.scales).swapaxes(2, 3)
            ones = np.asarray(kept.codes, np.float64)
        else:
            ones = known
        half = np.abs(scaled).max(-1, keepdims=True) / (4 * 127**2)
        bound = np.einsum(letters, half * np.ones_like(scaled), np.abs(ones))
        found = np.asarray(product(jnp.asarray(asked), kept))
        error = np.abs(found - np.einsum(letters, asked.astype(float), known))
        # Beside it, the rounding of float32.
        near = 1e-6 * np.einsum(letters, np.abs(scaled), np.abs(ones))
        assert (error <= bound * 1.01 + near + 1e-30).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_key_that_is_not_finite_is_seen(wrong):
    keys = int8.vectors(jnp.ones((1, 1, 3, 4)).at[0, 0, 1, 2].set(wrong))
    found = int8.scores(jnp.ones((1, 1, 1, 4)), keys)[0, 0, 0]
    assert np.isnan(found).tolist() == [False, True, False]


@pytest.mark.parametrize("beams", [1, 3])
def test_the_three_ways_to_read_a_cache_agree_with_float(beams):
    rng = np.random.default_rng(beams)
    batch, heads, room, size = 2, 3, 7, 8
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    past = cache.KeysValues(*(draw(batch * beams, heads, room, size) for _ in "kv"))
    source = cache.KeysValues(*(draw(batch, heads, 5, size) for _ in "kv"))
    queries, bias = draw(batch, beams, heads, size), draw(batch, 5)
    view = cache.View(jnp.int32(room - 1), draw(heads, room), bias)
    own = jnp.broadcast_to(jnp.arange(beams)[None, :, None], (batch, beams, room))
    mixing = jnp.asarray(rng.integers(0, beams, (batch, beams, room)))
    for known in (view, view._replace(ancestors=own), view._replace(ancestors=mixing)):
        exact = cache.attend_own(queries, past, known)
        found = cache.attend_own(queries, past.in_8_bits(), known)
        np.testing.assert_allclose(found, exact, atol=0.05)
    np.testing.assert_allclose(
        cache.attend_own(queries, past.in_8_bits(), view),
        cache.attend_own(queries, past.in_8_bits(), view._replace(ancestors=own)),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        cache.attend_shared(queries, source.in_8_bits(), bias),
        cache.attend_shared(queries, source, bias),
        atol=0.05,
    )


def test_what_is_appended_and_grown_is_what_a_whole_cache_has():
    rng = np.random.default_rng(0)
    new = jnp.asarray(rng.standard_normal((2, 2, 3, 8)), jnp.float32)
    past = cache.empty(4, 3, 2, 8, jnp.dtype("float32")).in_8_bits()
    for position in range(2):
        past = cache.append(past, new + position, new - position, jnp.int32(position))
    past = cache.grow(past, 5)
    assert past.room == 5
    whole = int8.vectors(new.reshape(4, 3, 8) + 1)
    for found, expected in zip(past.keys, whole, strict=True):
        np.testing.assert_array_equal(found[:, :, 1], expected)
        assert not np.asarray(found[:, :, 2:]).any()


@pytest.mark.parametrize("family", sorted(reference_t5.FAMILIES))
def test_logits_are_near_those_of_the_network(family):
    module, params = model(family)
    x = prompts()

    @jax.jit
    def logits(params):
        ones = jnp.ones_like(x)
        return module.apply({"params": params}, x, x, ones, enable_dropout=False)

    exact = np.asarray(logits(params))
    found = np.asarray(logits(int8.with_codes(params)))
    error = np.sqrt(np.mean((found - exact) ** 2)) / exact.std()
    assert 1e-4 < error < 0.05


def test_layouts_and_meshes_decode_the_same():
    module, params = model()
    x = prompts()
    expected = decode(module, params)(params, x)
    scanned = Transformer(
        module.config.__class__(**(vars(module.config) | {"scan_layers": True}))
    )
    stacked = reference_t5.scan_params(params)
    found = decode(scanned, stacked)(stacked, x)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    mesh = sharding.read_mesh({"data": 2, "fsdp": 2, "model": 2})
    with jax.set_mesh(mesh):
        found = decode(module, params)(params, x)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_most_greedy_tokens_are_those_of_float():
    module, params = model()
    x = prompts(32)
    run = jax.jit(
        lambda p, x: decoding.generate(module, p, x, GenerationSpec(), max_length=9)
    )
    exact = np.asarray(run(params, x).tokens)
    found = np.asarray(decode(module, params)(params, x).tokens)
    assert np.mean(exact[:, 0] == found[:, 0]) > 0.8
    one = decode(module, params, method="beam", num_beams=1)(params, x)
    np.testing.assert_array_equal(one.tokens, found)
    scores = decode(module, params, method="beam", num_beams=3)(params, x).scores
    assert np.isfinite(np.asarray(scores)).all()


def test_distributions_that_are_not_the_models_are_refused():
    module, params = model()
    with pytest.raises(InputError, match="'int8'.*not those of the checkpoint"):
        decoding.generate(
            module,
            params,
            prompts(),
            GenerationSpec(weights="int8"),
            max_length=2,
            alternatives=2,
        )
    with pytest.raises(InputError, match="float, int8"):
        GenerationSpec(weights="int4")
