"""Scanned and unrolled are the same network; scanning keeps programs small."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_t5
from flax.traverse_util import flatten_dict
from reference_t5 import scan_params

from specialize.errors import InputError
from specialize.student.network.architecture import REMAT_POLICIES
from specialize.student.network.layout import unroll_params
from specialize.student.network.transformer import T5Config, Transformer


def config(**changes) -> T5Config:
    sizes = dict(
        vocab_size=40,
        emb_dim=8,
        num_heads=2,
        head_dim=3,
        mlp_dim=12,
        num_encoder_layers=3,
        num_decoder_layers=2,
        dropout_rate=0.0,
    )
    return T5Config(**(sizes | reference_t5.FAMILIES["t5_1_1"] | changes))


def batch():
    rng = np.random.default_rng(0)
    x = rng.integers(1, 40, (2, 7))
    y = rng.integers(1, 40, (2, 5))
    return tuple(map(jnp.asarray, (x, reference_t5.shift_right(y), y)))


@functools.lru_cache
def loss(module):
    def total(params):
        logits = module.apply({"params": params}, *batch(), enable_dropout=False)
        return jnp.mean(logits**2), logits

    return jax.jit(jax.value_and_grad(total, has_aux=True))


def assert_trees_equal(a, b):
    a, b = flatten_dict(a, sep="/"), flatten_dict(b, sep="/")
    assert list(a) and sorted(a) == sorted(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_unrolling_changes_no_bit():
    params = reference_t5.random_params(config(), 0)
    scanned = scan_params(params)
    kernel = scanned["encoder"]["encoder"]["attention"]["query"]["kernel"]
    assert kernel.shape == (8, 3, 6)
    np.testing.assert_array_equal(
        kernel[:, 2], params["encoder"]["layers_2"]["attention"]["query"]["kernel"]
    )
    assert_trees_equal(unroll_params(scanned), params)
    assert_trees_equal(unroll_params(params), params)


def test_the_layouts_are_those_the_network_declares():
    for scan in (False, True):
        module = Transformer(config(scan_layers=scan))
        declared = jax.eval_shape(
            lambda m=module: m.init(jax.random.key(0), *batch(), enable_dropout=False)
        )["params"]
        params = reference_t5.random_params(config(), 0)
        converted = scan_params(params) if scan else params
        assert {k: v.shape for k, v in flatten_dict(declared, sep="/").items()} == {
            k: v.shape for k, v in flatten_dict(converted, sep="/").items()
        }


def test_a_scanned_network_computes_what_the_unrolled_one_computes():
    sizes = dict(num_encoder_layers=2, num_decoder_layers=2)
    params = reference_t5.random_params(config(**sizes), 1)
    (value, logits), gradient = loss(Transformer(config(**sizes)))(params)
    (scanned_value, scanned_logits), scanned_gradient = loss(
        Transformer(config(scan_layers=True, **sizes))
    )(scan_params(params))
    np.testing.assert_array_equal(scanned_logits, logits)
    np.testing.assert_array_equal(scanned_value, value)
    # Sums over positions may be taken in another order in the backward pass.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        unroll_params(scanned_gradient),
        gradient,
    )


@pytest.mark.parametrize("policy", sorted(set(REMAT_POLICIES) - {"none"}))
def test_recomputing_activations_changes_no_gradient(policy):
    sizes = dict(scan_layers=True, num_encoder_layers=2)
    params = scan_params(reference_t5.random_params(config(num_encoder_layers=2), 2))
    (value, _), gradient = loss(Transformer(config(**sizes)))(params)
    (found, _), recomputed = loss(Transformer(config(remat_policy=policy, **sizes)))(
        params
    )
    np.testing.assert_allclose(found, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        recomputed,
        gradient,
    )


def equations(jaxpr) -> int:
    """All equations of a program, those of its loops included."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += equations(inner)
    return total


@pytest.mark.parametrize("policy", ["none", "full"])
def test_a_scanned_program_does_not_grow_with_depth(policy):
    def size(depth, scan):
        cfg = config(
            num_encoder_layers=depth,
            num_decoder_layers=depth,
            scan_layers=scan,
            remat_policy=policy,
        )
        module = Transformer(cfg)
        params = jax.eval_shape(
            lambda: module.init(jax.random.key(0), *batch(), enable_dropout=False)
        )["params"]

        def total(params):
            return jnp.sum(
                module.apply({"params": params}, *batch(), enable_dropout=False)
            )

        return equations(jax.make_jaxpr(jax.grad(total))(params).jaxpr)

    assert size(2, scan=True) == size(12, scan=True)
    assert size(4, scan=False) > 1.4 * size(2, scan=False)


def test_scanned_tensors_of_different_depth_are_refused():
    params = scan_params(reference_t5.random_params(config(), 0))
    params["encoder"]["encoder"]["mlp"]["wo"]["kernel"] = np.zeros((12, 2, 8))
    with pytest.raises(InputError, match="encoder/encoder/mlp/wo/kernel 2"):
        unroll_params(params)
