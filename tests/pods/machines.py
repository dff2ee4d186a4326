"""Machines: processes with folders of their own, and the words of their commands."""

import json
import os
import subprocess
import sys

from ports import free_port

from specialize.paths import store as objects

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


def put(data, root):
    for file in data.rglob("*"):
        if file.is_file():
            objects.upload(file, f"{root}/data/{file.relative_to(data).as_posix()}")


def begin(machines, *words):
    """Starts one command on several machines."""
    words = [*words, "--coordinator_address", f"127.0.0.1:{free_port()}"]
    words += ["--process_count", str(len(machines)), "--process_index"]
    return [one.start(*words, str(n)) for n, one in enumerate(machines)]


def together(machines, *words):
    """Runs one command on several machines; what each of them printed."""
    started = begin(machines, *words)
    said = [one.communicate(timeout=1500)[0] for one in started]
    assert [one.returncode for one in started] == [0] * len(started), "\n".join(said)
    return said
