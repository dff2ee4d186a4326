"""Conversions: bit-exact round trips, fingerprints, what is kept and what is said."""

import json
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax.traverse_util import unflatten_dict
from weight_cases import FAMILIES, random_weights

from specialize.checkpoints import names
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import exact_tokenizer, t5x
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.opening import open_checkpoint
from specialize.checkpoints.store import CheckpointStore
from specialize.corpus.vocabulary import SpecialIds
from specialize.errors import InputError

UNTIED = FAMILIES["t5_1_1"]
OLD_RUN = pathlib.Path(__file__).parent.parent / "golden" / "old_run"


def assert_holds(path, weights):
    opened = open_checkpoint(str(path))
    assert opened.tensors.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(opened.tensors[name].read(), array, err_msg=name)
    return opened


def nested(weights):
    return unflatten_dict(
        {tuple(k.split("/")): jnp.asarray(v) for k, v in weights.items()}
    )


@pytest.fixture
def run_folder(tmp_path):
    """A run of ours: parameters and AdamW's moments at step 30."""

    def write(config, layers="unrolled"):
        weights = random_weights(config)
        laid = names.laid_out({k: from_array(v) for k, v in weights.items()}, layers)
        params = nested({name: tensor.read() for name, tensor in laid.items()})
        chain = optax.chain(optax.clip_by_global_norm(1e9), optax.adamw(1e-3))
        opt_state = chain.init(params)
        _, opt_state = chain.update(params, opt_state, params)
        state = {"params": params, "opt_state": opt_state, "step": jnp.int32(30)}
        with CheckpointStore(tmp_path / "run" / "checkpoints") as store:
            store.save(30, state, {})
        return tmp_path / "run", state

    return write


def test_hf_to_t5x_to_orbax_and_back_is_bit_exact(family, hf_folder, tmp_path):
    """HF -> here -> T5X -> here -> HF, through every layout."""
    weights = random_weights(family)
    last = hf_folder(family)
    seen = {convert(str(last), None).fingerprint}
    for number, (to, layers) in enumerate(
        [("t5x", "scanned"), ("orbax", "scalable"), ("t5x", "unrolled"), ("hf", None)]
    ):
        target = tmp_path / str(number)
        options = {} if layers is None else {"layers": layers}
        summary = convert(str(last), str(target), to=to, **options)
        assert summary.parameters == sum(a.size for a in weights.values())
        seen.add(summary.fingerprint)
        last = target
    assert assert_holds(last, weights).config == family
    assert len(seen) == 1


def test_our_run_becomes_an_hf_folder(run_folder, tmp_path):
    run, _ = run_folder(UNTIED, "scanned")
    summary = convert(str(run), str(tmp_path / "hf"), to="hf", activation="gelu")
    assert (summary.source_format, summary.step) == ("specialize", 30)
    assert any("optimizer state" in n and "dropped" in n for n in summary.notes)
    assert assert_holds(tmp_path / "hf", random_weights(UNTIED)).config == UNTIED


def test_the_activation_comes_from_the_runs_own_configuration(run_folder, tmp_path):
    run, _ = run_folder(FAMILIES["ul2"])
    rows = [{"name": "network.T5Config.mlp_activations", "value": ["silu", "linear"]}]
    (run / "config.json").write_text(json.dumps({"values": rows}))
    convert(str(run), str(tmp_path / "hf"))
    assert open_checkpoint(str(tmp_path / "hf")).config == FAMILIES["ul2"]


def test_activation_and_vocabulary_come_from_the_configuration_of_an_old_run(
    run_folder, tmp_path, monkeypatch
):
    """tests/golden/old_run, with another activation that a default cannot hit."""
    run, _ = run_folder(FAMILIES["ul2"])
    text = (OLD_RUN / "config.json").read_text()
    assert '"gelu"' in text
    (run / "config.json").write_text(text.replace('"gelu"', '"silu"'))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    vocabulary = b"the pieces of the old run"
    (tmp_path / "old" / "vocabulary.model").write_bytes(vocabulary)
    written = []

    def write(path, folder, rows):
        written.append(path)
        return SpecialIds()

    monkeypatch.setattr(exact_tokenizer, "write", write)
    convert(str(run), str(tmp_path / "hf"))
    assert open_checkpoint(str(tmp_path / "hf")).config == FAMILIES["ul2"]
    assert [path.read_bytes() for path in written] == [vocabulary]


