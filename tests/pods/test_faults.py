"""Faults between a command and its store: nothing half-written is ever read.

A fault has a kind and a moment: the number of the request to the store at which it
begins, drawn by the seed of the test. What is emulated:

- "busy": 503 for 20 seconds (2 in the ordinary tests); "slow": late answers; "cut":
  connections that are cut in uploads. The server in front of the emulator does it.
- "process": the command is killed (`kill -9`) while its request is held.
- "store": the store is killed with `kill -9` while a request is held, which cuts all
  connections, and is started again on the same port after some seconds. Its objects
  are on disk: the emulator of Google's store keeps them there, the one of S3 repeats
  the requests that it has recorded. Requests that have reached the emulator are
  finished before it ends, because stores keep no half objects; the client does not
  learn that they were.

The command goes on, or ends with one message and does the rest when it is run again.
"""

import pathlib
import random
import subprocess
import sys
import time

import pytest
import small_writer
from machines import Machine, build, gin, put
from store_emulators import Store
from test_runs import check_metrics

from specialize import paths
from specialize.checkpoints.convert import convert
from specialize.corpus.storage.shards import open_corpus
from specialize.errors import InputError
from specialize.paths import store as objects

FAULTS = {
    "busy": lambda draw, long: {"status": 503, "seconds": 20 if long else 2},
    "slow": lambda draw, _: {"delay": draw.uniform(0.1, 0.5), "seconds": 8},
    "cut": lambda draw, _: {"cut": draw.choice([0, 300]), "count": draw.randint(1, 4)},
    "process": lambda *_: {"hold": 1},
    "store": lambda *_: {"hold": 1},
}


@pytest.fixture(scope="module")
def durable_stores(tmp_path_factory):
    found = {}

    def store(scheme):
        if scheme not in found:
            folder = tmp_path_factory.mktemp(scheme)
            found[scheme] = Store(scheme, folder, durable=True)
            found[scheme].start()
        return found[scheme]

    yield store
    for one in found.values():
        one.stop()


@pytest.fixture
def durable(durable_stores, monkeypatch, tmp_path):
    def use(scheme):
        one = durable_stores(scheme)
        one.use(monkeypatch, tmp_path)
        return one

    return use


def strike(store, kind, draw, start, *, requests, long, check):
    """Starts a command and lets a fault happen to it; what it said, its status.

    Args:
        store: The store.
        kind: Kind of the fault.
        draw: Generator of random numbers.
        start: Starts the command.
        requests: The fault begins before this number of requests.
        long: Whether the fault may take long.
        check: Checks what is in the store while the command does not run.
    """
    after = draw.randint(1, requests)
    store.faults(**FAULTS[kind](draw, long), after=after)
    process = start()
    if kind in ("process", "store"):
        while not store.state()[1] and process.poll() is None:
            time.sleep(0.02)
    if kind == "process":
        process.kill()
        process.wait()
    if kind == "store":
        store.stop()
        time.sleep(draw.uniform(0, 10 if long else 2))
        store.start()
    if kind in ("process", "store"):
        store.faults()
    said = process.communicate(timeout=600)[0]
    print(f"{kind} after {after} requests: status {process.returncode}")
    store.faults()
    check()
    return process.returncode, said


def check_end(kind, status, said):
    """The command has succeeded, was killed, or has ended with one message."""
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if status == 0:
        assert not errors, said
    elif kind == "process":
        assert status == -9, said
    else:
        assert status == 2 and len(errors) == 1, said
        assert "Traceback" not in said, said


@pytest.mark.parametrize(
    ("scheme", "kind", "seed"),
    [("s3", "store", 1), ("gs", "process", 2), ("s3", "busy", 3)],
)
def test_a_small_command_survives_a_fault(durable, tmp_path, scheme, kind, seed):
    store = durable(scheme)
    url = f"{store.root}/small-{seed}"
    file = str(pathlib.Path(small_writer.__file__))

    def start():
        return subprocess.Popen(
            [sys.executable, file, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    status, said = strike(
        *(store, kind, random.Random(seed), start),
        requests=60,
        long=False,
        check=lambda: small_writer.check(url, complete=False),
    )
    check_end(kind, status, said)
    if status != 0:
        again = start()
        said = again.communicate(timeout=300)[0]
        assert again.returncode == 0, said
    small_writer.check(url, complete=True)


@pytest.fixture(scope="module")
def fault_free(durable_stores, data, tmp_path_factory):
    """scheme -> URL of a corpus; numbers of requests of a corpus build and of a run."""
    found = {}

    def run(scheme):
        if scheme not in found:
            store = durable_stores(scheme)
            store.faults()
            put(data, f"{store.root}/in")
            machine = Machine(tmp_path_factory.mktemp("fault free"))
            root, counts = f"{store.root}/fault-free", []
            for words in (building(store, root), training(store, root, root)):
                store.faults()
                machine.run(*words)
                counts.append(store.state()[0])
            found[scheme] = root, *counts
        return found[scheme]

    return run


def building(store, root):
    return build(f"{store.root}/in/data", f"{root}/corpus")


def training(store, corpus, root):
    values = {"CORPUS_DIR": f"{corpus}/corpus", "MODEL_DIR": f"{root}/run"}
    words = ["train", *gin(f"{store.root}/in/data", **values)]
    return [*words, "--gin.TRAIN_STEPS=4"]


def check_whole(root, expected):
    """Reads all that a reader would trust."""
    try:
        corpus = paths.local(f"{root}/corpus")
    except InputError as error:
        assert "is not complete" in str(error) or "does not exist" in str(error)
    else:
        assert open_corpus(corpus).fingerprint == open_corpus(expected).fingerprint
    folder = f"{root}/run/checkpoints"
    for step in objects.names(folder):
        if step.isdigit() and objects.stat(f"{folder}/{step}/commit_success.txt"):
            found = convert(f"{folder}/{step}", None).fingerprint
            local = f"{expected.parent}/run/checkpoints/{step}"
            assert found == convert(local, None).fingerprint
    lines = (objects.read_bytes(f"{root}/run/metrics.jsonl") or b"").splitlines(True)
    assert all(line.endswith(b"}\n") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_faults_leave_nothing_half_written(
    durable, fault_free, reference, tmp_path, seed
):
    draw = random.Random(seed)
    scheme = ("s3", "gs")[seed % 2]
    kind = list(FAULTS)[seed // 2 % len(FAULTS)]
    store = durable(scheme)
    corpus, *counts = fault_free(scheme)
    root = f"{store.root}/faults-{seed}"
    trains = seed >= 10
    words = training(store, corpus, root) if trains else building(store, root)
    expected = reference[2] / "corpus"
    status, said = strike(
        *(store, kind, draw, lambda: Machine(tmp_path / "machine 0").start(*words)),
        requests=counts[trains] * 9 // 10,
        long=True,
        check=lambda: check_whole(root, expected),
    )
    check_end(kind, status, said)
    if status != 0:
        Machine(tmp_path / "machine 1").run(*words)
    check_whole(root, expected)
    if trains:
        check_metrics(root, reference[0])
        assert {"2", "4"} <= {*objects.names(f"{root}/run/checkpoints")}
    else:
        assert objects.stat(f"{root}/corpus/{paths.MARKER}") is not None
