"""Fused attention is attention: values, gradients, sharded, in blocks, and skipping."""

import dataclasses
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import packed_network
import pytest
import reference_t5

from specialize import sharding
from specialize.errors import InputError
from specialize.student.attention import attention, fused_attention, gpu_kernels
from specialize.student.network.transformer import T5Config

CONFIG = T5Config(
    vocab_size=61,
    emb_dim=16,
    num_heads=2,
    head_dim=16,
    mlp_dim=24,
    mlp_activations=("gelu", "linear"),
    num_encoder_layers=2,
    num_decoder_layers=1,
    dropout_rate=0.1,
    attention="fused",
)
BATCH = 4


def segments(length, seed):
    """Three examples a row, and padding behind them."""
    rng = np.random.default_rng(seed)
    borders = np.sort(rng.integers(1, length, (BATCH, 3)), axis=1)
    number = (np.arange(length) >= borders[:, :, None]).sum(1) + 1
    return np.where(number < 4, number, 0)


def arguments(queries, keys, *, bias=True, mask=True, causal=False, dtype=jnp.float32):
    """(queries, keys, values, bias, mask) and a gradient for what they give."""
    make = [
        jax.random.normal(key, (BATCH, length, 2, 16), dtype)
        for key, length in zip(
            jax.random.split(jax.random.key(0), 4),
            (queries, keys, keys, queries),
            strict=True,
        )
    ]
    *arrays, gradient = make
    added = (
        jax.random.normal(jax.random.key(5), (1, 2, queries, keys)) if bias else None
    )
    seen = None
    if mask:
        to, of = segments(keys, 1), segments(queries, 1 if queries == keys else 2)
        seen = jnp.asarray((of[:, :, None] == to[:, None]) & (of > 0)[:, :, None])
        if causal:
            seen = seen & jnp.tri(queries, keys, dtype=bool)[None]
        gradient = jnp.where(seen.any(axis=2)[:, :, None, None], gradient, 0)
        seen = seen[:, None]
    return (*arrays, added, seen), gradient


def plain(queries, keys, values, bias, mask):
    turn = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
    mixed = turn(attention.attend(turn(queries), turn(keys), turn(values), bias, mask))
    if mask is None:
        return mixed
    return jnp.where(jnp.any(mask, axis=3)[:, 0, :, None, None], mixed, 0)


@functools.partial(jax.jit, static_argnums=0)
def mixed_and_gradients(function, given, gradient):
    *differentiable, mask = given
    mixed, backward = jax.vjp(lambda *x: function(*x, mask), *differentiable)
    return mixed, backward(gradient)


@pytest.mark.parametrize(
    ("queries", "keys", "options"),
    [
        (128, 128, {}),
        (100, 100, {"causal": True}),
        (70, 130, {"bias": False}),
        (64, 100, {"mask": False}),
        (128, 64, {"mask": False, "bias": False}),
    ],
)
def test_values_and_gradients_are_those_of_attention(queries, keys, options):
    given, gradient = arguments(queries, keys, **options)
    found = mixed_and_gradients(fused_attention.attend, given, gradient)
    wanted = mixed_and_gradients(plain, given, gradient)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        found,
        wanted,
    )


def relative_errors(given, gradient):
    """Of bfloat16 arguments, against attention in float32."""
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), given[:4])
    with jax.default_matmul_precision("highest"):
        truth = mixed_and_gradients(
            plain, (*exact, given[4]), gradient.astype(jnp.float32)
        )
    found = mixed_and_gradients(fused_attention.attend, given, gradient)
    errors = jax.tree.map(
        lambda x, y: np.linalg.norm(np.float32(x) - y) / np.linalg.norm(y), found, truth
    )
    return jax.tree.leaves(errors)


def test_in_bfloat16_it_errs_by_that_types_rounding():
    errors = relative_errors(*arguments(96, 96, dtype=jnp.bfloat16))
    assert len(errors) == 5 and max(errors) < 2**-7


def test_what_a_mask_hides_is_not_even_read():
    # One tile of keys that no query sees: NaN there would spread if it were multiplied.
    given, gradient = arguments(128, 128, mask=False)
    mask = jnp.ones((BATCH, 1, 128, 128), bool).at[..., 96:].set(False)
    poisoned = [x.at[:, 96:].set(jnp.nan) for x in given[1:3]]
    found = mixed_and_gradients(
        fused_attention.attend, (given[0], *poisoned, given[3], mask), gradient
    )
    wanted = mixed_and_gradients(plain, (*given[:4], mask), gradient)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1][0], wanted[1][0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1][3], wanted[1][3], rtol=1e-4, atol=1e-5)


