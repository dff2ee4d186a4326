"""Cells of two configurations are refused, whichever file the difference is in."""

import functools
import json
import pathlib
import re
import tarfile

import pytest

from specialize import cli
from specialize.errors import InputError
from specialize.evaluation.study import running
from specialize.evaluation.study.cells import cells_of
from specialize.evaluation.study.inputs import Inputs, differences, inputs_of
from specialize.evaluation.study.spec import StudySpec

ARCHIVES = pathlib.Path(__file__).parents[2] / "benchmarks/studies"
# Of an archive, for commands that measure nothing.
MEASURE = "gsm8k:zero_shot_cot"


@functools.cache
def some_results():
    with tarfile.open(ARCHIVES / "paper.tar.xz") as stored:
        return stored.extractfile("cells/base/seed-0/results.json").read()


def cell_of(words):
    [run] = (w.split("=")[1] for w in words if w.startswith("--gin.MODEL_DIR="))
    return pathlib.Path(run).parent


class Study:
    """A study of commands that only note themselves; their inputs are in one folder."""

    def __init__(self, folder):
        self.folder, self.ran = folder, []
        (folder / "recipe.gin").write_text("include 'own.gin'\nRATE = 1e-3\nX = 1\n")
        (folder / "own.gin").write_text("DEEP = {'a': (1, 2)}\nUSED = %RATE\n")
        (folder / "task.toml").write_text("a task")
        (folder / "words.txt").write_text("words")

    def spec(self):
        words = (
            f"train --gin_search_paths {self.folder} --gin_file recipe.gin "
            f"--gin.TEXT_PATH={self.folder}/words.txt --gin.MODEL_DIR={{cell}}/run "
            f"--task {self.folder}/task.toml --out {self.folder}/made.txt {{macros}}"
        )
        return StudySpec(
            arms={"a": {"X": 2}}, cell=(words,), measures={"m": MEASURE}, seeds=(0, 1)
        )

    def note(self, words):
        self.ran.append(words)
        cell_of(words).mkdir(parents=True, exist_ok=True)
        (cell_of(words) / "results.json").write_bytes(some_results())

    def run(self, *only, out="out"):
        out = self.folder / out

        def command(words, held):
            self.note(words)
            (self.folder / "made.txt").write_text(str(len(self.ran)))  # an output
            return 0

        return running.study(self.spec(), out=out, only=only, command=command)

    def edit(self, name, text):
        (self.folder / name).write_text(text)


@pytest.fixture
def asked(tmp_path):
    return Study(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "recipe.gin",
            "include 'own.gin'\nRATE = 2e-3\nX = 1\n",
            "RATE was 0.001, now",
        ),
        ("own.gin", "DEEP = {'a': (1, 3)}\nUSED = %RATE\n", "DEEP was "),
        ("own.gin", "DEEP = {'a': (1, 2)}\nUSED = 5\n", "USED was 0.001, now 5"),
        ("own.gin", "DEEP = {'a': (1, 2)}\n", "USED was 0.001, now not set"),
        (
            "recipe.gin",
            "include 'own.gin'\nRATE = 1e-3\nX = 1\nNEW = 1\n",
            "NEW was not set, now 1",
        ),
        ("task.toml", "another", "task.toml has another content"),
        ("words.txt", "other words", "words.txt has another content"),
    ],
)
def test_a_cell_of_another_configuration_is_refused(asked, file, text, said, capsys):
    asked.run(0)
    before = (asked.folder / file).read_text()
    asked.edit(file, text)
    with pytest.raises(InputError, match="another configuration") as caught:
        asked.run()
    assert said in str(caught.value) and "name another --out" in str(caught.value)
    assert len(asked.ran) == 1  # before any work
    asked.edit(file, before)
    assert asked.run().done == 2 and len(asked.ran) == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("recipe.gin", "# Another comment.\nX = 7\nRATE = 1e-3\ninclude 'own.gin'\n"),
        ("own.gin", "USED = 0.001\nDEEP = {'a': (1, 2)}\n"),
        ("made.txt", "an output is no input"),
    ],
)
def test_the_same_configuration_in_other_words_is_the_same(asked, file, text, capsys):
    asked.run(0)
    asked.edit(file, text)
    assert asked.run().done == 2 and len(asked.ran) == 2


def test_a_study_may_be_moved_and_its_inputs_may_be_gone(asked, capsys):
    asked.run()
    (asked.folder / "out").rename(asked.folder / "moved")
    for name in ("recipe.gin", "task.toml", "words.txt"):
        (asked.folder / name).unlink()
    assert asked.run(out="moved").done == 2 and len(asked.ran) == 2


def test_an_edit_while_cells_are_run_is_not_averaged(asked, monkeypatch, capsys):
    def command(words, held):
        asked.note(words)
        asked.edit("recipe.gin", f"include 'own.gin'\nRATE = {len(asked.ran)}\n")
        return 0

    with pytest.raises(InputError, match="RATE was 0.001, now 2"):
        running.study(asked.spec(), out=asked.folder / "out", command=command)
    assert len(asked.ran) == 2


def test_what_only_a_later_version_sets_is_no_difference(tmp_path):
    command = "train --gin_file runs/train.gin --gin_file models/miniature.gin".split()
    now = inputs_of(command, tmp_path)
    names = [*now.configuration]
    later = next(name for name in names if name.endswith("STOCHASTIC_ROUNDING"))
    model = next(name for name in names if name.endswith(".emb_dim"))
    for name, count in ((later, 0), (model, 1)):
        old = {k: v for k, v in now.configuration.items() if k != name}
        assert len(differences(Inputs(old), now, command)) == count, name
    changed = {**now.configuration, later: "other"}
    assert len(differences(Inputs(changed), now, command)) == 1


def unpack(name, folder, files=None):
    """The named files of an archive, or all."""
    with tarfile.open(ARCHIVES / name) as stored:
        for file in files or stored.getnames():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            # `extract` of Python 3.11.2 has no filter.
            path.write_bytes(stored.extractfile(file).read())


@pytest.mark.parametrize("name", sorted(one.name for one in ARCHIVES.iterdir()))
def test_the_published_results_are_those_of_their_study(name, tmp_path, capsys):
    """Unpacked, they give the tables, and nothing is run."""
    unpack(name, tmp_path)
    study = f"studies/{name.removesuffix('.tar.xz')}.gin"
    assert cli.main(["study", study, "--out", str(tmp_path), "--list"]) == 0
    cells = capsys.readouterr().out.split("\n")
    assert cells.pop() == "" and all(line.endswith("\tdone") for line in cells)
    assert cli.main(["study", study, "--out", str(tmp_path)]) == 0
    assert f"({len(cells)} of {len(cells)} cells)" in capsys.readouterr().out


def test_cells_of_earlier_versions_are_done_with_one_line(tmp_path, capsys):
    done = "cells/base/seed-0/done.json"
    results = done.replace("done", "results")
    unpack("paper.tar.xz", tmp_path, ["specialize.json", done, results])
    [old] = json.loads((tmp_path / done).read_text())["commands"]
    line = " ".join(f"'{word}'" for word in old)  # {study} in it is a placeholder
    spec = StudySpec(
        arms={"base": {}}, cell=(line,), measures={"m": MEASURE}, seeds=(0,)
    )
    [cell] = cells_of(spec, tmp_path)
    assert cell.work.record == [old]
    assert running.study(spec, out=tmp_path, command=None).done == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and re.match("1 of 1 finished .* earlier version", said[0])
