"""The processes of a run prepare the examples together, also without a common disk."""

import os
import subprocess
import sys

import pytest
from machines import Machine, build
from ports import free_port

from specialize.paths import store as objects

pytestmark = pytest.mark.slow

LENGTHS = dict.fromkeys(("inputs", "targets"), 64)
TEACHER = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
TASKS = ("specialize_gsm8k_zero_shot_cot", "specialize_gsm8k_zero_shot_answer_only")
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
    print("prepared", task.name, part, flush=True)

examples._prepare = noted
with processes.ending_together(), processes.naming_the_lost():
    sharding.initialize_distributed(address, int(count), int(index))
    tasks = [seqio.get_mixture_or_task(name) for name in {TASKS!r}]
    lengths = {LENGTHS | dict.fromkeys(TEACHER, 64)!r}
    found = examples.load_tasks(
        tasks, "train", lengths, folder, exchange=exchange or None
    )
    print("digests", *(one.digest for one in found), flush=True)
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
    """The files of the examples in a folder: path -> bytes."""
    found = [one for one in folder.iterdir() if one.name.startswith("specialize")]
    assert len(found) == len(TASKS)
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for one in found
        for file in one.iterdir()
    }


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
        for name in TASKS:
            assert f"prepared {name} ({index}, {count})" in text
    assert content(tmp_path) == alone


def test_machines_exchange_their_parts_in_a_bucket(corpus, alone, root, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    said, status = start(corpus, folders, f"{root}/examples")
    assert status == [0, 0], said
    assert [content(folder) for folder in folders] == [alone, alone]
    later = [tmp_path / "c", folders[1]]  # a machine was replaced
    said, status = start(corpus, later, f"{root}/examples")
    assert status == [0, 0] and "prepared " not in "".join(said)
    assert content(later[0]) == alone
    assert objects.names(f"{root}/examples")


def test_after_a_kill_only_what_is_missing_is_prepared_again(corpus, alone, tmp_path):
    said, status = start(corpus, [tmp_path] * 2, tmp_path, killed="1")
    assert status[1] == 9 and status[0] == 1
    assert "process 1 of 2 was killed or is unreachable" in said[0]
    made = [
        {part.parent.name for part in tmp_path.glob(f"*.parts/{index}-of-2")}
        for index in range(2)
    ]
    assert made[0] and not made[1]
    said, status = start(corpus, [tmp_path] * 2, tmp_path)
    assert status == [0, 0], said
    for index, text in enumerate(said):
        for name in TASKS:
            there = any(one.startswith(f"{name}-train") for one in made[index])
            assert (f"prepared {name} ({index}, 2)" in text) is not there
    assert content(tmp_path) == alone
