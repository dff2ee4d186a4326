"""Every JSON file of evaluation, damaged: read rightly, or one error that names it."""

import dataclasses
import json

import pytest

from specialize.errors import InputError
from specialize.evaluation.evaluate import _beside
from specialize.evaluation.predictions import read_predictions
from specialize.evaluation.report.report import report
from specialize.evaluation.results import Results
from specialize.evaluation.tables import table
from specialize.inference.prompts import read_prompts

KEY = "gsm8k:zero_shot_cot"
SCORE = {
    "name": "gsm8k",
    "n": 2,
    "accuracy": 0.5,
    "low": 0.1,
    "high": 0.9,
    "how": {"marked": 1, "last": 1, "none": 0},
    "ceiling": {"accuracy": 1.0},
    "selection": {"split": "test"},
}
RESULTS = {
    "format": 1,
    "model": {"checkpoint": "runs/x", "step": 2, "parameters": 10},
    "settings": {"split": "test", "rule": "exact"},
    "suites": {KEY: SCORE},
    "averages": {},
    "predictions": {KEY: "r/lines.jsonl"},
    "seconds": 1.5,
}
JUDGED = [
    {"suite": "gsm8k", "id": f"q{i}", "prediction": "5", "correct": i == 0}
    | {"value": "5", "how": "marked", "golds": ["5"], "question": "?", "rationale": ""}
    for i in range(2)
]
METRICS = [
    {"step": i, "train": {"loss": 1.0, "kl": None}, "speed": {}, "epochs": {}}
    for i in range(1, 4)
]
CORPUS = {
    "version": 1,
    "funnel": {"read": 3, "verified": 2, "aligned": 2, "kept": 2, "rejected": {"a": 1}},
    "formats": {"zero_shot_cot": {"records": 2}},
    "fingerprint": {"k": 5},
}
PREDICTION = {"suite": "gsm8k", "id": "q0", "prediction": "5"}


def lines(values):
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def write_run(folder, **files):
    """A run with a corpus; `files` replaces the bytes of some of them."""
    content = {
        "results.json": json.dumps(RESULTS).encode(),
        "r/lines.jsonl": lines(JUDGED),
        "metrics.jsonl": lines(METRICS),
        "config.json": json.dumps(
            {"values": [{"name": "CORPUS_DIR", "value": str(folder / "corpus")}]}
        ).encode(),
        "corpus/corpus.json": json.dumps(CORPUS).encode(),
    } | files
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_value_that_was_not_finite_is_left_out_of_the_curve(tmp_path):
    text = b'{"step": 1, "train": {"loss": 1}}\n{"step": 2, "train": {"loss": null}}\n'
    for last in (b"", b'{"step": 3, "tra', b'{"step": 3, "note": "\xc3', b"\xff\xfe"):
        run = write_run(tmp_path / "a", **{"metrics.jsonl": text + last})
        report([run], tmp_path / "r.html")
        assert "loss (nats per target token)" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_results_name_no_file_outside_their_folder(tmp_path, kind):
    run = write_run(tmp_path / "a")
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(lines(JUDGED))
    (run / "link.jsonl").symlink_to(secret)
    name = {"parent": "../secret.jsonl", "absolute": str(secret), "link": "link.jsonl"}
    written = RESULTS | {"predictions": {KEY: name[kind]}}
    (run / "results.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match="outside this folder"):
        Results.load(run / "results.json")


@pytest.mark.parametrize(
    "place", ["copy.json", "sub/copy.json", "../copy.json", "sub/copy"]
)
def test_a_copy_of_results_finds_its_predictions_beneath_itself(tmp_path, place):
    run = write_run(tmp_path / "x" / "run")
    results = Results.load(run / "results.json")
    file = tmp_path / "x" / place
    _beside(results, file, run).save(file)
    assert Results.load(file).lines(KEY) == JUDGED
    elsewhere = tmp_path / "x" / "run" / "deep" / "copy.json"
    _beside(results, elsewhere, run).save(elsewhere)
    assert Results.load(elsewhere).lines(KEY) == JUDGED


@pytest.mark.parametrize("separator", "\u2028 \u2029 \x85 \x0b \x0c \x1e".split(" "))
def test_a_separator_in_a_text_ends_no_line(tmp_path, separator):
    path = tmp_path / "p.jsonl"
    line = {**PREDICTION, "prediction": f"a{separator}b", "input": f"a{separator}b"}
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    [found] = read_predictions(path)
    assert found.texts == (f"a{separator}b",)
    [prompt] = read_prompts(path)
    assert prompt["input"] == f"a{separator}b"


HOSTILE = "<img src=x onerror=alert(1)> ![x](http://e/x.png) [/red]\x1b]0;t\x07|`\n# h"


def test_what_a_text_says_is_shown_and_not_obeyed(tmp_path):
    written = json.loads(json.dumps(RESULTS).replace("runs/x", "X"))
    written["model"]["checkpoint"] = HOSTILE
    written["settings"] = {HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}}
    written["suites"] = {f"{HOSTILE}:zero_shot_cot": SCORE}
    written["predictions"] = {}
    run = write_run(tmp_path / "a", **{"results.json": json.dumps(written).encode()})
    report([run], tmp_path / "r.md", command=HOSTILE)
    report([run], tmp_path / "r.html", command=HOSTILE)
    text = (tmp_path / "r.md").read_text()
    assert "<img" not in text and "](http" not in text and "\n# h" not in text
    assert "<img" not in (tmp_path / "r.html").read_text()
    from rich.console import Console

    results = Results.load(run / "results.json")
    console = Console(force_terminal=True, width=400)
    with console.capture() as captured:
        console.print(table(results, dataclasses.replace(results)))
    assert "\x1b]0" not in captured.get() and "\x07" not in captured.get()
    assert "[/red]" in captured.get()
