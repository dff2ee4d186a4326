"""What real runs take from the recipes is what it was: golden/recipes holds it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from recipe_goldens import compressed, differences, expanded, written

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden" / "recipes"
RUNS = sorted(path.stem for path in GOLDEN.glob("*.json"))
REMEDY = (
    "If this change is meant, run 'python tests/golden/make_recipe_snapshots.py' and "
    "commit its difference. A refactoring changes nothing here."
)
RECIPE = "recipes/flan_t5_base.gin"
SUITE = "SUITES = ('gsm8k',)"

# Run, a binding, and a name under which it must arrive.
CHANGES = [
    ("train", "LEARNING_RATE = 6e-4", "optimizer.updates"),
    ("train", "WARMUP_STEPS = 11", "optimizer.rates"),
    ("train", "MESH = {'data': 2, 'fsdp': -1}", "mesh"),
    ("train", "CORPUS_DIR = 'corpus'", "corpus_dir.path"),
    ("train", "LoggingSpec.profile_steps = (3, 5)", "logging.profile_steps"),
    ("evaluate", "NUM_BEAMS = 5", "decoding.num_beams"),
    ("select", "RULE = 'reference'", "judge.rule"),
    ("infer", "DTYPE = 'float32'", "network.dtype"),
    ("sample", "TOP_P = 0.5", "decoding.top_p"),
    ("t5x_train", "MICROBATCHES = 2", "trainer_cls.num_microbatches"),
    ("t5x_train", "LEARNING_RATE = 6e-4", "trainer_cls.learning_rate_fn"),
    ("t5x_evaluate", "NUM_BEAMS = 5", "decoding.num_beams"),
    ("t5x_infer", "OUTPUT_LENGTH = 9", "dataset_cfg.task_feature_lengths"),
]


@pytest.fixture(scope="module")
def recorded(once):
    """What all recipes, and one with each of the changes, set and reach now."""
    return once("recipes", read_recipes)


def read_recipes():
    """Reads them in a process of their own."""
    asked = [(run, [RECIPE], [SUITE, binding]) for run, binding, _ in CHANGES]
    paths = (str(HERE.parent), os.environ.get("PYTHONPATH", ""))
    done = subprocess.run(
        [sys.executable, str(HERE / "recipe_values.py"), json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_run_file_is_recorded(recorded):
    assert sorted(recorded["runs"]) == RUNS


@pytest.mark.parametrize("run", RUNS)
def test_every_recipe_sets_and_reaches_what_it_did(recorded, run):
    before = expanded(json.loads((GOLDEN / f"{run}.json").read_text()))
    found = differences(before, recorded["runs"][run])
    assert not found, "\n".join([f"{run}:", *found, REMEDY])


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=lambda i: CHANGES[i][1])
def test_a_changed_value_is_told_where_it_arrives(recorded, number):
    run, _, reached = CHANGES[number]
    before = {RECIPE: recorded["runs"][run][RECIPE]}
    found = differences(before, {RECIPE: recorded["asked"][number]})
    assert any(line.startswith(f"{RECIPE}: {reached}: was ") for line in found), found


def test_a_difference_names_recipe_value_before_and_after():
    before = {"a": {"x": 1, "gone": None}, "b": {"optimizer.rates": {"0": 1.0}}}
    after = {"a": {"x": 1.0, "new": [2]}, "b": {"optimizer.rates": {"0": 1.0000001}}}
    assert differences(before, after) == [
        "a: gone: was null, is (absent)",
        "a: new: was (absent), is [2]",
        "a: x: was 1, is 1.0",
    ]
    after["b"]["optimizer.rates"]["0"] = 1.001
    assert 'b: optimizer.rates: was {"0": 1.0}, is {"0": 1.001}' in differences(
        before, after
    )


def test_a_golden_file_gives_back_what_was_recorded():
    found = {
        "a": {"x": 1, "y": [None]},
        "b": {"x": 1, "only here": {"k": 2}},
        "a + c": {"x": 1, "y": [3]},
    }
    stored = compressed(found)
    assert stored["defaults"] == {"x": 1}
    assert stored["a + c"] == {"y": [3]}
    assert expanded(json.loads(written(stored))) == found
