"""Sampling from a server that fails in every way a server can."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import re
import sqlite3
import time

import pytest

from specialize import cli
from specialize.corpus.building import stages
from specialize.corpus.completions import read_completions
from specialize.corpus.sampling import panel, sample
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.teachers import Busy
from specialize.corpus.spec import Sources
from specialize.corpus.storage.cards import read_card
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.wording import Wording
from specialize.errors import InputError

import flat  # isort: skip
from fault_server import CUTS, THOUGHTS, FaultServer, http  # isort: skip


@pytest.fixture
def problems(world):
    return read_problems(world.problems, "gsm8k")[:6]


@pytest.fixture
def server(problems):
    server = FaultServer({p.question: p.answers[0] for p in problems})
    with server.running() as server.url:
        yield server


def ask(
    server,
    problems,
    tmp_path,
    *,
    asking=None,
    endpoint=None,
    name="r.sqlite",
    **options,
):
    asking = {
        "samples": 4,
        "samples_per_request": 2,
        "concurrency": 4,
        "backoff_s": 0.01,
    } | (asking or {})
    endpoint = {"base_url": server.url, "model": "tiny", "timeout_s": 2.0} | (
        endpoint or {}
    )
    options = {"convention": "unknown"} | options
    path = tmp_path / name
    return sample.sample(
        problems, flat.endpoint(**endpoint), path, flat.asking(**asking), **options
    ), path


def exported(path):
    out = path.with_suffix(".jsonl")
    sample.export(path, out)
    return out.read_bytes()


def test_every_sample_is_asked_once_and_exported_in_order(server, problems, tmp_path):
    tally, path = ask(server, problems, tmp_path)
    assert (tally.done, tally.failed, tally.planned) == (24, 0, 24)
    assert len({r.key for r in server.requests}) == len(server.requests) == 12
    lines = [json.loads(line) for line in exported(path).splitlines()]
    assert [(line["problem_id"], line["sample"]) for line in lines] == [
        (problem.id, number) for problem in problems for number in range(4)
    ]
    samples = list(read_completions(path.with_suffix(".jsonl"), problems))
    assert all(s.rejection is None and s.completion.tokens for s in samples)
    seeds = {r.question: r.body["seed"] for r in server.requests}
    assert samples[0].completion.text in {
        server.text(problems[0].question, seed, index).strip()
        for seed in [r.body["seed"] for r in server.requests]
        for index in range(2)
    }
    assert len(set(seeds.values())) == len(problems)


def test_a_second_run_asks_for_nothing_and_more_samples_only_for_the_new(
    server, problems, tmp_path
):
    ask(server, problems, tmp_path)
    before = len(server.requests)
    tally, path = ask(server, problems, tmp_path)
    assert (tally.cached, tally.done) == (24, 0)
    assert len(server.requests) == before
    first = exported(path)
    tally, _ = ask(server, problems, tmp_path, asking={"samples": 6})
    assert (tally.cached, tally.done) == (24, 12)
    assert len({r.key for r in server.requests}) == len(server.requests)
    assert set(first.splitlines()) < set(exported(path).splitlines())


FAULTS = (
    "429",
    "500",
    "hang",
    "cut",
    "malformed",
    "no logprobs",
    "nan",
    "null",
    "positive",
    "fewer",
    "mismatch",
    "no choices",
)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_each_fault_is_survived_and_changes_no_answer(server, problems, tmp_path, api):
    _, path = ask(server, problems, tmp_path, name="calm.sqlite", endpoint={"api": api})
    calm = exported(path)
    left = collections.deque(FAULTS)
    server.requests.clear()
    met = {}

    def once(request):
        # The first time a block is asked for, something goes wrong.
        if request.key in met or not left:
            return None
        met[request.key] = left.popleft()
        return met[request.key]

    server.fault = once
    tally, path = ask(
        server,
        problems,
        tmp_path,
        endpoint={"api": api, "timeout_s": 3.0},
        asking={"concurrency": 3},
    )
    assert not left, "not every fault was met"
    assert (tally.done, tally.failed) == (24, 0)
    assert tally.retries == {
        "rate_limit": 1,
        "server_error": 1,
        "timeout": 1,
        "connection": 1,
        "malformed": 1,
        "no_logprobs": 2,
        "bad_logprobs": 2,
        "tokens_differ": 1,
        "no_choices": 1,
    }
    faulty = exported(path)
    if "fewer" in met.values():
        # The rest of that block was asked for by itself, with a seed of its own.
        (question, _, _) = next(key for key, fault in met.items() if fault == "fewer")
        identity = next(p.id for p in problems if p.question == question)
        differing = set(calm.splitlines()) ^ set(faulty.splitlines())
        assert len(differing) == 2
        assert all(json.loads(line)["problem_id"] == identity for line in differing)


def test_a_server_that_gives_one_choice_at_a_time_is_asked_for_the_rest(
    server, problems, tmp_path
):
    server.max_choices = 1
    tally, path = ask(server, problems, tmp_path)
    assert tally.done == 24
    assert len(server.requests) == 24
    texts = [json.loads(line)["text"] for line in exported(path).splitlines()]
    assert len(set(texts)) > 12, "a seed was used twice"


def test_retry_after_holds_every_request_back(server, problems, tmp_path):
    times = []

    def fault(request):
        times.append(time.monotonic())
        return "429" if request.number == 0 else None

    server.fault = fault
    ask(server, problems, tmp_path, asking={"concurrency": 1})
    assert times[1] - times[0] >= 0.2


def test_a_request_that_never_succeeds_is_given_up_and_asked_again_by_the_next_run(
    server, problems, tmp_path
):
    doomed = problems[2].question
    server.fault = lambda request: "500" if request.question == doomed else None
    tally, path = ask(server, problems, tmp_path, asking={"attempts": 2})
    assert (tally.done, tally.failed) == (20, 4)
    store = sqlite3.connect(path)
    rows = store.execute(
        "SELECT question, first_sample, reason FROM failures"
    ).fetchall()
    store.close()
    assert rows == [(problems[2].id, n, "server_error") for n in (0, 2)]
    server.fault = lambda request: None
    tally, path = ask(server, problems, tmp_path)
    assert (tally.cached, tally.done, tally.failed) == (20, 4, 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401", "refuses the key in OPENAI_API_KEY"),
        ("404", "Check --base_url, --model and --api"),
        ("400", "5 requests in a row were given up.*refused"),
        ("no logprobs", "given up.*no_logprobs.*Start the server with log-prob"),
    ],
)
def test_a_run_that_cannot_succeed_ends_with_one_message_and_keeps_what_came(
    server, problems, tmp_path, fault, message
):
    server.fault = lambda request: None if request.number < 2 else fault
    with pytest.raises(InputError, match=message):
        ask(server, problems, tmp_path, asking={"concurrency": 2})
    server.fault = lambda request: None
    tally, path = ask(server, problems, tmp_path)
    assert tally.cached == 4
    assert tally.done == 20


def test_no_server_at_all_is_one_message(problems, tmp_path):
    class Nobody:
        url = "http://127.0.0.1:9/v1"

    with pytest.raises(InputError, match="connection.*--base_url is right"):
        ask(Nobody, problems, tmp_path, asking={"attempts": 2})


@pytest.mark.parametrize("requests", [1, 3, 16, 40])
def test_a_server_too_slow_for_all_requests_ends_the_run_with_one_message(
    world, server, tmp_path, capfd, requests
):
    """Sixteen at once, each of which times out; fewer and more than there are."""
    common = ["--problems", str(world.problems), "--model", "tiny"]
    common += ["--base_url", server.url, "--responses", str(tmp_path / "r.sqlite")]
    common += ["--logprobs_are", "before_temperature", "--n_per_request", "1"]
    command = ["corpus", "sample", *common]
    server.golds = {
        p.question: p.answers[0] for p in read_problems(world.problems, "gsm8k")
    }
    assert cli.main([*command, "--n", "1", "--limit", "2"]) == 0
    capfd.readouterr()
    server.fault = lambda request: "hang"
    slow = ["--timeout", "0.3", "--attempts", "2", "--backoff", "0.01"]
    slow += ["--limit", "1", "--n", str(requests + 1)]
    began = time.monotonic()
    assert cli.main([*command, *slow]) == 2
    assert time.monotonic() - began < 60  # not for ever
    said = capfd.readouterr().err
    assert said.count("given up") == 1 and "because of timeout" in said
    assert "Raise --timeout" in said and "Traceback" not in said
    server.fault = lambda request: None
    before = len(server.requests)
    assert cli.main([*command, "--n", "3", "--limit", "2"]) == 0
    assert len(server.requests) - before == 4
    with ResponseStore(tmp_path / "r.sqlite") as store:
        assert len(list(store.completions())) == 6


class Deaf:
    """A teacher in time for nothing, whose timeout swallows a cancellation."""

    name = "deaf"
    asked = 0

    def describe(self):
        return {"model": self.name}

    async def ask(self, ask):
        self.asked += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        raise Busy("timeout", "no whole answer in 0.05 s")

    async def close(self):
        pass


def test_a_worker_that_misses_its_cancellation_asks_for_nothing_more(
    problems, tmp_path
):
    teacher = Deaf()
    asking = {"samples": 40, "samples_per_request": 1, "concurrency": 16}
    asking |= {"attempts": 3, "backoff_s": 0.0}
    with pytest.raises(InputError, match="1[6-9] requests in a row were given up"):
        asyncio.run(
            sample.run(problems, teacher, tmp_path / "r.sqlite", flat.asking(**asking))
        )
    assert teacher.asked <= 3 * 16 + 16, "workers went on after the end"


def test_the_key_reaches_the_server_and_no_file_or_message(
    server, problems, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123456")
    server.fault = lambda request: {0: "500", 1: "429"}.get(request.number)
    ask(server, problems, tmp_path, convention="auto")
    assert server.requests[0].headers["authorization"] == "Bearer sk-secret-123456"
    server.fault = lambda request: "401"
    with pytest.raises(InputError) as caught:
        ask(server, problems, tmp_path, asking={"samples": 6})
    exported(tmp_path / "r.sqlite")
    server.fault = lambda request: "500"
    with pytest.raises(InputError) as given_up:
        ask(server, problems, tmp_path, asking={"samples": 8, "attempts": 1})
    said = "".join(capfd.readouterr()) + str(caught.value) + str(given_up.value)
    assert "sk-secret" not in said
    assert "***" in str(given_up.value), "the server's echo of the key was not covered"
    written = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"sk-secret" not in written


def test_other_settings_on_the_same_database_are_refused_by_name(
    server, problems, tmp_path
):
    ask(server, problems, tmp_path)
    with pytest.raises(InputError, match=r"temperature was 0\.5, now 0\.9"):
        ask(server, problems, tmp_path, endpoint={"temperature": 0.9})
    with pytest.raises(InputError, match="prompt_sha256 was"):
        ask(server, problems, tmp_path, prompt_prefix="Question: 1?\nThe answer is 1\n")


def test_another_problem_file_on_the_same_database_is_refused(
    server, problems, tmp_path
):
    import dataclasses

    ask(server, problems[:1], tmp_path)
    other = dataclasses.replace(problems[0], question="How many?")
    with pytest.raises(InputError, match=f"the question of {other.id!r} has changed"):
        ask(server, [other], tmp_path)


def test_fields_that_only_some_servers_know_are_sent_and_recorded(
    server, problems, tmp_path
):
    endpoint = {"extra_body": {"min_p": 0, "chat_template_kwargs": {"x": False}}}
    ask(server, problems, tmp_path, endpoint=endpoint)
    assert all(r.body["min_p"] == 0 for r in server.requests)
    exported(tmp_path / "r.sqlite")
    card = json.loads((tmp_path / "r.jsonl.card.json").read_text())
    assert card["sampling"]["extra_body"] == endpoint["extra_body"]
    with pytest.raises(InputError, match="extra_body was"):
        ask(server, problems, tmp_path)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("given", [{}, {"max_completion_tokens": 99}])
def test_a_server_that_refuses_max_tokens_gets_max_completion_tokens(
    server, problems, tmp_path, api, given
):
    said = b'{"error": {"message": "Use max_completion_tokens instead."}}'

    def fault(request):
        return http(400, said) if "max_tokens" in request.body else None

    server.fault = fault
    endpoint = {"api": api, "extra_body": given, "max_tokens": 50}
    tally, _ = ask(server, problems, tmp_path, endpoint=endpoint, convention="auto")
    assert (tally.done, tally.failed) == (24, 0)
    sent = [one.body.get("max_completion_tokens") for one in server.requests]
    assert sent[-12:] == [given.get("max_completion_tokens", 50)] * 12
    assert sent.count(1) == 2  # the two probes of one token
    assert sent.count(None) == (0 if given else 1)


def test_an_export_claims_a_licence_only_for_the_owners_file(
    server, problems, tmp_path
):
    def licence_in(path):
        exported(path)
        card = json.loads((tmp_path / "r.jsonl.card.json").read_text())
        return card["licences"]["gsm8k"]

    _, path = ask(server, problems[:1], tmp_path)
    assert licence_in(path).startswith("unknown")
    path.unlink()
    ask(server, problems[:1], tmp_path, licence="MIT")
    assert licence_in(path) == "MIT"
    ask(server, problems[:1], tmp_path, licence="MIT")
    assert licence_in(path) == "MIT"
    ask(server, problems, tmp_path, licence="unknown: not a file of gsm8k")
    assert licence_in(path).startswith("unknown")
    ask(server, problems[:1], tmp_path, licence="MIT")
    assert licence_in(path).startswith("unknown")
    with ResponseStore(path) as store:
        store.note("licence", None)  # as version 0.1 left it
    assert licence_in(path).startswith("unknown")


def test_the_command_takes_the_licence_from_the_problems_content(
    server, world, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    path = tmp_path / "r.sqlite"
    words = ["corpus", "sample", "--problems", world.problems, "--limit", 1]
    words += ["--model", "m", "--base_url", server.url, "--responses", path, "--n", 1]
    assert cli.main([str(word) for word in words]) == 0
    exported(path)
    card = json.loads((tmp_path / "r.jsonl.card.json").read_text())
    assert card["licences"] == {
        "gsm8k": "unknown: not a file of gsm8k as its owners publish it"
    }


def test_two_runs_cannot_pay_for_the_same_samples_at_once(server, problems, tmp_path):
    from specialize.corpus.sampling.responses import ResponseStore

    with ResponseStore(tmp_path / "r.sqlite", create=True):
        with pytest.raises(InputError, match="another process"):
            ResponseStore(tmp_path / "r.sqlite", create=True)


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\x00" + bytes(200)])
def test_a_file_that_is_no_database_of_ours_is_left_alone(
    server, problems, tmp_path, content
):
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"r\.sqlite"):
        ask(server, problems, tmp_path)
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(server, problems, tmp_path):
    path = tmp_path / "r.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="another program"):
        ask(server, problems, tmp_path)
    assert path.read_bytes() == before


def test_questions_without_a_right_sample_get_more_until_the_limit(
    server, problems, tmp_path
):
    server.right_share = 0.15
    tally, path = ask(
        server, problems, tmp_path, asking={"samples": 2, "max_samples": 10}
    )
    lines = [json.loads(line) for line in exported(path).splitlines()]
    gold = {p.id: p.answers[0] for p in problems}
    by_question = collections.defaultdict(list)
    for line in lines:
        by_question[line["problem_id"]].append(
            line["text"].endswith(f"The answer is {gold[line['problem_id']]}")
        )
    unsolved = 0
    for right in by_question.values():
        blocks = [any(right[begin : begin + 2]) for begin in range(0, len(right), 2)]
        assert not any(blocks[:-1]), "asked for more though one was right"
        assert blocks[-1] or len(right) == 10
        unsolved += not blocks[-1]
    assert tally.unsolved == unsolved
    assert max(map(len, by_question.values())) > 2
    assert tally.right == sum(map(sum, by_question.values()))
    again, _ = ask(server, problems, tmp_path, asking={"samples": 2, "max_samples": 10})
    assert (again.done, again.unsolved) == (0, unsolved)


@pytest.mark.parametrize("reason", CUTS)
def test_a_cut_sample_counts_as_wrong_everywhere(server, problems, tmp_path, reason):
    """In acceptance, for --max_n, in what a resumed run knows, and in verify."""
    server.right_share = 1.0
    server.fault = lambda request: reason
    asking = {"samples": 2, "max_samples": 6}
    tally, path = ask(server, problems, tmp_path, asking=asking)
    assert (tally.right, tally.acceptance) == (0, 0.0)
    assert (tally.unsolved, tally.done, tally.cut) == (6, 36, 36)
    assert "36 cut off or refused by the server" in panel.line(tally)
    tally, _ = ask(server, problems, tmp_path, asking=asking)
    assert (tally.cached, tally.right, tally.unsolved) == (36, 0, 6)
    exported(path)
    sources = Sources(
        problems[0].source.rpartition(":")[0], [path.with_suffix(".jsonl")]
    )
    with pytest.raises(InputError, match="none of 36 samples .*cut_off: 36"):
        stages.verify(sources, tmp_path / "v.jsonl", processes=1)


def test_a_question_whose_first_samples_are_cut_gets_more(server, problems, tmp_path):
    server.right_share = 1.0
    seen = collections.Counter()

    def first_is_cut(request):
        seen[request.question] += 1
        return "length" if seen[request.question] == 1 else None

    server.fault = first_is_cut
    tally, _ = ask(server, problems, tmp_path, asking={"samples": 2, "max_samples": 8})
    assert (tally.unsolved, tally.done, tally.cut) == (0, 24, 12)
    assert tally.acceptance == 0.5


@pytest.mark.parametrize("fault", THOUGHTS)
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_only_the_answer_after_the_reasoning_is_judged_while_sampling(
    server, problems, tmp_path, fault, api
):
    server.right_share = 1.0
    server.fault = lambda request: fault
    tally, path = ask(server, problems, tmp_path, endpoint={"api": api})
    assert tally.acceptance == 1.0
    exported(path)
    for one in read_completions(path.with_suffix(".jsonl"), problems):
        assert one.reasoned
        assert "0" not in one.completion.text.partition(" twice")[0].split()
        assert one.completion.tokens


def test_a_server_that_sends_the_reasoning_apart_is_sampled_as_it_is(
    server, problems, tmp_path
):
    server.right_share = 1.0
    server.fault = lambda request: "parsed"
    tally, path = ask(server, problems, tmp_path, endpoint={"api": "chat"})
    assert (tally.acceptance, tally.retries) == (1.0, {})
    exported(path)
    for policy, thinks in (("drop", False), ("keep", True)):
        for one in read_completions(path.with_suffix(".jsonl"), problems, policy):
            assert one.reasoned
            assert ("answer is 0." in one.completion.text) == thinks
            assert "think>" not in one.completion.text
            assert not any(token.is_unknown for token in one.completion.tokens)


def test_an_answer_that_is_cut_in_its_reasoning_is_one_wrong_sample(
    server, problems, tmp_path
):
    server.fault = lambda request: "parsed, cut"
    asking = {"samples": 2, "max_samples": 4}
    tally, path = ask(
        server, problems, tmp_path, asking=asking, endpoint={"api": "chat"}
    )
    assert (tally.done, tally.cut, tally.right, tally.failed) == (24, 24, 0, 0)
    assert len(server.requests) == 12
    lines = [json.loads(line) for line in exported(path).splitlines()]
    assert {line["finish_reason"] for line in lines} == {"length"}


def test_a_teacher_without_log_probabilities_is_sampled_if_none_are_asked_for(
    server, problems, tmp_path
):
    for api in ("completions", "chat"):
        tally, path = ask(
            server,
            problems,
            tmp_path,
            name=f"{api}.sqlite",
            endpoint={"api": api, "logprobs": False},
            convention="auto",
        )
        assert tally.done == 24
        assert "every row is one-hot" in panel.line(tally)
        assert all("logprobs" not in one.body for one in server.requests)
        exported(path)
        found = [*read_completions(path.with_suffix(".jsonl"), problems)]
        assert all(one.completion.tokens is None for one in found)
        card = read_card(path.with_suffix(".jsonl"))
        assert card.sampling["logprobs"] == "none"


def test_another_template_of_the_question_is_another_sampling(
    server, problems, tmp_path
):
    ask(server, problems, tmp_path)
    wording = Wording(teacher="Question: {question}\nLet's think. Say why:")
    others = [dataclasses.replace(one, wording=wording) for one in problems]
    with pytest.raises(
        InputError, match="prompt_template was not recorded, now .Question: "
    ):
        ask(server, others, tmp_path)
    _, path = ask(server, others, tmp_path, name="other.sqlite")
    assert server.requests[-1].body["prompt"].endswith("Let's think. Say why:")
    exported(path)
    card = read_card(path.with_suffix(".jsonl"))
    assert card.sampling["prompt_template"] == wording.teacher


def test_no_more_requests_are_under_way_than_allowed(server, problems, tmp_path):
    server.delay_s = 0.03
    ask(server, problems, tmp_path, asking={"concurrency": 3})
    assert server.busiest == 3


def test_the_request_limit_holds(server, problems, tmp_path):
    began, times = time.monotonic(), []
    server.fault = lambda request: times.append(time.monotonic())
    ask(server, problems, tmp_path, asking={"requests_per_minute": 300.0})
    # 12 requests at 5 a second, behind the first second's allowance of 5.
    assert len(times) == 12
    assert times[-1] - began >= 1.3


def test_the_token_limit_holds(server, problems, tmp_path):
    began = time.monotonic()
    # About 100 prompt and 2 x 20 answer tokens a request, 12 requests: 1,700 tokens.
    ask(server, problems, tmp_path, asking={"tokens_per_minute": 60_000.0})
    assert time.monotonic() - began >= 0.7


def test_money_is_counted_projected_and_limited(server, problems, tmp_path):
    price = {"per_input": 1000.0, "per_output": 2000.0}
    tally, _ = ask(server, problems, tmp_path, asking=price)
    assert tally.prompt_tokens == 1200
    expected = tally.prompt_tokens * 1e-3 + tally.completion_tokens * 2e-3
    assert tally.spent == pytest.approx(expected)
    assert tally.projected == pytest.approx(expected)
    halted, _ = ask(
        server,
        problems,
        tmp_path,
        name="limited.sqlite",
        asking=price | {"max_cost": expected / 2, "concurrency": 1},
    )
    assert expected / 2 <= halted.spent < expected
    assert halted.projected == pytest.approx(expected, rel=0.2)
    resumed, _ = ask(server, problems, tmp_path, name="limited.sqlite", asking=price)
    assert resumed.cached == halted.done
    assert resumed.spent == pytest.approx(expected)


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize(
    ("raw", "found"), [(True, "before_temperature"), (False, "after_temperature")]
)
def test_the_convention_of_the_log_probabilities_is_found_out_and_recorded(
    server, problems, tmp_path, api, raw, found
):
    server.raw_logprobs = raw
    _, path = ask(
        server, problems[:1], tmp_path, convention="auto", endpoint={"api": api}
    )
    exported(path)
    card = json.loads((tmp_path / "r.jsonl.card.json").read_text())
    assert card["sampling"]["logprobs"] == found
    assert card["teacher"] == "tiny"
    probes = [r for r in server.requests if r.body["max_tokens"] == 1]
    assert len(probes) == 2


def test_a_stop_waits_for_what_is_under_way(server, problems, tmp_path):
    from specialize.corpus.sampling.endpoint import OpenAITeacher
    from specialize.corpus.sampling.responses import ResponseStore
    from specialize.corpus.sampling.sampler import Sampler

    server.delay_s = 0.1

    async def run():
        teacher = OpenAITeacher(flat.endpoint(base_url=server.url, model="tiny"))
        with ResponseStore(tmp_path / "r.sqlite", create=True) as store:
            store.add_questions(problems)
            asking = flat.asking(samples=4, samples_per_request=2, concurrency=3)
            sampler = Sampler(problems, teacher, store, "", asking)
            asyncio.get_running_loop().call_later(0.05, sampler.stop)
            tally = await sampler.run()
            await teacher.close()
            return tally

    tally = asyncio.run(run())
    assert len(server.requests) == 3
    assert tally.done == 6


def test_progress_is_lines_of_text_where_there_is_no_terminal(
    server, problems, tmp_path, capfd
):
    server.delay_s = 0.05
    ask(server, problems, tmp_path, log_every_s=0.05)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) > 2
    assert all(line.startswith("sample: ") and "{" not in line for line in lines)
    assert lines[-1].startswith("sample: 24 done, 0 cached, 0 failed of 24, 0 requests")
    rate = re.search(r"; ([\d,]+) requests/min, ([\d,]+) tokens/min; ", lines[-1])
    assert rate and not {"0"} & set(rate.groups())
    accepted = re.search(r"; ([\d.]+) % accepted, ", lines[-1])
    assert accepted and 0 < float(accepted[1]) <= 100


def test_the_panel_shows_what_people_ask_for(server, problems, tmp_path):
    from rich.console import Console

    tally, _ = ask(server, problems, tmp_path, asking={"per_output": 1000.0})
    console = Console(
        record=True, width=120, force_terminal=True, file=open("/dev/null", "w")
    )
    console.print(panel.render(tally))
    console.file.close()
    text = console.export_text()
    for word in (
        "24 done",
        "0 cached",
        "0 failed",
        "requests/min",
        "tokens/min",
        "spent",
        "projected",
        "%",
        "questions with none correct",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ({"base_url": "localhost:8000"}, "expected http"),
        ({"base_url": "http://me:key@localhost/v1"}, "holds credentials"),
        ({"temperature": 3.0}, "temperature = 3"),
        ({"api": "responses"}, "api is 'responses'"),
        ({"top_logprobs": 0}, "top_logprobs = 0"),
        ({"extra_body": {"n": 2}}, r"extra_body sets \['n'\]"),
        ({"base_url": "https://api.openai.com/v1"}, "has no OPENAI_API_KEY"),
    ],
)
def test_settings_that_no_server_accepts_are_refused_before_asking(
    server, problems, tmp_path, monkeypatch, endpoint, message
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=message):
        ask(server, problems, tmp_path, endpoint=endpoint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        ({"samples": 0}, "samples = 0"),
        ({"max_samples": 2}, "max_samples is 2, less than samples"),
        ({"requests_per_minute": 0.0}, "requests_per_minute = 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    server, problems, tmp_path, asking, message
):
    with pytest.raises(InputError, match=message):
        ask(server, problems, tmp_path, asking=asking)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_server_that_gives_fewer_choices_is_asked_for_fewer(
    server, problems, tmp_path, api
):
    """As llama.cpp's own server, whose `n` is at most its number of slots."""

    def fault(request):
        asked = request.body["n"]
        said = f"Field 'n': Value must be between 1 <= value <= 1, but got {asked}"
        return http(400, said.encode()) if asked > 1 else None

    server.fault = fault
    tally, path = ask(server, problems, tmp_path, endpoint={"api": api})
    assert (tally.done, tally.failed) == (24, 0)
    asked = {one.body["n"] for one in server.requests}
    assert asked == {1, 2}
    with ResponseStore(path) as store:
        assert sum(len(one.samples) for one in store.standings().values()) == 24
