"""Outputs: what others put there is kept, links are followed, no part is left."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from specialize import cli, outputs
from specialize.errors import InputError
from specialize.outputs import hidden_folders, replacing, streams


def write_folder(path, *, replace=False, name="data", text="new", during=None):
    with outputs.staged_directory(path, "corpus", replace=replace) as staged:
        (staged / name).write_text(text)
        if during is not None:
            during()


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "two renames"])
def system(request, monkeypatch):
    """Both ways of replacing a folder, whatever this system can do."""
    if request.param == "two renames":
        monkeypatch.setattr(replacing, "_exchange", lambda one, other: False)
    return request.param


@pytest.mark.parametrize("before", ["absent", "empty", "a corpus"])
@pytest.mark.parametrize(
    "arrival", ["thesis.txt", "deep/er/thesis.txt", ".hidden", "Ünïcode name"]
)
def test_what_arrives_in_an_output_while_it_is_made_is_kept(
    tmp_path, system, before, arrival
):
    out = tmp_path / "out"
    if before == "empty":
        out.mkdir()
    if before == "a corpus":
        write_folder(out, name="old", text="old")

    def arrive():
        (out / arrival).parent.mkdir(parents=True, exist_ok=True)
        (out / arrival).write_text("precious")

    write_folder(out, replace=before == "a corpus", during=arrive)
    assert (out / arrival).read_text() == "precious"
    assert (out / "data").read_text() == "new"
    assert not (out / "old").exists()
    assert outputs.kind_of(out) == "corpus"
    assert names(tmp_path) == ["out"]


def test_two_commands_that_write_one_output_do_not_mix(tmp_path, system):
    out = tmp_path / "out"
    for replace in (False, True):
        with pytest.raises(InputError, match="written by another command"):
            write_folder(
                out,
                replace=replace,
                during=lambda: write_folder(out, replace=replace, text="other"),  # noqa: B023
            )
        assert (out / "data").read_text() == "other"
        assert names(tmp_path) == ["out"]


def test_there_is_a_complete_folder_at_every_rename_of_a_replacement(
    tmp_path, system, monkeypatch
):
    class Killed(BaseException):
        pass

    done = []
    real = os.rename

    def rename(source, destination):
        if len(done) == limit:
            raise Killed
        done.append(destination)
        real(source, destination)

    for limit in range(4):
        out = tmp_path / f"out{limit}"
        write_folder(out, text="old")
        done.clear()
        monkeypatch.setattr(os, "rename", rename)
        try:
            write_folder(out, replace=True)
        except Killed:
            pass
        finally:
            monkeypatch.setattr(os, "rename", real)
        outputs.recover(out)  # as every reader of a corpus does
        assert (out / "data").read_text() in ("old", "new")
        write_folder(out, replace=True, text="newest")
        assert (out / "data").read_text() == "newest"
        assert names(out) == ["data", outputs.MARKER]
    assert names(tmp_path) == [f"out{limit}" for limit in range(4)]


@pytest.mark.parametrize("there", ["empty", "absent", "a corpus"])
def test_a_link_is_written_through(tmp_path, there):
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to("real")
    if there == "empty":
        real.mkdir()
    if there == "a corpus":
        write_folder(real, text="old")
    write_folder(link, replace=there == "a corpus")
    assert link.is_symlink() and (real / "data").read_text() == "new"
    file = tmp_path / "file"
    (tmp_path / "way").symlink_to(file)
    outputs.write_text(tmp_path / "way", "text")
    assert (tmp_path / "way").is_symlink() and file.read_text() == "text"
    assert names(tmp_path) == ["file", "link", "real", "way"]


def test_a_loop_of_links_a_long_name_and_a_zero_are_one_message(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "x" * 300, "zero\0", "file/inside"):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError):
            outputs.write_text(tmp_path / name, "text")
        with pytest.raises(InputError):
            write_folder(tmp_path / name)
        with pytest.raises(InputError):
            outputs.claim(tmp_path / name, "run")
    assert names(tmp_path) == ["a", "b", "file"]


@pytest.mark.parametrize("length", [1, 100, 236, 237, 250, 255])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_every_legal_name_can_be_written(tmp_path, length, letter):
    name = letter * (length // len(letter.encode())) or "x"
    outputs.write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"
    write_folder(tmp_path / "folder" / name)
    assert names(tmp_path) == sorted([name, "folder"])
    assert names(tmp_path / "folder") == [name]


def test_a_fifo_receives_the_text_and_stays_a_fifo(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    outputs.write_text(fifo, "text " * 50_000)
    reader.join()
    assert read == ["text " * 50_000]
    assert fifo.is_fifo() and names(tmp_path) == ["fifo"]


def test_a_fifo_that_nobody_reads_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_READER_OPENS", 0.2)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(InputError, match="nothing reads from"):
        outputs.write_text(fifo, "text")


@pytest.mark.parametrize(
    "name", ["EROFS", "EACCES", "ENOSPC", "EDQUOT", "EIO", "EBUSY"]
)
@pytest.mark.parametrize("call", ["mkdir", "rename", "replace"])
def test_an_error_of_the_system_is_one_message_and_leaves_nothing(
    tmp_path, monkeypatch, name, call
):
    outputs.write_text(tmp_path / "file", "old")

    def fail(*arguments, **options):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(os, call, fail)
    for attempt in (
        lambda: outputs.write_text(tmp_path / "file", "new"),
        lambda: write_folder(tmp_path / "folder"),
    ):
        try:
            attempt()
        except InputError as error:
            assert "cannot be written" in str(error)
        for path in tmp_path.glob("folder"):
            assert outputs.kind_of(path) == "corpus"
    monkeypatch.undo()
    assert [n for n in names(tmp_path) if n.startswith(".")] == []


def test_a_place_that_cannot_be_renamed_to_is_filled(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: pathlib.Path(path) == out)
    before = out.stat().st_ino
    write_folder(out)
    assert out.stat().st_ino == before
    assert names(out) == ["data", outputs.MARKER] and names(tmp_path) == ["out"]
    with pytest.raises(InputError, match="is a mount point"):
        write_folder(out, replace=True)
    assert (out / "data").read_text() == "new"


def test_the_current_folder_can_be_the_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(".")
    assert names(tmp_path) == ["data", outputs.MARKER]
    assert pathlib.Path("data").read_text() == "new"


WORK = """
import sys, time
from specialize import outputs
with outputs.scratch(sys.argv[1], sys.argv[2]) as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("suffix", [".partial", ".spool", ".staging"])
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_is_not(
    tmp_path, suffix
):
    out = tmp_path / "out"
    words = [sys.executable, "-c", WORK, str(out), suffix]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            outputs.write_text(out, "text")
            assert [path.suffix for path in tmp_path.iterdir() if path != out] == [
                suffix
            ]
        finally:
            process.kill()
    outputs.write_text(tmp_path / "another", "text")
    assert len(names(tmp_path)) == 3  # only the same output's leftovers are removed
    outputs.write_text(out, "text")
    assert names(tmp_path) == ["another", "out"]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("weights", "holds weights of specialize, not a run "),
        ("evaluation", "holds an evaluation of specialize, not a run "),
        ("examples", "holds prepared examples of specialize, not a run "),
        ("corpus", "holds a corpus of specialize, not a run "),
    ],
)
def test_a_folder_of_another_kind_is_named_in_words(tmp_path, kind, said):
    outputs.claim(tmp_path / kind, kind)
    with pytest.raises(InputError, match=said):
        outputs.check_writable(tmp_path / kind, "run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder. Name another folder."):
        outputs.check_writable(tmp_path / "file", "run")


