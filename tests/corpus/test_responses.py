"""What was paid for is stored before anything else, and damage is one message."""

import json
import shutil
import sqlite3
import time
import zlib

import pytest
from rich.console import Console

from specialize import cli, errors
from specialize.corpus.sampling import endpoint, panel, sample, sampler
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.tasks.known import read_problems
from specialize.errors import InputError

import flat  # isort: skip
from fault_server import FaultServer, Raw, http  # isort: skip


@pytest.fixture
def problems(world):
    return read_problems(world.problems, "gsm8k")[:3]


@pytest.fixture
def server(problems):
    server = FaultServer({p.question: p.answers[0] for p in problems})
    server.right_share = 1.0
    with server.running() as server.url:
        yield server


def ask(server, problems, path, *, timeout_s=2.0, **asking):
    asked = {"samples": 2, "samples_per_request": 2, "backoff_s": 0.01} | asking
    return sample.sample(
        problems,
        flat.endpoint(base_url=server.url, model="tiny", timeout_s=timeout_s),
        path,
        flat.asking(**asked),
        convention="unknown",
    )


# ---- Stored first, judged afterwards -------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError, RecursionError, OverflowError])
def test_a_text_that_the_judge_cannot_read_loses_no_answer(
    server, problems, tmp_path, monkeypatch, failure
):
    def broken(*_):
        raise failure("4301 digits")

    monkeypatch.setattr(sampler, "verdict", broken)
    tally = ask(server, problems, tmp_path / "r.sqlite")
    assert (tally.done, tally.right) == (6, 0)


def test_an_answer_is_stored_even_if_the_judge_ends_the_process(
    server, problems, tmp_path, monkeypatch
):
    path = tmp_path / "r.sqlite"

    def killed(*_):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(sampler, "verdict", killed)
        with pytest.raises(BaseException):  # noqa: B017, PT011 (a group of exits)
            ask(server, problems, path, concurrency=1)
    with ResponseStore(path) as store:
        assert len(list(store.completions(unjudged=True))) == 2
    tally = ask(server, problems, path)
    assert (tally.cached, tally.done, tally.right) == (2, 4, 6)
    with ResponseStore(path) as store:
        assert not list(store.completions(unjudged=True))
        assert [one.right for one in store.standings().values()] == [2, 2, 2]


@pytest.mark.parametrize("reason", ["length", "max_tokens", "content_filter", "abort"])
def test_a_sample_that_was_cut_or_refused_is_not_right_while_sampling(
    server, problems, tmp_path, reason
):
    gold = problems[0].answers[0]
    logprobs = {"tokens": [gold], "token_logprobs": [-0.5]}
    choice = {"text": gold, "logprobs": logprobs, "finish_reason": reason}
    body = json.dumps({"choices": [choice]}).encode()
    server.fault = lambda request: http(200, body)
    tally = ask(server, problems[:1], tmp_path / "r.sqlite", max_samples=6)
    assert (tally.done, tally.right, tally.unsolved) == (6, 0, 1)


def test_choices_with_one_number_are_exported_each(server, problems, tmp_path):
    texts = ["The answer is 5", "The answer is 77"]
    choices = [
        {"index": 0, "text": t, "logprobs": {"tokens": [t], "token_logprobs": [-0.5]}}
        for t in texts
    ]
    body = json.dumps({"choices": choices}).encode()
    server.fault = lambda request: http(200, body)
    ask(server, problems[:1], tmp_path / "r.sqlite")
    sample.export(tmp_path / "r.sqlite", tmp_path / "x.jsonl")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts


# ---- Damage, and a full disk ---------------------------------------------------------


@pytest.fixture(scope="module")
def filled(world, tmp_path_factory):
    problems = read_problems(world.problems, "gsm8k")[:3]
    server = FaultServer({p.question: p.answers[0] for p in problems})
    path = tmp_path_factory.mktemp("filled") / "r.sqlite"
    with server.running() as server.url:
        ask(server, problems, path)
    return path


