"""Every source that cannot be read is one clear error that names all it must."""

import json
import time

import numpy as np
import pytest
import safetensors.numpy
from weight_cases import FAMILIES, random_weights

from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import relatives
from specialize.checkpoints.opening import open_checkpoint
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError

UNTIED = FAMILIES["t5_1_1"]


@pytest.fixture
def t5x_folder(hf_folder, tmp_path):
    convert(str(hf_folder(UNTIED)), str(tmp_path / "t5x"), to="t5x")
    return tmp_path / "t5x" / "checkpoint_0"


@pytest.fixture
def orbax_folder(hf_folder, tmp_path):
    convert(str(hf_folder(UNTIED)), str(tmp_path / "orbax"), to="orbax")
    return tmp_path / "orbax" / "checkpoint_0"


def refused(path, match):
    with pytest.raises(InputError, match=match) as refusal:
        convert(str(path), None)
    return str(refusal.value)


def test_a_file_that_is_no_checkpoint_is_named_and_not_its_folder(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    refused(
        tmp_path / "text.txt", "text.txt is a file; name the folder of a checkpoint"
    )


def test_all_missing_unexpected_and_misshaped_tensors_are_named(hf_folder):
    folder = hf_folder(UNTIED)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["decoder.final_layer_norm.weight"]
    del tensors["encoder.block.2.layer.0.SelfAttention.q.weight"]
    tensors["encoder.block.0.layer.1.DenseReluDense.wi_2.weight"] = np.zeros(
        (40, 24), np.float32
    )
    tensors["encoder.adapter.weight"] = np.zeros(3, np.float32)
    tensors["encoder.block.1.layer.0.SelfAttention.o.weight"] = np.zeros(
        (24, 13), np.float32
    )
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    text = refused(folder, "5 tensors are not those of its network")
    for line in (
        r"missing     decoder/decoder_norm/scale (24,)",
        r"missing     encoder/layers_2/attention/query/kernel (24, 12)",
        r"unexpected  encoder.block.0.layer.1.DenseReluDense.wi_2.weight (40, 24)",
        r"unexpected  encoder.adapter.weight (3,)",
        r"shape       encoder/layers_1/attention/out/kernel (13, 24), "
        r"expected (12, 24)",
    ):
        assert line in text


@pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
def test_a_truncated_safetensors_file_is_refused(hf_folder, part):
    path = hf_folder(UNTIED) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path.parent, r"model\.safetensors is truncated")


def test_missing_shards_are_all_named(hf_folder):
    folder = hf_folder(UNTIED, max_shard_bytes=9_000)
    shards = sorted(folder.glob("*.safetensors"))
    for shard in (shards[0], shards[3]):
        shard.unlink()
    text = refused(folder, f"2 of {len(shards)} shards are missing")
    assert shards[0].name in text and shards[3].name in text


def test_an_index_that_names_absent_tensors_is_refused(hf_folder):
    folder = hf_folder(UNTIED, max_shard_bytes=9_000)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["ghost.weight"] = sorted(set(index["weight_map"].values()))[0]
    path.write_text(json.dumps(index))
    refused(folder, "ghost.weight")
    path.write_text("{")
    refused(folder, "index.json: not JSON")


def test_another_architecture_is_refused(hf_folder):
    folder = hf_folder(UNTIED)
    content = json.loads((folder / "config.json").read_text())
    for kind in ("llama", "mt6", None):
        content["model_type"] = kind
        (folder / "config.json").write_text(json.dumps(content))
        refused(folder, f"describes a {kind!r} model")
    content["model_type"] = "umt5"
    (folder / "config.json").write_text(json.dumps(content))
    refused(folder, "missing     encoder/layers_2/relpos_bias/rel_embedding")
    (folder / "config.json").write_text("{")
    refused(folder, "not JSON")
    (folder / "config.json").unlink()
    refused(folder, "no config.json")


RELATIVES = {
    "t5gemma": ("google/t5gemma-2b-2b-ul2", "rotary positions.*Gemma's vocabulary"),
    "t5gemma2": ("google/t5gemma-2-270m-270m", "Gemma 3's layers.*image inputs"),
    "switch_transformers": ("google/switch-base-8", "routed experts"),
    "longt5": ("google/long-t5-tglobal-base", "local or transient-global"),
    "pix2struct": ("google/pix2struct-base", "image patches"),
    "udop": ("microsoft/udop-large", "page images"),
    "pop2piano": ("sweetcocoa/pop2piano", "audio"),
    "myt5": ("Tomlim/myt5-base", "MyT5's own rewriting"),
}


