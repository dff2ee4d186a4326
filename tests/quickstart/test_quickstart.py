"""A newcomer's command, small and whole. `test_wheel` runs it in CI, from the wheel."""

import json
import os
import stat

import pytest

from specialize import cli

UMASK = 0o027
# How many questions each suite has with 8 questions per math suite.
SUITES = {
    "in_distribution": 8,
    "out_of_distribution": 8,
    "in_context": 8,
    "replayed_tasks": 16,
    "unreplayed_tasks": 16,
    "by_demonstration": 8,
}
MODELS = ("base", "none", "replay", "student")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two steps each on a handful of problems: all of the way, none of the skill.

    The `tasks` of another project come first on the path and must not be imported.
    """
    folder = tmp_path_factory.mktemp("quickstart")
    out = folder / "run"
    words = ["--problems", "40", "--test_problems", "8"]
    words += ["--base_steps", "2", "--steps", "2"]
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "tasks.py").write_text("raise RuntimeError('foreign tasks imported')")
    before = os.umask(UMASK)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(foreign)
            patch.setenv("PYTHONPATH", str(foreign), prepend=os.pathsep)
            assert cli.main(["quickstart", "--out", str(out), *words]) == 0
    finally:
        os.umask(before)
    return out


@pytest.mark.slow
def test_the_whole_way_ends_with_results_and_a_page(small):
    results = json.loads((small / "results.json").read_text())
    assert tuple(results["suites"]) == tuple(SUITES)
    for name, scores in results["suites"].items():
        assert tuple(scores) == MODELS
        for score in scores.values():
            assert score["n"] == SUITES[name]
            assert 0 <= score["low"] <= score["accuracy"] <= score["high"] <= 1
    page = (small / "report.html").read_text()
    assert "Math against generic ability" in page
    assert "http" not in page  # nothing is fetched


@pytest.mark.slow
def test_every_step_leaves_what_a_user_can_open_alone(small):
    for path in (
        "world/gsm8k/train.jsonl",
        "world/completions.jsonl",
        "vocabulary.model",
        "corpus/corpus.json",
        "base/metrics.jsonl",
        "student/metrics.jsonl",
        "student/config.gin",
        "student/config.json",
        "student/operative_config.gin",
        "student/evaluation/operative_config.gin",
        "student/evaluation/results.json",
        "base_answers/corpus.json",
        "none/metrics.jsonl",
        "replay/metrics.jsonl",
        "base.json",
        "student.json",
    ):
        assert (small / path).stat().st_size > 0, path


@pytest.mark.slow
def test_everything_a_run_leaves_has_the_modes_of_the_umask(small):
    """Corpus, logs, checkpoints, prepared examples, predictions, the page."""
    for path in [small, *small.rglob("*")]:
        wanted = (0o777 if path.is_dir() else 0o666) & ~UMASK
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("mine")
    assert cli.main(["quickstart", "--out", str(tmp_path)]) == 2
    assert "was not written by specialize" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_a_student_becomes_a_specialist_and_may_keep_what_it_knew(tmp_path):
    out = tmp_path / "run"
    assert cli.main(["quickstart", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    found = {
        name: {model: score["accuracy"] for model, score in scores.items()}
        for name, scores in results["suites"].items()
    }
    math, kept = found["in_distribution"], found["unreplayed_tasks"]
    assert math["base"] <= 0.10
    assert min(math[name] for name in MODELS[1:]) >= 0.85
    assert found["out_of_distribution"]["student"] >= 0.6
    assert kept["base"] >= 0.95 and kept["none"] <= 0.5
    assert kept["none"] < kept["replay"] < kept["student"]
    assert kept["student"] >= 0.9 * kept["base"]
