"""The table of names, and the layouts of a tree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from weight_cases import FAMILIES, lazily, random_weights

from specialize.checkpoints import names
from specialize.errors import InputError
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer


def parameter_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """What the student's own network declares."""
    module, tokens = Transformer(config), jnp.zeros((1, 2), jnp.int32)
    tree = jax.eval_shape(
        lambda key: module.init(key, tokens, tokens, tokens, enable_dropout=False),
        jax.random.key(0),
    )["params"]
    return {"/".join(key): leaf.shape for key, leaf in flatten_dict(tree).items()}


def test_the_table_names_exactly_the_parameters_of_the_network(family):
    assert names.shapes(family) == parameter_shapes(family)


def test_the_scanned_layout_is_that_of_the_network(family):
    laid = names.laid_out(lazily(random_weights(family)), "scanned")
    scanned = dataclasses.replace(family, scan_layers=True)
    assert {n: t.shape for n, t in laid.items()} == parameter_shapes(scanned)


def test_every_name_has_one_counterpart_and_comes_back(family):
    theirs = [names.to_hf(name) for name in names.shapes(family)]
    assert len(set(theirs)) == len(theirs) and None not in theirs
    for name in names.shapes(family):
        known = names.to_hf(name)
        assert known is not None
        own = family.relpos_per_layer
        assert names.from_hf(known[0], table_per_layer=own) == (name, known[1])


def test_some_names_are_as_published():
    assert names.to_hf("decoder/layers_11/encoder_decoder_attention/out/kernel") == (
        "decoder.block.11.layer.1.EncDecAttention.o.weight",
        True,
    )
    assert names.to_hf("encoder/layers_0/mlp/wi_1/kernel") == (
        "encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
        True,
    )
    assert names.from_hf("decoder.block.0.layer.2.layer_norm.weight") == (
        "decoder/layers_0/pre_mlp_layer_norm/scale",
        False,
    )
    assert names.from_hf("encoder.block.1.layer.0.SelfAttention.relative_x") is None
    assert names.to_hf("encoder/layers_0/mlp/wi_2/kernel") is None


@pytest.mark.parametrize("layers", ["scanned", "scalable"])
def test_a_layout_and_back_is_bit_exact(family, layers):
    weights = random_weights(family)
    there = names.laid_out(lazily(weights), layers)
    assert names.layout_of(there) == layers
    # Through memory, as a file would: the views must not be what makes them equal.
    stored = lazily({name: tensor.read() for name, tensor in there.items()})
    back = names.unrolled(stored, "here")
    assert back.keys() == weights.keys()
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), weights[name])


@pytest.mark.parametrize("layers", ["unrolled", "scanned", "scalable"])
def test_any_part_of_a_view_is_that_part_of_the_whole(layers):
    """A process reads its shard through the same views: offsets must be right."""
    rng = np.random.default_rng(0)
    weights = random_weights(FAMILIES["t5_1_1"])
    there = names.laid_out(lazily(weights), layers)
    stored = lazily({name: tensor.read() for name, tensor in there.items()})
    back = names.unrolled(stored, "here")
    for tensor in [*there.values(), *back.values()]:
        whole = tensor.read()
        for view, expected in (
            ((tensor, whole), (tensor.transposed(), whole.T))
            if (whole.ndim == 2)
            else ((tensor, whole),)
        ):
            bounds = [sorted(rng.integers(0, n + 1, 2)) for n in view.shape]
            part = tuple(slice(int(a), int(b)) for a, b in bounds)
            np.testing.assert_array_equal(view.read(part), expected[part])


def test_stacking_on_axis_0_is_recognised():
    config = FAMILIES["t5_1_1"]
    weights = random_weights(config)
    there = names.laid_out(lazily(weights), "scanned")
    moved = {
        name: np.moveaxis(tensor.read(), 1, 0)
        if name.split("/")[0] == name.split("/")[1]
        else tensor.read()
        for name, tensor in there.items()
    }
    back = names.unrolled(lazily(moved), "here")
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), weights[name])


def test_position_tables_that_differ_between_layers_make_the_network_umt5s():
    stored = {
        name: tensor.read()
        for name, tensor in names.laid_out(
            lazily(random_weights(FAMILIES["t5_1_1"])), "scalable"
        ).items()
    }
    table = stored["encoder/encoder/relpos_bias/rel_embedding"]
    table[0, 2, 5] += 1
    back = names.unrolled(lazily(stored), "here")
    for stack, depth in (("encoder", 3), ("decoder", 2)):
        for number in range(depth):
            np.testing.assert_array_equal(
                back[f"{stack}/layers_{number}/{names.RELPOS}"].read(),
                stored[f"{stack}/{stack}/{names.RELPOS}"][:, number],
            )
    with pytest.raises(InputError, match=r"layers 2 differ.*umT5"):
        names.unrolled(lazily(stored), "here", table_per_layer=False)


@pytest.mark.parametrize("layers", ["unrolled", "scanned", "scalable"])
def test_tables_per_layer_follow_their_layers_in_any_order(layers):
    """Names of a checkpoint are sorted as text: layers_10 comes before layers_2."""
    config = dataclasses.replace(
        FAMILIES["umt5"], num_encoder_layers=12, num_decoder_layers=11
    )
    weights = random_weights(config)
    there = names.laid_out(lazily(weights), layers)
    stored = lazily({name: there[name].read() for name in sorted(there)})
    back = names.unrolled(stored, "here")
    assert back.keys() == weights.keys()
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), weights[name])
