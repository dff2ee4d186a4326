"""A resumed run says what changed, and refuses what would not be the same run."""

import re

import pytest
import tiny_run

from specialize import config
from specialize.config import applying
from specialize.errors import InputError
from specialize.training.data.mixtures import Mixture
from specialize.training.loop import resuming
from specialize.training.optimization.spec import OptimizerSpec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two steps, whose repetition compiles nothing."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    tiny_run.run(folder, 2, dropout=0.2)
    return folder


@pytest.fixture(autouse=True)
def without_gin(monkeypatch):
    monkeypatch.setattr(applying, "_CURRENT", [])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"learning_rate": 5e-3},
            "OptimizerSpec.learning_rate was 0.001, now it is 0.005",
        ),
        ({"dropout": 0.0}, "T5Config.dropout_rate was 0.2, now it is 0.0"),
        ({"data": {"microbatches": 2}}, "DataSpec.microbatches was 1, now it is 2"),
        ({"log_period": 7}, "LoggingSpec.period was 4, now it is 7"),
        ({"period": 6}, "CheckpointSpec.period was 5, now it is 6"),
        ({"evaluation": {"period": 9}}, "PeriodicEvaluation.period was 500, now it"),
        (
            {"mesh": "2"},
            "train.mesh was 'data 1 x fsdp 1 x model 1', now it is 'data 2",
        ),
        (
            {"initial_checkpoint_path": "elsewhere"},
            "train.initial_checkpoint_path was None, now it is 'elsewhere' (a resumed",
        ),
    ],
    ids=lambda one: str(one)[:30],
)
def test_a_changed_setting_is_said_in_one_line(finished, capfd, options, line):
    tiny_run.run(finished, 2, **{"dropout": 0.2, **options})
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"resuming {finished} at step 2"
    assert said[1].startswith(line)
    assert said[2] == f"{finished} is complete: 2 of 2 steps"


def test_a_run_with_the_same_settings_says_no_change(finished, capfd):
    tiny_run.run(finished, 2, dropout=0.2)
    assert len(capfd.readouterr().err.splitlines()) == 2


def grown(count):
    tasks = [tiny_run.examples("a", count, 0), tiny_run.examples("b", 40, 1)]
    return Mixture("tiny", tasks, [3.0, 1.0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"optimizer": "adafactor"},
            "the optimizer was 'adamw', is 'adafactor', which",
        ),
        ({"data": {"seed": 1}}, "seed was 0, is 1. Set these back"),
        ({"data": {"batch_size": 4}}, "batch_size was 8, is 4. Set these back"),
        (
            {"data": {"order": "same_question"}},
            "order was 'random', is 'same_question'",
        ),
        ({"data": {"pack": False}}, "pack was True, is False"),
        ({"data": {"window_rows": 8}}, "window_rows was 16, is 8"),
        (
            {"data": {"mixture": grown(100)}},
            "'a' had 96 examples, now it has 100 (4 more). Set these back, or name "
            "another MODEL_DIR (INITIAL_CHECKPOINT_PATH can take its weights). To "
            "continue the run, name the corpus that it began with as CORPUS_DIR",
        ),
        ({"data": {"mixture": grown(90)}}, "(6 fewer)"),
        (
            {"data": {"mixture": Mixture("tiny", grown(96).tasks[:1], [3.0])}},
            "the task 'b' is missing",
        ),
        (
            {"data": {"mixture": Mixture("tiny", grown(96).tasks, [2.0, 1.0])}},
            "the rates of the tasks have changed",
        ),
        (
            {
                "data": {
                    "mixture": Mixture(
                        "tiny",
                        [tiny_run.examples("a", 96, 5), grown(96).tasks[1]],
                        [3.0, 1.0],
                    )
                }
            },
            "the 96 examples of 'a' have changed",
        ),
    ],
    ids=lambda one: str(one)[:30],
)
def test_another_run_is_refused_with_what_differs(finished, options, said):
    with pytest.raises(InputError) as caught:
        tiny_run.run(finished, 3, dropout=0.2, **options)
    text = str(caught.value)
    assert said in text and "\n" not in text and len(text) < 500
    assert not re.search(r"[0-9a-f]{12}", text), "no digests"


def test_an_order_that_is_no_longer_named_differs():
    before = {"run": {"seed": 0, "order": "same_question"}}
    with pytest.raises(InputError, match="order was 'same_question', is 'random'"):
        resuming.check(before, {"run": {"seed": 0}})


def test_a_checkpoint_of_0_1_says_only_that_its_examples_differ():
    now = {"run": {"examples": "new"}, "tasks": {"a": [3, "x"]}}
    with pytest.raises(InputError, match="its examples differ from those of a"):
        resuming.check({"run": {"examples": "old"}}, now)
    resuming.check({"run": {"examples": "new"}}, now)
    assert resuming.changes({}, {"OptimizerSpec.learning_rate": "1.0"}) == []


def test_a_setting_is_called_as_its_macro(tmp_path):
    file = tmp_path / "a.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from specialize.training.optimization import spec\n"
        "RATE = 1e-3\nSTEPS = 10\n"
        "spec.OptimizerSpec:\n  learning_rate = %RATE\n  total_steps = %STEPS\n"
    )
    config.parse([str(file)])
    before, now = (
        resuming._settings(OptimizerSpec(learning_rate=rate, total_steps=steps))
        for rate, steps in ((1e-3, 10), (2e-3, 20))
    )
    assert resuming.changes(before, now) == [
        "RATE was 0.001, now it is 0.002",
        "STEPS was 10, now it is 20",
    ]
