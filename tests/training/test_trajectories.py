import json
import signal

import numpy as np
import pytest
import tiny_run
from ports import free_port

# All data, data x model, and the parameters sharded too.
MESHES = ("8x1", "2x4", "2x2x2")


def losses(folder):
    return [line["train"]["loss"] for line in tiny_run.lines(folder)]


# The slow suite trains longer, and also without dropout.
@pytest.fixture(
    scope="module",
    params=[
        (12, 0.2),
        pytest.param((50, 0.0), marks=pytest.mark.slow),
        pytest.param((50, 0.2), marks=pytest.mark.slow),
    ],
    ids=lambda case: f"{case[0]} steps, dropout {case[1]}",
)
def case(request):
    """The options of a run, and what it needs to be compared."""
    steps, dropout = request.param
    return {"steps": steps, "dropout": dropout, "log_period": 1, "period": 1000}


@pytest.fixture(scope="module")
def reference(tmp_path_factory, case):
    """The losses and weights on one device."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    result = tiny_run.run(folder, **case)
    return losses(folder), tiny_run.parameters(result)


@pytest.fixture
def agree(case, reference, same_parameters):
    """Asserts that a run on another mesh took the way of the reference."""

    def check(folder, parameters):
        found, (wanted, weights) = losses(folder), reference
        assert len(found) == case["steps"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        same_parameters(parameters, weights, atol=1e-4)

    return check


@pytest.mark.parametrize(
    "mesh",
    [
        one if one == "2x4" else pytest.param(one, marks=pytest.mark.slow)
        for one in MESHES
    ],
)
def test_the_trajectory_is_the_same_on_every_mesh(tmp_path, case, agree, mesh):
    result = tiny_run.run(tmp_path / "run", mesh=mesh, **case)
    agree(tmp_path / "run", tiny_run.parameters(result))


@pytest.mark.slow
def test_the_trajectory_is_the_same_however_a_batch_is_split(tmp_path, same_parameters):
    # Dropout draws its masks per microbatch.
    case = {"steps": 12, "log_period": 1, "period": 1000}
    runs = {}
    for microbatches in (1, 2, 4):
        folder = tmp_path / str(microbatches)
        result = tiny_run.run(folder, data={"microbatches": microbatches}, **case)
        runs[microbatches] = losses(folder), tiny_run.parameters(result)
    for split in (2, 4):
        np.testing.assert_allclose(runs[split][0], runs[1][0], rtol=1e-5)
        same_parameters(runs[split][1], runs[1][1], atol=1e-4)


def test_two_processes_of_four_devices_take_the_same_way(tmp_path, case, agree, start):
    coordinator = f"localhost:{free_port()}"
    options = {
        **case,
        "model_dir": str(tmp_path / "run"),
        "mesh": "data=4,fsdp=1,model=2",
        "period": case["steps"] // 2,
        "save_as": str(tmp_path / "run.npz"),
    }
    processes = [
        start(devices=4, processes=[coordinator, 2, index], **options)
        for index in (0, 1)
    ]
    for process in processes:
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
    with np.load(tmp_path / "run.npz") as found:
        agree(tmp_path / "run", dict(found))


def test_a_run_goes_on_with_another_number_of_devices(tmp_path, case, agree):
    half = {**case, "steps": case["steps"] // 2}
    tiny_run.run(tmp_path / "run", mesh="2x4", **half)
    result = tiny_run.run(tmp_path / "run", mesh="1", **case)
    agree(tmp_path / "run", tiny_run.parameters(result))


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, [1]),
        # A launcher passes a terminal's Ctrl-C on to all.
        pytest.param(signal.SIGINT, [1, 0], marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, [1], marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_some_of_two_processes_stops_both_after_the_same_step(
    tmp_path, start, number, to
):
    from test_loop import wait_for_line

    coordinator = f"localhost:{free_port()}"
    folder = tmp_path / "run"
    processes = [
        start(
            devices=1,
            processes=[coordinator, 2, index],
            model_dir=str(folder),
            steps=20_000,
            mesh="2",
            period=100_000,
        )
        for index in (0, 1)
    ]
    wait_for_line(processes[0], folder)
    for index in to:
        processes[index].send_signal(number)
    ends = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        ends.append(out.splitlines()[-1].split())  # Gloo prints too
    assert ends[0][0] == ends[1][0] == "stopped"
    assert ends[0][1] == ends[1][1]
    assert (folder / "checkpoints" / ends[0][1]).is_dir()
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] <= int(ends[0][1])
