"""What a checkpoint answers to prompts is a corpus with its exact probabilities."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_network import make_network

from specialize import cli
from specialize.checkpoints.store import CheckpointStore
from specialize.corpus.spec import FolderSpec
from specialize.corpus.storage.shards import read_shards
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError
from specialize.inference.engine import Engine
from specialize.inference.labelling import label
from specialize.inference.spec import DecodingSpec
from specialize.quickstart import miniature
from specialize.student.model import Student

K = 3
DECODING = DecodingSpec(
    "sample", num_samples=2, batch_size=4, input_length=24, output_length=12, seed=3
)
PROMPTS = [f"Q: What is {n} + {n % 7}?\nA:" for n in range(11)]
MODEL = """
from __gin__ import dynamic_registration
from specialize.student import network

network.T5Config:
  vocab_size = 256
  emb_dim = 16
  num_heads = 2
  num_encoder_layers = 1
  num_decoder_layers = 1
  head_dim = 8
  mlp_dim = 32
  mlp_activations = ('gelu', 'linear')
  logits_via_embedding = False
SCAN_LAYERS = False
DTYPE = 'float32'
MESH = {'data': 1}
EVAL_BATCH_SIZE = 4
INPUT_LENGTH = 24
OUTPUT_LENGTH = 12
DECODING = 'sample'
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A vocabulary, prompts, and a checkpoint that ends some of its answers."""
    folder = tmp_path_factory.mktemp("label")
    text = folder / "text.txt"
    text.write_text("\n".join(f"Q: What is {n} + 3 ? A: {n + 3}" for n in range(60)))
    vocabulary = Vocabulary(miniature.train_vocabulary(text, folder / "v.model"))
    # More rows than the vocabulary has pieces.
    module, params = make_network(256, scale=2.0, logits_via_embedding=False)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].mul(2.0)
    with CheckpointStore(folder / "run" / "checkpoints", keep=1) as store:
        store.save(1, {"params": params}, {})
    (folder / "recipe.gin").write_text(MODEL)
    lines = [json.dumps({"inputs": one, "targets": "unread"}) for one in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    return folder, Student(module), vocabulary, params


def written(place, out, *, decoding=DECODING, k=K, prompts="prompts.jsonl", **more):
    folder, model, _, _ = place
    return label(
        model,
        str(folder / "run"),
        decoding,
        prompts_path=folder / prompts,
        folder=FolderSpec(out, 2, **more),
        top_logprobs=k,
        vocabulary_path=folder / "v.model",
        mesh="1x1",
    )


@pytest.fixture(scope="module")
def corpus(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "answers"
    return out, written(place, out)


def test_the_rows_are_the_checkpoints_own_distributions(place, corpus):
    _, model, vocabulary, params = place
    records = list(read_shards(corpus[0]))
    assert len(records) == corpus[1].counts()["text_to_text"] > 3

    @jax.jit
    def logits(inputs, targets):
        before = jnp.pad(targets[:, :-1], [(0, 0), (1, 0)])
        return model.module.apply(
            {"params": params}, inputs, before, targets, enable_dropout=False
        )

    for record in records:
        target = record.target
        number = int(record.id.partition("/")[0])
        assert record.inputs == PROMPTS[number]
        assert target.ids[-1] == vocabulary.eos_id and (target.origin == 0).all()
        assert vocabulary.decode(target.ids.tolist()) == record.targets
        inputs = np.zeros((1, 24), np.int32)
        inputs[0, : len(record.input_ids) + 1] = [*record.input_ids, 1]
        asked = np.zeros((1, 12), np.int32)
        asked[0, : len(target.ids)] = target.ids
        wanted = jax.nn.log_softmax(logits(inputs, asked)[0, : len(target.ids)])
        for row, ids, found, tail in zip(
            np.asarray(wanted),
            target.teacher_ids,
            target.teacher_logprobs,
            target.tail,
            strict=True,
        ):
            used = np.isfinite(found)
            # Stored as float16.
            np.testing.assert_allclose(found[used], row[ids[used]], 6e-4, 1e-3)
            assert np.exp(found[used]).sum() + tail == pytest.approx(1, abs=1e-3)
            best = np.sort(row[: vocabulary.rows])[::-1][: used.sum()]
            np.testing.assert_allclose(found[used], best, 6e-4, 1e-3)


def test_answers_that_do_not_end_are_left_out_and_counted(corpus):
    manifest = corpus[1]
    funnel = manifest.funnel
    assert funnel["read"] == 2 * len(PROMPTS)
    assert funnel["kept"] == manifest.counts()["text_to_text"]
    assert funnel["rejected"]["cut_off"] == funnel["read"] - funnel["kept"] > 0
    assert manifest.fingerprint.sampling["num_samples"] == 2


def test_a_killed_labelling_goes_on_to_the_same_bytes(
    place, corpus, tmp_path, monkeypatch
):
    generate = Engine.generate

    def killed(self, *arguments, **options):
        for number, one in enumerate(generate(self, *arguments, **options)):
            if number == 5:
                raise KeyboardInterrupt
            yield one

    out = tmp_path / "answers"
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "generate", killed)
        with pytest.raises(KeyboardInterrupt):
            written(place, out)
    assert not out.exists()
    left = tmp_path / "answers.decoded.jsonl"
    assert len(left.read_text().splitlines()) == 1 + 5
    decoded = []
    decode = Engine.decode
    monkeypatch.setattr(
        Engine,
        "decode",
        lambda self, *a, **o: decoded.append(a) or decode(self, *a, **o),
    )
    written(place, out)
    assert len(decoded) == 2  # three batches, one of which was finished
    assert not left.exists()
    for file in corpus[0].glob("*.gz"):
        assert file.read_bytes() == (out / file.name).read_bytes()


def test_the_command_writes_what_the_function_does(place, corpus, tmp_path, capfd):
    folder = place[0]
    words = [
        *("label", "--gin_file", str(folder / "recipe.gin")),
        *("--prompts", str(folder / "prompts.jsonl"), "--k", str(K)),
        *("--out", str(tmp_path / "answers"), "--shards", "2", "--teacher", "base"),
        f"--gin.CHECKPOINT_PATH={folder / 'run'}",
        f"--gin.VOCABULARY_PATH={folder / 'v.model'}",
        *("--gin.SEED=3", "--gin.NUM_SAMPLES=2"),
    ]
    assert cli.main(words) == 0
    for file in corpus[0].glob("*.gz"):
        assert file.read_bytes() == (tmp_path / "answers" / file.name).read_bytes()
    tables = ["".join(capfd.readouterr())]
    assert cli.main(words) == 2
    assert "already holds a corpus" in capfd.readouterr().err
    assert cli.main(["corpus", "stats", "--corpus", str(tmp_path / "answers")]) == 0
    # Nothing is judged, and no table says so.
    for table in (*tables, "".join(capfd.readouterr())):
        assert "questions with a whole answer" in table
        assert "right" not in table and "verified" not in table


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"decoding": dataclasses.replace(DECODING, method="beam")}, "a beam search"),
        ({"prompts": "nothing.jsonl"}, "nothing.jsonl"),
        ({"prompts": "odd.jsonl"}, 'there is no "input"'),
        *(
            ({"prompts": f"blank{n}.jsonl"}, rf"blank{n}\.jsonl:2: .* blank")
            for n in "012"
        ),
        ({"k": 300}, "--k = 300; the network has 256 ids"),
    ],
)
def test_what_cannot_be_labelled_is_one_message(place, tmp_path, changed, said):
    (place[0] / "odd.jsonl").write_text('{"question": "?"}\n')
    for number, text in enumerate(("", " \t", "\n\u3000")):
        lines = [{"input": "Say one."}, {"inputs": text}]
        file = place[0] / f"blank{number}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=said):
        written(place, tmp_path / "answers", **changed)
    assert not (tmp_path / "answers").exists()
