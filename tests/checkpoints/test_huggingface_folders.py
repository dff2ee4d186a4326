"""Hugging Face folders and their traps: tied heads, scaling, shards, aliases."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from weight_cases import FAMILIES, random_weights

from specialize import typed_json
from specialize.checkpoints import names
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.errors import InputError

UNTIED, TIED = FAMILIES["t5_1_1"], FAMILIES["t5_1_0"]


def stored(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def settings(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def weights_of(source):
    return {name: tensor.read() for name, tensor in source.tensors.items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_what_is_written_is_read_back_bit_for_bit(family, hf_folder):
    opened = huggingface.open_folder(hf_folder(family))
    assert opened.config == family
    assert opened.notes == []
    assert_same(weights_of(opened), random_weights(family))


def test_a_folder_in_shards_is_the_same_model(family, hf_folder):
    folder = hf_folder(family, max_shard_bytes=9_000)
    files = sorted(p.name for p in folder.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)
    opened = huggingface.open_folder(folder)
    assert_same(weights_of(opened), random_weights(family))
    assert not list(folder.glob("*.spool"))


def test_kernels_are_stored_transposed_as_torch_keeps_them(hf_folder):
    tensors = stored(hf_folder(UNTIED))
    ours = random_weights(UNTIED)
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    np.testing.assert_array_equal(
        tensors[name], ours["encoder/layers_1/mlp/wo/kernel"].T
    )


def test_an_untied_export_says_so_in_every_field(hf_folder):
    content = json.loads((hf_folder(UNTIED) / "config.json").read_text())
    assert content["tie_word_embeddings"] is False
    assert content["scale_decoder_outputs"] is False
    assert content["model_type"] == "t5"
    assert content["architectures"] == ["T5ForConditionalGeneration"]
    assert content["feed_forward_proj"] == "gated-gelu"
    assert content["decoder_start_token_id"] == 0
    assert {"shared.weight", "lm_head.weight"} <= set(
        stored(hf_folder(UNTIED, name="b"))
    )


def test_a_tied_export_has_no_head_and_scales(hf_folder):
    folder = hf_folder(TIED)
    content = json.loads((folder / "config.json").read_text())
    assert content["tie_word_embeddings"] is True
    assert content["scale_decoder_outputs"] is True
    assert "lm_head.weight" not in stored(folder)


@pytest.mark.parametrize("tie", [True, ...])
def test_a_head_that_differs_is_untied_whatever_the_flags_say(hf_folder, tie):
    """transformers 5 writes tie = true into every T5 configuration."""
    folder = hf_folder(UNTIED)
    settings(folder, tie_word_embeddings=tie)
    assert huggingface.open_folder(folder).config == UNTIED
    # Without the scale field transformers would scale; the tensors say T5 1.1.
    settings(folder, scale_decoder_outputs=...)
    opened = huggingface.open_folder(folder)
    assert opened.config == UNTIED
    assert any("not scaled" in note for note in opened.notes)


def test_an_explicit_scale_goes_into_a_head_of_its_own(hf_folder):
    folder = hf_folder(UNTIED)
    settings(folder, scale_decoder_outputs=True)
    opened = huggingface.open_folder(folder)
    assert not opened.config.logits_via_embedding
    expected = random_weights(UNTIED)[names.HEAD] / np.sqrt(np.float32(UNTIED.emb_dim))
    np.testing.assert_allclose(opened.tensors[names.HEAD].read(), expected, rtol=1e-6)


def test_a_head_that_repeats_the_embedding_is_tied(hf_folder):
    folder = hf_folder(TIED)
    tensors = stored(folder)
    tensors["lm_head.weight"] = tensors["shared.weight"].copy()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    opened = huggingface.open_folder(folder)
    assert opened.config == TIED and names.HEAD not in opened.tensors


@pytest.mark.parametrize("head", [False, True])
def test_a_tied_head_without_scaling_becomes_a_head_of_its_own(hf_folder, head):
    """Otherwise T5's D^-0.5 would change every logit."""
    folder = hf_folder(TIED)
    settings(folder, scale_decoder_outputs=False)
    if head:
        tensors = stored(folder)
        tensors["lm_head.weight"] = tensors["shared.weight"].copy()
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    opened = huggingface.open_folder(folder)
    assert not opened.config.logits_via_embedding
    np.testing.assert_array_equal(
        opened.tensors[names.HEAD].read(), opened.tensors[names.EMBEDDING].read().T
    )
    assert any("separate matrix" in note for note in opened.notes)


def test_an_untied_configuration_without_a_head_is_refused(hf_folder):
    folder = hf_folder(TIED)
    settings(folder, tie_word_embeddings=False, scale_decoder_outputs=...)
    with pytest.raises(InputError, match=r"missing     decoder/logits_dense/kernel"):
        huggingface.open_folder(folder)


def test_an_old_t5_configuration_without_the_fields_is_tied_and_scaled(hf_folder):
    folder = hf_folder(TIED)
    settings(folder, tie_word_embeddings=..., scale_decoder_outputs=...)
    assert huggingface.open_folder(folder).config == TIED


def test_the_embedding_is_found_under_its_aliases(hf_folder):
    folder = hf_folder(UNTIED)
    tensors = stored(folder)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[unused] = np.zeros((32, 3), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert_same(weights_of(huggingface.open_folder(folder)), random_weights(UNTIED))


def test_bfloat16_and_float16_are_read_as_they_are(hf_folder):
    folder = hf_folder(UNTIED)
    tensors = {
        name: array.astype(ml_dtypes.bfloat16 if i % 2 else np.float16)
        for i, (name, array) in enumerate(sorted(stored(folder).items()))
    }
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    kinds = {t.dtype.name for t in huggingface.open_folder(folder).tensors.values()}
    assert kinds == {"bfloat16", "float16"}


def test_more_rows_than_the_configuration_says_are_believed(hf_folder):
    folder = hf_folder(UNTIED)
    settings(folder, vocab_size=250)
    opened = huggingface.open_folder(folder)
    assert opened.config.vocab_size == 256
    assert any("250" in note and "256" in note for note in opened.notes)


def test_asymmetric_depth_and_every_activation_survive_the_configuration():
    for config in FAMILIES.values():
        content = huggingface_companions.settings_of(config, "float32")
        read = typed_json.convert(content, huggingface_companions.Settings, "here")
        network = huggingface_companions.network(read, pathlib.Path("here"))
        tied = config.logits_via_embedding
        assert network.replace(logits_via_embedding=tied) == config
