"""T5X trains on a corpus and with a vocabulary that are in a bucket.

Our tasks copy them once to the machine (`specialize_tasks.locations`), so T5X's own
file systems do not matter. What T5X reads and writes itself may be in `gs://`, which
TensorFlow and TensorStore have clients for; TensorFlow 2.21 has none for `s3://`. The
stores are emulators (`tests/pods`).
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("t5x.train")

import t5x_cases as cases
from store_emulators import Store
from test_t5x_engine import events, gin

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


@pytest.fixture(scope="module")
def losses_of(initial, run, tmp_path_factory):
    """Trains, and gives the losses of both steps."""
    folder = tmp_path_factory.mktemp("steps")

    def losses_of(place, name):
        run(*two_steps(folder / name, initial, place))
        return events(folder / name)["loss"]

    return losses_of


@pytest.fixture(scope="module")
def local(losses_of, world):
    return losses_of(world, "local")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_corpus_in_a_bucket_trains_as_a_local_one(
    world, local, losses_of, one_device, scheme, tmp_path, monkeypatch
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
        found = losses_of(store.root, scheme)
        assert len(found) == 2 and found == local
        assert os.listdir(f"{cache}/buckets")
    finally:
        store.stop()


def test_everything_of_t5x_may_be_in_googles_store(
    world, local, initial, one_device, tmp_path
):
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("TensorFlow finds no emulator without namespaces (root on Linux)")
    given = tmp_path / "in"
    shutil.copytree(world / "corpus", given / "corpus")
    shutil.copy(world / "spiece.model", given)
    shutil.copytree(initial, given / "initial" / initial.name)
    place, python = "gs://bucket", sys.executable
    words = two_steps(f"{place}/run", f"{place}/initial/{initial.name}", place)
    done = subprocess.run(
        [python, f"{HERE}/google_here.py", tmp_path, python, "-m", *words],
        cwd=ROOT,
        env=one_device | {"SPECIALIZE_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert events(tmp_path / "out/run")["loss"] == local
    assert (tmp_path / "out/run/checkpoint_2").is_dir()
    assert not (ROOT / "gs:").exists()
