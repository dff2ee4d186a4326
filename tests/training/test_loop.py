import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
import tiny_run
from echo_server import EchoServer

from specialize.checkpoints.store import CheckpointStore
from specialize.corpus.sampling.responses import ResponseStore
from specialize.errors import InputError
from specialize.training.data import batches
from specialize.training.data.mixtures import Mixture
from specialize.training.loop import interruptions, train


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Eleven steps with dropout in one go: (result, folder)."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    return tiny_run.run(folder, 11, dropout=0.2, period=100), folder


def test_the_loss_falls_on_soft_rows(tmp_path):
    result = tiny_run.run(tmp_path / "run", 40, learning_rate=2e-2, log_period=10)
    kl = [line["train"]["kl"] for line in tiny_run.lines(tmp_path / "run")]
    assert result.step == 40
    assert kl[-1] < 0.9 * kl[0]


def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_does(
    tmp_path, undisturbed, same_parameters
):
    expected, folder = undisturbed
    tiny_run.run(tmp_path / "run", 6, dropout=0.2, period=100)
    resumed = tiny_run.run(tmp_path / "run", 11, dropout=0.2, period=100)
    same_parameters(tiny_run.parameters(resumed), tiny_run.parameters(expected))
    # The first run ended with a line of its own at 6; others agree to the last bit.
    lines = {line["step"]: line for line in tiny_run.lines(tmp_path / "run")}
    for line in tiny_run.lines(folder):
        if line["step"] != 8:
            assert lines[line["step"]] == line


def test_lines_of_a_run_that_was_cut_off_are_those_of_one_that_was_not(
    tmp_path, undisturbed, monkeypatch
):
    _, folder = undisturbed
    real = interruptions.Stop.at
    monkeypatch.setattr(interruptions.Stop, "at", lambda self, step: step == 6)
    stopped = tiny_run.run(tmp_path / "run", 11, dropout=0.2, period=100)
    assert stopped.stopped and stopped.step == 6
    monkeypatch.setattr(interruptions.Stop, "at", real)
    tiny_run.run(tmp_path / "run", 11, dropout=0.2, period=100)
    assert tiny_run.lines(tmp_path / "run") == tiny_run.lines(folder)


def test_a_complete_run_is_left_alone(undisturbed):
    _, folder = undisturbed
    before = sorted(os.listdir(folder / "checkpoints"))
    again = tiny_run.run(folder, 11, dropout=0.2, period=100)
    assert again.step == 11
    assert sorted(os.listdir(folder / "checkpoints")) == before


