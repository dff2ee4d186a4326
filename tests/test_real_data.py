"""The README's real-data commands, with fewer steps and shorter answers."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def readme_commands():
    """The commands under "On real data": (environment, words) of each."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## On real data")[1].split("\n## ")[0]
    block = re.search(r"```bash[^\n]*\n(.*?)```", section, re.S).group(1)
    block = re.sub(r"\\\n", " ", block)
    found = []
    for line in block.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = shlex.split(line)
        settings = {}
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            settings[name] = value
        assert words[0] == "specialize"
        found.append((settings, words[1:]))
    return found


def run(words, cwd, **settings):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **settings}
    return subprocess.run(
        [sys.executable, "-m", "specialize", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def ran(words, cwd, **settings):
    done = run(words, cwd, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def changed(words, **values):
    """The same command with some gin values replaced."""
    kept = [
        word
        for word in words
        if not any(word.startswith(f"--gin.{name}=") for name in values)
    ]
    return kept + [f"--gin.{name}={value}" for name, value in values.items()]


@pytest.fixture(scope="module")
def place(shared_data, tmp_path_factory):
    """A folder beside which the data lie, as in the README."""
    root = tmp_path_factory.mktemp("real")
    (root / "shared").mkdir()
    (root / "shared" / "data").symlink_to(shared_data)
    (root / "project").mkdir()
    return root / "project"


def some_problems(place, shared_data, count):
    with open(shared_data / "gsm8k" / "train.jsonl", encoding="utf-8") as file:
        lines = [line for _, line in zip(range(count), file, strict=False)]
    path = place / "problems.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def test_the_readmes_real_data_commands_run(place, shared_data):
    (_, build), (devices, train), (_, evaluate) = readme_commands()
    problems = build.index("--problems") + 1
    build[problems] = some_problems(place, shared_data, 240)
    ran(build, place)
    manifest = json.loads((place / "runs" / "corpus" / "corpus.json").read_text())
    # 240 rationales, and those of the 50 completions that are right.
    assert manifest["funnel"]["read"] == 50
    assert manifest["funnel"]["human"]["read"] == 240
    assert manifest["formats"]["zero_shot_cot"]["records"] > 270

    first = changed(
        train, TRAIN_STEPS=2, WARMUP_STEPS=1, CHECKPOINT_PERIOD=1, LOG_PERIOD=1
    )
    ran(first, place, **devices)
    lines = [
        json.loads(line)
        for line in (place / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "train" in line] == [1, 2]
    assert "zero_shot_cot/soft_kl" in str(lines)

    again = ran(first, place, **devices)
    assert "complete: 2 of 2 steps" in again.stderr

    # One suite of each kind is enough here; the whole list is in the slow suite.
    short = changed(
        evaluate,
        SUITES="('gsm8k', 'bbh/navigate')",
        OUTPUT_LENGTH=8,
        EVAL_BATCH_SIZE=8,
        MESH="{'data': 8, 'fsdp': 1, 'model': 1}",
    )
    short[short.index("--max_examples") + 1] = "2"
    ran(short, place, JAX_NUM_CPU_DEVICES="8")
    results = json.loads((place / "runs" / "tiny.json").read_text())
    assert results["suites"]["gsm8k:zero_shot_cot"]["n"] == 2
    assert results["suites"]["bbh/navigate:zero_shot_cot"]["n"] == 2


@pytest.mark.slow
def test_the_readmes_real_data_commands_run_whole(place, shared_data, tmp_path):
    here = tmp_path / "project"
    here.mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(shared_data)
    (_, build), (devices, train), (_, evaluate) = readme_commands()
    ran(build, here)
    manifest = json.loads((here / "runs" / "corpus" / "corpus.json").read_text())
    assert manifest["funnel"]["read"] == 50
    assert manifest["funnel"]["human"]["read"] == 7473
    ran(changed(train, TRAIN_STEPS=20, LOG_PERIOD=5), here, **devices)
    lines = [
        json.loads(line)["train"]
        for line in (here / "runs" / "tiny" / "metrics.jsonl").read_text().splitlines()
        if "train" in json.loads(line)
    ]
    assert lines[-1]["kl"] < lines[0]["kl"]
    evaluate[evaluate.index("--max_examples") + 1] = "1"
    ran(changed(evaluate, OUTPUT_LENGTH=8), here)
    suites = json.loads((here / "runs" / "tiny.json").read_text())["suites"]
    assert len(suites) == 4 + 27


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--problems", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--vocabulary", "problems.jsonl"], "SentencePiece"),
        (["--out", "."], "not written by specialize"),
        (["--completions", "bad.jsonl"], "bad.jsonl"),
    ],
)
def test_a_bad_file_is_one_error_and_leaves_nothing(place, shared_data, words, said):
    (_, build), _, _ = readme_commands()
    build[build.index("--problems") + 1] = some_problems(place, shared_data, 5)
    (place / "bad.jsonl").write_text('{"problem_id": "gsm8k-train-0", "sample": 0}\n')
    build[build.index("--out") + 1] = "runs/refused"
    build[build.index(words[0]) + 1] = words[1]
    done = run(build, place)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1 and said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "runs" / "refused").exists()


def test_a_mistyped_macro_is_refused_with_the_right_name(place):
    _, (devices, train), _ = readme_commands()
    done = run([*train, "--gin.TRIAN_STEPS=3"], place, **devices)
    assert done.returncode == 2
    assert "TRIAN_STEPS" in done.stderr and "TRAIN_STEPS" in done.stderr
    assert "Traceback" not in done.stderr
