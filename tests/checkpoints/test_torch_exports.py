"""What we export loads in transformers and writes the same text, and the reverse.

Behind the marker `torch`: needs CPU torch beside the project (docs/how-to/convert.md).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weight_cases import FAMILIES, random_weights

from specialize.checkpoints import load_params
from specialize.checkpoints.convert import convert
from specialize.student.decoding import decoding
from specialize.student.network.transformer import Transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Small enough to be quick, over the real vocabulary so that text comes out.
ROWS = 32128


def realistic(config, seed=0):
    """Weights at the scale of trained ones: kernels that keep the variance."""
    weights = random_weights(config, seed)
    rng = np.random.default_rng(seed + 1)
    for name, array in weights.items():
        if name.endswith("scale"):
            array[:] = rng.uniform(0.5, 1.5, array.shape)
        elif name.endswith("kernel") and "logits" not in name:
            array *= array.shape[0] ** -0.5
        elif "rel_embedding" in name:
            array *= 0.5
        elif "logits" in name:
            array *= 3 * array.shape[0] ** -0.5
    return weights


def abstract_params(config):
    module, tokens = Transformer(config), jnp.zeros((1, 2), jnp.int32)
    return jax.eval_shape(
        lambda key: module.init(key, tokens, tokens, tokens, enable_dropout=False),
        jax.random.key(0),
    )["params"]


def tokens_for(config, seed=3):
    rng = np.random.default_rng(seed)
    source = rng.integers(2, config.vocab_size - 128, (3, 9))
    source[1, 6:] = 0
    target = rng.integers(2, config.vocab_size - 128, (3, 5))
    return source, target


def our_logits(config, path, source, target):
    params = load_params(str(path), abstract_params(config))
    shifted = np.concatenate([np.zeros((3, 1), int), target[:, :-1]], axis=1)
    return np.asarray(
        Transformer(config).apply(
            {"params": params},
            *(jnp.asarray(x, jnp.int32) for x in (source, shifted, target)),
            enable_dropout=False,
        )
    )


def their_logits(model, source, target):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(source),
            attention_mask=torch.tensor((source > 0).astype(int)),
            labels=torch.tensor(target),
        ).logits.numpy()


def assert_close(ours, theirs):
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("layers", ["unrolled", "scalable"])
def test_an_exported_folder_means_the_same_in_transformers(
    family, hf_folder, tmp_path, layers
):
    """HF -> T5X -> HF: their logits on the result equal ours on the T5X folder."""
    start = hf_folder(family, realistic(family))
    convert(str(start), str(tmp_path / "t5x"), to="t5x", layers=layers)
    convert(str(tmp_path / "t5x"), str(tmp_path / "out"), to="hf")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    assert model.config.scale_decoder_outputs is family.logits_via_embedding
    source, target = tokens_for(family)
    scanned = dataclasses.replace(family, scan_layers=layers == "scalable")
    ours = our_logits(scanned, tmp_path / "t5x", source, target)
    assert_close(ours, their_logits(model, source, target))


@pytest.mark.parametrize("scaled", [True, False])
def test_a_folder_that_transformers_saved_means_the_same_here(tmp_path, scaled):
    """transformers 5 builds every T5 with a tied head, scaled or not."""
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=256,
            d_model=24,
            d_kv=4,
            d_ff=40,
            num_layers=2,
            num_heads=3,
            feed_forward_proj="relu" if scaled else "gated-gelu",
            tie_word_embeddings=scaled,
            decoder_start_token_id=0,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    config = dataclasses.replace(
        FAMILIES["t5_1_0" if scaled else "t5_1_1"],
        num_encoder_layers=2,
        num_decoder_layers=2,
    )
    source, target = tokens_for(config)
    assert_close(
        our_logits(config, tmp_path, source, target),
        their_logits(model, source, target),
    )


def test_an_untied_folder_survives_transformers_and_comes_back(hf_folder, tmp_path):
    config = FAMILIES["t5_1_1"]
    start = hf_folder(config, realistic(config))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(start)
    model.save_pretrained(tmp_path / "saved")
    assert convert(str(start), None).fingerprint == (
        convert(str(tmp_path / "saved"), None).fingerprint
    )


@pytest.mark.parametrize("name", ["t5_1_0", "t5_1_1", "ul2"])
def test_the_exported_folder_generates_the_same_text(
    name, hf_folder, tmp_path, shared_data
):
    config = dataclasses.replace(FAMILIES[name], vocab_size=ROWS)
    deeper = config.num_decoder_layers > config.num_encoder_layers
    start = hf_folder(config, realistic(config))
    vocabulary = str(shared_data / "t5" / "spiece.model")
    convert(str(start), str(tmp_path / "t5x"), to="t5x", vocabulary=vocabulary)
    summary = convert(str(tmp_path / "t5x"), str(tmp_path / "out"), to="hf")
    assert any("use_cache=False" in note for note in summary.notes) == deeper
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompts = ["Q: How many apples are left?", "Natalia sold 48 clips in May."]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    # transformers makes its cache as deep as the encoder; the conversion says so.
    options = {"use_cache": False} if deeper else {}
    theirs = model.generate(
        **batch, max_new_tokens=32, do_sample=False, num_beams=1, **options
    )
    params = load_params(str(tmp_path / "t5x"), abstract_params(config))
    generate = jax.jit(
        lambda params, tokens: (
            decoding.generate(Transformer(config), params, tokens, max_length=32).tokens
        )
    )
    ours = generate(params, jnp.asarray(batch["input_ids"].numpy(), jnp.int32))
    their_text = tokenizer.batch_decode(theirs, skip_special_tokens=True)
    our_text = tokenizer.batch_decode(np.asarray(ours), skip_special_tokens=True)
    assert our_text == their_text
    assert all(len(text.split()) > 3 for text in our_text)
