"""Rows of an embedding that no id of the vocabulary has.

An embedding is rounded up to a multiple of 128 (mT5's 250,112 rows for 250,100 ids), or
wider still. Such rows are kept by every conversion, no corpus names them, and training
gives them no probability.
"""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from own_task_cases import lengths, recipe

import specialize
from specialize import cli
from specialize.checkpoints import names
from specialize.checkpoints.opening import open_checkpoint
from specialize.corpus.vocabulary import read_vocabulary
from specialize.quickstart import miniature

SIZE = 512 + 100  # pieces and sentinels
ROWS = (SIZE, 640, 1024)  # none spare; rounded up; wider than rounding explains
RUN = """
network.T5Config.vocab_size = {rows}
MESH = {{'data': 1, 'fsdp': 1, 'model': 1}}
BATCH_SIZE = 4
TRAIN_STEPS = {steps}
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.0
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("world")
    made = miniature.write(
        folder / "world", num_train=24, num_test=4, num_samples=1, num_pretraining=40
    )
    miniature.train_vocabulary(made / "text.txt", folder / "v.model")
    return made


def build(world: pathlib.Path, out: pathlib.Path, rows: int | None) -> int:
    words = ["corpus", "build", "--problems", str(world / "gsm8k/train.jsonl")]
    words += ["--completions", str(world / "completions.jsonl"), "--no_rationales"]
    words += ["--vocabulary", str(world.parent / "v.model"), "--demonstrations", "1"]
    words += ["--processes", "1", "--teacher", "exact", "--out", str(out)]
    return cli.main(words + ([] if rows is None else ["--rows", str(rows)]))


@pytest.mark.parametrize("rows", [None, *ROWS])
def test_no_record_names_a_row_without_a_piece(world, tmp_path, rows):
    assert build(world, tmp_path / "c", rows) == 0
    corpus = specialize.Corpus(tmp_path / "c")
    fingerprint = json.loads((tmp_path / "c/corpus.json").read_text())["fingerprint"]
    assert fingerprint["vocabulary_rows"] == (640 if rows is None else rows)
    for record in corpus:
        ids = (record.input_ids, record.target.ids, record.target.teacher_ids)
        assert max(part.max() for part in ids) < SIZE


def test_fewer_rows_than_ids_are_refused(world, tmp_path, capfd):
    assert build(world, tmp_path / "c", SIZE - 1) == 2
    assert f"has {SIZE} ids" in capfd.readouterr().err
    assert not (tmp_path / "c").exists()


def spare(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """The spare rows of embedding and head, one per row."""
    tensors = open_checkpoint(folder).tensors
    head = tensors[names.HEAD].read().T
    return tensors[names.EMBEDDING].read()[SIZE:], head[SIZE:]


def mass(folder: str, prompts: list[str]) -> tuple[float, Any]:
    """The most probability of all spare rows together at a position, and the texts."""
    student = specialize.load(folder)
    rows = student.model.module.config.vocab_size
    found = student.generate(prompts, top_k=rows)
    most = [
        np.where(one.ids >= SIZE, np.exp(one.logprobs), 0.0).sum(-1).max()
        for one in found.top_k
    ]
    return float(max(most)), found.texts


@pytest.mark.slow
@pytest.mark.parametrize("rows", ROWS)
def test_spare_rows_are_kept_by_conversion_and_given_nothing_by_training(
    world, tmp_path, monkeypatch, rows
):
    monkeypatch.chdir(tmp_path)
    # A corpus that was built for the rounded embedding serves the others too.
    assert build(world, tmp_path / "corpus", 640) == 0
    name = str(world.parent / "v.model")

    def train(out: str, steps: int, **more: str) -> None:
        settings = RUN.format(rows=rows, steps=steps)
        (tmp_path / "run.gin").write_text(recipe(lengths(256, 256), settings))
        macros = {"VOCABULARY_PATH": name, "CORPUS_DIR": "corpus", "MODEL_DIR": out}
        words = ["train", "--gin_file", "run.gin"]
        words += [f"--gin.{key}={value!r}" for key, value in (macros | more).items()]
        assert cli.main(words) == 0

    train("first", 2)
    for source, target, to in (
        ("first", "hf", "hf"),
        ("hf", "t5x", "t5x"),
        ("t5x", "orbax", "orbax"),
        ("orbax", "hf2", "hf"),
    ):
        words = ["convert", "--source", source, "--target", target, "--to", to]
        assert cli.main(words) == 0
        for one, other in zip(spare("first"), spare(target), strict=True):
            assert len(one) == rows - SIZE
            np.testing.assert_array_equal(one, other)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["vocab_size"] == rows
    assert specialize.load("hf").vocabulary.size == SIZE
    last = read_vocabulary(name, rows=rows).piece(rows - 1)
    assert last == ("▁<extra_id_0>" if rows == SIZE else f"<row {rows - 1}>")

    train("second", 12, INITIAL_CHECKPOINT_PATH="hf")
    # An optimizer has nothing for a row that no input names.
    np.testing.assert_array_equal(spare("hf")[0], spare("second")[0])
    prompts = [one.inputs for one in specialize.Corpus("corpus")][:4]
    (before, _), (after, texts) = mass("hf", prompts), mass("second", prompts)
    assert after <= before and (before > 0) == (rows > SIZE)
    assert cli.main(["convert", "--source", "second", "--target", "out"]) == 0
    assert mass("out", prompts)[1] == texts

    # Rows are added or cut only where the ids stay the same.
    for other in (SIZE, 640, 1024):
        words = ["convert", "--source", "out", "--target", f"to{other}"]
        words += ["--to", "t5x", "--rows", str(other)]
        fits = other == rows or 1024 not in (other, rows)
        assert cli.main(words) == (0 if fits else 2)


@pytest.mark.slow
def test_an_embedding_without_spare_rows_starts_a_rounded_network(
    world, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert build(world, tmp_path / "corpus", None) == 0
    name = str(world.parent / "v.model")
    for out, rows, start in (("exact", SIZE, None), ("rounded", 640, "hf")):
        settings = RUN.format(rows=rows, steps=2)
        (tmp_path / "run.gin").write_text(recipe(lengths(256, 256), settings))
        macros = {"VOCABULARY_PATH": name, "CORPUS_DIR": "corpus", "MODEL_DIR": out}
        macros |= {} if start is None else {"INITIAL_CHECKPOINT_PATH": start}
        words = ["train", "--gin_file", "run.gin"]
        words += [f"--gin.{key}={value!r}" for key, value in macros.items()]
        assert cli.main(words) == 0
        assert start or cli.main(["convert", "--source", out, "--target", "hf"]) == 0
    assert len(spare("rounded")[0]) == 640 - SIZE
