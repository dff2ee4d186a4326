"""Emulated stores for every test of this folder."""

import importlib.util
import random

import pytest
from machines import Machine, build, gin, metrics, write
from store_emulators import Store

# The client and the emulator of each store, which the extra `test` installs.
NEEDED = {"s3": ("s3fs", "moto", "flask"), "gs": ("gcsfs", "gcp_storage_emulator")}


@pytest.fixture(scope="session")
def _stores(tmp_path_factory):
    """The emulators of the session, started when they are first asked for."""
    found = {}

    def store(scheme):
        absent = [one for one in NEEDED[scheme] if not importlib.util.find_spec(one)]
        if absent:
            pytest.skip(f"{', '.join(absent)} not installed (extra `test`)")
        if scheme not in found:
            found[scheme] = Store(scheme, tmp_path_factory.mktemp("emulator"))
            found[scheme].start()
        return found[scheme]

    yield store
    for one in found.values():
        one.stop()


@pytest.fixture(params=["s3", "gs"])
def store(request, _stores, tmp_path, monkeypatch):
    """An emulated store, which this process and its children use."""
    one = _stores(request.param)
    one.use(monkeypatch, tmp_path)
    return one


@pytest.fixture
def root(store, request):
    """The URL of a new folder."""
    return f"{store.root}/{abs(hash(request.node.nodeid)) % 10**8}"


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def reference(data, tmp_path_factory):
    """What a run without a bucket gives: metrics, predictions, the folder of both."""
    machine = Machine(tmp_path_factory.mktemp("reference"))
    out = machine.folder / "out"
    machine.run(*build(data, f"{out}/corpus"))
    words = gin(data, CORPUS_DIR=f"{out}/corpus", TRAIN_STEPS=4)
    machine.run("train", *words, f"--gin.MODEL_DIR={out}/run")
    words = gin(data, CHECKPOINT_PATH=f"{out}/run", OUTPUT_DIR=f"{out}/ev")
    machine.run("evaluate", *words)
    predictions = (out / "ev/gsm8k.zero_shot_cot.jsonl").read_text()
    return metrics((out / "run/metrics.jsonl").read_text()), predictions, out
