"""A served teacher scores given texts: exact tokens, resumable, refused by name."""

import asyncio
import json
import math
import pathlib
import sqlite3
import tempfile

import numpy as np
import pytest
from echo_server import EchoServer, probability
from fault_server import TOKEN, http
from hypothesis import given, settings
from hypothesis import strategies as st

import specialize
from specialize import cli
from specialize.corpus.completions import read_completions
from specialize.corpus.prompts import solution, teacher_prompt
from specialize.corpus.records import Problem
from specialize.corpus.sampling import sample
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.scoring import ScoringTeacher, Text, as_choice, scored
from specialize.corpus.sampling.spec import (
    Endpoint,
    PaceSpec,
    RequestSpec,
    SamplingSpec,
)
from specialize.corpus.sampling.wire import parse_body
from specialize.corpus.tasks import known
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.wording import PAPER
from specialize.errors import InputError
from specialize.quickstart import miniature


@pytest.fixture
def problems(tmp_path):
    lines = [
        {
            "question": f"She had {n} cakes. How many?",
            "answer": f"She counts {n} of them.\n#### {n}",
        }
        for n in range(12)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def server():
    one = EchoServer({f"She had {n} cakes. How many?": str(n) for n in range(12)})
    with one.running() as one.url:
        yield one


def score(server, problems, *words, status=0):
    line = ["corpus", "score", "--problems", problems, "--base_url", server.url]
    line += ["--model", "m", "--responses", problems.parent / "r.sqlite"]
    assert cli.main([*map(str, line), "--backoff", "0.01", *words]) == status


def exported(problems):
    out = problems.parent / "scored.jsonl"
    words = ["--responses", problems.parent / "r.sqlite", "--out", out]
    assert cli.main(["corpus", "export", *map(str, words)]) == 0
    read = read_completions(out, read_problems(problems, "gsm8k"))
    return out, [sample.completion for sample in read]


def test_rationales_get_the_servers_probabilities_and_soft_rows(
    server, problems, tmp_path, capsys
):
    score(server, problems)
    assert len(server.requests) == 12
    asked = server.requests[0].body
    assert asked["max_tokens"] == 1 and "stop" not in asked and "seed" not in asked
    out, found = exported(problems)
    assert len(found) == 12
    by_id = {one.id: one for one in read_problems(problems, "gsm8k")}
    for one in found:
        problem = by_id[one.problem_id]
        assert one.text == solution(problem)
        prompt = teacher_prompt("", problem.question, problem.wording) + "\n"
        tokens = TOKEN.findall(prompt + one.text)
        before = tokens[: len(TOKEN.findall(prompt))]
        assert "".join(before) == prompt
        own = tokens[len(before) :][: len(one.tokens)]
        assert [token.token.decode() for token in one.tokens] == own
        for last, token in zip([before[-1], *own], one.tokens, strict=False):
            expected = math.log(probability(last, token.token.decode()))
            assert token.logprob == pytest.approx(expected)
            assert dict(token.top)[b"zz"] == pytest.approx(math.log(0.05))
    card = json.loads((tmp_path / "scored.jsonl.card.json").read_text())
    assert card["sampling"]["scored"] is True and card["teacher"] == "m"

    (tmp_path / "text.txt").write_text(problems.read_text())
    vocabulary = tmp_path / "v.model"
    miniature.train_vocabulary(tmp_path / "text.txt", vocabulary, size=300)
    words = ["--problems", problems, "--vocabulary", vocabulary, "--demonstrations", 2]
    share = {}
    for name, more in (
        ("human", []),
        ("soft", ["--completions", out, "--no_rationales"]),
    ):
        line = ["corpus", "build", *words, "--out", tmp_path / name, *more]
        assert cli.main([*map(str, line)]) == 0
        corpus = specialize.Corpus(tmp_path / name)
        records = [one for one in corpus if one.format == "zero_shot_cot"]
        assert len(records) == 12
        rows = [np.isfinite(r.target.teacher_logprobs).sum(-1) for r in records]
        share[name] = np.mean(np.concatenate(rows) > 1)
    assert share["human"] == 0 and share["soft"] > 0.5
    capsys.readouterr()


@pytest.mark.parametrize("end", ["", ":", "\n", " ", "\n\n"])
def test_a_given_text_begins_a_line_whatever_the_question_ends_with(
    server, problems, tmp_path, capsys, end
):
    """No token of a server can hold the end of the question and the first word."""
    task = tmp_path / "cakes.toml"
    shipped = pathlib.Path(known.__file__).parent / "shipped" / "gsm8k.toml"
    text = shipped.read_text().replace('"gsm8k"', '"cakes"')
    template = json.dumps(f"Question: {{question}}\nLet's think{end}")
    task.write_text(f"{text}\n[formats]\nteacher = {template}\n")
    (tmp_path / "demonstrations.txt").write_text("Question: 1?\nOne.\n")
    words = ["--task", str(task), "--prompt", str(tmp_path / "demonstrations.txt")]
    score(server, problems, *words)
    for one, request in zip(
        read_problems(problems, "gsm8k"),
        sorted(server.requests, key=lambda r: int(r.question.split()[2])),
        strict=True,
    ):
        before = f"Question: 1?\nOne.\n\nQuestion: {one.question}\nLet's think"
        expected = before + (end if end.isspace() else f"{end}\n") + solution(one)
        assert request.body["prompt"] == expected
    capsys.readouterr()


def test_scores_of_prompts_without_the_break_are_refused_with_the_reason(
    server, problems, capsys
):
    """Those of an older version; rollouts always had the break, and go on."""
    found = problems.parent / "r.sqlite"
    score(server, problems, "--limit", "2")
    asked = len(server.requests)
    with sqlite3.connect(found) as database:
        (text,) = database.execute("SELECT value FROM meta WHERE name = 'settings'")
        stored = json.loads(text[0])
        assert stored.pop("prompt_template") == f"{PAPER.teacher}\n"
        database.execute(
            "UPDATE meta SET value = ? WHERE name = 'settings'", (json.dumps(stored),)
        )
    database.close()
    capsys.readouterr()
    score(server, problems, status=2)
    said = capsys.readouterr().err
    assert "no line break between the question and the text" in said
    assert said.count("error: ") == 1 and len(server.requests) == asked


def test_nothing_is_asked_twice_and_what_failed_is_asked_again(
    server, problems, capsys
):
    server.fault = lambda request: "400" if request.number % 3 == 1 else None
    score(server, problems, status=1)
    asked = len(server.requests)
    server.fault = lambda request: None
    score(server, problems)
    assert len(server.requests) == asked + 4
    score(server, problems)
    assert len(server.requests) == asked + 4
    assert len(exported(problems)[1]) == 12
    capsys.readouterr()


def test_several_texts_of_a_question_and_a_changed_text(server, problems, capsys):
    questions = read_problems(problems, "gsm8k")
    texts = problems.parent / "texts.jsonl"

    def write(last="The answer is 2"):
        rows = [
            {"problem_id": questions[n].id, "sample": sample, "text": text}
            for n in (1, 2)
            for sample, text in ((3, "Well. The answer is 1"), (8, last))
        ]
        texts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write()
    score(server, problems, "--texts", str(texts))
    _, found = exported(problems)
    assert [one.sample for one in found] == [3, 8, 3, 8]
    assert {one.text for one in found} == {"Well. The answer is 1", "The answer is 2"}
    capsys.readouterr()
    write("Another text")
    score(server, problems, "--texts", str(texts), status=2)
    said = capsys.readouterr().err
    assert "has changed since it was scored" in said and "'The answer is 2'" in said


@given(
    st.lists(
        st.dictionaries(
            st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 3, 7, 2**62])),
            st.sampled_from(["stop", "length", "content_filter", "eos"]),
            min_size=1,
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=5)
def test_texts_keep_their_numbers_and_ends_and_may_come_and_go(rounds):
    """Each text is asked for once, whichever others are given beside it."""
    cakes = {f"She had {n} cakes. How many?": str(n) for n in range(3)}
    server = EchoServer(cakes)
    questions = [
        Problem(f"cakes-{n}", question, (gold,))
        for n, (question, gold) in enumerate(cakes.items())
    ]
    ends: dict[tuple[int, int], str] = {}
    with tempfile.TemporaryDirectory() as folder, server.running() as url:
        found = pathlib.Path(folder) / "r.sqlite"
        for keys in rounds:
            for key, end in keys.items():
                ends.setdefault(key, end)
            texts = {
                (f"cakes-{n}", number): Text(f"{number} of {n}", ends[n, number])
                for n, number in keys
            }
            tally = sample.score(
                questions, texts, Endpoint(url, "m"), found, SamplingSpec()
            )
            assert tally.planned == tally.cached + tally.done and not tally.failed
        sample.export(found, found.with_suffix(".jsonl"))
        stored = {
            (one.completion.problem_id, one.completion.sample): one.completion
            for one in read_completions(found.with_suffix(".jsonl"), questions)
        }
    assert len(server.requests) == len(ends) == len(stored)
    for (n, number), end in ends.items():
        one = stored[f"cakes-{n}", number]
        assert (one.text, one.finish_reason) == (f"{number} of {n}", end)


