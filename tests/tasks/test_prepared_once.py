"""Prepared examples are found again by what they were made from, in any process."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
TASK = "specialize_gsm8k_zero_shot_cot"
TEACHER = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
LENGTHS = dict.fromkeys(("inputs", "targets", *TEACHER), 128)
START = f"""
import sys, seqio
import specialize_tasks
from specialize.training.data.examples import load_tasks
task = seqio.get_mixture_or_task({TASK!r})
print(load_tasks([task], "train", {LENGTHS!r}, sys.argv[1])[0].digest)
"""


@pytest.fixture
def start(of_0_1):
    """Starts processes that prepare the corpus of 0.1; gives their digests."""
    places = {
        "SPECIALIZE_CORPUS_DIR": str(of_0_1 / "corpus"),
        "SPECIALIZE_VOCABULARY": str(of_0_1 / "vocabulary.model"),
        "PYTHONPATH": str(ROOT),
    }

    def run(count):
        command = [sys.executable, "-c", START, str(of_0_1 / "examples")]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        environment = os.environ | places
        running = [
            subprocess.Popen(command, env=environment, **pipes) for _ in range(count)
        ]
        ended = [(one, *one.communicate()) for one in running]
        assert all(one.returncode == 0 for one, _, _ in ended), ended[0][2][-3000:]
        return {out.split()[-1] for _, out, _ in ended}

    return run


def test_three_starts_in_two_processes_share_one_copy_and_drop_those_of_0_1(
    of_0_1, recorded, start
):
    (old,) = [name for name in recorded["examples"] if TASK in name]
    (other,) = [name for name in recorded["examples"] if TASK not in name]
    folder = of_0_1 / "examples"
    shutil.copytree(folder / old, folder / f"{old}-again")
    digest = recorded["examples"][old]["digest"]
    assert start(1) == {digest}
    (new,) = {path.name for path in folder.iterdir()} - {other}
    assert new != old and (folder / other).is_dir()  # another task's stays
    written = (folder / new / "examples.json").stat().st_mtime_ns
    assert start(2) == {digest}
    assert {path.name for path in folder.iterdir()} == {new, other}
    assert (folder / new / "examples.json").stat().st_mtime_ns == written
    assert json.loads((folder / new / "examples.json").read_text())["version"] == 1


class Scale:
    """A step with an argument, which it shows only in its fields."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, dataset):
        return dataset


def key(file, argument):
    """The key of a task over one file with one step, and whether it can be reused."""
    seqio = pytest.importorskip("seqio")
    from specialize.training.data.examples import _key

    task = seqio.Task(
        "task",
        source=seqio.TextLineDataSource({"train": str(file)}),
        preprocessors=[Scale(argument)],
        output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(8))},
    )
    return _key(task, "train", {"targets": 8})


def test_a_key_follows_from_the_contents_of_a_steps_arguments(tmp_path):
    file = tmp_path / "records.txt"
    file.write_text("one")
    two, again, three = key(file, 2), key(file, 2), key(file, 3)
    assert two == again and two[0] != three[0]
    assert two[1] is True
    file.write_text("one more")
    assert key(file, 2)[0] != two[0]


def test_what_shows_only_its_address_keeps_one_folder_and_is_never_reused(tmp_path):
    file = tmp_path / "records.txt"
    file.write_text("one")
    arguments = [object(), object()]  # at two addresses
    first, second = (key(file, argument) for argument in arguments)
    assert first == second and first[1] is False
