"""Whatever reads a run's folder reads one that version 0.1 left (golden/old_run).

Its three configuration files are of the student of

    specialize quickstart --out old --base_steps 21 --steps 21 --problems 60

and are never made anew: what old runs hold does not change.
"""

import json
import pathlib
import re
import shutil

import pytest

from specialize import cli, config
from specialize.evaluation.report.runs import read_run

GOLDEN = pathlib.Path(__file__).parent / "golden" / "old_run"
LENGTHS = {
    "inputs": 160,
    "targets": 64,
    "teacher_ids": 64,
    "teacher_probs": 64,
    "teacher_tail": 64,
    "format_id": 64,
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The old run's folder where it was made, its corpus and vocabulary beside it."""
    folder = tmp_path / "old" / "student"
    shutil.copytree(GOLDEN, folder)
    (tmp_path / "old" / "vocabulary.model").write_bytes(b"old pieces")
    (tmp_path / "old" / "corpus").mkdir()
    manifest = {"fingerprint": {"teacher": "exact"}, "funnel": {}, "formats": {}}
    manifest |= {"version": 1}
    (tmp_path / "old" / "corpus" / "corpus.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_report_reads_the_values_and_finds_the_corpus(run):
    found = read_run(run)
    (corpus,) = found.corpora.values()
    assert corpus.fingerprint == {"teacher": "exact"}
    expected = {
        "BATCH_SIZE": 24,
        "CORPUS_DIR": "old/corpus",
        "LEARNING_RATE": 0.03,
        "LOSS_MODE": "tail",
        "MESH": {"data": 1, "fsdp": 1, "model": 1},
        "MODEL_DIR": "old/student",
        "OPTIMIZER": "adafactor",
        "SUITES": [],
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "TRAIN_STEPS": 21,
        "VOCABULARY_PATH": "old/vocabulary.model",
    }
    assert {name: found.values[name] for name in expected} == expected
    assert not any("manifest" in text for text in found.missing)


def test_a_page_is_written_about_it(run, capsys):
    assert cli.main(["report", str(run), "--out", "report.md"]) == 0, (
        capsys.readouterr()
    )
    assert "student" in pathlib.Path("report.md").read_text()


@pytest.mark.parametrize("macro", ["CHECKPOINT_PATH", "INITIAL_CHECKPOINT_PATH"])
@pytest.mark.parametrize("inner", [".", "checkpoints", "checkpoints/21"])
@pytest.mark.parametrize(
    ("pieces", "kinds"), [(b"old pieces", []), (b"other", ["vocabulary"])]
)
def test_its_vocabulary_is_compared_with_a_new_runs(run, macro, inner, pieces, kinds):
    (run / "checkpoints" / "21").mkdir(parents=True)
    pathlib.Path("mine.model").write_bytes(pieces)
    bindings = ["VOCABULARY_PATH = 'mine.model'", f"{macro} = {str(run / inner)!r}"]
    files = ["runs/evaluate.gin", "recipes/quickstart_evaluate.gin"]
    found = config.read(files, [*bindings, "SUITES = ('gsm8k',)"])
    problems = config.lint(found, imports=False, allow_missing=("CHECKPOINT_PATH",))
    assert [problem.kind for problem in problems] == kinds


def test_its_values_given_again_to_todays_run_file_are_all_known(run):
    """A recipe's values keep their names: an old run can be launched anew by them."""
    rows = json.loads((run / "config.json").read_text())["values"]
    old = {row["name"]: row["value"] for row in rows if row["macro"]}
    bindings = [f"{name} = {value!r}" for name, value in old.items() if name != "MODEL"]
    found = config.read(["runs/train.gin", "models/miniature.gin"], bindings)
    assert config.lint(found, imports=False) == []
    for name in old.keys() - {"MODEL"}:
        assert json.dumps(found.value(name)) == json.dumps(old[name]), name


@pytest.mark.parametrize("name", ["config.gin", "operative_config.gin"])
def test_its_gin_files_are_read_or_refused_in_one_message_with_the_line(
    run, name, capsys
):
    """They name modules and parameters of their time."""
    status = cli.main(["config", "--no_imports", "--gin_file", str(run / name)])
    errors = capsys.readouterr().err
    assert status in (0, 2)
    assert (status == 0) == (errors == "")
    assert status == 0 or re.search(rf"{name}:\d+: ", errors), errors
