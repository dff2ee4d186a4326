"""Students with bytes, other ids of padding and EOS, or wide ids: corpus to export.

Each goes through the commands: corpus, training, evaluation, conversion and back.
"""

import io
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from own_task_cases import lengths, read_lines, recipe

from specialize import cli
from specialize.corpus.vocabulary import read_vocabulary
from specialize.errors import InputError
from specialize.quickstart import miniature

pytestmark = pytest.mark.slow

RUN = """
network.T5Config.vocab_size = {rows}
network.T5Config.num_encoder_layers = 2
network.T5Config.relpos_per_layer = {own_tables}
MESH = {{'data': 1, 'fsdp': 1, 'model': 1}}
LOG_PERIOD = 1
BATCH_SIZE = 4
SUITES = ('gsm8k',)
MAX_EXAMPLES = 2
OUTPUT_LENGTH = 8
EVAL_BATCH_SIZE = 2
"""
# Special ids of SentencePiece models; -1 is none.
SPECIAL = {
    "madlad": dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1, byte_fallback=True),
    "bart": dict(bos_id=0, pad_id=1, eos_id=2, unk_id=3),
    "wide": dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
}
FILLERS = 66_000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("world")
    return miniature.write(
        folder / "world", num_train=24, num_test=4, num_samples=1, num_pretraining=40
    )


def vocabulary(kind: str, world: pathlib.Path, folder: pathlib.Path) -> str:
    """The name or file of a vocabulary."""
    if kind == "byt5":
        return kind
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((world / "text.txt").read_text().splitlines()),
        model_writer=written,
        vocab_size=600,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
        **SPECIAL[kind],
    )
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    if kind == "wide":
        # As mT5: ids above 2^16, and sentinels that are pieces of the model.
        pieces = [(piece.piece, piece.score, piece.type) for piece in model.pieces]
        del model.pieces[:]
        fillers = [(f"▁unused{i}", -99.0, 1) for i in range(FILLERS)]
        own = [(f"▁<extra_id_{i}>", 0.0, 4) for i in reversed(range(100))]
        for piece, score, sort in [*pieces[:3], *fillers, *pieces[3:], *own]:
            model.pieces.add(piece=piece, score=score, type=sort)
    path = folder / "v.model"
    path.write_bytes(model.SerializeToString())
    return str(path)


@pytest.mark.parametrize("kind", ["byt5", "madlad", "bart", "wide"])
def test_a_student_goes_from_corpus_to_export(kind, world, tmp_path, monkeypatch):
    import specialize

    monkeypatch.chdir(tmp_path)
    name = vocabulary(kind, world, tmp_path)
    words = read_vocabulary(name)
    expected = dict(byt5=(0, 1), madlad=(1, 2), bart=(1, 2), wide=(0, 1))[kind]
    assert words.special == expected
    assert words.extra_ids == dict(byt5=125, madlad=0, bart=0, wide=0)[kind]

    assert 0 == cli.main(
        ["corpus", "build", "--problems", str(world / "gsm8k/train.jsonl")]
        + ["--completions", str(world / "completions.jsonl"), "--no_rationales"]
        + ["--vocabulary", name, "--demonstrations", "1", "--processes", "1"]
        + ["--teacher", "exact", "--out", "corpus"]
    )
    records = list(specialize.Corpus("corpus"))
    for record in records:
        ids = [*words.encode(record.targets), words.eos_id]
        assert record.target.ids.tolist() == ids
        assert record.input_ids.tolist() == words.encode(record.inputs)
        assert record.target.teacher_ids.max() < words.size
    cot = [record for record in records if record.format == "zero_shot_cot"]
    soft = np.concatenate([record.target.origin[:-1] == 0 for record in cot])
    assert soft.mean() == 1.0 if kind == "byt5" else soft.mean() > 0.95
    if kind == "wide":
        assert max(record.target.ids.max() for record in records) > FILLERS
    shown = ["corpus", "inspect", "--corpus", "corpus", "--vocabulary", name]
    assert cli.main([*shown, "--id", cot[0].id]) == 0

    length = 768 if kind == "byt5" else 256
    settings = RUN.format(rows=words.rows, own_tables=kind == "wide")
    (tmp_path / "run.gin").write_text(recipe(lengths(length, length), settings))
    common = ["--gin_file", "run.gin", f"--gin.VOCABULARY_PATH={name!r}"]
    common.append(f"--gin.BENCHMARKS_DIR={str(world)!r}")
    run = ["--gin.MODEL_DIR='run'", "--gin.CORPUS_DIR='corpus'"]
    assert cli.main(["config", "--for", "train", *common, *run, "--devices", "1"]) == 0
    assert cli.main(["train", *common, *run]) == 0
    found = read_lines(tmp_path / "run" / "metrics.jsonl")
    losses = [line["train"]["loss"] for line in found if "train" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert found[-1]["step"] == 2
    # What was fed to the network are those ids, EOS included.
    (stored,) = (tmp_path / "run" / "examples").glob("*zero_shot_cot*/targets.bin")
    ids = np.fromfile(stored, "<i4" if words.size > 1 << 16 else "<u2")
    assert (ids == words.eos_id).sum() == len(cot)
    assert len(ids) == sum(len(record.target.ids) for record in cot)

    evaluation = ["--gin.CHECKPOINT_PATH='run'", "--gin.OUTPUT_DIR='ev'"]
    assert cli.main(["evaluate", *common, *evaluation]) == 0
    results = json.loads((tmp_path / "ev" / "results.json").read_text())
    assert results["suites"]["gsm8k:zero_shot_cot"]["n"] == 2

    assert cli.main(["convert", "--source", "run", "--target", "hf"]) == 0
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"]) == expected
    assert config["model_type"] == ("umt5" if kind == "wide" else "t5")
    here, there = specialize.load("run"), specialize.load("hf")
    assert there.vocabulary.special == expected
    prompts = [record.inputs for record in cot[:3]]
    assert there.vocabulary.encode(prompts[0]) == words.encode(prompts[0])
    assert list(here.generate(prompts)) == list(there.generate(prompts))
    one, other = here.loss(cot[:2])[1]["tail"], there.loss(cot[:2])[1]["tail"]
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert (one > 0).all()
    for to in ("t5x", "orbax"):
        back = ["convert", "--source", "hf", "--target", to, "--to", to]
        assert cli.main([*back, "--layers", "scalable"]) == 0
        again = ["convert", "--source", to, "--target", f"{to}-hf", "--to", "hf"]
        assert cli.main(again) == 0
        copied = json.loads((tmp_path / f"{to}-hf" / "config.json").read_text())
        assert copied == config
    # Another vocabulary is refused where its ids would not fit or not end.
    with pytest.raises(InputError, match="ids|rows|ends its answers"):
        specialize.load("hf", vocabulary=other_vocabulary(kind, world, tmp_path))


def other_vocabulary(kind: str, world: pathlib.Path, folder: pathlib.Path) -> str:
    """A vocabulary that cannot be the student's."""
    if kind in ("madlad", "bart"):
        return "byt5"
    return vocabulary("madlad", world, folder)
