"""Checkpoints of strangers: nothing outside them is read, nothing is dropped unseen."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
from flax import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_cases import FAMILIES

from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import enclosure
from specialize.checkpoints.opening import open_checkpoint
from specialize.cli import main
from specialize.errors import InputError

UNTIED, TIED = FAMILIES["t5_1_1"], FAMILIES["t5_1_0"]
INDEX = "model.safetensors.index.json"

# Values of another type or range, or that no parser should meet.
ODD = [
    None, True, False, -1, 0, 1.5, 10**12, 10**30, "x", "", [], [1], {}, {"a": 1}, [[]],
]  # fmt: skip
RAW = ["NaN", "1e999", "9" * 5000, "[" * 100_000, '"\\ud800"', ""]


def refused(source, match=None, **options):
    with pytest.raises(InputError, match=match) as refusal:
        convert(str(source), None, **options)
    return str(refusal.value)


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def tensors_of(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def names_outside(tmp_path):
    return [
        "../outside/x",
        str(tmp_path / "outside" / "x"),
        "a/../../outside/x",
        "",
        ".",
        "..",
        "x\0y",
        "n" * 5000,
        "link/x",
        "..\\outside\\x",
    ]


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "x").write_text("secret")
    return folder


# Embeddings, special tokens, activations


@pytest.mark.parametrize("own", ["encoder", "decoder", "both"])
@pytest.mark.parametrize("shared", [True, False])
def test_an_embedding_of_its_own_is_refused(hf_folder, own, shared):
    folder = hf_folder(UNTIED)
    tensors = tensors_of(folder)
    for stack in ("encoder", "decoder"):
        changed = own in (stack, "both") and not (own == "both" and stack == "encoder")
        array = tensors["shared.weight"]
        tensors[f"{stack}.embed_tokens.weight"] = -array if changed else array.copy()
    if not shared:
        del tensors["shared.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert "embed_tokens.weight differs from" in refused(folder)


def test_the_head_is_not_taken_for_an_embedding_that_is_missing(hf_folder):
    folder = hf_folder(UNTIED)
    tensors = tensors_of(folder)
    del tensors["shared.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    refused(folder, "missing     token_embedder/embedding")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decoder_start_token_id", 2),
        ("decoder_start_token_id", [0, 2]),
        ("pad_token_id", 1),
        ("pad_token_id", -1),
        ("eos_token_id", 2),
        ("eos_token_id", [1, 2]),
    ],
)
def test_other_special_tokens_are_refused(hf_folder, file, field, value):
    folder = hf_folder(UNTIED)
    change(folder / file, **{field: value})
    assert f"{file} says {field} = {value}" in refused(folder)
    change(folder / file, **{field: None})
    convert(str(folder), None)


def test_the_special_tokens_of_madlad_are_kept(hf_folder, tmp_path):
    folder = hf_folder(UNTIED.replace(vocab_size=384))
    ids = dict(pad_token_id=1, eos_token_id=2)
    for file in ("config.json", "generation_config.json"):
        change(folder / file, **ids)
    assert open_checkpoint(str(folder)).special == (1, 2)
    convert(str(folder), str(tmp_path / "t5x"))
    convert(str(tmp_path / "t5x"), str(tmp_path / "back"))
    for file in ("config.json", "generation_config.json"):
        content = json.loads((tmp_path / "back" / file).read_text())
        assert {name: content[name] for name in ids} == ids
    change(folder / "generation_config.json", eos_token_id=1)
    refused(folder, "generation_config.json says eos_token_id = 1")
    with pytest.raises(InputError, match="ends its answers with id 2.*with id 1"):
        convert(
            str(tmp_path / "t5x"), str(tmp_path / "bytes"), vocabulary="byt5", rows=384
        )


def test_an_mt5_stays_an_mt5_and_is_never_scaled(hf_folder, tmp_path):
    folder = hf_folder(UNTIED)
    change(folder / "config.json", model_type="mt5")
    convert(str(folder), str(tmp_path / "t5x"))
    convert(str(tmp_path / "t5x"), str(tmp_path / "back"))
    content = json.loads((tmp_path / "back" / "config.json").read_text())
    assert content["model_type"] == "mt5"
    assert content["architectures"] == ["MT5ForConditionalGeneration"]
    # Without a head of its own, the embedding is the head, as it is.
    tensors = tensors_of(folder)
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    change(folder / "config.json", tie_word_embeddings=True, scale_decoder_outputs=None)
    assert not open_checkpoint(str(folder)).config.logits_via_embedding


def test_the_exact_gelu_is_not_taken_for_the_approximation(hf_folder):
    config = TIED.replace(mlp_activations=("gelu",))
    folder = hf_folder(config)
    assert json.loads((folder / "config.json").read_text())["feed_forward_proj"] == (
        "gelu_new"
    )
    assert open_checkpoint(str(folder)).config == config
    change(folder / "config.json", feed_forward_proj="gelu")
    refused(folder, "exact GELU")


def test_rows_of_added_tokens_are_not_cut(hf_folder, tmp_path):
    folder = hf_folder(UNTIED)
    (folder / "added_tokens.json").write_text('{"<new>": 255}')
    out = tmp_path / "out"
    with pytest.raises(InputError, match="would lose their rows.*<new>"):
        convert(str(folder), str(out), to="hf", rows=200)
    assert not out.exists()


# Names and links


def test_names_in_an_index_stay_in_the_folder(hf_folder, tmp_path, outside):
    folder = hf_folder(UNTIED)
    tensors = tensors_of(folder)
    (folder / "model.safetensors").rename(outside / "x")
    (folder / "link").symlink_to(outside)
    for name in names_outside(tmp_path):
        weights = {"weight_map": dict.fromkeys(tensors, name)}
        (folder / INDEX).write_text(json.dumps(weights))
        assert "secret" not in refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", INDEX])
def test_links_out_of_a_folder_are_not_read(hf_folder, outside, name):
    folder = hf_folder(UNTIED, max_shard_bytes=9_000 if name == INDEX else 10**9)
    (folder / name).rename(outside / name)
    (folder / name).symlink_to(outside / name)
    refused(folder, f"{name} is a link to a file outside")


def test_the_links_of_the_hub_cache_are_read(hf_folder, tmp_path):
    folder = hf_folder(UNTIED)
    model = tmp_path / "models--a--b"
    snapshot = model / "snapshots" / "0123"
    (model / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (folder / "added_tokens.json").write_text("{}")
    for number, file in enumerate(folder.iterdir()):
        file.rename(model / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    convert(str(snapshot), str(tmp_path / "out"), to="hf")
    assert not (tmp_path / "out" / "added_tokens.json").is_symlink()


@pytest.mark.parametrize(
    "name",
    ["added_tokens.json", "spiece.model", "tokenizer.json", "special_tokens_map.json"],
)
def test_a_linked_secret_is_not_exported(hf_folder, tmp_path, outside, name):
    folder = hf_folder(UNTIED)
    (folder / name).symlink_to("../outside/x")
    with pytest.raises(InputError, match=f"{name} is a link to a file outside"):
        convert(str(folder), str(tmp_path / "out"), to="hf")
    assert not (tmp_path / "out").exists()


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "\0", "\\"]), max_size=5))
def test_a_name_beneath_a_folder_never_leaves_it(parts):
    name = "/".join(parts)
    if enclosure.is_beneath(name):
        assert os.path.normpath(f"/root/{name}").startswith("/root/")
        assert os.path.normpath(name) == name.rstrip("/")


# T5X, Orbax, zarr


@pytest.fixture
def t5x_folder(hf_folder, tmp_path):
    convert(str(hf_folder(UNTIED)), str(tmp_path / "t5x"), to="t5x")
    return tmp_path / "t5x" / "checkpoint_0"


def remade(folder, edit):
    """Rewrites the msgpack file with `edit(content, a leaf)`."""
    path = folder / "checkpoint"
    content = serialization.msgpack_restore(path.read_bytes())
    edit(content, content["optimizer"]["target"]["token_embedder"]["embedding"])
    path.write_bytes(serialization.msgpack_serialize(content))


def test_names_in_a_msgpack_stay_in_the_checkpoint(t5x_folder, tmp_path, outside):
    (t5x_folder / "target.token_embedder.embedding").rename(outside / "array")
    for name in (*names_outside(tmp_path), "../../outside/array", "/outside/array"):
        remade(t5x_folder, lambda _, leaf: leaf["kvstore"].update(path=name))  # noqa: B023
        refused(t5x_folder)


def test_links_out_of_a_checkpoint_are_not_read(t5x_folder, outside):
    array = t5x_folder / "target.token_embedder.embedding"
    (array / ".zarray").rename(outside / "z")
    (array / ".zarray").symlink_to(outside / "z")
    refused(t5x_folder, ".zarray is a link to a file outside")


@pytest.mark.parametrize("value", ["x", None, 1, [1], {}, 1.5, True])
@pytest.mark.parametrize("place", ["version", "kvstore", "path", "driver", "step"])
def test_fields_of_another_type_in_a_msgpack_are_one_error(t5x_folder, place, value):
    def edit(content, leaf):
        if place == "version":
            content["version"] = value
        elif place == "step":
            content["optimizer"]["state"]["step"] = value
        elif place == "path":
            leaf["kvstore"]["path"] = value
        else:
            leaf[place] = value

    remade(t5x_folder, edit)
    harmless = ["step 1", "step {}", "step None"]
    harmless += ["version 1", "version True"]
    if f"{place} {value}" in harmless:
        convert(str(t5x_folder), None)
    else:
        refused(t5x_folder)


def test_an_orbax_tree_names_no_array_elsewhere(hf_folder, tmp_path):
    convert(str(hf_folder(UNTIED)), str(tmp_path / "orbax"), to="orbax")
    folder = tmp_path / "orbax" / "checkpoint_0"
    path = folder / "state" / "_METADATA"
    text = path.read_text()
    for name in ("../../outside", "/outside", "a/b", ".."):
        path.write_text(
            text.replace('"token_embedder"', json.dumps(name)).replace(
                "'token_embedder'", f"'{name}'"
            )
        )
        refused(folder, "outside the checkpoint|is not a T5|cannot be opened")


@pytest.mark.parametrize(
    "changes",
    [
        {"chunks": [2**40, 2**20]},
        {"chunks": [2**28, 2**10]},
        {"shape": [2**50, 24]},
        {"shape": [2**40, 24], "chunks": [2**40, 24]},
        {"shape": "x"},
        {"chunks": None},
        {"dtype": "<i4"},
        {"dtype": 5},
    ],
)
def test_declared_shapes_are_checked_before_memory_is_asked_for(t5x_folder, changes):
    change(t5x_folder / "target.token_embedder.embedding" / ".zarray", **changes)
    refused(t5x_folder)


# config.json, indices, the configuration of a run

FIELDS = (
    "model_type", "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads",
    "num_decoder_layers", "feed_forward_proj", "dropout_rate", "layer_norm_epsilon",
    "relative_attention_num_buckets", "relative_attention_max_distance",
    "tie_word_embeddings", "scale_decoder_outputs", "eos_token_id",
)  # fmt: skip
SAME_FOLDER = settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SAME_FOLDER
@given(
    st.sampled_from(FIELDS),
    st.one_of(st.sampled_from([json.dumps(one) for one in ODD]), st.sampled_from(RAW)),
)
def test_a_config_of_another_type_or_range_is_one_error(hf_config, field, raw):
    """Refused with the file's name, or read; never another exception."""
    path, text = hf_config
    content = json.loads(text)
    content[field] = "MARK"
    path.write_text(json.dumps(content).replace('"MARK"', raw))
    try:
        open_checkpoint(str(path.parent))
    except InputError as error:
        assert str(path.parent) in str(error)
        assert len(str(error)) < 20_000