def test_a_signal_during_an_import_is_no_problem_of_the_configuration(
    tmp_path, monkeypatch
):
    (tmp_path / "asks_to_end.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)\n"
    )
    (tmp_path / "a.gin").write_text("import asks_to_end\nSEED = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["config", "--gin_file", str(tmp_path / "a.gin")]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        cli.main([*words, "--gin_bindings", "import asks_to_end"])
    assert left.value.code == 128 + signal.SIGTERM
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_leaves_nothing(tmp_path, monkeypatch, number):
    def command(arguments):
        with outputs.staged_file(tmp_path / "file") as staged:
            staged.write_text("half")
            os.kill(os.getpid(), number)
            time.sleep(10)
        return 0

    monkeypatch.setattr("specialize.corpus.commands._verify", command)
    words = ["corpus", "verify", "--problems", "p", "--completions", "c", "--out", "o"]
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 128 + number
    assert names(tmp_path) == []
    assert signal.getsignal(number) in (before, signal.SIG_IGN)
    signal.signal(number, before)


def test_the_marker_of_another_kind_or_damaged_is_refused(tmp_path):
    for text in ('{"kind": 5}', "[]", "{", '{"kind": "run"}', '{"version": 1}', "\xff"):
        (tmp_path / outputs.MARKER).write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=outputs.MARKER):
            outputs.check_writable(tmp_path, "corpus")


