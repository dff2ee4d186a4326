"""Decoding with 8-bit weights: bounds of the error, all layouts, all heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5
from hypothesis import given
from hypothesis import strategies as st

from specialize import sharding
from specialize.errors import InputError
from specialize.student import int8
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