def test_a_query_that_sees_nothing_gets_zero_and_gives_no_gradient():
    given, gradient = arguments(64, 64, mask=False)
    mask = jnp.ones((BATCH, 1, 64, 64), bool).at[1, :, 5].set(False)
    mixed, gradients = mixed_and_gradients(
        fused_attention.attend, (*given[:4], mask), gradient
    )
    assert not np.any(mixed[1, 5]) and not np.any(gradients[0][1, 5])
    without = mixed_and_gradients(
        fused_attention.attend, (*given[:4], mask), gradient.at[1, 5].set(0.0)
    )
    jax.tree.map(np.testing.assert_array_equal, gradients, without[1])


def test_the_gradient_keeps_nothing_of_the_scores_size():
    given, _ = arguments(128, 128)
    *differentiable, mask = given
    _, backward = jax.vjp(lambda *x: fused_attention.attend(*x, mask), *differentiable)
    sizes = [x.size for x in jax.tree.leaves(backward)]
    assert max(sizes) < BATCH * 2 * 128 * 128  # [B H Q K]


def network_of(config, params):
    """Logits and gradients on three examples a row, with dropout."""
    source, target = (
        packed_network.rows(segments(length, seed), seed, config.vocab_size)
        for length, seed in ((80, 0), (72, 1))
    )
    return packed_network.logits_and_gradients(config, params, source, target)


@pytest.fixture(scope="module")
def network():
    params = reference_t5.random_params(CONFIG, 0)
    config = dataclasses.replace(CONFIG, attention="plain")
    return params, network_of(config, params)


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"remat_policy": "minimal_attention"}, marks=pytest.mark.slow),
        {"attention_block": 40, "remat_policy": "full"},
    ],
)
def test_a_network_with_it_has_the_same_logits_and_gradients(network, options):
    params, wanted = network
    found = network_of(dataclasses.replace(CONFIG, **options), params)
    packed_network.assert_close(found, wanted, 1e-3)


def test_on_a_mesh_every_device_attends_for_its_rows_and_heads(network, monkeypatch):
    params, wanted = network
    shapes = set()
    forward = gpu_kernels.forward

    def seen(queries, *others):
        shapes.add(queries.shape)
        return forward(queries, *others)

    monkeypatch.setattr(gpu_kernels, "forward", seen)
    with sharding.activate(sharding.make_mesh(data=2, fsdp=2, model=2)):
        found = network_of(CONFIG, params)
    packed_network.assert_close(found, wanted, 1e-3)
    assert shapes == {(BATCH // 4, length, 1, 16) for length in (80, 72)}


def test_a_cpu_attends_plainly_unless_told_otherwise():
    given, _ = arguments(64, 64, dtype=jnp.bfloat16)
    assert not fused_attention.suits(*given[:2])


def test_arrays_whose_places_need_more_than_32_bits_are_attended_plainly(monkeypatch):
    monkeypatch.setattr(fused_attention, "platform_of", lambda mesh: "gpu")
    monkeypatch.setattr(fused_attention, "_multiplies_bfloat16", lambda: True)

    def rows(number):
        return jax.ShapeDtypeStruct((number, 2048, 64, 64), jnp.bfloat16)

    def suits(number):
        found = []
        jax.eval_shape(
            lambda x: found.append(fused_attention.suits(x, x)), rows(number)
        )
        return found.pop()

    assert suits(255) and not suits(256)  # 2^31 elements
    with sharding.activate(sharding.make_mesh(data=4, model=2)):
        assert suits(1024)
    with pytest.raises(InputError, match="2,147,483,648 elements on one device"):
        jax.eval_shape(fused_attention.attend, *[rows(256)] * 3, None, None)


def test_heads_that_no_tile_takes_are_refused():
    with pytest.raises(InputError, match="head_dim = 24; its kernels need heads of 16"):
        dataclasses.replace(CONFIG, head_dim=24)
    with pytest.raises(InputError, match="is 'flash', expected one of auto, fused"):
        dataclasses.replace(CONFIG, attention="flash")


@pytest.mark.gpu
@pytest.mark.skipif(os.environ.get("JAX_PLATFORMS") == "cpu", reason="needs a GPU")
def test_a_gpu_fuses_and_agrees_with_attention_in_higher_precision():
    given, gradient = arguments(512, 512, dtype=jnp.bfloat16)
    assert fused_attention.suits(*given[:2])
    assert max(relative_errors(given, gradient)) < 2**-7
