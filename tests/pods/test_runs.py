"""Runs whose every path is in a bucket equal local runs, on machines of their own."""

import json
import os
import time

import pytest
from machines import Machine, build, gin, metrics, put, together
from store_emulators import KEY, SECRET

from specialize import paths
from specialize.paths import store as objects

pytestmark = pytest.mark.slow


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
    for machine in machines:  # no folder "s3:" either
        assert os.listdir(machine.folder / "work") == ["run.gin"]


def test_two_machines_without_a_common_folder_train_as_one(
    data, reference, root, tmp_path
):
    put(data, root)
    machines = [Machine(tmp_path / f"machine {n}", devices=1) for n in range(2)]
    machines[0].run(*build(f"{root}/data", f"{root}/corpus"))
    words = gin(f"{root}/data", CORPUS_DIR=f"{root}/corpus", MODEL_DIR=f"{root}/run")
    said = together(machines, "train", *words, "--gin.TRAIN_STEPS=4")
    check_metrics(root, reference[0])
    words = gin(f"{root}/data", CHECKPOINT_PATH=f"{root}/run")
    said += together(machines, "evaluate", *words, f"--gin.OUTPUT_DIR={root}/ev")
    predictions = objects.read_bytes(f"{root}/ev/gsm8k.zero_shot_cot.jsonl").decode()
    assert predictions == reference[1]
    said += together(machines, "select", *words, "--json", f"{root}/choice.json")
    chosen = json.loads(objects.read_bytes(f"{root}/choice.json"))
    assert [*chosen["validation"]] == ["2", "4"]
    assert chosen["checkpoint"] == f"{root}/run/checkpoints/{chosen['step']}"
    assert "selection/choice_gsm8k.json" in objects.find(f"{root}/run")
    asked = ["--problems", f"{root}/data/bench/gsm8k/train.jsonl", "--limit", "6"]
    asked += ["--task", "gsm8k", "--responses", f"{root}/r.sqlite", "--n"]
    said += together(machines, "sample", *words, *asked, "1")
    assert "6 done, 0 cached" in said[-2]
    said += together(machines[::-1], "sample", *words, *asked, "2")
    assert "6 done, 6 cached" in said[-2]
    export = ["--responses", f"{root}/r.sqlite", "--out", f"{root}/r.jsonl"]
    said += [machines[0].run("corpus", "export", *export)]
    assert objects.read_bytes(f"{root}/r.jsonl").count(b"\n") == 12
    assert [one for one in objects.names(root) if paths.WRITING in one] == []
    check_no_secret(root, tmp_path, *said)
    for machine in machines:
        assert os.listdir(machine.folder / "work") == ["run.gin"]
