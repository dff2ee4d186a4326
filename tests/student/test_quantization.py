"""Quantised kernels: levels, errors, round trips, and the network that has them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.errors import InputError
from specialize.student.adapters import quantization, trees
from specialize.student.adapters.quantization import dequantize, quantize
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.network.architecture import T5Config
from specialize.student.network.layout import unroll_params
from specialize.student.network.transformer import Transformer

KINDS = ("int8", "int4", "nf4")
# Half of the largest distance of two neighbours, as a fraction of the scale; and what
# rounding a scale up to bfloat16 adds.
HALF_STEP = {"int8": 0.5 / 127, "int4": 0.5 / 7, "nf4": (1 - 0.6961928) / 2}
SCALE_ROUNDING = 2.0**-7


def cases():
    return st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 16).map(lambda n: 2 * n),  # size of a block
        st.integers(1, 5),  # number of blocks
        st.lists(st.integers(1, 6), min_size=1, max_size=2),  # layers and outputs
        st.integers(-20, 20),  # magnitude
        st.integers(0, 2**31),
    )


def test_nf4_has_the_levels_of_the_paper():
    """Section 3 and appendix E: quantiles of N(0, 1), and their published values."""
    outermost = 1 - 0.5 * (1 / 32 + 1 / 30)
    above = scipy.stats.norm.ppf(np.linspace(outermost, 0.5, 9)[:-1])
    below = -scipy.stats.norm.ppf(np.linspace(outermost, 0.5, 8)[:-1])
    expected = np.sort([*above, 0, *below]) / above.max()
    levels = quantization.nf4_levels()
    np.testing.assert_allclose(levels, expected, atol=1e-7)
    published = [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
        *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
        *(0.7229568362236023, 1.0),
    ]
    np.testing.assert_allclose(levels, published, atol=1e-6)
    assert levels[7] == 0 and (levels[0], levels[-1]) == (-1, 1)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_no_weight_is_farther_away_than_half_a_step(case):
    kind, block, blocks, rest, magnitude, seed = case
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((blocks * block, *rest), np.float32) * 2.0**magnitude
    kernel = kernel.astype(np.float32)
    codes, scales = quantize(kernel, kind, block)
    assert codes.shape == (kernel.shape[0] // quantization.per_byte(kind), *rest)
    assert scales.shape == (blocks, *rest) and scales.dtype == jnp.bfloat16
    found = dequantize(codes, scales, kind)
    parts = kernel.reshape(blocks, block, *rest)
    largest = np.abs(parts).max(1, keepdims=True)
    error = np.abs(found.reshape(parts.shape) - parts)
    assert (error <= (HALF_STEP[kind] * (1 + SCALE_ROUNDING) + 1e-6) * largest).all()
    # Whoever reads some blocks only gets the same, bit for bit.
    last = dequantize(*quantize(kernel[-block:], kind, block), kind)
    np.testing.assert_array_equal(last, found[-block:])


@settings(max_examples=30, deadline=None)
@given(cases())
def test_what_codes_can_say_comes_back_exactly(case):
    kind, block, blocks, rest, magnitude, seed = case
    rng = np.random.default_rng(seed)
    shape = (blocks, block, *rest)
    if kind == "nf4":
        values = rng.choice(quantization.nf4_levels(), shape)
        values[:, 0] = 1
    else:
        most = 127 if kind == "int8" else 7
        values = rng.integers(-most, most + 1, shape).astype(np.float32)
        values[:, 0] = most
    scales = rng.uniform(1, 2, (blocks, 1, *rest)) * 2.0**magnitude
    scales = scales.astype(jnp.bfloat16).astype(np.float32)
    kernel = (values * scales).reshape(-1, *rest)
    np.testing.assert_array_equal(
        dequantize(*quantize(kernel, kind, block), kind), kernel
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_computes_what_the_host_computes(kind):
    kernel = np.random.default_rng(0).standard_normal((64, 3, 5)).astype("float32")
    codes, scales = quantize(kernel, kind, 16)
    assert len(np.unique(codes)) > (100 if kind == "int8" else 60)
    on_device = jax.jit(dequantize, static_argnums=2)(codes, scales, kind)
    np.testing.assert_array_equal(on_device, dequantize(codes, scales, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zero_and_what_is_not_finite_stays_so(kind):
    kernel = np.zeros((8, 3), np.float32)
    kernel[5, 1], kernel[4, 2] = np.nan, np.inf
    found = dequantize(*quantize(kernel, kind, 4), kind)
    assert (found[:4] == 0).all() and (found[4:, 0] == 0).all()
    assert not np.isfinite(found[4:, 1:]).any()


def test_a_large_kernel_is_quantised_in_parts(monkeypatch):
    kernel = np.random.default_rng(0).standard_normal((64, 2, 8)).astype("float32")
    whole = [quantize(kernel, kind, 8) for kind in KINDS]
    monkeypatch.setattr(quantization, "_CHUNK", 4 * 8 * 2 * 8 * 3)
    for kind, expected in zip(KINDS, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, quantize(kernel, kind, 8), expected)


# ---- The network ---------------------------------------------------------------------
SOURCE = jnp.asarray([[5, 9, 7, 1, 0], [3, 4, 1, 0, 0]])
TARGET = jnp.asarray([[8, 2, 1], [6, 1, 0]])
BEFORE = jnp.pad(TARGET[:, :-1], ((0, 0), (1, 0)))


def network(kind, **fields):
    spec = AdapterSpec(2, 4.0, 0.0, ("value", "wi"), kind, 8)
    activations = ("gelu", "linear")
    sizes = (32, jnp.float32, 16, 2, 2, 2, 8, 24, activations, 0.0)
    return Transformer(T5Config(*sizes, adapters=spec, **fields))


def plain_params():
    """Random parameters of the unrolled network, all of them."""
    shapes = jax.eval_shape(
        lambda key: network("none").init(key, SOURCE, BEFORE, TARGET),
        {"params": jax.random.key(0), "dropout": jax.random.key(0)},
    )["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32) * 0.2, shapes
    )


def in_codes(params, kind):
    """(with quantised kernels, with what their codes mean), of an unrolled tree."""
    stored, meant = {}, {}
    for path, leaf in flatten_dict(params).items():
        if path[-1] != "kernel" or "logits_dense" in path:
            stored[path] = meant[path] = leaf
            continue
        codes, scales = quantize(leaf, kind, 8)
        stored[*path[:-1], quantization.CODES] = codes
        stored[*path[:-1], quantization.SCALES] = scales
        meant[path] = dequantize(codes, scales, kind)
    return unflatten_dict(stored), unflatten_dict(meant)


def scanned(params):
    """A tree with the two layers of each stack in one array."""
    flat: dict = {}
    for path, leaf in flatten_dict(params).items():
        if path[1].startswith("layers_"):
            name = (path[0], path[0], *path[2:])
            flat.setdefault(name, []).append(leaf)
        else:
            flat[path] = leaf
    stacked = {k: np.stack(v, 1) if isinstance(v, list) else v for k, v in flat.items()}
    return unflatten_dict(stacked)


@pytest.mark.parametrize(
    ("kind", "scan"), [("int8", False), ("int4", False), ("nf4", True)]
)
def test_the_network_computes_with_what_its_codes_mean(kind, scan):
    stored, meant = in_codes(plain_params(), kind)
    module = network(kind, scan_layers=scan, remat_policy="minimal")
    params = scanned(stored) if scan else stored
    trained, frozen = trees.split(params)

    def loss(module, own, rest):
        joined = trees.join(own, rest)
        inputs = (SOURCE, BEFORE, TARGET)
        logits = module.apply({"params": joined}, *inputs, enable_dropout=False)
        return jnp.sum(jnp.sin(logits)), logits

    def both(module, own, rest):
        grad = jax.value_and_grad(lambda own: loss(module, own, rest), has_aux=True)
        return jax.jit(grad)(own)

    (_, logits), gradient = both(module, trained, frozen)
    (_, expected), wanted = both(network("none"), *trees.split(meant))
    assert np.linalg.norm(logits - expected) < 1e-6 * np.linalg.norm(expected)
    gradient = flatten_dict(unroll_params(gradient))
    for path, value in flatten_dict(wanted).items():
        error = np.linalg.norm(gradient[path] - value)
        assert error <= 1e-5 * np.linalg.norm(value), path


def test_no_product_keeps_a_kernel_for_the_backward_pass():
    """What is kept of a quantised product are its codes and scales."""
    kernel = np.ones((64, 32), np.float32)
    codes, scales = map(jnp.asarray, quantize(kernel, "nf4", 64))

    def residuals(tokens):
        _, pull = jax.vjp(
            lambda x: quantization.product(x, codes, scales, "nf4", None), tokens
        )
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pull))

    assert residuals(jnp.ones((2, 64))) <= codes.nbytes + scales.nbytes


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quantize_base": "int3"}, "quantize_base is 'int3', expected one of none"),
        ({"quantize_block": 0}, "quantize_block = 0"),
        ({"quantize_block": 7}, "must be even"),
        ({"rank": 0, "quantize_base": "nf4"}, "nf4' with rank = 0: all weights"),
    ],
)
def test_a_wrong_field_is_refused(fields, said):
    with pytest.raises(InputError, match=said):
        AdapterSpec(**{"rank": 4, **fields})


def test_blocks_that_do_not_divide_a_kernel_are_refused():
    config = network("nf4").config
    for block, said in ((10, "emb_dim = 16.*LORA_QUANTIZE_BLOCK = 8"), (64, None)):
        spec = dataclasses.replace(config.adapters, quantize_block=block)
        if said is None:
            spec.check(config)  # a kernel with fewer inputs is one block
            continue
        with pytest.raises(InputError, match=said):
            spec.check(config)


def test_the_number_of_weights_is_that_before():
    stored, meant = in_codes(plain_params(), "int4")
    count = quantization.number_of_weights(
        (path[-1], leaf) for path, leaf in flatten_dict(stored).items()
    )
    assert count == sum(leaf.size for leaf in jax.tree.leaves(meant))