def test_a_given_text_that_is_missing_is_not_hidden_by_one_that_is_no_longer_given(
    server, problems, capsys
):
    name = read_problems(problems, "gsm8k")[1].id
    texts = problems.parent / "texts.jsonl"
    for number, status in ((0, 0), (1, 1)):
        row = {"problem_id": name, "sample": number, "text": f"So {number}."}
        texts.write_text(json.dumps(row) + "\n")
        score(server, problems, "--texts", str(texts), status=status)
        server.fault = lambda request: "400"
    capsys.readouterr()


def test_a_text_with_another_end_has_changed(server, problems, capsys):
    """What a corpus counts as cut must not depend on which run came first."""
    name = read_problems(problems, "gsm8k")[1].id
    texts = problems.parent / "texts.jsonl"
    for reason, status in (("length", 0), ("length", 0), ("stop", 2)):
        row = {"problem_id": name, "sample": 4, "text": "So", "finish_reason": reason}
        texts.write_text(json.dumps(row) + "\n")
        score(server, problems, "--texts", str(texts), status=status)
    said = capsys.readouterr().err
    assert "finish_reason was 'length', now it is 'stop'" in said
    assert [one.finish_reason for one in exported(problems)[1]] == ["length"]
    capsys.readouterr()


def test_only_the_given_numbers_are_asked_for(server, problems):
    """A refused text leaves a gap in the numbers of its question."""
    asked = read_problems(problems, "gsm8k")[:2]
    texts = {
        (asked[0].id, 2): Text("So 1."),
        (asked[0].id, 5): Text("So 2.", "length"),
        (asked[1].id, 1): Text("3"),
    }
    endpoint = Endpoint(server.url, "m", request=RequestSpec(top_logprobs=2, stop=()))
    found = problems.parent / "r.sqlite"

    def ask(given):
        given = {key: texts[key] for key in given}
        spec = SamplingSpec(samples_per_request=1, pace=PaceSpec(concurrency=2))
        run = sample.run(
            *(asked, ScoringTeacher(endpoint, given), found, spec),
            convention="before_temperature",
            texts=given,
            log_every_s=None,
        )
        return asyncio.run(run)

    first, *rest = texts
    assert ask([first]).done == 1
    tally = ask(texts)
    assert (tally.cached, tally.done, tally.failed) == (1, 2, 0)
    with ResponseStore(found) as store:
        stored = {
            (one.problem_id, one.sample): Text(one.text, one.finish_reason)
            for one in store.completions()
        }
    assert stored == texts and len(server.requests) == 3


