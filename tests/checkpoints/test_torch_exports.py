"""What we export loads in transformers and writes the same text, and the reverse.

Behind the marker `torch`: needs CPU torch beside the project (docs/how-to/convert.md).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weight_cases import FAMILIES, realistic

import specialize
from specialize.checkpoints import load_params
from specialize.checkpoints.convert import convert
from specialize.checkpoints.opening import open_checkpoint
from specialize.inference.spec import DecodingSpec
from specialize.student.decoding import decoding
from specialize.student.network.transformer import Transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

# Small enough to be quick, over the real vocabulary so that text comes out.
ROWS = 32128


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


KINDS = {
    "byt5": ("T5", dict(vocab_size=384, num_layers=3, num_decoder_layers=1)),
    "mt5": ("MT5", dict(vocab_size=256)),
    "umt5": ("UMT5", dict(vocab_size=256)),
    "madlad": ("T5", dict(vocab_size=256, pad_token_id=1, eos_token_id=2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_the_family_goes_there_and_back(kind, tmp_path):
    """A model of transformers -> T5X -> transformers; logits agree at each place."""
    torch.manual_seed(0)
    name, changes = KINDS[kind]
    settings = getattr(transformers, f"{name}Config")(
        **dict(d_model=24, d_kv=4, d_ff=40, num_layers=2, num_heads=3) | changes,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(settings).eval()
    with torch.no_grad():
        # As trained: a head of its own, and tables that differ between layers.
        head = torch.randn(settings.vocab_size, settings.d_model) * 0.2
        model.lm_head.weight = torch.nn.Parameter(head)
        for key, value in model.named_parameters():
            if "relative_attention_bias" in key:
                value.copy_(torch.randn(value.shape) * 0.5)
    model.save_pretrained(tmp_path / "hf")
    convert(str(tmp_path / "hf"), str(tmp_path / "t5x"), to="t5x", layers="scanned")
    convert(str(tmp_path / "t5x"), str(tmp_path / "back"), to="hf")
    config = open_checkpoint(str(tmp_path / "hf")).config
    assert config.relpos_per_layer == (kind == "umt5")
    source, target = tokens_for(config)
    theirs = their_logits(model, source, target)
    for folder in ("hf", "t5x", "back"):
        scanned = dataclasses.replace(config, scan_layers=folder == "t5x")
        assert_close(our_logits(scanned, tmp_path / folder, source, target), theirs)
    back = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "back").eval()
    assert type(back) is type(model)
    assert_close(their_logits(back, source, target), theirs)
    for field in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
        assert getattr(back.config, field) == getattr(model.config, field)
        assert getattr(back.generation_config, field) == getattr(model.config, field)


def test_bytes_generate_the_same_text_there(tmp_path, hf_folder):
    config = dataclasses.replace(FAMILIES["t5_1_1"], vocab_size=384)
    start = hf_folder(config, realistic(config))
    convert(str(start), str(tmp_path / "out"), to="hf", vocabulary="byt5")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompts = ["Q: Wie viele \u00c4pfel?\nA:", "48/2 = 24 clips."]
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    theirs = model.generate(**batch, max_new_tokens=40, do_sample=False, num_beams=1)
    student = specialize.load(tmp_path / "out")
    assert student.vocabulary.bytes_are_pieces
    found = student.generate(prompts, DecodingSpec(output_length=40))
    assert list(found) == tokenizer.batch_decode(theirs, skip_special_tokens=True)
