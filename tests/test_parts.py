"""A command that starts another: no signal leaves the other behind, or goes on."""

import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from specialize.processes import parts

# Counts its signals, and takes a moment to save its work.
CHILD = """
import pathlib, signal, sys, time
place, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
received = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: received.append(int(number)))
(place / "ready").touch()
until = time.monotonic() + seconds
while time.monotonic() < until and not received:
    time.sleep(0.01)
time.sleep(0.1)
(place / "saved").write_text(repr(received))
"""
# Starts it, and says what it does afterwards.
PARENT = """
import pathlib, signal, sys
from specialize.processes import parts
place = pathlib.Path(sys.argv[1])
# A shell's jobs in the background ignore it, and so would their tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
(place / "begun").touch()
status = parts.run([sys.executable, "-c", sys.argv[3], *sys.argv[1:3]])
(place / "went_on").write_text(str(status))
"""
# Runs it at a terminal of its own, where something happens when both run.
AT_A_TERMINAL = """
import os, pathlib, pty, signal, sys, time
process, terminal = pty.fork()
if process == 0:
    if sys.argv[2] == "not the input":
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.execv(sys.argv[3], sys.argv[3:])
until = time.monotonic() + 300
while not (pathlib.Path(sys.argv[1]) / "ready").exists():
    assert time.monotonic() < until
    time.sleep(0.01)
if sys.argv[2] == "kill":
    os.kill(process, signal.SIGINT)
elif sys.argv[2] == "kill twice":  # as `timeout` does
    os.kill(process, signal.SIGINT)
    os.killpg(process, signal.SIGINT)
elif sys.argv[2] == "suspend":
    os.write(terminal, b"\\x1a")
    os.waitpid(process, os.WUNTRACED)
    states = []
    while states != ["T", "T"]:  # a process that is on another core stops a bit later
        assert time.monotonic() < until, states
        states = [
            file.read_text().rpartition(")")[2].split()[0]
            for file in pathlib.Path("/proc").glob("[0-9]*/stat")
            if sys.argv[1].encode() in (file.parent / "cmdline").read_bytes()
            and int(file.parent.name) != os.getpid()
        ]
    os.kill(process, signal.SIGCONT)
    os.kill(process, signal.SIGINT)
else:
    os.write(terminal, b"\\x03")
_, status = os.waitpid(process, 0)
code = os.waitstatus_to_exitcode(status)
sys.exit(128 - code if code < 0 else code)
"""


def line_of(place, seconds=300):
    return [sys.executable, "-c", PARENT, str(place), str(seconds), CHILD]


def wait_for(path, seconds=300):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.005)


def runs(place):
    """The processes that work in a folder."""
    found = []
    for one in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [one] if str(place).encode() in one.read_bytes() else []
        except OSError:
            pass  # it has ended
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seed", range(4))
def test_no_process_is_left_whenever_the_signal_comes(tmp_path, number, seed):
    """Before the part starts, while it starts and afterwards."""
    process = subprocess.Popen(line_of(tmp_path), start_new_session=True)
    wait_for(tmp_path / "begun")
    time.sleep(random.Random(f"{number} {seed}").choice([0, 0.01, 0.03, 0.2]))
    process.send_signal(number)
    assert process.wait(timeout=300) == -number
    assert runs(tmp_path) == []
    assert not (tmp_path / "went_on").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_part_starts_is_passed_on(tmp_path, monkeypatch, number):
    """It runs, and this process does not have it yet: the moment that leaves it."""
    start, seen = subprocess.Popen, []

    def interrupted(words, **more):
        process = start(words, **more)
        wait_for(tmp_path / "ready")
        signal.raise_signal(number)
        return process

    def handler(number, frame):
        seen.append((number, (tmp_path / "saved").read_text()))

    monkeypatch.setattr(parts.subprocess, "Popen", interrupted)
    before = signal.signal(number, handler)
    try:
        words = [sys.executable, "-c", CHILD, str(tmp_path), "300"]
        assert parts.run(words) == 0
        assert seen == [(number, repr([int(number)]))]  # once, when it had ended
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_a_signal_that_interrupts_no_system_call_is_passed_on(tmp_path):
    """As one that comes in the moment before the call: another thread receives it."""
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()

    def send():
        wait_for(tmp_path / "ready")
        time.sleep(0.1)  # by now the main thread waits
        signal.pthread_kill(other.ident, signal.SIGTERM)

    sender = threading.Thread(target=send)
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        sender.start()
        words = [sys.executable, "-c", CHILD, str(tmp_path), "300"]
        assert parts.run(words) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
        over.set()
    assert seen == [signal.SIGTERM]
    assert (tmp_path / "saved").read_text() == repr([int(signal.SIGTERM)])


@pytest.mark.parametrize(
    "what", ["keyboard", "not the input", "kill", "kill twice", "suspend"]
)
def test_an_interrupt_at_a_terminal_comes_once(tmp_path, what):
    """The terminal, or `timeout`, sends it to all processes of a group."""
    line = [sys.executable, "-c", AT_A_TERMINAL, str(tmp_path), what]
    process = subprocess.run([*line, *line_of(tmp_path)], timeout=300)
    assert process.returncode == 128 + signal.SIGINT
    assert (tmp_path / "saved").read_text() == repr([int(signal.SIGINT)])


def test_an_ignored_signal_stays_ignored(tmp_path):
    line = ["nohup", *line_of(tmp_path, seconds=1)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=300) == 0
    assert (tmp_path / "saved").read_text() == "[]"
    assert (tmp_path / "went_on").read_text() == "0"


def test_only_a_part_ends_with_the_signal_of_a_saved_run(monkeypatch):
    monkeypatch.delenv("SPECIALIZE_PART", raising=False)
    assert parts.status(signal.SIGTERM) == 0
    for _ in range(2):
        with parts.in_this_process():
            assert parts.status(signal.SIGTERM) == 143 and parts.status(0) == 0
            with parts.in_this_process():
                assert parts.status(signal.SIGINT) == 130
            assert parts.status(signal.SIGINT) == 130
        assert parts.status(signal.SIGTERM) == 0
    asks = (
        "import sys; from specialize.processes import parts; sys.exit(parts.status(15))"
    )
    assert parts.run([sys.executable, "-c", asks]) == 143
