"""Every fault of the input is one message and exit 2, at the command itself."""

import json
import pathlib

import pytest

from specialize import cli
from specialize.checkpoints.opening import did_you_mean


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: pathlib.Path, records) -> None:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


def refused(capsys, *words) -> str:
    """The one message of a command that must refuse."""
    assert cli.main([str(word) for word in words]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error: ") == 1 and "Traceback" not in shown
    return shown


def evaluate(capsys, benchmarks, tmp_path, *settings) -> str:
    vocabulary = tmp_path / "v.model"
    vocabulary.write_text("not read: the suites come first")
    return refused(
        capsys,
        "evaluate",
        *("--gin_file", "recipes/tiny_evaluate.gin"),
        f"--gin.BENCHMARKS_DIR='{benchmarks}'",
        f"--gin.VOCABULARY_PATH='{vocabulary}'",
        *settings,
    )


def judge(capsys, benchmarks, tmp_path, suite, records=None) -> str:
    file = tmp_path / "predictions.jsonl"
    ids = ("chal-0", "chal-1", "chal-2", "chal-3")
    write_lines(
        file,
        records
        or [{"suite": suite, "id": f"{suite}-{i}", "prediction": "1"} for i in ids],
    )
    return refused(
        capsys, "evaluate", "--predictions", file, "--benchmarks", benchmarks
    )


def gsm8k_line(**changes) -> dict[str, str]:
    return {"question": "What is 1 + 1?", "answer": "#### 2", **changes}


@pytest.mark.parametrize(
    ("file", "records", "said"),
    [
        ("gsm8k/test.jsonl", [{"question": "?"}], ["test.jsonl:1", "'answer'"]),
        ("gsm8k/test.jsonl", [{"answer": "#### 1"}], ["test.jsonl:1", "'question'"]),
        ("gsm8k/test.jsonl", [gsm8k_line(answer=2)], ["test.jsonl:1", "answer"]),
        ("gsm8k/test.jsonl", [], ["test.jsonl", "no problem"]),
        ("svamp/SVAMP.json", [{"ID": "chal-0", "Body": "b"}], ["SVAMP.json"]),
        ("svamp/SVAMP.json", [], ["SVAMP.json", "no problem"]),
        (
            "svamp/SVAMP.json",
            [{"ID": "chal-0", "Body": "b", "Question": "q", "Answer": 1}] * 2,
            ["SVAMP.json", "#1", "id was already given"],
        ),
        (
            "multiarith/MultiArith.json",
            [{"iIndex": 0, "sQuestion": "q"}],
            ["MultiArith.json", "lSolutions"],
        ),
        (
            "multiarith/MultiArith.json",
            [{"iIndex": 0, "sQuestion": "q", "lSolutions": [1.0]}] * 2,
            ["MultiArith.json", "#1", "already given"],
        ),
        ("bbh/bbh/turning.json", {"examples": []}, ["turning.json"]),
        ("bbh/bbh/turning.json", {"cases": []}, ["turning.json", "examples"]),
        ("bbh/bbh/turning.json", {"examples": [{"input": "?"}]}, ["'target'"]),
    ],
)
def test_a_faulty_suite_file(benchmarks, tmp_path, capsys, file, records, said):
    write = write_lines if file.endswith("jsonl") else write_json
    write(benchmarks / file, records)
    suite = file.partition("/")[0] if "bbh" not in file else "bbh/turning"
    shown = judge(capsys, benchmarks, tmp_path, suite)
    assert all(word in shown for word in said), shown


@pytest.mark.parametrize(
    ("suite", "said"),
    [("gsmk8", "Did you mean 'gsm8k'?"), ("navigate", "Did you mean 'bbh/navigate'?")],
)
def test_an_unknown_suite(benchmarks, tmp_path, capsys, suite, said):
    assert said in judge(capsys, benchmarks, tmp_path, suite)
    assert said in evaluate(
        capsys,
        benchmarks,
        tmp_path,
        f"--gin.SUITES=('{suite}',)",
        "--gin.CHECKPOINT_PATH='nowhere'",
    )


def test_no_suite_at_all(benchmarks, tmp_path, capsys):
    said = evaluate(
        capsys,
        benchmarks,
        tmp_path,
        "--gin.SUITES=()",
        "--gin.CHECKPOINT_PATH='nowhere'",
    )
    assert "no suite to evaluate" in said


def test_predictions_of_another_suite(benchmarks, tmp_path, capsys):
    said = judge(
        capsys,
        benchmarks,
        tmp_path,
        "svamp",
        [{"suite": "svamp", "id": "gsm8k-test-0", "prediction": "1"}],
    )
    assert "predictions.jsonl:1" in said and "another suite" in said


def test_what_the_report_cannot_read(tmp_path, capsys):
    assert "does not exist" in refused(capsys, "report", tmp_path / "nowhere")
    assert "not a run" in refused(capsys, "report", tmp_path)


def test_an_unknown_checkpoint_is_named_with_what_lies_near(tmp_path):
    for step in ("400", "500"):
        (tmp_path / "runs/student/checkpoints" / step).mkdir(parents=True)
    runs = tmp_path / "runs"
    assert f"Did you mean '{runs}/student'?" in did_you_mean(f"{runs}/studnet")
    # The first part that is missing is the one that is mistyped.
    assert f"'{runs}/student/checkpoints/400'" in did_you_mean(
        f"{tmp_path}/rnus/student/checkpoints/400"
    )
    kept = runs / "student/checkpoints"
    assert did_you_mean(f"{kept}/50") == f" {kept} holds 400, 500."
    assert "'google/flan-t5-base'" in did_you_mean("google/flan-t5-bsae")
    assert did_you_mean(str(tmp_path / "zzz")) == ""
