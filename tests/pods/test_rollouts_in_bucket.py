"""A run in a bucket whose student writes texts, about which a server is asked."""

import json

import pytest
import tiny_run
from echo_server import EchoServer

from specialize.corpus.sampling.responses import ResponseStore
from specialize.paths import local
from specialize.paths import store as objects

COUNT = 96


@pytest.fixture
def questions(tmp_path):
    texts = {f"She had {n} cakes. How many?": str(n) for n in range(COUNT)}
    lines = [{"question": q, "answer": f"#### {a}"} for q, a in texts.items()]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    server = EchoServer(texts)
    with server.running() as url:
        yield server, {
            "server": url, "model": "m", "problems_path": str(file),
            "share": 0.5, "steps": 4,
        }  # fmt: skip


@pytest.mark.parametrize(
    "store", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True
)
def test_another_machine_goes_on_and_asks_nothing_twice(
    root, questions, tmp_path, monkeypatch
):
    server, rollouts = questions
    options = {"questions": True, "rollouts": rollouts, "period": 3, "log_period": 1}
    straight = tiny_run.run(tmp_path / "local", 6, **options)
    asked = [one.body["prompt"] for one in server.requests]
    server.requests.clear()
    run = f"{root}/run"
    tiny_run.run(run, 3, **options)
    assert objects.read_bytes(f"{run}/rollouts/0.npz")
    for name in ("HOME", "XDG_CACHE_HOME", "SPECIALIZE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    resumed = tiny_run.run(run, 6, **options)
    assert sorted(one.body["prompt"] for one in server.requests) == sorted(asked)
    with ResponseStore(local(f"{run}/rollouts/responses.sqlite")) as stored:
        assert len(list(stored.completions())) == len(asked)
    one, other = (tiny_run.parameters(found) for found in (resumed, straight))
    assert all((one[name] == other[name]).all() for name in one)
