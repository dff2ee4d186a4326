"""The processes of a run prepare the examples together, also without a common disk."""

import os
import subprocess
import sys

import pytest
from machines import Machine, build
from store_emulators import free_port

from specialize.paths import store as objects

pytestmark = pytest.mark.slow

LENGTHS = dict.fromkeys(("inputs", "targets"), 64)
TEACHER = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
CODE = f"""
import os, sys
import seqio
import specialize_tasks
from specialize import processes, sharding
from specialize.processes import watching
from specialize.training.data import examples, sharing

folder, exchange, address, count, index, killed = sys.argv[1:]
sharing.FEWEST_RECORDS = 10
watching.LOST, watching.GRACE, watching.FAREWELL = 4.0, 2.0, 2.0
prepare = examples._prepare

def noted(task, split, lengths, staged, part):
    prepare(task, split, lengths, staged, part)
    if killed == index:
        os._exit(9)
    print("prepared", part, flush=True)

examples._prepare = noted
with processes.ending_together(), processes.naming_the_lost():
    sharding.initialize_distributed(address, int(count), int(index))
    task = seqio.get_mixture_or_task("specialize_gsm8k_zero_shot_cot")
    lengths = {LENGTHS | dict.fromkeys(TEACHER, 64)!r}
    found = examples.load_examples(
        task, "train", lengths, folder, exchange=exchange or None
    )
    print("digest", found.digest, flush=True)
"""


@pytest.fixture(scope="module")
def corpus(data, tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("corpus"))
    machine.run(*build(data, f"{machine.folder}/corpus"))
    return machine.folder / "corpus", data / "v.model"


def start(corpus, folders, exchange, killed=""):
    """Prepares in one process per folder; what each printed, and its status."""
    variables = {
        "SPECIALIZE_CORPUS_DIR": str(corpus[0]),
        "SPECIALIZE_VOCABULARY": str(corpus[1]),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    address, started = f"127.0.0.1:{free_port()}", []
    for index, folder in enumerate(folders):
        words = [str(folder), str(exchange), address, str(len(folders)), str(index)]
        own = {"SPECIALIZE_CACHE_DIR": f"{folder}/cache"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", CODE, *words, killed],
                env=os.environ | variables | own,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [one.communicate(timeout=300)[0] for one in started]
    return said, [one.returncode for one in started]


def content(folder):
    """The files of the examples in a folder: name -> bytes."""
    (found,) = (one for one in folder.iterdir() if one.name.startswith("specialize"))
    return {file.name: file.read_bytes() for file in found.iterdir()}


@pytest.fixture(scope="module")
def alone(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    said, status = start(corpus, [folder], "")
    assert status == [0], said
    return content(folder)


@pytest.mark.parametrize("count", [2, 3])
def test_processes_with_a_common_folder_make_the_same_bytes(
    corpus, alone, tmp_path, count
):
    said, status = start(corpus, [tmp_path] * count, tmp_path)
    assert status == [0] * count, said
    for index, text in enumerate(said):
        assert f"prepared ({index}, {count})" in text
    assert content(tmp_path) == alone


def test_machines_exchange_their_parts_in_a_bucket(corpus, alone, root, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    said, status = start(corpus, folders, f"{root}/examples")
    assert status == [0, 0], said
    assert [content(folder) for folder in folders] == [alone, alone]
    later = [tmp_path / "c", folders[1]]  # a machine was replaced
    said, status = start(corpus, later, f"{root}/examples")
    assert status == [0, 0] and "prepared (" not in "".join(said)
    assert content(later[0]) == alone
    assert objects.names(f"{root}/examples")


def test_after_a_kill_only_what_is_missing_is_prepared_again(corpus, alone, tmp_path):
    said, status = start(corpus, [tmp_path] * 2, tmp_path, killed="1")
    assert status[1] == 9 and status[0] == 1
    assert "process 1 of 2 was killed or is unreachable" in said[0]
    said, status = start(corpus, [tmp_path] * 2, tmp_path)
    assert status == [0, 0], said
    assert "prepared (" not in said[0] and "prepared (1, 2)" in said[1]
    assert content(tmp_path) == alone