def test_locks_that_do_not_exist_keep_leftovers(tmp_path, monkeypatch):
    (tmp_path / ".out.abcdefgh.partial").mkdir()

    def flock(descriptor, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(hidden_folders.fcntl, "flock", flock)
    outputs.write_text(tmp_path / "out", "text")
    assert names(tmp_path) == [".out.abcdefgh.partial", "out"]


@pytest.mark.parametrize("fault", [InputError("damaged"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", ["absent", "far away", "empty"])
def test_a_folder_that_nothing_was_written_to_is_given_back(tmp_path, before, fault):
    out = tmp_path / ("a/b/run" if before == "far away" else "run")
    if before == "empty":
        out.mkdir()
    with pytest.raises(type(fault)), outputs.claimed(out, "run") as folder:
        assert outputs.kind_of(folder) == "run"
        (out / "checkpoints" / "empty").mkdir(parents=True)
        raise fault
    assert names(tmp_path) == (["run"] if before == "empty" else [])
    assert before != "empty" or names(out) == []


def test_a_folder_with_a_file_or_of_an_earlier_run_is_kept(tmp_path):
    for name in ("with a file", "earlier"):
        out = tmp_path / name
        if name == "earlier":
            outputs.claim(out, "run")
        with pytest.raises(InputError), outputs.claimed(out, "run"):
            if name == "with a file":
                (out / "thesis.txt").write_text("precious")
            raise InputError("damaged")
        assert outputs.kind_of(out) == "run"


def test_a_full_disk_is_told_with_the_space_that_is_free(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match=r"[\d,.]+ MB of [\d,.]+ MB are free"):
        with outputs.staged_file(tmp_path / "absent" / "x"):
            raise full


def test_a_folder_that_cannot_be_marked_is_not_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.os, "fsync", full)
    for folder in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="nothing was left behind"):
            outputs.claim(folder, "run")
    assert names(tmp_path) == ["empty"] and names(tmp_path / "empty") == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path, system, monkeypatch, replace
):
    fsync, out, found = os.fsync, tmp_path / "out", []

    def flushed(descriptor):
        state = os.fstat(descriptor)
        found.append((state.st_ino, state.st_size, (out / "new").exists()))
        fsync(descriptor)

    if replace:
        write_folder(out)
    monkeypatch.setattr(os, "fsync", flushed)
    with outputs.staged_directory(out, "corpus", replace=replace) as staged:
        (staged / "deep").mkdir()
        (staged / "deep/data").write_text("12345")
        (staged / "new").symlink_to("deep")
    assert {
        (state.st_ino, state.st_size, False)
        for path in (out, *out.rglob("*"))
        if path.name != "new" and (state := path.stat())
    } <= set(found)


def test_a_disk_that_is_full_when_a_folder_is_flushed_keeps_the_old_one(
    tmp_path, monkeypatch
):
    def full(descriptor):
        if os.fstat(descriptor).st_size == len("new"):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    write_folder(tmp_path / "out", text="old")
    with pytest.raises(InputError, match="out cannot be written: Disk quota exceeded"):
        with outputs.staged_directory(tmp_path / "out", "corpus", replace=True) as new:
            (new / "data").write_text("new")
            monkeypatch.setattr(replacing.os, "fsync", full)
    assert (tmp_path / "out/data").read_text() == "old"
    assert names(tmp_path) == ["out"]
