"""Runs whose every path is in a bucket equal local runs, on machines of their own."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from store_emulators import KEY, SECRET, free_port

from specialize.paths import store as objects

pytestmark = pytest.mark.slow

RUN = """
from __gin__ import dynamic_registration
from specialize.student import network
include 't5x_configs/models/miniature.gin'
include 't5x_configs/data/gsm8k_four_formats.gin'
MIXTURE_OR_TASK_NAME = 'specialize_gsm8k_zero_shot'
network.T5Config.emb_dim = 16
network.T5Config.mlp_dim = 16
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
TASK_FEATURE_LENGTHS = {
    'inputs': 64, 'targets': 32, 'teacher_ids': 32, 'teacher_probs': 32,
    'teacher_tail': 32, 'format_id': 32,
}
MESH = {'data': -1}
LOG_PERIOD = 1
CHECKPOINT_PERIOD = 2
EVAL_PERIOD = 2
BATCH_SIZE = 8
WARMUP_STEPS = 1
SUITES = ('gsm8k',)
MAX_EXAMPLES = 4
OUTPUT_LENGTH = 4
EVAL_BATCH_SIZE = 4
"""


class Machine:
    """Processes with a home, temporary folder and working directory of their own."""

    def __init__(self, folder, devices=2):
        self.folder = folder
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir(parents=True)
        (folder / "work/run.gin").write_text(RUN)
        self.variables = os.environ | {
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "SPECIALIZE_CACHE_DIR": str(folder / "home/cache"),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
        }

    def start(self, *words):
        return subprocess.Popen(
            [sys.executable, "-m", "specialize", *words],
            cwd=self.folder / "work",
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words):
        process = self.start(*words)
        said = process.communicate(timeout=1500)[0]
        assert process.returncode == 0, said
        return said


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with problems, completions, a vocabulary and a local corpus."""
    from specialize.quickstart import miniature

    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    problems, completions = [], []
    for n in range(40):
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        text = f"{a} and {b} are {a + b}."
        question = f"Ann has {a} apples, then gets {b} in hour {n}. How many?"
        problems.append({"question": question, "answer": f"{text}\n#### {a + b}"})
        text = f"{text} The answer is {a + b}."
        completions.append({"problem_id": f"train-{n}", "sample": 0, "text": text})
    (folder / "bench/gsm8k").mkdir(parents=True)
    for name in ("train", "test"):
        write(folder / f"bench/gsm8k/{name}.jsonl", problems)
    from specialize.corpus.tasks.known import read_problems, shipped

    read = read_problems(folder / "bench/gsm8k/train.jsonl", shipped("gsm8k"))
    for one, problem in zip(completions, read, strict=True):
        one["problem_id"] = problem.id
    write(folder / "completions.jsonl", completions)
    texts = [row["question"] for row in problems] + [c["text"] for c in completions]
    (folder / "text.txt").write_text("\n".join(texts))
    miniature.train_vocabulary(folder / "text.txt", folder / "v.model")
    return folder


def build(place, out):
    """Words that build a corpus from data of `place`."""
    words = ["corpus", "build", "--task", "gsm8k", "--teacher", "t"]
    words += ["--problems", f"{place}/bench/gsm8k/train.jsonl"]
    words += ["--completions", f"{place}/completions.jsonl"]
    words += ["--vocabulary", f"{place}/v.model", "--demonstrations", "1"]
    return [*words, "--processes", "1", "--out", out]


def gin(place, **values):
    """Words that configure a command with data of `place`."""
    values |= {"VOCABULARY_PATH": f"{place}/v.model"}
    values |= {"BENCHMARKS_DIR": f"{place}/bench"}
    return ["--gin_file", "run.gin", *(f"--gin.{n}={v}" for n, v in values.items())]


