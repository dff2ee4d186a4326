"""A served teacher of rollouts: what it scores, cannot score, and is never asked."""

import itertools
import json

import pytest
from echo_server import EchoServer
from fault_server import http

from specialize.corpus.records import Problem
from specialize.corpus.vocabulary import read_vocabulary
from specialize.errors import InputError
from specialize.training.rollouts.served_teacher import ServedTeacher
from specialize.training.rollouts.spec import RolloutSpec

COUNT = 24
QUESTIONS = {f"She had {n} cakes. How many?": str(n) for n in range(COUNT)}


@pytest.fixture
def server():
    one = EchoServer(QUESTIONS)
    with one.running() as one.url:
        yield one


def teacher_of(server, folder, **fields):
    spec = RolloutSpec(
        0.5,
        server=server.url,
        model="m",
        problems_path=str(folder / "unread.jsonl"),
        **fields,
    )
    problems = {
        f"cakes-{n}": Problem(f"cakes-{n}", question, (gold,))
        for n, (question, gold) in enumerate(QUESTIONS.items())
    }
    vocabulary = read_vocabulary("byt5")
    return ServedTeacher(spec, problems, vocabulary, str(folder / "r.sqlite"), 3)


def never():
    """Whether the run is to end."""
    return False


def texts(first, last):
    return [(f"cakes-{n}", f"So {n}.") for n in range(first, last)]


def answer(**more):
    """An answer with the wrong log-probabilities, which was paid for."""
    body = {"usage": {"prompt_tokens": 7, "completion_tokens": 1}, **more}
    return http(200, json.dumps(body).encode())


def choice(text, **logprobs):
    tokens = [*text, "!"]
    values = [None, *[-0.1] * len(text)]
    said = {"tokens": tokens, "token_logprobs": values, "top_logprobs": None}
    return {"choices": [{"text": text + "!", "logprobs": said | logprobs}]}


def positive(request):
    text = request.body["prompt"]
    return answer(**choice(text, token_logprobs=[0.5] * (len(text) + 1)))


def other_tokens(request):
    text = request.body["prompt"]
    return answer(**choice(text, tokens=["X"] * (len(text) + 1)))


# What a server always sends for some texts, and the word for it.
LASTING = {
    "bad_logprobs": positive,
    "no_logprobs": lambda request: answer(choices=[{"text": "x"}]),
    "no_choices": lambda request: answer(choices=[]),
    "tokens_differ": lambda request: answer(
        **choice(
            request.body["prompt"], tokens=["X"] * (len(request.body["prompt"]) + 1)
        )
    ),
    "refused": lambda request: http(400, b'{"error": "too long"}'),
    "malformed": lambda request: http(200, b"<html>"),
}


@pytest.mark.parametrize("reason", LASTING)
def test_a_text_with_an_unusable_answer_has_no_rows_and_is_not_asked_again(
    reason, server, tmp_path, capfd
):
    server.fault = lambda request: (
        LASTING[reason](request) if " 3 cakes" in request.question else None
    )
    for start in range(2):
        found = teacher_of(server, tmp_path)._scores(texts(0, 6), never)
        assert found.keys() == {*texts(0, 3), *texts(4, 6)}
        said = capfd.readouterr().err
        assert f"1 of the 6 texts of this window have no scores ({reason} 1)" in said
        assert len(server.requests) == 5 + (3 if reason == "malformed" else 1), start


def test_many_of_them_in_a_row_end_no_run_whose_teacher_scores_others(server, tmp_path):
    """Also where all the others were scored before, and in small windows."""
    bad = [f"She had {n} cakes. How many?" for n in range(2, COUNT)]
    server.fault = lambda r: positive(r) if r.question in bad else None
    one = teacher_of(server, tmp_path, concurrency=1)
    assert one._scores(texts(0, COUNT), never).keys() == {*texts(0, 2)}
    assert len(server.requests) == COUNT
    assert teacher_of(server, tmp_path)._scores(texts(0, COUNT), never).keys() == {
        *texts(0, 2)
    }
    assert len(server.requests) == COUNT


@pytest.mark.parametrize("window", [COUNT, 5])
def test_a_teacher_that_scores_nothing_ends_the_run_and_says_what_it_sends(
    window, server, tmp_path
):
    """Nothing of that is remembered: the next server may score the texts."""
    server.fault = positive
    one = teacher_of(server, tmp_path)
    with pytest.raises(InputError) as caught:
        for first in range(0, COUNT, window):
            one._scores(texts(first, min(first + window, COUNT)), never)
    said = str(caught.value)
    assert "scored none of the last" in said and "bad_logprobs" in said
    assert "ROLLOUT_MODEL" in said and "--" not in said.replace("--logits_all", "")
    server.fault = lambda request: None
    found = teacher_of(server, tmp_path)._scores(texts(0, COUNT), never)
    assert found.keys() == {*texts(0, COUNT)}


def test_scores_of_another_prompt_are_refused_also_where_every_text_has_some(
    server, tmp_path
):
    teacher_of(server, tmp_path)._scores(texts(0, 6), never)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Question: 1?\nOne.\n")
    changes = ({"prompt_path": str(prompt)}, {"top_k": 2})
    for wanted, changed in itertools.product((texts(0, 6), texts(2, 3)), changes):
        other = teacher_of(server, tmp_path, **changed)
        with pytest.raises(InputError, match="other settings.*another MODEL_DIR"):
            other._scores(wanted, never)
    assert teacher_of(server, tmp_path)._scores(texts(0, 6), never)
    assert len(server.requests) == 6


@pytest.mark.parametrize("status", [200, 500])
def test_an_error_of_the_moment_is_asked_again(status, server, tmp_path):
    error = http(status, b'{"error": {"message": "overloaded"}}')
    server.fault = lambda request: error if " 3 cakes" in request.question else None
    one = teacher_of(server, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specialize.corpus.sampling.sampler._backoff", lambda *_: 0.0)
        with pytest.raises(InputError, match="not scored 1 .*overloaded.*resumes"):
            one._scores(texts(0, 6), never)
    server.fault = lambda request: None
    before = len(server.requests)
    assert one._scores(texts(0, 6), never).keys() == {*texts(0, 6)}
    assert len(server.requests) == before + 1
