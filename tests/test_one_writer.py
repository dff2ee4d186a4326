"""One command at a time writes in a local folder; a killed one makes way at once."""

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from specialize import outputs
from specialize.errors import InputError
from specialize.inference.resumable import unfinished
from specialize.outputs import hidden_folders, one_writer


def in_folder(path):
    return outputs.working_folder(path / "run", "run")


def of_file(path):
    return unfinished(path / "told.jsonl")


KINDS = {"run": in_folder, "decoded texts": of_file}
HOLDS = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_one_writer
with test_one_writer.KINDS[sys.argv[3]](Path(sys.argv[2])):
    if not os.fork():  # outlives its killed parent, whose lock it has not kept
        print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holds(tmp_path):
    """Starts another process that writes; returned when it does."""
    started = []

    def start(kind):
        words = [os.path.dirname(__file__), tmp_path, kind]
        one = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDS), *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(one)
        assert one.stdout is not None and one.stdout.readline() == "holds\n"
        return one

    yield start
    for one in started:
        os.killpg(one.pid, signal.SIGKILL)
        one.communicate()


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_command_is_refused_and_goes_on_at_once_when_the_first_is_killed(
    tmp_path, holds, kind
):
    first = holds(kind)
    before = sorted(tmp_path.rglob("*"))
    who = rf"another command writes .*{tmp_path}.*process {first.pid} of "
    with pytest.raises(InputError, match=who + socket.gethostname()):
        KINDS[kind](tmp_path).__enter__()
    assert sorted(tmp_path.rglob("*")) == before
    first.kill()
    first.wait()
    with KINDS[kind](tmp_path):
        with pytest.raises(InputError, match=f"process {os.getpid()} of"):
            KINDS[kind](tmp_path).__enter__()
    assert not [one for one in tmp_path.rglob(".*")]
    with KINDS[kind](tmp_path):
        pass


def test_a_process_that_does_not_write_shares_the_folder(tmp_path):
    with in_folder(tmp_path) as one:
        with outputs.working_folder(one.path, "run", leader=False) as other:
            assert one.path == other.path
        with outputs.working_folder(one.path / "selection", "selection"):
            pass
    assert outputs.kind_of(tmp_path / "run") == "run"


def test_what_a_killed_command_left_is_no_content(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / hidden_folders.LOCK).write_text('{"host": "gone"')
    with outputs.staged_directory(tmp_path / "run", "corpus") as staged:
        (staged / "data").write_text("1")
    assert outputs.kind_of(tmp_path / "run") == "corpus"
    with pytest.raises(InputError, match="holds a corpus of specialize"):
        in_folder(tmp_path).__enter__()


def test_a_folder_that_another_command_has_just_given_back_is_made_again(
    tmp_path, monkeypatch
):
    lock = one_writer.fcntl.flock

    def removed_before_it_is_locked(descriptor, how):
        monkeypatch.setattr(one_writer.fcntl, "flock", lock)
        (tmp_path / "run" / hidden_folders.LOCK).unlink()
        (tmp_path / "run").rmdir()
        lock(descriptor, how)

    monkeypatch.setattr(one_writer.fcntl, "flock", removed_before_it_is_locked)
    with in_folder(tmp_path):
        with pytest.raises(InputError, match="another command writes"):
            in_folder(tmp_path).__enter__()
    assert [one.name for one in (tmp_path / "run").iterdir()] == [outputs.MARKER]


def test_where_locks_do_not_exist_the_command_goes_on_and_says_so(
    tmp_path, monkeypatch, capfd
):
    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(one_writer.fcntl, "flock", flock)
    with in_folder(tmp_path) as working:
        assert outputs.kind_of(working.path) == "run"
    said = capfd.readouterr().err
    assert f"{tmp_path}/run is on a file system without locks (No locks" in said