BODY = zlib.compress(b'{"choices": [{"text": 3}]}')
DAMAGE = [
    *(f"DROP TABLE {name}" for name in ("meta", "questions", "responses", "samples")),
    *(f"UPDATE meta SET value = '{text}'" for text in ("{", "[1]", "", "[" * 9999)),
    "UPDATE meta SET value = x'ff' WHERE name = 'settings'",
    "UPDATE meta SET value = '[]' WHERE name = 'settings'",
    "UPDATE responses SET body = x'0011'",
    "UPDATE responses SET body = 'text'",
    "UPDATE responses SET body = substr(body, 1, 40)",
    f"UPDATE responses SET body = x'{BODY.hex()}'",
    f"UPDATE responses SET body = x'{zlib.compress(b'[' * 10**6).hex()}'",
    "UPDATE samples SET choice = 99",
    "UPDATE samples SET choice = 'x'",
    "UPDATE questions SET id = position",
    "DELETE FROM responses WHERE id = 2",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_database_is_one_message_and_nothing_is_written(
    filled, tmp_path, damage, capsys
):
    path = shutil.copy(filled, tmp_path / "r.sqlite")
    database = sqlite3.connect(path)
    database.execute(damage)
    database.commit()
    database.close()
    out = tmp_path / "x.jsonl"
    code = cli.main(["corpus", "export", "--responses", str(path), "--out", str(out)])
    said = capsys.readouterr().err
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert str(path) in said
    assert [one.name for one in tmp_path.iterdir()] == ["r.sqlite"]


def test_a_full_disk_is_one_message_at_every_write(
    server, problems, tmp_path, monkeypatch
):
    path = tmp_path / "r.sqlite"
    connect = sqlite3.connect
    failed = 0

    for pages in range(1, 14):
        path.unlink(missing_ok=True)

        def limited(*words, pages=pages, **how):
            database = connect(*words, **how)
            database.execute(f"PRAGMA max_page_count = {pages}")
            return database

        monkeypatch.setattr(sqlite3, "connect", limited)
        server.fault = lambda request: "400" if request.number % 2 else None
        try:
            ask(server, problems, path, attempts=1)
        except InputError as error:
            failed += 1
            assert "cannot be written: database or disk is full" in str(error)
            assert "make room and run the same command again" in str(error)
    assert failed > 5


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "file/r.sqlite"])
def test_a_name_that_no_file_can_have_is_one_message(server, problems, tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be"):
        ask(server, problems, tmp_path / name)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


# ---- Time and size -------------------------------------------------------------------


def slow(server, problems, path, **asking):
    began = time.monotonic()
    try:
        return ask(server, problems, path, timeout_s=0.5, attempts=2, **asking)
    finally:
        assert time.monotonic() - began < 60  # not for ever


HEAD = b"HTTP/1.1 200 X\r\nContent-Length: 100000000000\r\n"
CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "fault",
    [
        Raw(HEAD + b"\r\n", b" ", 0.1),
        Raw(HEAD, b"X-A: b\r\n", 0.1),
        Raw(CHUNKED, b"1\r\n \r\n", 0.1),
        Raw(b"HTTP/1.1 500 X\r\nContent-Length: 1000\r\n\r\n", b"x", 0.1),
        http(429, b"later", **{"Retry-After": "1e9"}),
        http(503, b"later", **{"retry-after-ms": "1e15"}),
        http(429, b"later", **{"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}),
    ],
)
def test_no_server_holds_a_run_longer_than_the_timeout_says(
    server, problems, tmp_path, fault
):
    server.fault = lambda request: fault
    reasons = "timeout|rate_limit|server_error"
    with pytest.raises(InputError, match=f"3 requests .* because of ({reasons}) "):
        slow(server, problems, tmp_path / "r.sqlite")
    with ResponseStore(tmp_path / "r.sqlite") as store:
        assert len(store.failures()) == 3


@pytest.mark.parametrize("status", [200, 400, 500])
def test_an_answer_without_an_end_is_not_taken_into_memory(
    server, problems, tmp_path, status, monkeypatch
):
    monkeypatch.setattr(endpoint, "MOST_BYTES", 1 << 20)
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n".encode()
    server.fault = lambda request: Raw(head, b"x" * 65536)
    tally = slow(server, problems[:1], tmp_path / "r.sqlite")
    assert "the answer has over" in tally.last_fault or tally.retries["timeout"]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--timeout", ["nan", "inf", "0", "-1", "1e9", "x"]),
        ("--requests_per_minute", ["nan", "inf", "0", "1e-9", "1e99"]),
        ("--tokens_per_minute", ["nan", "-inf", "0", "1e-9"]),
        ("--attempts", ["0", "1000000", "1e3", "-1"]),
        ("--concurrency", ["0", "1000000", "9" * 5000]),
        ("--backoff", ["nan", "inf", "-1", "1e9"]),
        ("--log_every", ["0", "nan", "inf", "-1", "1e-9"]),
        ("--max_cost", ["nan", "inf", "-1"]),
        ("--price_input", ["nan", "-1"]),
        ("--temperature", ["nan", "3"]),
        ("--top_p", ["nan", "0"]),
        ("--max_tokens", ["0", "1000000000"]),
        ("--n", ["0", "1000000"]),
        ("--max_n", ["0", "1000000000"]),
        ("--n_per_request", ["0", "1000000"]),
        ("--seed", ["9" * 40, "x"]),
        ("--limit", ["0", "-1", "nan"]),
        ("--extra_body", ['{"a": NaN}', "[" * 100_000, "[1]", '"', '{"a": "\\ud800"}']),
        ("--system", ["\udcff"]),
        ("--model", ["\udcff"]),
        ("--stop", ["\udcff"]),
    ],
)
def test_a_number_or_text_out_of_range_is_refused_before_anything_is_made(
    world, tmp_path, option, values, capsys
):
    fixed = ["corpus", "sample", "--problems", str(world.problems), "--model", "m"]
    fixed += ["--responses", str(tmp_path / "r.sqlite")]
    fixed += ["--base_url", "http://127.0.0.1:9/v1"]
    for value in values:
        try:
            assert cli.main([*fixed, f"{option}={value}"]) == 2
        except SystemExit as ended:
            assert ended.code == 2
        said = capsys.readouterr().err
        assert "error: " in said
        assert not list(tmp_path.iterdir())


