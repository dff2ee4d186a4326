"""Decoded texts are reused for what they depend on, and for nothing else."""

import dataclasses
import json

import jax.numpy as jnp
import pytest
import tiny_run

from specialize import sharding
from specialize.corpus.vocabulary import read_vocabulary
from specialize.errors import InputError
from specialize.evaluation.evaluate import evaluate_weights
from specialize.evaluation.inferring import infer
from specialize.evaluation.spec import EvaluationSpec
from specialize.inference.engine import Engine, Generation
from specialize.inference.spec import DecodingSpec
from specialize.inference.t5_teacher import T5Teacher
from specialize.inference.weights import decoding_settings, prompts_digest
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.network.transformer import Transformer

PARAMS = {"w": jnp.arange(6.0)}
MODULE = tiny_run.student(rows=tiny_run.BYTES).module
# Another valid value of every field of a network.
OTHERS = {
    "vocab_size": 512,
    "dtype": jnp.bfloat16,
    "emb_dim": 32,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 8,
    "mlp_dim": 8,
    "mlp_activations": ("relu", "linear"),
    "dropout_rate": 0.5,
    "logits_via_embedding": True,
    "scan_layers": True,
    "remat_policy": "full",
    "attention_block": 2,
    "attention": "plain",
    "embedding_lookup": "gather",
    "relpos_num_buckets": 16,
    "relpos_max_distance": 64,
    "relpos_per_layer": True,
    "norm_epsilon": 1e-5,
    "adapters": AdapterSpec(rank=2),
}


def other(**fields):
    return Transformer(dataclasses.replace(MODULE.config, **fields))


@pytest.fixture
def asked(monkeypatch):
    """The indices of the prompts that are decoded; nothing is compiled for them."""
    found = []

    def generate(self, prompts, *, done=(), alternatives=0):
        for index in range(len(prompts)):
            if index not in done:
                found.append(index)
                yield Generation(index, ("The answer is 1.",), (-1.0,), (1,), 0)

    monkeypatch.setattr(Engine, "generate", generate)
    return found


def evaluated(module, folder):
    benchmarks = folder.parent / "benchmarks" / "gsm8k"
    benchmarks.mkdir(parents=True, exist_ok=True)
    lines = [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(4)]
    for part in ("train", "test"):
        text = "\n".join(map(json.dumps, lines))
        (benchmarks / f"{part}.jsonl").write_text(text)
    spec = EvaluationSpec(
        ["gsm8k"], str(benchmarks.parent), "byt5", split="all", max_examples=2
    )
    evaluate_weights(spec, module, PARAMS, sharding.read_mesh("1"), out=folder)


def test_the_texts_of_another_network_are_not_reused(tmp_path, asked):
    for module, count in (
        (MODULE, 2),
        (other(mlp_activations=("relu", "linear")), 4),
        (other(dtype=jnp.bfloat16), 6),
        (other(relpos_num_buckets=16), 8),
        (MODULE, 8),  # its texts are still there
        (other(dropout_rate=0.5), 8),  # nothing is dropped out in decoding
    ):
        evaluated(module, tmp_path / "out")
        assert len(asked) == count


def test_every_field_of_a_network_is_part_of_what_texts_depend_on():
    assert OTHERS.keys() == {one.name for one in dataclasses.fields(MODULE.config)}
    same = [
        name
        for name, value in OTHERS.items()
        if other(**{name: value}).config.identity() == MODULE.config.identity()
    ]
    assert same == ["dropout_rate", "remat_policy"]


def test_what_an_earlier_version_decoded_is_decoded_again_in_words(
    tmp_path, asked, capsys
):
    out = tmp_path / "out"
    evaluated(MODULE, out)
    assert "earlier version" not in capsys.readouterr().err
    [raw] = (out / "decoded").iterdir()
    head, *lines = raw.read_text().splitlines()
    old = json.loads(head)
    del old["settings"]["network"]
    old_file = raw.with_name("gsm8k.0123456789ab.jsonl")
    old_file.write_text("\n".join([json.dumps(old), *lines]) + "\n")
    raw.unlink()
    evaluated(MODULE, out)
    assert len(asked) == 4
    said = capsys.readouterr().err
    assert (
        "(number of files: 1)" in said
        and "decoded again" in said
        and str(old_file.parent) in said
    )


def test_an_unfinished_output_is_gone_on_with_by_the_same_network_only(
    tmp_path, asked, monkeypatch
):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "texts.jsonl"
    prompts.write_text("a\nb\n")
    file = tmp_path / "texts.jsonl.decoded.jsonl"

    def run(module):
        engine = Engine(
            module, PARAMS, vocabulary, sharding.read_mesh("1"), DecodingSpec()
        )
        monkeypatch.setattr(
            "specialize.evaluation.inferring.load_engine",
            lambda *a, **k: (engine, vocabulary),
        )
        return infer(None, "x", DecodingSpec(), prompts_path=prompts, out=out)

    vocabulary = read_vocabulary("byt5")
    engine = Engine(MODULE, PARAMS, vocabulary, sharding.read_mesh("1"), DecodingSpec())
    settings = decoding_settings(engine, vocabulary)
    settings["prompts"] = prompts_digest(["a", "b"])

    def leave(**changes):
        head = {"version": 1, "settings": {**settings, **changes}}
        line = {"index": 0, "texts": ["t"], "scores": [0.0], "num_tokens": [1]}
        lines = [head, {**line, "truncated": 0}]
        file.write_text("".join(json.dumps(one) + "\n" for one in lines))

    leave()
    with pytest.raises(InputError, match=r"network\.dtype was 'float32', now 'bfloat"):
        run(other(dtype=jnp.bfloat16))
    assert not asked
    assert run(MODULE) == 2 and asked == [1]
    leave()
    head = json.loads(file.read_text().splitlines()[0])
    del head["settings"]["network"]  # as version 0.1 wrote it
    file.write_text(json.dumps(head) + "\n")
    with pytest.raises(InputError, match="begun by an earlier version"):
        run(MODULE)


def test_a_sampled_checkpoint_is_its_network_too():
    vocabulary = read_vocabulary("byt5")
    mesh = sharding.read_mesh("1")
    said = [
        T5Teacher(Engine(module, PARAMS, vocabulary, mesh), vocabulary, "t").describe()
        for module in (MODULE, other(dtype=jnp.bfloat16))
    ]
    assert said[0]["weights"] == said[1]["weights"] and said[0] != said[1]
