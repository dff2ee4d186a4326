"""The commands that the quickstart prints are those that it runs, for any shell."""

import json
import pathlib
import signal
import subprocess

import pytest

from specialize import cli
from specialize.errors import TerminatedError
from specialize.quickstart import walk
from specialize.training.loop import interruptions

SIZES = dict(base_steps=2, steps=2, problems=12, test_problems=2)


def scores():
    """A results file with every suite."""
    score = {"n": 8, "accuracy": 0.5, "low": 0.2, "high": 0.8}
    content = {"format": 1, "model": {}, "settings": {}, "averages": {}}
    suites = dict.fromkeys(walk.SUITES.values(), score)
    return json.dumps({**content, "suites": suites, "predictions": {}, "seconds": 1.0})


@pytest.mark.parametrize("name", ["out", "it's a [run] $HOME `x`;*"])
def test_a_printed_command_can_be_pasted_in_any_folder(
    name, tmp_path, monkeypatch, capfd
):
    ran = []

    def command(words):
        ran.append(list(words))
        if "--json" in words:
            pathlib.Path(words[words.index("--json") + 1]).write_text(scores())
        return 0

    monkeypatch.chdir(tmp_path)
    walk.quickstart(name, command=command, **SIZES)
    said = capfd.readouterr().err.splitlines()
    printed = [line[2:] for line in said if line.startswith("$ ")]
    assert [words[0] for words in ran] == [
        *("corpus", "train", "label", *["train"] * 3, *["evaluate"] * 4, "report")
    ]
    for line, words in zip(printed, ran, strict=True):
        asked = f'set -- {line}; printf "%s\\0" "$@"'
        done = subprocess.run(["sh", "-c", asked], capture_output=True, check=True)
        given = done.stdout.decode().split("\0")[:-1]
        assert given[-len(words) :] == words
        program = given[: -len(words)]
        assert program == ["specialize"] or program[1:] == ["-m", "specialize"]
        assert not any(word.startswith((name, f"'{name}")) for word in words)
        assert any(str(tmp_path / name) in word for word in words)
        cli.parser().parse_args([w for w in words if not w.startswith("--gin.")])


def test_a_command_that_fails_is_printed_as_it_can_be_pasted(tmp_path):
    with pytest.raises(cli.InputError, match="specialize corpus build .*ended with 2"):
        walk.quickstart(str(tmp_path / "run"), command=lambda words: 2, **SIZES)


def test_a_program_that_is_not_on_the_path_is_named_in_full(monkeypatch):
    monkeypatch.setattr(walk.shutil, "which", lambda name: None)
    monkeypatch.setattr(walk.sys, "executable", "/my venv/bin/python")
    assert walk._program() == "'/my venv/bin/python' -m specialize"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_training_ends_the_whole_way(tmp_path, monkeypatch, number):
    """Training saves its step and ends well; nothing goes on with half a student."""
    real, ran = interruptions.Stop.at, []

    def at(stop, step):
        signal.raise_signal(number)
        return real(stop, step)

    def command(words):
        ran.append(words[0])
        return cli.main(words)

    monkeypatch.setattr(interruptions.Stop, "at", at)
    with pytest.raises(TerminatedError) as ended:
        walk.quickstart(str(tmp_path / "run"), command=command, **SIZES)
    assert ended.value.status == 128 + number
    assert ran == ["corpus", "train"]
    assert (tmp_path / "run" / "base" / "checkpoints" / "1").exists()