@pytest.mark.parametrize("to", ["t5x", "orbax"])
@pytest.mark.parametrize(
    ("source", "target"), [("unrolled", "unrolled"), ("scanned", "unrolled")]
)
def test_the_optimizer_state_travels_with_its_parameters(
    run_folder, tmp_path, to, source, target
):
    run, state = run_folder(UNTIED, source)
    summary = convert(str(run), str(tmp_path / "out"), to=to, layers=target)
    assert any("optimizer state kept" in note for note in summary.notes)
    opened = open_checkpoint(str(tmp_path / "out"))
    assert opened.step == 30
    # The chain of chains: clipping has no state, AdamW's first part is element 0.
    moments = {
        name.removeprefix("param_states/1/0/mu/"): tensor
        for name, tensor in opened.optimizer.items()
        if name.startswith("param_states/1/0/mu/")
    }
    assert moments.keys() == opened.tensors.keys()
    for name, tensor in moments.items():
        np.testing.assert_allclose(
            tensor.read(), 0.1 * opened.tensors[name].read(), rtol=1e-6
        )
    empty = [name for name, tensor in opened.optimizer.items() if tensor is None]
    assert "param_states/0" in empty
    assert int(opened.optimizer["param_states/1/0/count"].read()) == 1


def test_moments_that_cannot_be_laid_out_anew_are_dropped_with_a_line(
    run_folder, tmp_path
):
    run, _ = run_folder(UNTIED)
    summary = convert(str(run), str(tmp_path / "out"), to="t5x", layers="scalable")
    assert any("optimizer state" in n and "dropped" in n for n in summary.notes)
    assert_holds(tmp_path / "out", random_weights(UNTIED))


def test_bfloat16_rounds_every_weight_and_changes_the_fingerprint(hf_folder, tmp_path):
    folder = hf_folder(UNTIED)
    exact = convert(str(folder), None).fingerprint
    low = convert(str(folder), str(tmp_path / "low"), to="t5x", dtype="bfloat16")
    assert low.dtype == "bfloat16" and low.fingerprint != exact
    rounded = {
        k: v.astype(ml_dtypes.bfloat16) for k, v in random_weights(UNTIED).items()
    }
    assert_holds(tmp_path / "low", rounded)
    # Stored wider, it is the same model.
    wide = convert(str(tmp_path / "low"), str(tmp_path / "wide"), dtype="float32")
    assert wide.fingerprint == low.fingerprint


def test_one_changed_value_changes_the_fingerprint(hf_folder):
    weights = random_weights(UNTIED)
    before = convert(str(hf_folder(UNTIED, weights)), None).fingerprint
    weights["decoder/layers_1/mlp/wo/kernel"][3, 4] += 1e-6
    after = convert(str(hf_folder(UNTIED, weights, name="other")), None).fingerprint
    assert before != after


def test_rows_that_no_token_uses_are_padded_and_cut_with_a_line(hf_folder, tmp_path):
    small = UNTIED.replace(vocab_size=200)
    weights = random_weights(small)
    folder = hf_folder(small, weights)
    grown = convert(str(folder), str(tmp_path / "grown"), to="t5x", rows=256)
    assert any("200 rows" in n and "padded with 56" in n for n in grown.notes)
    opened = open_checkpoint(str(tmp_path / "grown"))
    embedding, head = (opened.tensors[n].read() for n in (names.EMBEDDING, names.HEAD))
    assert embedding.shape == (256, 24) and head.shape == (24, 256)
    np.testing.assert_array_equal(embedding[:200], weights[names.EMBEDDING])
    # A padded row's logit is the mean of all others: never the largest.
    hidden = np.random.default_rng(1).standard_normal((50, 24)).astype(np.float32)
    logits = hidden @ head
    assert np.all(logits[:, 200:].max(1) < logits[:, :200].max(1))
    cut = convert(str(tmp_path / "grown"), str(tmp_path / "cut"), to="hf", rows=200)
    assert any("cut by 56" in note for note in cut.notes)
    assert_holds(tmp_path / "cut", weights)


def test_another_vocabulary_is_not_padded(hf_folder, tmp_path):
    with pytest.raises(
        InputError, match="256 vocabulary rows; 300 .*another vocabulary"
    ):
        convert(str(hf_folder(UNTIED)), str(tmp_path / "out"), rows=300)
    assert not (tmp_path / "out").exists()


def test_a_failed_conversion_leaves_nothing(hf_folder, tmp_path):
    folder = hf_folder(UNTIED)
    convert(str(folder), str(tmp_path / "t5x"), to="t5x")
    broken = tmp_path / "t5x" / "checkpoint_0" / "target.decoder.decoder_norm.scale"
    (broken / "0").unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    for to in ("hf", "orbax", "t5x"):
        with pytest.raises(InputError, match=r"target/decoder/decoder_norm/scale"):
            convert(str(tmp_path / "t5x"), str(tmp_path / f"out_{to}"), to=to)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("to", ["hf", "t5x", "orbax"])