def test_servers_that_cannot_are_refused_with_those_that_can(server, problems, capsys):
    for fault in (
        lambda request: "no echo",
        lambda request: http(400, b'{"error": {"message": "echo is not supported"}}'),
        lambda request: http(400, b'{"error": "needs logits_all=True"}'),
    ):
        server.fault = fault
        score(server, problems, status=2)
        said = capsys.readouterr().err
        assert "SGLang and llama-cpp-python" in said, said
        assert said.count("error: ") == 1
    server.url = "https://api.openai.com/v1"
    score(server, problems, status=2)
    assert "OpenAI does not report" in capsys.readouterr().err


def body(text, tokens, logprobs):
    said = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": None}
    return json.dumps({"choices": [{"text": text, "logprobs": said}]}).encode()


PIECES = st.lists(st.text("ab é\n9😀", min_size=1, max_size=4), min_size=1, max_size=8)


@given(PIECES, st.data(), st.booleans())
def test_however_a_server_cuts_the_text_the_tokens_spell_it(pieces, data, begins):
    """Also where a token crosses from the prompt into the text."""
    whole = "".join(pieces)
    border = data.draw(st.integers(0, len(whole) - 1))
    prompt, text = whole[:border], whole[border:]
    tokens = [*(["<s>"] if begins else []), *pieces, " and", " on"]
    logprobs = [None, *(-0.1 * n for n in range(1, len(tokens)))]
    found = scored(body(whole + " and on", tokens, logprobs), prompt, text, "here")
    assert b"".join(one.token for one in found) == text.encode()
    stored = json.dumps({"choices": [as_choice(Text(text), found)]}).encode()
    assert parse_body(stored, "here")[0].tokens == tuple(found)
    place, expected = 0, []
    for piece, value in zip(pieces, logprobs[begins:], strict=False):
        if place >= border:
            expected.append(-math.inf if value is None else value)
        elif place + len(piece) > border:
            expected.append(-math.inf)
        place += len(piece)
    assert [one.logprob for one in found] == expected


def test_an_answer_that_is_not_the_text_is_refused():
    with pytest.raises(InputError, match="not sent the given text back"):
        scored(body("other", ["other"], [None]), "ask", "text", "here")


USAGE = {"prompt_tokens": 90, "completion_tokens": 10}


