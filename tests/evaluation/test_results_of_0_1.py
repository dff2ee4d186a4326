"""Results, predictions and a run's folder of version 0.1 are read, or refused."""

import json

import pytest

from specialize import cli, outputs, versions
from specialize.evaluation.predictions import read_predictions
from specialize.evaluation.report.report import report
from specialize.evaluation.report.runs import read_run
from specialize.evaluation.results import Results

NEWER = pytest.mark.parametrize("found", [2, "next"])
KEY = "gsm8k:zero_shot_cot"


@pytest.mark.parametrize("name", ["evaluation/results.json", "teacher.json"])
def test_results_have_the_scores_and_the_lines_they_had(of_0_1, recorded, name):
    was = recorded["results"][name]
    results = Results.load(of_0_1 / name)
    assert results.metrics() == was["metrics"]
    assert (results.num_examples, results.step) == (was["n"], was["step"])
    lines = results.lines(KEY)
    assert len(lines) == 4 and lines[0] == was["first"]


def test_the_teachers_results_are_those_that_0_1_printed(of_0_1):
    score = Results.load(of_0_1 / "teacher.json").suites[KEY]
    assert (score["accuracy"], score["correct"], score["n"]) == (0.5, 2, 4)
    assert score["how"] == {"marked": 3, "last": 0, "none": 1}
    assert [round(score[end], 4) for end in ("low", "high")] == [0.15, 0.85]


@NEWER
def test_newer_results_are_refused(of_0_1, restate, refused, found):
    path = of_0_1 / "teacher.json"
    restate(path, format=found, more=1)
    refused(lambda: Results.load(path), versions.RESULTS, path, found)
    refused(lambda: read_run(path), versions.RESULTS, path, found)


def judged(of_0_1, name):
    """Types the command that judged the teacher's predictions; gives the results."""
    words = ["--predictions", str(of_0_1 / name), "--benchmarks", str(of_0_1 / "world")]
    words += ["--split", "all", "--json", str(of_0_1 / "now.json")]
    assert cli.main(["evaluate", *words]) == 0
    return Results.load(of_0_1 / "now.json")


@pytest.mark.parametrize(
    "name", ["predictions.jsonl", "teacher/gsm8k.zero_shot_cot.jsonl"]
)
def test_predictions_are_judged_as_they_were(of_0_1, name):
    results = judged(of_0_1, name)
    assert results.metrics() == Results.load(of_0_1 / "teacher.json").metrics()
    assert results.num_examples == 4


def test_what_is_judged_now_states_its_version_and_is_read_again(of_0_1):
    judged(of_0_1, "predictions.jsonl")
    assert json.loads((of_0_1 / "now.json").read_text())["format"] == 1
    path = of_0_1 / "now" / "gsm8k.zero_shot_cot.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["predictions_version"] for line in lines] == [1] * 4
    assert len(read_predictions(path)) == 4


@NEWER
def test_newer_predictions_are_refused_by_their_line(of_0_1, restate, refused, found):
    path = of_0_1 / "predictions.jsonl"
    restate(path, line=2, predictions_version=found, prediction={"text": "4"})
    read = lambda: read_predictions(path)  # noqa: E731
    refused(read, versions.PREDICTIONS, f"{path}:3", found)


def test_a_field_that_others_call_version_is_ignored(of_0_1, restate):
    path = of_0_1 / "predictions.jsonl"
    restate(path, line=0, version="gpt-2024", format="chat")
    assert len(read_predictions(path)) == 4


# ---- A run's folder ------------------------------------------------------------------


def test_a_run_is_reported_with_its_curves_and_configuration(of_0_1, recorded):
    run = read_run(of_0_1 / "run")
    losses = {str(line.step): line.train["loss"] for line in run.training}
    assert losses == recorded["losses"] and list(losses) == ["1", "2", "3", "4"]
    assert run.values["LEARNING_RATE"] == 0.05
    assert run.values["MIXTURE_OR_TASK_NAME"] == "specialize_gsm8k_zero_shot"
    assert run.values["TASK_FEATURE_LENGTHS"]["targets"] == 128
    report([of_0_1 / "run"], of_0_1 / "report.html", base=of_0_1 / "teacher.json")
    assert "</html>" in (of_0_1 / "report.html").read_text()


@NEWER
def test_a_newer_configuration_of_a_run_is_refused(of_0_1, restate, refused, found):
    path = of_0_1 / "run" / "config.json"
    restate(path, version=found, values={"SEED": 1})
    refused(lambda: read_run(path.parent), versions.CONFIGURATION, path, found)


@NEWER
def test_a_newer_folder_of_a_run_is_refused(of_0_1, restate, refused, found):
    path = of_0_1 / "run" / outputs.MARKER
    restate(path, version=found)
    (of_0_1 / "run" / "metrics.jsonl").write_text("of another kind\n")
    refused(lambda: read_run(path.parent), versions.FOLDER, path, found)


@NEWER
def test_a_report_refuses_a_newer_corpus_of_a_run(of_0_1, restate, refused, found):
    path = of_0_1 / "corpus" / "corpus.json"
    rows = [{"name": "CORPUS_DIR", "value": str(path.parent)}]
    restate(of_0_1 / "run" / "config.json", values=rows)
    (corpus,) = read_run(of_0_1 / "run").corpora.values()
    assert corpus.fingerprint["k"] == 5
    restate(path, version=found)
    refused(lambda: read_run(of_0_1 / "run"), versions.CORPUS, path, found)
