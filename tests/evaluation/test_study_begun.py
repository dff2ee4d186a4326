"""What has begun with other settings is not finished with the present ones."""

import json
import pathlib
import shutil
from collections import Counter

import pytest
from test_study_inputs import MEASURE, some_results

from specialize.errors import InputError
from specialize.evaluation.study import running
from specialize.evaluation.study.spec import StudySpec


class StopError(Exception):
    """The process of the study is killed."""


class Study:
    """Training, perhaps with a checkpoint, then an evaluation; they note themselves."""

    def __init__(self, folder, run="{cell}/run", prepare=()):
        self.folder, self.ran = folder, Counter()
        self.prepare = {"world": prepare} if prepare else {}
        self.arms, self.judge, self.run_folder = {"RATE": 1}, "last", run
        self.recipe("X = 1")

    def recipe(self, text):
        (self.folder / "recipe.gin").write_text(text)
        (self.folder / "start.txt").touch()

    def spec(self):
        train = (
            f"train --gin_file {self.folder}/recipe.gin {{macros}} "
            f"--gin.MODEL_DIR={self.run_folder} --start {self.folder}/start.txt"
        )
        evaluate = f"evaluate --rule {self.judge} --json {{cell}}/results.json"
        return StudySpec(
            arms={"a": self.arms},
            cell=(train, evaluate),
            measures={"m": MEASURE},
            seeds=(0,),
            prepare=self.prepare,
        )

    def start(self, *, fails="", saves=True, kills=False):
        """Runs the study; the named command fails, or its process is killed."""

        def command(words, held):
            name = words[0]
            self.ran[name] += 1
            if name == "train":
                [run] = (w.split("=")[1] for w in words if "MODEL_DIR=" in w)
                if saves:
                    (pathlib.Path(run) / "checkpoints/1").mkdir(
                        parents=True, exist_ok=True
                    )
            if name == fails and kills:
                raise StopError
            if name == "evaluate" and name != fails:
                (self.out / "cells/a/seed-0/results.json").write_bytes(some_results())
            return int(name == fails)

        return running.study(self.spec(), out=self.out, command=command)

    @property
    def out(self):
        return self.folder / "out"


CHANGES = {
    "an arm": (lambda one: one.arms.update(RATE=2), "RATE=1 .* instead of .*RATE=2 "),
    "a recipe": (lambda one: one.recipe("X = 2"), "X was 1, now 2"),
    "a file": (
        lambda one: (one.folder / "start.txt").write_text("other"),
        "start.txt has another content",
    ),
}
PLACES = ("{cell}/run", "{study}/runs/{arm}-{seed}", "{cell}")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("run", PLACES)
@pytest.mark.parametrize("fails", ["train", "evaluate"])
@pytest.mark.parametrize("kills", [False, True])
def test_a_training_of_other_settings_is_not_finished(
    tmp_path, change, run, fails, kills, capsys
):
    one = Study(tmp_path, run)
    with pytest.raises(StopError if kills else InputError):
        one.start(fails=fails, kills=kills)
    alter, said = CHANGES[change]
    before = one.ran.copy()
    alter(one)
    with pytest.raises(InputError, match=f"begun .*{said}") as caught:
        one.start()
    assert one.ran == before  # before any work
    cell = one.out / "cells/a/seed-0"
    assert f"or remove {cell} to run it again" in str(caught.value)
    shutil.rmtree(cell)
    assert one.start().done == 1


@pytest.mark.parametrize("change", CHANGES)
def test_a_training_that_has_saved_nothing_may_be_corrected(tmp_path, change, capsys):
    one = Study(tmp_path)
    with pytest.raises(InputError, match="failed"):
        one.start(fails="train", saves=False)
    CHANGES[change][0](one)
    assert one.start().done == 1
    found = json.loads((one.out / "cells/a/seed-0/done.json").read_text())
    [train, _] = found["inputs"]
    settings = train["configuration"]
    assert settings["RATE"] == one.arms["RATE"]
    assert f"X = {settings['X']}" == (tmp_path / "recipe.gin").read_text()


def test_a_command_that_failed_may_be_corrected_and_no_work_is_lost(tmp_path, capsys):
    one = Study(tmp_path)
    one.judge = "frst"
    with pytest.raises(InputError, match="failed"):
        one.start(fails="evaluate")
    one.judge = "first"
    assert one.start().done == 1
    assert one.start().done == 1 and one.ran["evaluate"] == 2


def test_a_cell_that_began_with_another_stage_is_not_finished(tmp_path, capsys):
    one = Study(tmp_path, prepare=("build a",))
    with pytest.raises(InputError, match="failed"):
        one.start(fails="evaluate")
    (one.out / "shared/seed-0/world.done.json").unlink()
    one.prepare = {"world": ("build b",)}
    with pytest.raises(InputError, match="world, seed 0, with which a, seed 0 began,"):
        one.start()
    one.prepare = {"world": ("build a",)}
    assert one.start().done == 1


def test_a_stage_that_has_begun_is_refused_too(tmp_path, capsys):
    train = "train --gin.A={} --gin.MODEL_DIR={{shared}}/run"
    one = Study(tmp_path, prepare=(train.format(1), "build"))
    with pytest.raises(InputError, match="failed"):
        one.start(fails="build")
    one.prepare = {"world": (train.format(2), "build")}
    with pytest.raises(InputError, match="stage.world.seed-0.json: .* was begun by "):
        one.start()
    shutil.rmtree(one.out / "shared/seed-0")
    assert one.start().done == 1


def test_removing_only_the_marker_does_not_make_a_cell_another_one(tmp_path, capsys):
    one = Study(tmp_path)
    one.start()
    (one.out / "cells/a/seed-0/done.json").unlink()
    one.arms = {"RATE": 2}
    with pytest.raises(InputError, match="was begun by other commands"):
        one.start()


def test_what_an_earlier_version_began_goes_on(tmp_path, capsys):
    one = Study(tmp_path)
    with pytest.raises(InputError, match="failed"):
        one.start(fails="evaluate")
    shutil.rmtree(one.out / "begun")
    one.arms = {"RATE": 2}
    assert one.start().done == 1


def test_an_input_that_was_away_is_compared_when_it_is_back(tmp_path, capsys):
    one = Study(tmp_path)
    with pytest.raises(InputError, match="failed"):
        one.start(fails="train")
    (tmp_path / "start.txt").unlink()
    with pytest.raises(InputError, match="failed"):
        one.start(fails="train")
    (tmp_path / "start.txt").write_text("other")
    with pytest.raises(InputError, match="start.txt has another content"):
        one.start()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"version": 2}', "of what a study has begun of version 2; specialize"),
        ('{"version": 1, "commands": 3, "stages": {}}', "commands"),
        ("not", "Remove its folder to run it again"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path, content, said, capsys):
    one = Study(tmp_path)
    with pytest.raises(InputError, match="failed"):
        one.start(fails="evaluate")
    [record] = (one.out / "begun").iterdir()
    record.write_text(content)
    with pytest.raises(InputError, match=said):
        one.start()
    shutil.rmtree(one.out / "cells/a/seed-0")
    assert one.start().done == 1