def echoed(request, **logprobs):
    """An answer to a request, paid for, with some of its fields replaced."""
    text = request.body["prompt"] + "!"
    said = {"tokens": [*text], "token_logprobs": [None, *[-0.1] * (len(text) - 1)]}
    said["top_logprobs"] = [None, *[{one: -0.1} for one in text[1:]]]
    for name, change in logprobs.items():
        said[name] = change(said[name])
    choice = {"text": text, "finish_reason": "length", "logprobs": said}
    return {"choices": [choice], "usage": USAGE}


def all_but_last(value):
    """The server knows the probability of what it writes, and of nothing else."""
    return lambda values: [*[value] * (len(values) - 1), values[-1]]


# What is wrong with an answer -> (the answer, the reason, what is said of it).
UNUSABLE = {
    "null": (
        {"token_logprobs": all_but_last(None), "top_logprobs": all_but_last(None)},
        "no_logprobs",
        "no log-probability of any token of the prompt",
    ),
    "-inf": (
        {"token_logprobs": all_but_last(-math.inf)},
        "no_logprobs",
        "of any token",
    ),
    "-9999": ({"token_logprobs": all_but_last(-9999.0)}, "no_logprobs", "of any token"),
    "all -9999": (
        {"token_logprobs": lambda values: [-9999.0] * len(values)},
        "no_logprobs",
        "of any token",
    ),
    "too few alternatives": (
        {"top_logprobs": lambda values: values[:-3]},
        "no_logprobs",
        "numbers of tokens, token_logprobs and top_logprobs are [",
    ),
    "too few": (
        {"token_logprobs": lambda values: values[1:]},
        "no_logprobs",
        "expected equal numbers",
    ),
    "words": ({"token_logprobs": all_but_last("0")}, "no_logprobs", "expected"),
    "NaN": ({"token_logprobs": all_but_last(math.nan)}, "bad_logprobs", "is nan"),
    "positive": ({"token_logprobs": all_but_last(0.5)}, "bad_logprobs", "is 0.5"),
    "above 1": (
        {"top_logprobs": lambda values: [{"a": -0.1, "b": -0.1} for _ in values]},
        "bad_logprobs",
        "more than 1",
    ),
    "others": (
        {"tokens": lambda values: ["X" + one for one in values]},
        "tokens_differ",
        "do not spell the text",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_wrong_with_an_answer_is_said_once_paid_and_asked_once(
    name, server, problems, capsys
):
    change, reason, said = UNUSABLE[name]
    server.fault = lambda request: http(
        200, json.dumps(echoed(request, **change)).encode()
    )
    words = ["--price_input", "1000", "--max_cost", "0.5", "--concurrency", "1"]
    for spent in ("0.54", "0.54"):
        score(server, problems, *words, status=1)
        err = capsys.readouterr().err
        assert f"{spent} spent" in err and len(server.requests) == 6
    with ResponseStore(problems.parent / "r.sqlite") as store:
        found = store.failures()
        assert (store.usage().prompt_tokens, store.usage().completion_tokens) == (
            540,
            60,
        )
    assert [one[2] for one in found] == [reason] * 6 and said in found[0][3]
    assert found[0][3].count("text 0") == 1, found[0][3]


@pytest.mark.parametrize(
    "sent, reason",
    [
        (b"<html>", "malformed"),
        (b"[]", "malformed"),
        (b'{"choices": null}', "malformed"),
        (b'{"choices": [7]}', "malformed"),
        (b'{"error": {"message": "overloaded"}}', "error"),
    ],
)
def test_a_broken_answer_is_asked_for_three_times(
    sent, reason, server, problems, capsys
):
    server.fault = lambda request: http(200, sent)
    score(server, problems, "--limit", "1", status=1)
    assert len(server.requests) == 3
    said = capsys.readouterr().err
    assert f"retried: {reason} 3" in said and "{'message'" not in said


def test_a_sample_that_cannot_be_used_is_paid_for(server, problems, capsys):
    """Of a chat or completions server that is asked for samples, too."""
    body = {"choices": [{"text": "x"}], "usage": USAGE}
    server.fault = lambda request: http(200, json.dumps(body).encode())
    line = ["corpus", "sample", "--problems", problems, "--base_url", server.url]
    line += ["--model", "m", "--responses", problems.parent / "s.sqlite"]
    line += ["--logprobs_are", "unknown", "--concurrency", 1, "--backoff", 0]
    line += ["--price_input", 1000, "--max_cost", 0.2]
    assert cli.main([*map(str, line)]) == 1
    assert len(server.requests) == 3  # 0.09 each
    assert "0.27 spent" in capsys.readouterr().err


def test_a_wrong_model_is_said_with_the_options_that_there_are(
    server, problems, capsys
):
    server.fault = lambda request: http(404, b'{"error": "no such model"}')
    score(server, problems, status=2)
    said = capsys.readouterr().err
    assert "Check --base_url and --model." in said and "--api" not in said
