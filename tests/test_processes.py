"""Several processes of one command: when one ends, the others end and name it."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from ports import free_port

from specialize import sharding

# A command line with one command, which notices a loss sooner.
COMMAND = """
import os, sys, time
from specialize import cli, processes, sharding
from specialize.errors import InputError
from specialize.processes import watching

watching.LOST, watching.GRACE = 6.0, 2.0

def register(subparsers):
    command = subparsers.add_parser("work")
    command.add_argument("--part", type=int)
    command.add_argument("--parts", type=int)
    command.add_argument("--address")
    command.add_argument("--what")
    command.set_defaults(run=run)

def run(flags):
    import jax
    if not sharding.initialize_distributed(flags.address, flags.parts, flags.part):
        raise InputError("alone")
    print("joined", flush=True)
    what, first = flags.what, flags.part == 0
    if what == "bad" or what == "one_bad" and flags.part == 1:
        raise InputError("MESH is 'x', which is wrong.")
    if what == "defect" and flags.part == 1:
        raise RuntimeError("a defect")
    if what.startswith("first_") and what != "first_in_the_middle":
        if what == "first_after_compilation":
            def deep(x):
                for _ in range(300):
                    x = jax.numpy.sin(x) @ x
                return x
            jax.jit(deep).lower(jax.numpy.ones((8, 8))).compile()
            sharding.barrier("compiled")
        if first and what == "first_by_the_system":
            open("/no/such/folder/file")
        if first:
            raise InputError("another command writes in s3://b/x.")
    if what == "other_files":
        for number in range(3):
            given = {"prompts": max(number, 1) * (1 + flags.part % 2 * (number == 2))}
            processes.agree(given, what="files", remedy="Give all the same.")
            print("agreed", flush=True)
    messages = processes.Messages("talk")
    if what == "talk":
        for number in range(3):
            if first:
                messages.send({"number": number})
            else:
                print(messages.receive(), flush=True)
            sharding.barrier("talked")
        sharding._SENT_AT_ONCE = 1000
        for size in (0, 2500):
            data = bytes(range(250)) * (size // 250)
            assert sharding.bytes_from_leader(data if first else b"other") == data
        if first:
            time.sleep(8)  # longer than LOST: the others wait at the end
        return 0
    if what == "listen" and not first:
        messages.receive()
    if what == "abort" and not first:
        os.abort()
    steps = 0
    while True:
        steps += 1
        if what == "first_in_the_middle" and first and steps == 5:
            raise InputError("another command writes in s3://b/x.")
        if what == "compute" and not first:
            sum(range(10_000_000))  # holds the lock of Python
            continue
        print(sharding.from_leader("step"), flush=True)
        time.sleep(0.1)

if __name__ == "__main__":
    cli.ROOMS = ("__main__",)
    sys.exit(cli.main())
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    started = []

    def start(what, parts=2):
        address = f"127.0.0.1:{free_port()}"
        for part in range(parts):
            words = [sys.executable, str(tmp_path / "command.py"), "work"]
            words += ["--what", what, "--address", address]
            words += ["--parts", str(parts), "--part", str(part)]
            started.append(
                subprocess.Popen(
                    words,
                    env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        for one in started:  # Gloo prints too
            while "joined" not in (line := one.stdout.readline()):
                assert line, one.stderr.read()
        return started

    yield start
    for one in started:
        one.kill()
        one.communicate()


def ends(processes):
    """(status, lines of ours on standard error) of every process."""
    found = []
    for one in processes:
        said = one.communicate(timeout=60)[1]
        found.append((one.returncode, said))
    return found


def errors(said):
    return [line for line in said.splitlines() if line.startswith("error: ")]


def test_when_a_process_is_killed_the_others_end_with_one_message_that_names_it(start):
    processes = start("steps", parts=3)
    time.sleep(1)
    processes[1].kill()
    for number, (status, said) in enumerate(ends(processes)):
        if number != 1:
            assert status == 1, said
            (line,) = errors(said)
            assert "process 1 of 3 was killed or is unreachable." in line
            assert "Run the same command again" in line
            assert "Traceback" not in said


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("steps", 3),
        pytest.param("listen", 2, marks=pytest.mark.slow),
        pytest.param("compute", 2, marks=pytest.mark.slow),
    ],
)
def test_when_the_first_process_is_killed_the_others_end_with_one_message_too(
    start, what, parts
):
    processes = start(what, parts)
    time.sleep(1)
    processes[0].kill()
    killed = time.monotonic()
    for status, said in ends(processes)[1:]:
        assert status == 1, said
        (line,) = errors(said)
        assert f"process 0 of {parts} was killed or is unreachable." in line
        assert "Run the same command again" in line
        assert "Traceback" not in said
    assert time.monotonic() - killed < 15


@pytest.mark.slow
def test_an_abort_for_another_reason_is_delayed_and_not_blamed_on_the_first_process(
    start,
):
    processes = start("abort")
    (_, first), (status, said) = ends(processes)
    assert status == -signal.SIGABRT and errors(said) == [], said
    (line,) = errors(first)
    assert "process 1 of 2 was killed or is unreachable." in line


def test_an_error_of_one_process_is_the_message_of_the_others(start):
    (first, said), (second, own) = ends(start("one_bad"))
    assert errors(own) == ["error: MESH is 'x', which is wrong."] and second == 2
    assert first == 1
    (line,) = errors(said)
    assert "process 1 of 2 ended with an error: MESH is 'x', which is wrong." in line


def test_processes_with_other_inputs_all_end_with_the_same_message(start):
    processes = start("other_files", parts=3)
    ended = ends(processes)
    assert [status for status, _ in ended] == [2, 2, 2], ended
    message = (
        "error: Process 1 of 3 got other files than process 0: prompts is 2 in "
        "processes 0 and 2, 4 in process 1. Give all the same."
    )
    assert [errors(said) for _, said in ended] == [[message]] * 3


MOMENTS = ("at_once", "after_compilation", "in_the_middle", "by_the_system")


@pytest.mark.parametrize(
    ("moment", "parts"),
    [
        ("at_once", 4),
        *(
            pytest.param(moment, parts, marks=pytest.mark.slow)
            for moment in MOMENTS
            for parts in (2, 4)
            for _ in range(3)
        ),
    ],
)
def test_an_error_of_the_first_process_is_the_message_of_the_others(
    start, moment, parts
):
    error = "another command writes in s3://b/x."
    if moment == "by_the_system":
        error = "/no/such/folder/file: No such file or directory. Correct this"
    (status, first), *others = ends(start(f"first_{moment}", parts))
    assert status == 2 and errors(first)[0].startswith(f"error: {error}")
    for status, said in others:
        assert status == 1
        (line,) = errors(said)
        assert f"process 0 of {parts} ended with an error: {error}" in line
        assert "killed" not in said and "coordination service" not in said, said


@pytest.mark.slow
def test_an_error_of_every_process_is_said_by_each_of_them_once(start):
    for status, said in ends(start("bad")):
        assert status == 2
        assert errors(said) == ["error: MESH is 'x', which is wrong."]


@pytest.mark.slow
def test_a_defect_keeps_its_traceback_and_ends_the_others(start):
    (first, said), (second, own) = ends(start("defect"))
    assert second == 1 and "RuntimeError: a defect" in own and "Traceback" in own
    assert first == 1 and "process 1 of 2 ended with an error" in errors(said)[0]


@pytest.mark.slow
def test_a_signal_ends_every_process(start):
    processes = start("steps")
    time.sleep(1)
    processes[1].send_signal(signal.SIGHUP)
    (first, said), (second, _) = ends(processes)
    assert second == 128 + signal.SIGHUP
    assert first == 1 and "process 1 of 2 ended with an error" in errors(said)[0]


def test_messages_arrive_in_order_and_processes_wait_for_each_other_at_the_end(start):
    processes = start("talk")
    out = processes[1].stdout.read()
    assert [line for line in out.splitlines() if line.startswith("{")] == [
        f"{{'number': {number}}}" for number in range(3)
    ]
    assert [one.wait(timeout=60) for one in processes] == [0, 0]


@pytest.mark.parametrize("first", [True, False])
def test_more_bytes_than_jax_can_count_are_sent_in_parts(monkeypatch, first):
    data = np.zeros(2**31 + 5, np.uint8).data  # takes no memory until it is written
    sent = []

    def broadcast(value):
        sent.append(value)
        if len(sent) == 1:
            assert value.dtype == np.int32
            return value if first else np.array([1, 5], np.int32)
        assert value.dtype == np.uint8
        return value[:0]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0 if first else 1)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", broadcast)
    found = sharding.bytes_from_leader(data if first else b"")
    assert found is data if first else found == b""
    assert sent[0].tolist() == ([1, 5] if first else [0, 0])
    assert sum(map(len, sent[1:])) == 2**31 + 5
    assert max(map(len, sent[1:])) < 2**31
