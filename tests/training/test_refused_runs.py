"""What stops a run before its first step: one message, and the folder as it was."""

import gzip
import os
import shutil
import subprocess
import sys

import pytest

from specialize import cli, sharding
from specialize.errors import InputError


def state(folder):
    """Path -> bytes of everything in a folder."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def train(folder, model_dir, *words):
    recipe = folder / "golden.gin"
    text = recipe.read_text().replace("import tasks\n", "import specialize_tasks\n")
    recipe.write_text(text)
    places = {
        "MODEL_DIR": model_dir,
        "CORPUS_DIR": folder / "corpus",
        "VOCABULARY_PATH": folder / "vocabulary.model",
        "BENCHMARKS_DIR": folder / "world",
    }
    flags = [f"--gin.{name}={place}" for name, place in places.items()]
    return cli.main(["train", "--gin_file", str(recipe), *flags, *words])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def rewrite(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5]))


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [flip, cut, rewrite, empty, remove])
def test_a_damaged_shard_is_named_and_leaves_the_folder_as_it_was(
    of_0_1, tmp_path, damage, capfd
):
    shards = sorted((of_0_1 / "corpus").glob("zero_shot_cot-*"))
    damage(shards[0])
    shutil.rmtree(of_0_1 / "run" / "examples", ignore_errors=True)
    before = state(of_0_1 / "run")
    new, prepared = tmp_path / "new", tmp_path / "empty"
    prepared.mkdir()
    for model_dir in (of_0_1 / "run", new, prepared):
        assert train(of_0_1, model_dir) == 2
        said = capfd.readouterr().err
        assert said.count("error: ") == 1 and shards[0].name in said
        assert "Traceback" not in said
    assert state(of_0_1 / "run") == before
    assert not new.exists() and list(prepared.iterdir()) == []


@pytest.mark.parametrize(
    "coordinator",
    [
        *("localhost", "10.0.0.1", "host:", ":8476", "host:port", "host:0"),
        *("host:65536", "host:-1", "host:8476x", "", "host:" + "9" * 5000, "host:٣"),
    ],
)
def test_a_coordinator_without_a_port_is_one_message(coordinator):
    with pytest.raises(InputError, match="it must be HOST:PORT of process 0, such as"):
        sharding.initialize_distributed(coordinator, 2, 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ("host:1", None, None),
            "--coordinator_address needs --process_count and --process_index.",
        ),
        (
            (None, 2, None),
            "--process_count needs --coordinator_address and --process_index.",
        ),
        (
            ("host:1", None, 0),
            "--coordinator_address and --process_index need --process_count.",
        ),
        (("host:1", 2, 2), "--process_index is 2 and --process_count 2; the processes"),
        (("host:1", 2, -1), "--process_index is -1 and --process_count 2"),
        (("host:1", 0, 0), "--process_index is 0 and --process_count 0"),
    ],
)
def test_processes_that_contradict_each_other_are_one_message(given, said):
    with pytest.raises(InputError, match=said):
        sharding.initialize_distributed(*given)


@pytest.mark.parametrize("words", [["--multiprocess_gpu"], []])
def test_no_cluster_is_one_message(words):
    # In a process of its own: JAX joins others only before its first computation.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    if not words:
        environment["SPECIALIZE_CLUSTER"] = "1"
    command = [sys.executable, "-m", "specialize", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No cluster (Slurm, MPI, TPU pod) tells")
    assert "Leave --multiprocess_gpu" in done.stderr
    assert len(done.stderr.splitlines()) == 1