def test_a_killed_conversion_leaves_nothing_that_looks_complete(
    hf_folder, tmp_path, to
):
    """Killed in the middle of writing: the target does not exist."""
    source = hf_folder(UNTIED)
    program = (
        "import sys, os, signal\n"
        "from specialize.checkpoints import fingerprint, convert\n"
        "digest, count = fingerprint._digest, [0]\n"
        "def dying(array):\n"
        "    count[0] += 1\n"
        "    if count[0] == 40: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return digest(array)\n"
        "fingerprint._digest = dying\n"
        "convert.convert(*sys.argv[1:3], to=sys.argv[3])\n"
    )
    target = tmp_path / "out"
    words = [sys.executable, "-c", program, str(source), str(target), to]
    assert subprocess.run(words, capture_output=True).returncode == -signal.SIGKILL
    assert not target.exists()
    left = [path for path in tmp_path.iterdir() if path != source]
    assert [path.suffix for path in left] == [".partial"]
    # What is left is in nobody's way.
    convert(str(source), str(target), to=to)
    assert_holds(target, random_weights(UNTIED))


def test_a_target_in_use_is_refused_before_anything_is_read(hf_folder, tmp_path):
    folder = hf_folder(UNTIED)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not written by specialize"):
        convert(str(folder), str(tmp_path / "mine"))
    convert(str(folder), str(tmp_path / "out"))
    with pytest.raises(InputError, match="already holds"):
        convert(str(folder), str(tmp_path / "out"))
    with pytest.raises(InputError, match="a URL of hdfs"):
        convert(str(folder), "hdfs://bucket/out")


def test_tokenizer_files_travel_and_are_made_from_a_vocabulary(
    hf_folder, tmp_path, shared_data
):
    vocabulary = shared_data / "t5" / "spiece.model"
    folder = hf_folder(UNTIED.replace(vocab_size=32128))
    first = convert(
        str(folder), str(tmp_path / "t5x"), to="t5x", vocabulary=str(vocabulary)
    )
    assert not first.notes
    second = convert(str(tmp_path / "t5x"), str(tmp_path / "hf2"), to="hf")
    assert not second.notes
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf2")
    assert tokenizer("How many apples?").input_ids == [571, 186, 16981, 58, 1]
    assert (tmp_path / "hf2" / "spiece.model").read_bytes() == vocabulary.read_bytes()
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 32099


def test_the_model_card_names_fingerprint_and_size(hf_folder, tmp_path):
    summary = convert(str(hf_folder(UNTIED)), str(tmp_path / "out"), to="hf")
    card = (tmp_path / "out" / "README.md").read_text()
    assert summary.fingerprint in card and f"{summary.parameters:,}" in card
    assert card.startswith("---\n") and "library_name: transformers" in card


def test_the_command_prints_its_summary(hf_folder, tmp_path, capsys):
    from specialize.cli import main

    source = str(hf_folder(UNTIED))
    assert main(["convert", "--source", source, "--target", str(tmp_path / "o")]) == 0
    shown = capsys.readouterr().out
    assert convert(source, None).fingerprint in shown
    assert main(["convert", "--source", source, "--target", str(tmp_path / "o")]) == 2
    assert "already holds" in capsys.readouterr().err


def test_the_newest_t5x_checkpoint_is_taken(hf_folder, tmp_path):
    weights = random_weights(UNTIED)
    tensors = {name: from_array(array) for name, array in weights.items()}
    for step in (5, 20):
        folder = tmp_path / "model" / f"checkpoint_{step}"
        t5x.write_folder(folder, tensors, step=step, optimizer={})
    (tmp_path / "model" / "checkpoint_30.tmp-1700000000").mkdir()
    assert open_checkpoint(str(tmp_path / "model")).step == 20
    assert open_checkpoint(str(tmp_path / "model" / "checkpoint_5")).step == 5
    assert open_checkpoint(str(tmp_path / "model/checkpoint_5/checkpoint")).step == 5


def test_leaves_inlined_in_the_msgpack_are_read(tmp_path):
    """As T5X writes leaves that it does not partition."""
    from flax import serialization

    weights = random_weights(UNTIED)
    content = {
        "version": 3,
        "optimizer": {
            "target": jax.tree.map(np.asarray, nested(weights)),
            "state": {"step": np.int32(3), "param_states": {}},
        },
    }
    folder = tmp_path / "checkpoint_3"
    folder.mkdir()
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    assert assert_holds(folder, weights).step == 3
