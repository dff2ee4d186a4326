"""Starting from any checkpoint: on a mesh, in shards, scanned or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding, PartitionSpec
from weight_cases import FAMILIES, random_weights

from specialize import sharding
from specialize.checkpoints import load_params, loading, names
from specialize.checkpoints.convert import convert
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError
from specialize.student.network.transformer import Transformer

UNTIED = FAMILIES["t5_1_1"]


def abstract_params(config, mesh=None, dtype=jnp.float32):
    """The network's parameters on a 2 x 2 x 2 mesh."""
    mesh = mesh or sharding.make_mesh(2, 2, 2)
    module, tokens = Transformer(config), jnp.zeros((1, 2), jnp.int32)
    variables = jax.eval_shape(
        lambda key: module.init(key, tokens, tokens, tokens, enable_dropout=False),
        jax.random.key(0),
    )
    rules = [
        (name, None if name == "heads" else axis)
        for name, axis in sharding.DEFAULT_RULES
    ]
    places = sharding.state_shardings(
        mesh, variables["params"], variables["params_axes"], rules
    )
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place),
        variables["params"],
        places,
    )


def expected(config, weights):
    layers = "scanned" if config.scan_layers else "unrolled"
    laid = names.laid_out({k: from_array(v) for k, v in weights.items()}, layers)
    return {name: tensor.read() for name, tensor in laid.items()}


def assert_params(params, config, weights):
    flat = {"/".join(key): leaf for key, leaf in flatten_dict(params).items()}
    wanted = expected(config, weights)
    assert flat.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(np.asarray(flat[name]), array, err_msg=name)
    return flat


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("source", ["hf", "unrolled", "scanned", "scalable", "run"])
def test_every_source_loads_onto_every_layout(hf_folder, tmp_path, source, scan):
    weights = random_weights(UNTIED)
    path = hf_folder(UNTIED)
    if source in ("unrolled", "scanned", "scalable"):
        to = "orbax" if source == "scanned" else "t5x"
        convert(str(path), str(tmp_path / "t5x"), to=to, layers=source)
        path = tmp_path / "t5x"
    elif source == "run":
        params = load_params(str(path), abstract_params(UNTIED))
        with CheckpointStore(tmp_path / "run" / "checkpoints") as store:
            store.save(5, {"params": params, "step": jnp.int32(5)}, {})
        path = tmp_path / "run"
    config = dataclasses.replace(UNTIED, scan_layers=scan)
    flat = assert_params(
        load_params(str(path), abstract_params(config)), config, weights
    )
    kernel = (
        "decoder/decoder/mlp/wi_0/kernel"
        if scan
        else "decoder/layers_0/mlp/wi_0/kernel"
    )
    axes = ("fsdp", None, "model") if scan else ("fsdp", "model")
    assert flat[kernel].sharding.spec == PartitionSpec(*axes)


def test_a_step_of_a_run_can_be_named_in_three_ways(hf_folder, tmp_path):
    params = load_params(str(hf_folder(UNTIED)), abstract_params(UNTIED))
    doubled = jax.tree.map(lambda x: 2 * x, params)
    with CheckpointStore(tmp_path / "run" / "checkpoints") as store:
        store.save(5, {"params": params}, {})
        store.save(6, {"params": doubled}, {})
    weights = random_weights(UNTIED)
    twice = {name: 2 * array for name, array in weights.items()}
    for path, wanted in (
        ("run", twice),
        ("run/checkpoints", twice),
        ("run/checkpoints/5", weights),
        ("run/checkpoints/5/state", weights),
    ):
        loaded = load_params(str(tmp_path / path), abstract_params(UNTIED))
        assert_params(loaded, UNTIED, wanted)


def test_each_device_reads_only_its_part(hf_folder, monkeypatch):
    """Without a full copy on any host: parts, none read twice."""
    read: dict[str, list[int]] = {}
    original = loading._placed

    def counting(tensor, leaf):
        sizes: list[int] = []
        load = tensor.load

        def counted(index):
            array = load(index)
            sizes.append(array.size)
            return array

        read[str(len(read))] = sizes
        watched = dataclasses.replace(tensor, load=counted)
        placed = original(watched, leaf)
        parts = len(
            {str(i) for i in leaf.sharding.devices_indices_map(leaf.shape).values()}
        )
        assert len(sizes) == parts
        assert sum(sizes) == tensor.size
        return placed

    monkeypatch.setattr(loading, "_placed", counting)
    load_params(str(hf_folder(UNTIED)), abstract_params(UNTIED))
    assert len(read) == len(names.shapes(UNTIED))
    assert max(len(sizes) for sizes in read.values()) == 4


def test_types_and_kinds_of_mappings_are_the_networks(hf_folder):
    shapes = abstract_params(UNTIED, dtype=jnp.bfloat16)
    params = load_params(str(hf_folder(UNTIED)), freeze(shapes))
    assert isinstance(params, FrozenDict)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    wanted = random_weights(UNTIED)[names.HEAD].astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(kernel), wanted)


def test_rows_are_padded_and_cut_with_a_line(hf_folder, capsys):
    small = UNTIED.replace(vocab_size=200)
    weights = random_weights(small)
    params = load_params(str(hf_folder(small, weights)), abstract_params(UNTIED))
    said = capsys.readouterr().err
    assert "200 rows in the source, 256 wanted: padded with 56 rows" in said
    embedding = np.asarray(params["token_embedder"]["embedding"])
    np.testing.assert_array_equal(embedding[:200], weights[names.EMBEDDING])
    np.testing.assert_allclose(embedding[201], embedding[:200].mean(0), rtol=1e-4)
    big = hf_folder(UNTIED, name="big")
    params = load_params(str(big), abstract_params(small))
    assert "cut by 56 rows" in capsys.readouterr().err
    assert params["decoder"]["logits_dense"]["kernel"].shape == (24, 200)


def test_a_network_that_does_not_fit_is_refused_naming_all_tensors(hf_folder):
    other = UNTIED.replace(num_encoder_layers=2, mlp_dim=48, logits_via_embedding=True)
    with pytest.raises(InputError, match="does not fit the network") as refusal:
        load_params(str(hf_folder(UNTIED)), abstract_params(other))
    text = str(refusal.value)
    layers = [line for line in text.splitlines() if "encoder/layers_2/" in line]
    assert len(layers) == 9 and all("unexpected" in line for line in layers)
    assert "unexpected  decoder/logits_dense/kernel (24, 256)" in text
    assert (
        "shape       decoder/layers_1/mlp/wo/kernel (40, 24), expected (48, 24)" in text
    )
    with pytest.raises(
        InputError, match=r"embedding \(256, 24\), expected \(384, 24\)"
    ):
        load_params(
            str(hf_folder(UNTIED, name="same")),
            abstract_params(UNTIED.replace(vocab_size=384)),
        )


def test_loading_without_shardings_gives_plain_arrays(hf_folder):
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        abstract_params(UNTIED),
    )
    assert_params(
        load_params(str(hf_folder(UNTIED)), shapes), UNTIED, random_weights(UNTIED)
    )


def test_what_was_loaded_is_whole_on_a_mesh_of_one_kind_of_axis(hf_folder):
    mesh = sharding.make_mesh(1, 1, 8)
    config = UNTIED.replace(mlp_dim=40, emb_dim=24)
    shapes = abstract_params(config, mesh)
    kernel = shapes["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    assert isinstance(kernel.sharding, NamedSharding)
    assert_params(
        load_params(str(hf_folder(config)), shapes), config, random_weights(config)
    )