@pytest.fixture
def hf_config(hf_folder):
    path = hf_folder(UNTIED) / "config.json"
    return path, path.read_text()


@pytest.mark.parametrize("value", [json.dumps(one) for one in ODD] + RAW)
def test_an_index_of_another_type_is_one_error(hf_folder, value):
    folder = hf_folder(UNTIED)
    for text in (f'{{"weight_map": {value}}}', f'{{"weight_map": {{"a": {value}}}}}'):
        (folder / INDEX).write_text(text)
        refused(folder)


@pytest.mark.parametrize("field", ["num_layers", "num_decoder_layers", "vocab_size"])
@pytest.mark.parametrize("value", [10**6, 2**31 - 1, 10**12])
def test_a_huge_number_in_a_config_asks_for_no_memory(hf_folder, field, value):
    folder = hf_folder(UNTIED)
    change(folder / "config.json", **{field: value})
    refused(folder, field if value > 2**31 or field == "vocab_size" else "layers")


@pytest.mark.parametrize(
    "rows", [5, None, "x", [5], [{}], [{"name": "a"}], [{"name": 1, "value": 2}], "RAW"]
)
def test_a_damaged_configuration_of_a_run_is_one_error(t5x_folder, rows):
    text = json.dumps({"values": rows})
    (t5x_folder.parent / "config.json").write_text(
        "[" * 100_000 if rows == "RAW" else text
    )
    refused(t5x_folder, "config.json")


