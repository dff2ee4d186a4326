"""T5X trains, evaluates and infers with paths in a bucket.

Our tasks copy what they read once to the machine (`specialize_tasks.locations`), so
T5X's own file systems do not matter for it. What T5X reads and writes itself may be in
`gs://`, which TensorFlow and TensorStore have clients for; TensorFlow 2.21 has none for
`s3://`. The stores are emulators (`tests/pods`).
"""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("t5x.train")

import t5x_cases as cases
from own_task_cases import read_lines
from store_emulators import Store
from test_t5x_engine import events, gin

from specialize.evaluation.suites import loading
from specialize.paths import store as objects

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(scope="module")
def initial(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("initial")
    return cases.random_student(folder, world / "spiece.model")


def two_steps(model_dir, initial, place):
    """Words that train two steps with the corpus and vocabulary of a place."""
    return [
        "t5x.train",
        "--gin_file=t5x_configs/runs/t5x_train.gin",
        "--gin_file=t5x_configs/recipes/quickstart.gin",
        *gin(
            MODEL_DIR=str(model_dir),
            INITIAL_CHECKPOINT_PATH=str(initial),
            CORPUS_DIR=f"{place}/corpus",
            VOCABULARY_PATH=f"{place}/spiece.model",
            TRAIN_STEPS=2,
            WARMUP_STEPS=1,
            CHECKPOINT_PERIOD=2,
            EVAL_PERIOD=2,
            LOG_PERIOD=1,
        ),
    ]


def asked(checkpoint, place):
    """Words that ask the checkpoint the same questions with eval and with infer."""
    return [
        "--gin_file=t5x_configs/recipes/quickstart_evaluate.gin",
        *gin(
            CHECKPOINT_PATH=str(checkpoint),
            BENCHMARKS_DIR=f"{place}/world",
            VOCABULARY_PATH=f"{place}/spiece.model",
            SUITES=("gsm8k:few_shot_cot",),
            EVAL_BATCH_SIZE=8,
            OUTPUT_LENGTH=24,
            MAX_EXAMPLES=16,
        ),
    ]


def commands(place, initial, out):
    """Words that train two steps, then evaluate and infer with what was trained."""
    questions = asked(f"{out}/run/checkpoint_2", place)
    runs = "--gin_file=t5x_configs/runs/t5x_"
    return [
        two_steps(f"{out}/run", initial, place),
        ["t5x.eval", f"{runs}evaluate.gin", *questions, *gin(OUTPUT_DIR=f"{out}/eval")],
        ["t5x.infer", f"{runs}infer.gin", *questions, *gin(OUTPUT_DIR=f"{out}/infer")],
    ]


@pytest.fixture(scope="module")
def on_this_machine(world, initial, run, tmp_path_factory):
    """The folder in which train, eval and infer wrote with local paths."""
    folder = tmp_path_factory.mktemp("here")
    for words in commands(world, initial, folder):
        run(*words)
    return folder


@pytest.fixture(scope="module")
def in_the_store(world, initial, one_device, tmp_path_factory):
    """A copy of the bucket after the same three commands, every path being in it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("TensorFlow finds no emulator without namespaces (root on Linux)")
    folder = tmp_path_factory.mktemp("store")
    for name in ("corpus", "world"):
        shutil.copytree(world / name, folder / "in" / name)
    shutil.copy(world / "spiece.model", folder / "in")
    shutil.copytree(initial, folder / "in/initial" / initial.name)
    place, python = "gs://bucket", sys.executable
    lines = [
        shlex.join([python, "-m", *words])
        for words in commands(place, f"{place}/initial/{initial.name}", place)
    ]
    done = subprocess.run(
        [python, f"{HERE}/google_here.py", folder, "bash", "-c", " && ".join(lines)],
        cwd=ROOT,
        env=one_device | {"SPECIALIZE_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert not (ROOT / "gs:").exists()
    return folder / "out"


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_corpus_in_a_bucket_trains_as_a_local_one(
    world, initial, on_this_machine, run, one_device, scheme, tmp_path, monkeypatch
):
    store = Store(scheme, tmp_path)
    store.start()
    try:
        for name, value in store.variables.items():
            monkeypatch.setenv(name, value)
            monkeypatch.setitem(one_device, name, value)
        cache = str(tmp_path / "cache")
        monkeypatch.setitem(one_device, "SPECIALIZE_CACHE_DIR", cache)
        for file in (world / "spiece.model", *(world / "corpus").iterdir()):
            objects.upload(file, f"{store.root}/{file.relative_to(world)}")
        run(*two_steps(tmp_path / "run", initial, store.root))
        losses = events(tmp_path / "run")["loss"]
        assert losses == events(on_this_machine / "run")["loss"]
        assert os.listdir(f"{cache}/buckets")
    finally:
        store.stop()


def test_t5x_trains_the_same_with_every_path_in_googles_store(
    on_this_machine, in_the_store
):
    losses = events(in_the_store / "run")["loss"]
    assert losses == events(on_this_machine / "run")["loss"]
    assert len(losses) == 2
    assert (in_the_store / "run/checkpoint_2").is_dir()


def test_t5x_evaluates_the_same_with_every_path_in_googles_store(
    on_this_machine, in_the_store
):
    """The figures of the judge, and every prediction."""
    task = "specialize_eval_gsm8k_few_shot_cot"
    for kind in ("metrics", "000002"):
        [here] = (on_this_machine / "eval").rglob(f"{task}-{kind}.jsonl")
        there = in_the_store / here.relative_to(on_this_machine)
        assert there.read_text() == here.read_text()
        lines = read_lines(here)
        assert len(lines) == (1 if kind == "metrics" else 16)
    assert len({row["prediction"] for row in lines}) > 1


def test_t5x_infers_the_same_with_every_path_in_googles_store(
    on_this_machine, in_the_store
):
    """Every prediction; what T5X writes on the way is removed in the store, too."""
    here, there = (
        {file.relative_to(out): file for file in (out / "infer").rglob("*.jsonl-*")}
        for out in (on_this_machine, in_the_store)
    )
    assert here.keys() == there.keys()
    [written] = [name for name in here if name.suffix != ".COMPLETED"]
    assert there[written].read_text() == here[written].read_text()
    assert len(read_lines(here[written])) == 16


def test_t5x_asks_the_questions_that_we_ask(world, on_this_machine):
    """The same questions and prompts, by MAX_EXAMPLES and DEMONSTRATIONS."""
    prompt = "few_shot_cot"
    ours = loading.load_suite(
        *("gsm8k", str(world / "world")),
        **{"prompt": prompt, "split": "all", "max_examples": 16, "demonstrations": 1},
    )
    out = on_this_machine
    [written] = (out / "eval").rglob(f"specialize_eval_gsm8k_{prompt}-0*.jsonl")
    asked = [row["input"] for row in read_lines(written)]
    assert [row["id"] for row in asked] == [one.id for one in ours.examples]
    prompts = [one.inputs for one in ours.examples]
    assert [row["inputs_pretokenized"] for row in asked] == prompts
    [inferred] = (out / "infer").glob("*-predict.jsonl-00000-of-00001")
    asked = [row["inputs"]["inputs_pretokenized"] for row in read_lines(inferred)]
    assert asked == prompts
