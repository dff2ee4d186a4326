"""Tests that run T5X itself. They need it in the environment: docs/how-to/t5x.md."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path += [str(ROOT / "tests"), str(ROOT / "tests/pods")]  # store emulators


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = pathlib.Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.t5x)


@pytest.fixture(autouse=True)
def as_t5x_expects():
    """On CPU T5X puts all devices on the model axis, and promotes ranks."""
    import jax

    if jax.device_count() != 1:
        pytest.skip("T5X on CPU needs JAX_NUM_CPU_DEVICES=1 (docs/how-to/t5x.md)")
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def one_device() -> dict[str, str]:
    """The environment of a T5X process: T5X ignores the mesh on CPU."""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_NUMPY_RANK_PROMOTION", None)
    return environment


@pytest.fixture(scope="session")
def run(one_device):
    """Runs `python -m MODULE ...` in the repository's root; returns its output."""

    def start(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=ROOT,
            env=one_device,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    return start


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, run) -> pathlib.Path:
    """A miniature world, its vocabulary and corpus, and a base student of 2 steps."""
    from specialize.quickstart import miniature
    from specialize.quickstart.exact_teacher import TEACHER_NAME

    folder = tmp_path_factory.mktemp("world")
    miniature.write(folder / "world", seed=0, num_train=60)
    miniature.train_vocabulary(folder / "world" / "text.txt", folder / "spiece.model")
    run(
        *("specialize", "corpus", "build", "--no_rationales"),
        *("--problems", folder / "world" / "gsm8k" / "train.jsonl"),
        *("--completions", folder / "world" / "completions.jsonl"),
        *("--teacher", TEACHER_NAME, "--demonstrations", 2),
        *("--vocabulary", folder / "spiece.model", "--out", folder / "corpus"),
    )
    return folder