@pytest.mark.parametrize("kind", RELATIVES)
def test_a_relative_of_t5_is_refused_with_what_it_would_need(
    hf_folder, kind, monkeypatch
):
    folder = hf_folder(UNTIED)
    content = json.loads((folder / "config.json").read_text())
    content["model_type"] = kind
    (folder / "config.json").write_text(json.dumps(content))
    on_hub, needs = RELATIVES[kind]
    refused(folder, f"describes a {kind!r} model, .*it would need .*{needs}")

    # By its name before anything is downloaded.
    def download(*arguments, **options):
        raise AssertionError("downloaded")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    refused(on_hub, f"{on_hub} is .* by its name.*it would need .*{needs}")


@pytest.mark.parametrize("name", ["me/myT5-small", "me/nintendo-switch-chat", "myt5"])
def test_a_name_that_only_resembles_a_relatives_is_not_refused(name):
    relatives.refuse_hub_name(name)


def test_pickled_weights_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    text = refused(tmp_path, "pickle that may run code")
    assert "save_pretrained" in text


def test_a_truncated_msgpack_is_refused(t5x_folder):
    path = t5x_folder / "checkpoint"
    content = path.read_bytes()
    for size in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        refused(t5x_folder, "truncated or not msgpack|not a checkpoint of T5X")


def test_a_tensorflow_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000"')
    refused(tmp_path, "TensorFlow checkpoint")


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_truncated_or_lost_zarr_chunk_is_refused_naming_the_array(t5x_folder, damage):
    chunk = t5x_folder / "target.encoder.layers_1.mlp.wi_0.kernel" / "0.0"
    if damage == "remove":
        # TensorStore alone would read zeros here.
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:-20])
    refused(t5x_folder, r"target/encoder/layers_1/mlp/wi_0/kernel cannot be read")


def test_lost_zarr_folders_are_all_named(t5x_folder):
    lost = [
        "target.encoder.encoder_norm.scale",
        "target.decoder.layers_0.mlp.wo.kernel",
    ]
    for name in lost:
        (t5x_folder / name / ".zarray").unlink()
    text = refused(t5x_folder, "2 of 61 arrays cannot be opened")
    for name in lost:
        assert name.replace(".", "/") in text


def test_a_damaged_orbax_checkpoint_is_refused(orbax_folder):
    manifest = orbax_folder / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    refused(orbax_folder, "cannot be opened")


def test_a_flipped_bit_in_our_own_checkpoint_is_refused(tmp_path):
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    weights = random_weights(UNTIED)
    params = unflatten_dict(
        {tuple(k.split("/")): jnp.asarray(v) for k, v in weights.items()}
    )
    with CheckpointStore(tmp_path / "checkpoints") as store:
        store.save(1, {"params": params}, {})
    needle = weights["encoder/layers_0/mlp/wi_0/kernel"].tobytes()
    # Writers run side by side, so which of the data files has it is not fixed.
    data = next(
        path
        for path in (tmp_path / "checkpoints" / "1" / "state").rglob("*")
        if path.is_file() and needle in path.read_bytes()
    )
    content = bytearray(data.read_bytes())
    content[content.index(needle) + 2] ^= 4
    data.write_bytes(bytes(content))
    with pytest.raises(
        DamagedCheckpointError, match="encoder/layers_0/mlp/wi_0/kernel"
    ):
        convert(str(tmp_path), None, activation="gelu")


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    import jax.numpy as jnp

    with CheckpointStore(tmp_path / "other" / "checkpoints") as store:
        store.save(1, {"params": {"dense": {"kernel": jnp.ones((2, 2))}}}, {})
    refused(tmp_path / "other", "is not a T5: missing token_embedder/embedding")
    with CheckpointStore(tmp_path / "bare" / "checkpoints") as store:
        store.save(1, {"weights": jnp.ones((2, 2))}, {})
    refused(tmp_path / "bare", "neither under 'target'")


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, r"no checkpoint \(notes\.txt\)")
    (tmp_path / "notes.txt").unlink()
    refused(tmp_path, "it is empty")


def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(tmp_path):
    refused(tmp_path / "nothing", "does not exist. Name a Hugging Face folder")
    refused("./nothing", "does not exist")
    refused("some words with spaces", "does not exist")


def test_a_hub_name_without_a_network_is_one_quick_error(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(InputError, match="cannot be reached.*hf download"):
        open_checkpoint("google/flan-t5-nowhere")
    assert time.monotonic() - started < 30
