"""Standard streams that are full, closed or of another encoding; few open files."""

import errno
import os
import resource
import subprocess
import sys

import pytest

from specialize import cli

COMMAND = f"{sys.executable} -m specialize"
CONFIG = "config --no_imports --for train --gin_file recipes/tiny_gsm8k.gin"


def shell(line, **environment):
    return subprocess.run(
        ["sh", "-c", line],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.mark.parametrize("words", ["--version", "config --help", CONFIG])
@pytest.mark.parametrize(
    ("where", "said"), [(">/dev/full", "No space left"), (">&-", "it is closed")]
)
def test_an_output_that_cannot_be_written_is_one_message(words, where, said):
    done = shell(f"{COMMAND} {words} {where}")
    assert done.returncode == 2
    errors = [e for e in done.stderr.decode().splitlines() if "output" in e]
    assert len(errors) == 1
    assert errors[0].startswith("error: standard output cannot be written: " + said)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_a_reader_that_ends_is_no_failure():
    reader, writer = os.pipe()
    os.close(reader)  # before the command writes anything
    words = [*COMMAND.split(), *CONFIG.split()]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_all_streams_may_be_closed_and_no_file_takes_their_numbers(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\nfrom specialize import cli\n"
        "assert cli.main(['config', '--gin_file', 'no_such.gin']) == 2\n"
        f"os._exit(os.open({str(script)!r}, os.O_RDONLY))\n"
    )
    assert shell(f"{sys.executable} {script} <&- >&- 2>&-").returncode >= 3


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
    ],
)
def test_characters_that_the_output_lacks_are_escapes(environment):
    code = "from specialize import cli; cli._prepare_streams(); print('a\\u2581\\xe9')"
    done = shell(f'{sys.executable} -c "{code}"', **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a\\u2581")


@pytest.mark.parametrize("limit", [12, 32, cli.FEWEST_FILES - 1])
def test_too_few_open_files_are_one_message(limit, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    with pytest.raises(cli.InputError, match=f"only {limit} files.*ulimit -n"):
        cli._allow_open_files()


def test_a_command_says_that_too_few_files_may_be_open():
    done = shell(f"ulimit -n 12; {COMMAND} {CONFIG}")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: A process may open only 12 files")


def test_a_limit_that_may_be_raised_is_raised(monkeypatch):
    limits = {}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (20, 100_000))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.update(n=pair))
    cli._allow_open_files()
    assert limits == {"n": (cli.ENOUGH_FILES, 100_000)}


def refusing(error, monkeypatch):
    """Makes `specialize config` raise this error."""

    def run(arguments):
        raise error

    monkeypatch.setattr("specialize.config.commands.run", run)
    return ["config", "--gin_file", "x"]


@pytest.mark.parametrize(
    "number",
    [
        *(errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS, errno.EISDIR, errno.EMFILE),
        *(errno.EIO, errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.ENOTDIR),
    ],
)
@pytest.mark.parametrize(("name", "shown"), [("a/b", "a/b: "), (None, ""), (7, "")])
def test_what_the_system_refuses_is_one_message(
    number, name, shown, monkeypatch, capsys
):
    error = OSError(number, os.strerror(number), *([] if name is None else [name]))
    assert cli.main(refusing(error, monkeypatch)) == 2
    assert capsys.readouterr().err == (
        f"error: {shown}{os.strerror(number)}. Correct this, or name another file or "
        "folder.\n"
    )


@pytest.mark.parametrize("error", [OSError(errno.EINVAL, "no"), ValueError("no")])
def test_a_defect_keeps_its_traceback(error, monkeypatch):
    with pytest.raises(type(error)):
        cli.main(refusing(error, monkeypatch))
