"""A command on several processes gives what one process gives, also after a kill."""

import contextlib
import json
import signal
import time

import pytest
from machines import Machine, begin, build, gin, metrics, together, write

pytestmark = pytest.mark.slow


@pytest.fixture
def several(tmp_path):
    """Gives processes with two devices together, as the reference has."""

    def several(count):
        folder = tmp_path / f"{count} processes"
        devices = max(1, 2 // count)
        return [Machine(folder / str(n), devices=devices) for n in range(count)]

    return several


@pytest.mark.parametrize("count", [2, 4])
def test_predictions_choices_and_samples_are_those_of_one_process(
    data, reference, several, tmp_path, count
):
    _, predictions, out = reference
    one, many = several(1)[0], several(count)
    words = gin(data, CHECKPOINT_PATH=f"{out}/run")
    together(many, "evaluate", *words, f"--gin.OUTPUT_DIR={tmp_path}/ev")
    found = tmp_path / "ev/gsm8k.zero_shot_cot.jsonl"
    assert found.read_text() == predictions

    write(tmp_path / "asked.jsonl", [{"id": n, "input": f"{n}?"} for n in range(6)])
    sampling = ["--problems", f"{data}/bench/gsm8k/train.jsonl", "--limit", "6"]
    sampling += ["--n", "2", "--n_per_request", "2", "--task", "gsm8k"]
    results = []
    for machines, name in (([one], "one"), (many, "many")):
        here = tmp_path / name
        here.mkdir()
        run = machines[0].run if len(machines) == 1 else None
        run = run or (lambda *words: together(many, *words))
        asked = ["--prompts", f"{tmp_path}/asked.jsonl", "--out", f"{here}/told.jsonl"]
        run("infer", *words, *asked)
        chosen = [f"--gin.OUTPUT_DIR={here}/choice", "--json", f"{here}/choice.json"]
        run("select", *words, *chosen)
        run("sample", *words, *sampling, "--responses", f"{here}/r.sqlite")
        export = ["--responses", f"{here}/r.sqlite", "--out", f"{here}/r.jsonl"]
        one.run("corpus", "export", *export)
        choice = json.loads((here / "choice.json").read_text())
        del choice["test"]["seconds"]
        told = (here / "told.jsonl").read_text()
        results.append((told, choice, (here / "r.jsonl").read_text()))
    assert results[0] == results[1]
    assert results[0][2].count("\n") == 12


@pytest.mark.parametrize("what", ["prompts", "settings", "folder"])
def test_processes_with_other_inputs_end_before_they_write(
    data, reference, several, tmp_path, what
):
    """Each has its own working directory, in which relative paths are."""
    machines = several(2)
    for number, machine in enumerate(machines):
        texts = [f"{n}{'!' if number and what == 'prompts' else '?'}" for n in range(6)]
        lines = [{"id": n, "input": text} for n, text in enumerate(texts)]
        write(machine.folder / "work/asked.jsonl", lines)
        if number and what == "settings":
            with open(machine.folder / "work/run.gin", "a") as file:
                file.write("OUTPUT_LENGTH = 5\nBATCH_SIZE = 16\n")
    if what == "prompts":
        words = gin(data, CHECKPOINT_PATH=f"{reference[2]}/run")
        asked = ["--prompts", "asked.jsonl", "--out", f"{tmp_path}/told.jsonl"]
        started = begin(machines, "infer", *words, *asked)
        expected = "prompts, weights or settings than process 0: prompts is"
    else:
        words = gin(data, CORPUS_DIR=f"{reference[2]}/corpus", TRAIN_STEPS=4)
        folder = "run" if what == "folder" else f"{tmp_path}/run"
        started = begin(machines, "train", *words, f"--gin.MODEL_DIR={folder}")
        expected = "settings than process 0: BATCH_SIZE is 8 in process 0, 16 in"
        if what == "folder":
            expected = "MODEL_DIR is not shared by the processes: process 0 writes in"
    said = [one.communicate(timeout=300)[0] for one in started]
    assert [one.returncode for one in started] == [2, 2], said
    found = [[x for x in one.splitlines() if x.startswith("error: ")] for one in said]
    assert len(found[0]) == 1 and found[0] == found[1] and expected in found[0][0]
    for place in (tmp_path, *(one.folder / "work" for one in machines)):
        names = {one.name for one in place.iterdir()}
        assert names <= {"asked.jsonl", "run.gin", "2 processes"}


def end_all(started, killed):
    """Kills one of two processes; the other ends with one message that names it."""
    started[killed].kill()
    began = time.monotonic()
    other = started[1 - killed]
    said = other.communicate(timeout=90)[0]
    assert time.monotonic() - began < 60
    assert other.returncode == 1, said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"process {killed} of 2 was killed or is unreachable" in line


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_training_ends_everywhere_and_goes_on_from_its_checkpoint(
    data, several, tmp_path, killed
):
    machines = several(2)
    machines[0].run(*build(data, f"{tmp_path}/corpus"))
    words = gin(data, CORPUS_DIR=f"{tmp_path}/corpus", MODEL_DIR=f"{tmp_path}/run")
    words += ["--gin.SUITES=()", "--gin.EVAL_PERIOD=1000"]
    started = begin(machines, "train", *words, "--gin.TRAIN_STEPS=4000")
    while not (tmp_path / "run/checkpoints/4").is_dir():
        assert started[0].poll() is None, started[0].stdout.read()
        time.sleep(0.02)
    end_all(started, killed)
    saved = (p.name for p in (tmp_path / "run/checkpoints").iterdir())
    step = max(int(name) for name in saved if name.isdigit())
    said = together(machines, "train", *words, f"--gin.TRAIN_STEPS={step + 2}")
    assert f"at step {step}" in said[0]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_evaluation_ends_everywhere_and_decodes_nothing_twice(
    data, reference, several, tmp_path, killed
):
    machines = several(2)
    words = gin(data, CHECKPOINT_PATH=f"{reference[2]}/run", MAX_EXAMPLES=40)
    words += [f"--gin.OUTPUT_DIR={tmp_path}/ev", "--gin.OUTPUT_LENGTH=64"]
    words += ["--gin.EVAL_BATCH_SIZE=2"]
    started = begin(machines, "evaluate", *words)
    decoded = tmp_path / "ev/decoded"

    def lines():
        with contextlib.suppress(StopIteration, OSError):
            return next(decoded.iterdir()).read_text().splitlines()
        return []

    while len(lines()) < 9:
        assert started[0].poll() is None, started[0].stdout.read()
        time.sleep(0.01)
    end_all(started, killed)
    before = lines()[:-1]  # the kill may have cut the last one
    together(machines, "evaluate", *words)
    judged = (tmp_path / "ev/gsm8k.zero_shot_cot.jsonl").read_text().splitlines()
    # The first line holds the settings.
    assert 8 <= len(before) < len(lines()) == 1 + len(judged)
    assert lines()[: len(before)] == before


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_run_that_got_a_signal_goes_on_with_any_number_of_processes(
    data, reference, several, tmp_path, count
):
    first = several(2)
    one = Machine(tmp_path / "builder")
    one.run(*build(data, f"{tmp_path}/corpus"))
    words = gin(data, CORPUS_DIR=f"{tmp_path}/corpus", MODEL_DIR=f"{tmp_path}/run")
    words += ["--gin.TRAIN_STEPS=60", "--gin.CHECKPOINT_PERIOD=1000"]
    words += ["--gin.EVAL_PERIOD=1000", "--gin.SUITES=()"]
    words += ["--gin.DTYPE=float32"]  # another mesh rounds sums otherwise
    started = begin(first, "train", *words)
    log = tmp_path / "run/metrics.jsonl"
    while not (log.exists() and metrics(log.read_text())):
        assert started[0].poll() is None, started[0].stdout.read()
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    said = [one.communicate(timeout=300)[0] for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    assert "stopped: step" in said[0]
    (step,) = [p.name for p in (tmp_path / "run/checkpoints").iterdir()]
    assert int(step) < 60
    later = [Machine(tmp_path / f"later {n}", devices=1) for n in range(count)]
    if count == 1:
        mesh = ["--gin.MESH={'data': 1}"]
        said = [later[0].run("train", *words, *mesh)]
    else:
        mesh = [f"--gin.MESH={{'data': 1, 'fsdp': {count}}}"]
        said = together(later, "train", *words, *mesh)
    assert f"at step {step}" in said[0]
    whole = Machine(tmp_path / "whole")
    words = [word for word in words if "MODEL_DIR" not in word]
    whole.run("train", *words, f"--gin.MODEL_DIR={tmp_path}/whole_run")
    expected = metrics((tmp_path / "whole_run/metrics.jsonl").read_text())
    for found, wanted in zip(metrics(log.read_text()), expected, strict=True):
        assert found[0] == wanted[0]
        assert found[1] == pytest.approx(wanted[1], rel=1e-5)