def test_a_checkpoint_of_other_data_is_refused_by_name(undisturbed):
    _, folder = undisturbed
    with pytest.raises(InputError, match=r"seed was 0, is 5.*another MODEL_DIR"):
        tiny_run.run(folder, 12, dropout=0.2, data={"seed": 5})


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="not written by specialize"):
        tiny_run.run(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": {"microbatches": 3}}, "multiple of 3"),
        ({"mesh": "3"}, "multiple of 3"),
        ({"mesh": "99"}, "needs 99 devices"),
        ({"mesh": {"rows": 2}}, "gives data, fsdp, model a number"),
        ({"log_period": 0}, "period = 0; it must be at least 1"),
        ({"steps": 0}, "total_steps = 0; it must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path, options, said
):
    with pytest.raises(InputError, match=said):
        tiny_run.run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def poisoned_at(number):
    """A mixture with a NaN first in the batch of a step, and whose example has it."""
    poisoned = tiny_run.mixture()
    tails = poisoned.tasks[0].features["teacher_tail"]
    source = tiny_run.source(poisoned)
    plan = source.layout(number)
    earlier = {
        (int(t), int(e))
        for step in range(number)
        for t, e in zip(
            source.layout(step).tasks, source.layout(step).examples, strict=True
        )
    }
    fresh = [
        (int(t), int(e))
        for t, e in zip(plan.tasks, plan.examples, strict=True)
        if t == 0 and (int(t), int(e)) not in earlier
    ]
    _, example = fresh[0]
    tails[poisoned.tasks[0].starts["targets"][example]] = np.nan
    return poisoned, example


def test_a_checkpoint_has_the_metrics_of_its_own_weights_only(tmp_path):
    """Such as the one before a step that was not finite, which nothing evaluated."""
    poisoned, _ = poisoned_at(3)
    with pytest.raises(interruptions.NonFiniteError, match="step 4 is not finite"):
        tiny_run.run(
            tmp_path / "run",
            9,
            data={"mixture": poisoned},
            checkpoints={"keep": 1, "best_metric": "mine"},
            evaluation={"period": 2},
            evaluators=[lambda params, step: {"mine": 1.0}],
        )
    with CheckpointStore(
        tmp_path / "run/checkpoints", read_only=True, best_metric="mine"
    ) as store:
        assert store.steps() == [2, 3] and store.best() == 2
        assert "mine" not in store.metadata(3)["metrics"]


def test_a_nan_stops_with_step_records_and_the_state_before_it(
    tmp_path, same_parameters
):
    poisoned, example = poisoned_at(2)
    with pytest.raises(interruptions.NonFiniteError, match="step 3 is not finite"):
        tiny_run.run(tmp_path / "run", 9, data={"mixture": poisoned})
    report = json.loads((tmp_path / "run" / "nonfinite-2.json").read_text())
    assert f"a-{example}" in sum(report["record_ids"], [])
    with np.load(tmp_path / "run" / "nonfinite-2.0.npz") as arrays:
        assert np.isnan(arrays["decoder_teacher_tail"]).any()
    # What was saved is the state after two sound steps.
    sound = tiny_run.run(tmp_path / "sound", 2)
    with CheckpointStore(tmp_path / "run" / "checkpoints", read_only=True) as store:
        assert store.latest() == 2
    resumed = tiny_run.run(tmp_path / "run", 2, data={"mixture": poisoned})
    same_parameters(tiny_run.parameters(resumed), tiny_run.parameters(sound))


def test_held_out_loss_is_measured_and_its_best_checkpoint_kept(tmp_path):
    held_out = Mixture("held out", [tiny_run.examples("h", 30, 9)], [1.0])
    scores = iter([3.0, 1.0, 2.0, 2.5])
    tiny_run.run(
        tmp_path / "run",
        8,
        evaluation={"mixture": held_out, "period": 2, "batch_size": 4},
        checkpoints={"keep": 1, "best_metric": "mine/score", "best_mode": "min"},
        evaluators=[lambda params, step: {"mine/score": next(scores)}],
    )
    lines = [line for line in tiny_run.lines(tmp_path / "run") if "eval" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert all(np.isfinite(line["eval"]["held_out/kl"]) for line in lines)
    with CheckpointStore(tmp_path / "run" / "checkpoints", read_only=True) as store:
        assert store.steps() == [4, 8]


def test_an_evaluation_that_a_stop_prevented_is_made_up_for(tmp_path, monkeypatch):
    """Its checkpoint is then kept as the best one, also after a later stop."""
    seen = []
    options = {
        "period": 100,
        "evaluation": {"period": 3},
        "evaluators": [lambda params, step: seen.append(step) or {"mine": -1.0 * step}],
        "checkpoints": {"keep": 1, "best_metric": "mine"},
    }
    real = interruptions.Stop.at
    for stop in (3, 4):
        monkeypatch.setattr(
            interruptions.Stop, "at", lambda _, step, at=stop: step == at
        )
        assert tiny_run.run(tmp_path / "run", 6, **options).stopped
        assert seen == ([3] if stop > 3 else [])
    monkeypatch.setattr(interruptions.Stop, "at", real)
    tiny_run.run(tmp_path / "run", 6, **options)
    assert seen == [3, 6]
    with CheckpointStore(
        tmp_path / "run/checkpoints", best_metric="mine", read_only=True
    ) as store:
        assert store.steps() == [3, 6] and store.best() == 3
        saved = store.metadata(3)
    assert saved["metrics"]["mine"] == saved["latest"]["mine"] == -3
    assert saved["evaluation_due"] is False


def test_held_out_loss_equals_the_loss_of_all_records_at_once(tmp_path):
    held_out = Mixture("held out", [tiny_run.examples("h", 10, 9)], [1.0])
    result = tiny_run.run(
        tmp_path / "run", 1, evaluation={"mixture": held_out, "batch_size": 2}
    )
    (batch, number), *more = batches.held_out_batches(
        held_out, batch_size=10, feature_lengths=tiny_run.LENGTHS, pack=False
    )
    assert number == 10 and not more
    sums = jax.jit(tiny_run.student().loss_sums)(result.params, batch, None)
    expected = float(sums.loss / sums.weight)
    np.testing.assert_allclose(result.metrics["held_out/loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("before", ["data", "weights"])
def test_a_run_that_is_refused_before_its_first_step_leaves_no_folder(
    tmp_path, before, monkeypatch
):
    def refuse(*given, **options):
        raise InputError("a shard is damaged")

    options = {}
    if before == "data":
        monkeypatch.setattr(train, "_load", refuse)
    else:
        options["initial_checkpoint_path"] = str(tmp_path / "absent")
    with pytest.raises(InputError):
        tiny_run.run(tmp_path / "runs" / "mine", 4, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own with a few MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    small_disk, tmp_path, same_parameters
):
    run = small_disk / "run"
    tiny_run.run(run, 4, period=4)
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(InputError, match="full"):
        tiny_run.run(run, 40, period=1)
    filler.unlink()
    with CheckpointStore(run / "checkpoints", read_only=True) as store:
        assert store.latest() is not None
    resumed = tiny_run.run(run, 12, period=4)
    straight = tiny_run.run(tmp_path / "straight", 12, period=4)
    same_parameters(tiny_run.parameters(resumed), tiny_run.parameters(straight))


# What a person reads in the log of a run off a terminal, too.
STEP_LINE = re.compile(
    r"step \d+/2000(  [\d.e-]+ s  .+FLOP/s  MFU \d+ %  .+ tok/s \(pad \d+ %\))?"
    r"  kl [\d.]+ ce [\d.]+  lr [\de.-]+(  eta \w+)?"
)


def count_lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_line(process, folder, seconds=300):
    """Until the run has written a line beyond those it found, or was complete."""
    before = count_lines(folder)
    until = time.monotonic() + seconds
    while count_lines(folder) <= before and process.poll() != 0:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "no line in time"
        time.sleep(0.05)


def finish(process, folder, seconds=300):
    """Returns what a run wrote to stderr; fails after `seconds` without a line."""
    while True:
        before = count_lines(folder)
        try:
            return process.communicate(timeout=seconds)[1]
        except subprocess.TimeoutExpired:
            if count_lines(folder) == before:
                process.kill()
                raise


def test_sigterm_saves_and_exits_with_0_and_the_run_goes_on(
    tmp_path, start, same_parameters
):
    folder = tmp_path / "run"
    options = {"model_dir": str(folder), "steps": 2000, "period": 10_000}
    process = start(**options)
    wait_for_line(process, folder)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    lines = [line for line in error.splitlines() if line.startswith("step ")]
    assert lines and "{" not in error, error
    assert all(STEP_LINE.fullmatch(line) for line in lines), lines
    assert out.startswith("stopped")
    reached = int(out.split()[1])
    with CheckpointStore(folder / "checkpoints", read_only=True) as store:
        assert store.latest() == reached
    resumed = tiny_run.run(folder, reached + 2, period=10_000)
    straight = tiny_run.run(tmp_path / "straight", reached + 2, period=10_000)
    same_parameters(tiny_run.parameters(resumed), tiny_run.parameters(straight))


def survive_kills(tmp_path, start, same_parameters, kills, steps, seed, **more):
    """Kills a run at random moments; it must end as one that nobody touched."""
    rng = np.random.default_rng(seed)
    folder = tmp_path / "killed"
    options = {
        "model_dir": str(folder),
        "steps": steps,
        "dropout": 0.2,
        "ema_decay": 0.9,
        "period": 3,
        **more,
    }
    killed = 0
    for _ in range(kills):
        process = start(**options, save_as=str(tmp_path / "killed.npz"))
        # Sometimes within the start, mostly between two steps or within a save.
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.5, 3))
        else:
            wait_for_line(process, folder)
            time.sleep(rng.uniform(0, 0.3))
        process.kill()
        if process.wait() == 0:
            break  # this test was slow, and the run has ended
        killed += 1
    assert killed > kills // 4
    process = start(**options, save_as=str(tmp_path / "killed.npz"))
    error = finish(process, folder)
    assert process.returncode == 0, error
    undisturbed = tiny_run.run(**{**options, "model_dir": tmp_path / "whole"})
    with np.load(tmp_path / "killed.npz") as found:
        same_parameters(dict(found), tiny_run.parameters(undisturbed))
    assert tiny_run.lines(folder) == tiny_run.lines(tmp_path / "whole")
    averages = [tiny_run.average(one) for one in (folder, tmp_path / "whole")]
    same_parameters(*averages)


@pytest.fixture(params=["t5", "server"])
def taught(request, tmp_path):
    """Options of a run that writes texts, with either kind of teacher."""
    if request.param == "t5":
        tiny_run.run(tmp_path / "teacher", 2, rollouts={}, data={"seed": 9})
        yield {"rollouts": {"share": 0.5, "teacher": str(tmp_path / "teacher")}}
        return
    questions = {f"She had {n} cakes. How many?": str(n) for n in range(96)}
    lines = [{"question": q, "answer": f"#### {a}"} for q, a in questions.items()]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = EchoServer(questions)

    def faulty(request):
        return request.number % 29 == 3

    server.fault = lambda request: "500" if faulty(request) else None
    with server.running() as url:
        rollouts = {"share": 0.5, "server": url, "model": "m", "top_k": 2}
        rollouts |= {"problems_path": str(file), "concurrency": 2}
        yield {"questions": True, "rollouts": rollouts}
    # Once for the killed run, once for the undisturbed one, and again only where a kill
    # came between the answer and its storing.
    asked = collections.Counter(
        r.body["prompt"] for r in server.requests if r.answered and not faulty(r)
    )
    again = sum(number - 2 for number in asked.values() if number > 2)
    kills = 20 if request.node.get_closest_marker("slow") else 3
    assert len(asked) > 50 and again <= kills * rollouts["concurrency"]


def test_three_random_kills_leave_no_trace(tmp_path, start, same_parameters, taught):
    """Of a run that writes texts, whose windows end between two checkpoints."""
    taught["rollouts"]["steps"] = 4
    survive_kills(tmp_path, start, same_parameters, 3, steps=40, seed=0, **taught)
    check_texts(tmp_path)


def check_texts(folder):
    """The texts of the last windows, and what a server said, are the same."""
    for file in (folder / "whole" / "rollouts").glob("*.npz"):
        with (
            np.load(file) as one,
            np.load(folder / "killed/rollouts" / file.name) as two,
        ):
            for name in set(one.files) - {"seconds"}:
                np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    stored = []
    for run in ("whole", "killed"):
        path = folder / run / "rollouts" / "responses.sqlite"
        if path.exists():
            with ResponseStore(path) as store:
                stored.append({(c.problem_id, c.text): c for c in store.completions()})
    if stored:
        whole, killed = ({key: c.tokens for key, c in one.items()} for one in stored)
        assert whole and whole == killed


@pytest.mark.slow
def test_twenty_random_kills_leave_no_trace(tmp_path, start, same_parameters):
    survive_kills(tmp_path, start, same_parameters, 20, steps=1500, seed=1)


@pytest.mark.slow
def test_twenty_random_kills_of_rollouts_leave_no_trace(
    tmp_path, start, same_parameters, taught
):
    taught["rollouts"]["steps"] = 7
    survive_kills(tmp_path, start, same_parameters, 20, steps=400, seed=1, **taught)
    check_texts(tmp_path)
