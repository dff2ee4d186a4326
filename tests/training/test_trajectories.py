import json
import socket

import numpy as np
import pytest
import tiny_run

STEPS = 50
# One device, all data, data x model, and the parameters sharded too.
MESHES = ("1", "8x1", "2x4", "2x2x2")


def losses(folder):
    return [line["train"]["loss"] for line in tiny_run.lines(folder)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Fifty steps on one device, without and with dropout."""
    found = {}
    for dropout in (0.0, 0.2):
        folder = tmp_path_factory.mktemp("runs") / f"one-{dropout}"
        result = tiny_run.run(folder, STEPS, dropout=dropout, log_period=1, period=1000)
        found[dropout] = losses(folder), tiny_run.parameters(result)
    return found


def agree(folder, parameters, expected, same_parameters):
    found, (wanted, weights) = losses(folder), expected
    assert len(found) == STEPS
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    same_parameters(parameters, weights, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("mesh", MESHES[1:])
def test_the_trajectory_is_the_same_on_every_mesh(
    tmp_path, reference, same_parameters, mesh, dropout
):
    result = tiny_run.run(
        tmp_path / "run", STEPS, mesh=mesh, dropout=dropout, log_period=1, period=1000
    )
    found = tiny_run.parameters(result)
    agree(tmp_path / "run", found, reference[dropout], same_parameters)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_the_trajectory_is_the_same_however_a_batch_is_split(
    tmp_path, reference, same_parameters, microbatches
):
    result = tiny_run.run(
        tmp_path / "run",
        STEPS,
        data={"microbatches": microbatches},
        log_period=1,
        period=1000,
    )
    found = tiny_run.parameters(result)
    agree(tmp_path / "run", found, reference[0.0], same_parameters)


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_of_four_devices_take_the_same_way(
    tmp_path, reference, same_parameters, start
):
    coordinator = f"localhost:{free_port()}"
    runs = [
        {
            "model_dir": str(tmp_path / f"run-{dropout}"),
            "steps": STEPS,
            "mesh": "data=4,fsdp=1,model=2",
            "dropout": dropout,
            "log_period": 1,
            "period": 30,
            "save_as": str(tmp_path / f"{dropout}.npz"),
        }
        for dropout in reference
    ]
    processes = [
        start(devices=4, processes=[coordinator, 2, index], runs=runs)
        for index in (0, 1)
    ]
    for process in processes:
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
    for dropout, expected in reference.items():
        with np.load(tmp_path / f"{dropout}.npz") as found:
            folder = tmp_path / f"run-{dropout}"
            agree(folder, dict(found), expected, same_parameters)


def test_a_run_goes_on_with_another_number_of_devices(
    tmp_path, reference, same_parameters
):
    options = {"log_period": 1, "period": 1000}
    tiny_run.run(tmp_path / "run", 20, mesh="2x4", **options)
    result = tiny_run.run(tmp_path / "run", STEPS, mesh="1", **options)
    found = tiny_run.parameters(result)
    agree(tmp_path / "run", found, reference[0.0], same_parameters)


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(
    tmp_path, start
):
    import signal

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
    processes[1].send_signal(signal.SIGTERM)
    ends = []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        ends.append(out.splitlines()[-1].split())  # Gloo prints too
    assert ends[0][0] == ends[1][0] == "stopped"
    assert ends[0][1] == ends[1][1]
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] <= int(ends[0][1])
