"""kill -9 at random moments: nothing that was paid for is lost or asked for twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from specialize.corpus.tasks.known import read_problems

from fault_server import FaultServer  # isort: skip

CONCURRENCY = 4


def command(world, url, responses):
    words = [sys.executable, "-m", "specialize", "corpus", "sample"]
    words += ["--problems", world.problems, "--responses", responses, "--model", "tiny"]
    words += ["--base_url", url, "--n", 6, "--n_per_request", 2, "--max_n", 10]
    words += ["--concurrency", CONCURRENCY, "--logprobs_are", "unknown"]
    words += ["--backoff", 0.01]
    return [str(word) for word in words]


def exported(responses):
    out = responses.with_suffix(".jsonl")
    words = ["corpus", "export", "--responses", str(responses), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "specialize", *words], check=True)
    return out.read_bytes()


def stored(responses, problems):
    """Question and seed of every response in the database."""
    if not responses.exists():
        return set()
    questions = {problem.id: problem.question for problem in problems}
    database = sqlite3.connect(responses)
    try:
        rows = database.execute("SELECT question, seed FROM responses").fetchall()
    except sqlite3.OperationalError:  # killed before it made its tables
        rows = []
    database.close()
    return {(questions[question], seed) for question, seed in rows}


def check_kills(world, tmp_path, kills, delay_s):
    problems = read_problems(world.problems, "gsm8k")
    server = FaultServer({p.question: p.answers[0] for p in problems})
    server.right_share = 0.3
    draw = random.Random(kills)
    with server.running() as url:
        subprocess.run(command(world, url, tmp_path / "calm.sqlite"), check=True)
        undisturbed = exported(tmp_path / "calm.sqlite")
        total = len(server.requests)
        server.requests.clear()
        server.delay_s = delay_s
        server.fault = lambda request: "500" if request.number % 13 == 5 else None
        responses = tmp_path / "killed.sqlite"
        for _ in range(kills):
            had = stored(responses, problems)
            begun = len(server.requests)
            run = subprocess.Popen(command(world, url, responses))
            # So that the last kill still finds something to do.
            moment = begun + draw.randint(1, max(1, total // (kills + 1)))
            deadline = time.monotonic() + 60
            while len(server.requests) < moment and run.poll() is None:
                assert time.monotonic() < deadline, "no request came"
                time.sleep(0.002)
            time.sleep(draw.uniform(0, delay_s))
            run.send_signal(signal.SIGKILL)
            assert run.wait() == -signal.SIGKILL, "it had ended before it was killed"
            time.sleep(2 * delay_s)  # the server answers into closed connections
            asked = server.requests[begun:]
            have = stored(responses, problems)
            assert had <= have, "a response was lost"
            again = {r.key[:2] for r in asked} & had
            assert not again, "asked for what was there"
            answered = {r.key[:2] for r in asked if r.answered and not faulty(r)}
            assert len(answered - have) <= CONCURRENCY
            lost = {r.key[:2] for r in asked} - have
            assert len(lost) <= CONCURRENCY, "more than what was under way was lost"
        subprocess.run(command(world, url, responses), check=True)
        assert exported(responses) == undisturbed
        # Every kill may cost what was under way, and no more.
        served = [r for r in server.requests if not faulty(r)]
        assert len(served) <= total + kills * CONCURRENCY


def faulty(request):
    return request.number % 13 == 5


def test_three_kills_lose_nothing_and_the_export_is_that_of_a_calm_run(world, tmp_path):
    check_kills(world, tmp_path, kills=3, delay_s=0.02)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_the_export_is_that_of_a_calm_run(
    world, tmp_path
):
    check_kills(world, tmp_path, kills=20, delay_s=0.05)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_stores_what_is_under_way_and_says_how_to_go_on(
    world, tmp_path, name
):
    problems = read_problems(world.problems, "gsm8k")
    server = FaultServer({p.question: p.answers[0] for p in problems})
    server.delay_s = 0.2
    with server.running() as url:
        responses = tmp_path / "r.sqlite"
        run = subprocess.Popen(
            command(world, url, responses), stderr=subprocess.PIPE, env=dict(os.environ)
        )
        while len(server.requests) < CONCURRENCY:
            assert run.poll() is None, run.communicate()[1]
            time.sleep(0.01)
        run.send_signal(getattr(signal, name))
        _, said = run.communicate(timeout=60)
        assert run.returncode == 1
        assert b"Run the same command again" in said
        assert b"Traceback" not in said
        assert len(stored(responses, problems)) == len(server.requests)