# ---- Words of others on a terminal ---------------------------------------------------


@pytest.mark.parametrize("words", ["[/INST]", "[link=x]y[/link]", "\x1b[2J", "\x9b2J"])
def test_the_words_of_a_server_are_shown_as_they_are(
    server, problems, tmp_path, words, capfd
):
    server.fault = lambda request: http(400, words.encode())
    tally = ask(server, problems[:1], tmp_path / "r.sqlite")
    shown = errors.visible(words)
    assert shown in tally.last_fault
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=120, force_terminal=True, file=nowhere)
        console.print(panel.render(tally))
    assert shown in console.export_text()
    assert panel.say_what_is_missing(tally) == 1
    said = capfd.readouterr().err
    assert "2 samples are missing (2 given up). The last error was: HTTP 400: " in said
    assert shown in said and not set(said) & {"\x1b", "\x9b"}


def test_control_characters_are_made_visible_and_letters_are_left():
    assert errors.visible("a\x1b[0m\x07\x9b\u202e\r\n") == (
        "a\\x1b[0m\\x07\\x9b\\u202e\\r\n"
    )
    assert errors.visible("größer 数 🙂 \t\n") == "größer 数 🙂 \t\n"


def test_an_export_to_a_path_with_brackets_ends_well(filled, tmp_path, capfd):
    out = tmp_path / "run[/a].jsonl"
    path = str(shutil.copy(filled, tmp_path / "r.sqlite"))
    assert cli.main(["corpus", "export", "--responses", path, "--out", str(out)]) == 0
    assert f"6 completions in {out}" in capfd.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "NORMAL"])
@pytest.mark.parametrize(
    "words",
    [
        "export --responses r.sqlite --out o.jsonl",
        "sample --problems P --responses r.sqlite --model t --base_url http://127.0.0.1:9/v1",
    ],
)
def test_a_database_that_another_process_holds_is_one_message(
    of_0_1, tmp_path, monkeypatch, capfd, words, mode
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(of_0_1 / "responses.sqlite", "r.sqlite")
    holder = sqlite3.connect("r.sqlite", isolation_level=None)
    holder.execute(f"PRAGMA locking_mode={mode}")
    holder.execute("BEGIN EXCLUSIVE")
    problems = str(of_0_1 / "world" / "gsm8k" / "train.jsonl")
    began = time.monotonic()
    status = cli.main(["corpus", *words.replace("P ", f"{problems} ").split()])
    assert time.monotonic() - began < 60  # not for ever
    said = capfd.readouterr().err
    held = mode == "EXCLUSIVE" or words.startswith("sample")
    assert status == (2 if held else 0)  # otherwise what is there can be read
    assert ("r.sqlite is being written by another process. Wait" in said) == held
    assert "Traceback" not in said
    holder.execute("ROLLBACK")
    holder.close()