def metrics(text):
    """step -> losses, and the accuracies, of a metrics file."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        (one["step"], one.get("train", {}).get("loss"), one.get("eval"))
        for one in lines
    ]


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """What a run without a bucket gives: metrics, predictions."""
    machine = Machine(tmp_path_factory.mktemp("reference"))
    out = machine.folder / "out"
    machine.run(*build(data, f"{out}/corpus"))
    words = gin(data, CORPUS_DIR=f"{out}/corpus", TRAIN_STEPS=4)
    machine.run("train", *words, f"--gin.MODEL_DIR={out}/run")
    words = gin(data, CHECKPOINT_PATH=f"{out}/run", OUTPUT_DIR=f"{out}/ev")
    machine.run("evaluate", *words)
    predictions = (out / "ev/gsm8k.zero_shot_cot.jsonl").read_text()
    return metrics((out / "run/metrics.jsonl").read_text()), predictions


def put(data, root):
    for file in data.rglob("*"):
        if file.is_file():
            objects.upload(file, f"{root}/data/{file.relative_to(data).as_posix()}")


def check_metrics(root, expected):
    found = metrics(objects.read_bytes(f"{root}/run/metrics.jsonl").decode())
    assert [one[0] for one in found] == [one[0] for one in expected]
    for (_, loss, scores), (_, wanted, others) in zip(found, expected, strict=True):
        assert scores == others
        if wanted is not None:
            assert loss == pytest.approx(wanted, rel=1e-5)


def check_no_secret(root, folder, *said):
    for secret in (KEY, SECRET):
        assert not any(secret in text for text in said)
        for name in objects.find(root):
            assert secret.encode() not in (objects.read_bytes(f"{root}/{name}") or b"")
        for file in folder.rglob("*"):
            if file.is_file():
                assert secret.encode() not in file.read_bytes(), file


def test_the_whole_way_in_a_bucket_equals_a_local_run(
    data, reference, root, store, tmp_path
):
    put(data, root)
    machines = [Machine(tmp_path / f"machine {n}") for n in range(3)]
    said = [machines[0].run(*build(f"{root}/data", f"{root}/corpus"))]
    words = gin(f"{root}/data", CORPUS_DIR=f"{root}/corpus", MODEL_DIR=f"{root}/run")
    words += ["--gin.TRAIN_STEPS=4"]
    killed = machines[0].start("train", *words)
    while objects.stat(f"{root}/run/checkpoints/2/commit_success.txt") is None:
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.2)
    killed.kill()
    said += [killed.communicate()[0]]
    store.faults(status=503, count=6)
    said += [machines[1].run("train", *words)]
    assert f"resuming {root}/run at step 2" in said[-1]
    check_metrics(root, reference[0])
    words = gin(f"{root}/data", CHECKPOINT_PATH=f"{root}/run")
    words += [f"--gin.OUTPUT_DIR={root}/ev", "--json", f"{root}/ev.json"]
    said += [machines[2].run("evaluate", *words)]
    predictions = objects.read_bytes(f"{root}/ev/gsm8k.zero_shot_cot.jsonl").decode()
    assert predictions == reference[1]
    words = [f"{root}/run", "--base", f"{root}/ev.json", "--out", f"{root}/r.html"]
    said += [machines[2].run("report", *words)]
    assert b"<html" in objects.read_bytes(f"{root}/r.html")
    words = ["--source", f"{root}/run", "--target", f"{root}/hf"]
    said += [machines[2].run("convert", *words)]
    words = ["--source", f"{root}/hf", "--to", "t5x", "--target", f"{root}/t5x"]
    said += [machines[2].run("convert", *words)]
    prints = [t.partition("fingerprint")[2].split()[0] for t in said[-2:]]
    assert prints[0] == prints[1]
    check_no_secret(root, tmp_path, *said)


def test_two_machines_without_a_common_folder_train_as_one(
    data, reference, root, tmp_path
):
    put(data, root)
    machines = [Machine(tmp_path / f"machine {n}", devices=1) for n in range(2)]
    machines[0].run(*build(f"{root}/data", f"{root}/corpus"))
    words = gin(f"{root}/data", CORPUS_DIR=f"{root}/corpus", MODEL_DIR=f"{root}/run")
    words += ["--gin.TRAIN_STEPS=4", "--process_count", "2"]
    words += ["--coordinator_address", f"127.0.0.1:{free_port()}"]
    started = [
        machine.start("train", *words, "--process_index", str(n))
        for n, machine in enumerate(machines)
    ]
    said = [one.communicate(timeout=1500)[0] for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    check_metrics(root, reference[0])
    check_no_secret(root, tmp_path, *said)


def test_suites_are_decoded_by_two_machines_as_by_one(data, reference, root, tmp_path):
    put(data, root)
    one = Machine(tmp_path / "one")
    one.run(*build(f"{root}/data", f"{root}/corpus"))
    words = gin(f"{root}/data", CORPUS_DIR=f"{root}/corpus", MODEL_DIR=f"{root}/run")
    one.run("train", *words, "--gin.TRAIN_STEPS=4")
    machines = [Machine(tmp_path / f"machine {n}", devices=1) for n in range(2)]

    def both(*words):
        address = ["--coordinator_address", f"127.0.0.1:{free_port()}"]
        words = [*words, *address, "--process_count", "2", "--process_index"]
        started = [m.start(*words, str(n)) for n, m in enumerate(machines)]
        said = [one.communicate(timeout=1500)[0] for one in started]
        assert [one.returncode for one in started] == [0, 0], said

    words = gin(f"{root}/data", CHECKPOINT_PATH=f"{root}/run")
    both("evaluate", *words, f"--gin.OUTPUT_DIR={root}/ev")
    predictions = objects.read_bytes(f"{root}/ev/gsm8k.zero_shot_cot.jsonl").decode()
    assert predictions == reference[1]
    rows = [{"id": n, "input": f"Q: {n} apples?"} for n in range(6)]
    write(tmp_path / "prompts.jsonl", rows)
    objects.upload(tmp_path / "prompts.jsonl", f"{root}/prompts.jsonl")
    asked = ["infer", *words, "--prompts", f"{root}/prompts.jsonl", "--out"]
    both(*asked, f"{root}/two.jsonl")
    one.run(*asked, f"{root}/one.jsonl")
    two = objects.read_bytes(f"{root}/two.jsonl")
    assert two == objects.read_bytes(f"{root}/one.jsonl") and two.count(b"\n") == 6
