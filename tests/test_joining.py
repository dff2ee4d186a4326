"""Processes of a command that wait for others, which never join them."""

import os
import signal
import subprocess
import sys
import time

import pytest
from ports import free_port

# `infer`, whose waits are short.
COMMAND = """
import signal, sys
# A shell's jobs in the background ignore it, and so would their tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
from specialize import cli
from specialize.processes import joining, watching
watching.GRACE = 1.0
joining.SAID, joining.WAIT, joining.PERIOD = 0.5, float(sys.argv.pop(1)), 0.2
sys.exit(cli.main())
"""


@pytest.fixture
def start(tmp_path):
    started = []

    def start(part, parts, port, *, wait=2.0, out="out.jsonl"):
        words = ["infer", "--prompts", "s3://bucket/p.txt", "--out", out]
        words += ["--gin_file", "run.gin", "--coordinator", f"127.0.0.1:{port}"]
        words += ["--process_count", str(parts), "--process_index", str(part)]
        one = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(wait), *words],
            cwd=tmp_path,
            env=os.environ
            | {"JAX_NUM_CPU_DEVICES": "1", "SPECIALIZE_CACHE_DIR": str(tmp_path / "c")}
            | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "none"}
            | {"AWS_SECRET_ACCESS_KEY": "none"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def ended(process):
    """Status and lines of ours."""
    said = process.communicate(timeout=60)[1]
    assert "stack trace" not in said and "Traceback" not in said, said
    return process.returncode, [
        line for line in said.splitlines() if line.startswith(("error:", "waiting"))
    ]


@pytest.mark.parametrize(
    ("part", "parts", "missing"),
    [
        (0, 2, "process 1 of 2"),
        (1, 2, "process 0 of 2, at 127.0.0.1:{port},"),
        (0, 3, "at least one of 3 processes besides 0"),
        (2, 3, "process 0 of 3, at 127.0.0.1:{port},"),
    ],
)
def test_a_process_that_never_joins_ends_the_others_with_one_message(
    start, part, parts, missing
):
    port = free_port()
    missing = missing.format(port=port)
    status, (waits, error) = ended(start(part, parts, port))
    assert status == 1
    assert waits.startswith("waiting up to 2 s for the other processes: " + missing)
    assert error == (
        f"error: {missing} did not join within 2 s. Start the same command in all "
        "processes; if one has ended, its own message says why."
    )


def test_what_fails_on_one_machine_before_its_work_ends_the_others(start):
    port = free_port()
    first = start(0, 2, port, wait=50)  # waits for a store that does not answer
    second = start(1, 2, port, wait=50, out="http://other/out")
    status, (*_, error) = ended(second)
    assert status == 2 and "http://other/out" in error
    status, (*_, said) = ended(first)
    assert status == 1
    assert f"process 1 of 2 ended with an {error}" in said


def test_the_end_of_process_0_ends_those_that_wait_with_it(start):
    port = free_port()
    first, second = start(0, 3, port, wait=50), start(1, 3, port, wait=50)
    assert "waiting" in first.stderr.readline()
    while "at least one of 3 processes besides 0 and 1 did" not in (
        second.stderr.readline()
    ):
        pass
    first.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert ended(first) == (130, [])
    status, (*_, error) = ended(second)
    assert status == 1 and time.monotonic() - begun < 20
    assert error.startswith("error: process 0 of 3 ended before all processes had")