# Sources and targets


@pytest.mark.parametrize(
    "source",
    ["s3://", "s3://u:PASS@b/x", "s3://b/../x", "http://127.0.0.1:9/x",
     "https://u:PASS@h/x", "file:///etc",
     "gs://", "gs:///", "az://b/x", "hf://a/b", "x://y", "://", "n" * 300, "a/" * 3000,
     "a\0b", "~nobody-of-this-name/x"],
)  # fmt: skip
def test_a_source_that_cannot_be_one_is_one_error(source):
    assert "PASS" not in refused(source)


def test_a_circle_of_links_is_one_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refused(tmp_path / "a")


@pytest.mark.parametrize("target", ["n" * 250, "n" * 300, "a/" * 3000 + "b", "a\0b"])
def test_a_target_that_cannot_be_one_is_refused_first(hf_folder, tmp_path, target):
    source = hf_folder(UNTIED)
    with pytest.raises(InputError, match="cannot be the name of a folder"):
        convert(str(source), f"{tmp_path}/{target}")
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize("target", ["a[/x]b", "[red]", "[/]", "a[link=x]b"])
def test_brackets_in_a_path_are_text(hf_folder, tmp_path, capsys, target):
    out = tmp_path / target
    assert (
        main(["convert", "--source", str(hf_folder(UNTIED)), "--target", str(out)]) == 0
    )
    assert (out / "config.json").is_file()
    assert target in "".join(capsys.readouterr().out.split())


def test_a_matrix_that_is_none_is_one_error(hf_folder):
    folder = hf_folder(UNTIED)
    whole = tensors_of(folder)
    for name in ("shared.weight", "lm_head.weight"):
        for shape in ((), (256,), (256, 24, 1), (0, 24)):
            tensors = {**whole, name: np.zeros(shape, np.float32)}
            safetensors.numpy.save_file(tensors, folder / "model.safetensors")
            refused(folder)
