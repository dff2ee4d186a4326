"""The API key reaches no file, log or message, however a server repeats it."""

import base64
import json
import sqlite3
import urllib.parse
import zlib

import hypothesis
import least
import pytest
from hypothesis import strategies

from specialize import cli
from specialize.corpus.sampling import sample
from specialize.corpus.sampling.redaction import Redactor, checked_key
from specialize.corpus.tasks.known import read_problems
from specialize.errors import InputError

import flat  # isort: skip
from fault_server import FaultServer, Raw, http  # isort: skip

KEY = "sk-DISTINCTIVE-0123456789-abcdefghij-KLMNOP-secret"

keys = strategies.from_regex(r"[A-Za-z0-9_.~+/=:!$-]{12,80}", fullmatch=True).filter(
    lambda key: sum(map(str.isalnum, key)) >= 10
)
quick = hypothesis.settings(deadline=None, max_examples=60)
encodings = strategies.sampled_from(
    [
        lambda key: key,
        lambda key: key[:-1],
        lambda key: urllib.parse.quote(key, safe=""),
        lambda key: urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""),
        lambda key: "".join(f"%{ord(char):02x}" for char in key),
        json.dumps,
        lambda key: json.dumps(json.dumps(key)),
        lambda key: "".join(f"\\u{ord(char):04X}" for char in key),
        lambda key: "".join(f"&#{ord(char)};" for char in key),
        lambda key: "".join(f"&#x{ord(char):x};" for char in key),
        lambda key: key.encode().hex(),
        repr,
        lambda key: key.encode("utf-16").decode("latin-1"),
        lambda key: base64.b64encode(key.encode()).decode(),
        lambda key: base64.b64encode(f"Bearer {key}".encode()).decode(),
        lambda key: base64.b64encode(f"ab:{key}".encode()).decode(),
        lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
        lambda key: "\n".join(key[i : i + 5] for i in range(0, len(key), 5)),
        lambda key: str(list(key.encode())),
        lambda key: key.encode().hex().upper(),
        lambda key: key.encode().hex(":"),
        lambda key: key.encode().hex("-", 2),
        lambda key: " ".join(f"0x{ord(char):02X}" for char in key),
        lambda key: "".join(f"={ord(char):02X}" for char in key),
        lambda key: " ".join(f"{ord(char):08b}" for char in key),
        lambda key: str([f"{ord(char):03o}" for char in key]),
        lambda key: "".join(f"&amp;#{ord(char)};" for char in key),
        lambda key: str(list(key)),
        lambda key: base64.b64encode(key.encode("utf-16-le")).decode(),
        lambda key: base64.b64encode(percent(key).encode()).decode(),
        lambda key: percent(percent(key)),
    ]
)


def percent(key):
    return "".join(f"%{ord(char):02X}" for char in key)


# Applied once or twice, to the key with other characters before it.
CODES = {
    "base64": base64.b64encode,
    "base64 for URLs": base64.urlsafe_b64encode,
    "base64 in lines": base64.encodebytes,
    "base32": base64.b32encode,
    "hex": lambda data: data.hex().encode(),
    "HEX": lambda data: data.hex().upper().encode(),
    "URL": lambda data: percent(data.decode("latin-1")).encode(),
}


@pytest.mark.parametrize("outer", CODES)
@pytest.mark.parametrize("inner", CODES)
def test_a_key_that_is_encoded_twice_is_covered_wherever_it_lies(inner, outer):
    redactor = Redactor(KEY)
    for before in range(16):
        for size in (8, 9, len(KEY)):
            once = CODES[inner](b"x" * (before % 4) + KEY[:size].encode() + b"yz")
            twice = CODES[outer](b"z" * (before // 4) + once + b"xy").decode()
            for text in (once.decode(), twice, json.dumps(twice)):
                clean = redactor.clean_text(f"a: {text} b")
                assert "***" in clean, (before, size, text)
                assert not redactor.holds(clean.encode())


def test_only_the_key_is_covered_and_json_stays_json():
    parts = [KEY, KEY.encode().hex(), "a\\" + KEY, f"\n{KEY}", percent(KEY), B64, "end"]
    body = json.dumps({"debug": parts, KEY: [1, "\\"]}).encode()
    clean = json.loads(Redactor(KEY).clean(body))
    assert clean.pop("***") == [1, "\\"]
    plain, hexed, after, line, url, coded, last = clean["debug"]
    assert [plain, hexed, line, url, last] == ["***", "***", "\n***", "***", "end"]
    assert after in ("a***", "a\\***") and coded.endswith("***")


@quick
@hypothesis.given(keys, encodings, strategies.text(), strategies.text())
def test_no_encoding_of_a_key_passes(key, encode, before, after):
    redactor = Redactor(key)
    clean = redactor.clean_text(before + encode(key) + after)
    assert "***" in clean
    assert not redactor.holds(clean.encode())
    assert key[:8] not in clean


@quick
@hypothesis.given(keys, strategies.integers(8, 80), strategies.text("xyz."))
def test_every_beginning_of_eight_characters_is_covered_and_the_rest_is_left(
    key, size, around
):
    text = f"{around}|{key[:size]}|{around}"
    assert Redactor(key).clean_text(text) == f"{around}|***|{around}"


@quick
@hypothesis.given(strategies.binary(), strategies.sampled_from(["", "EMPTY", KEY]))
def test_what_holds_no_key_is_not_changed(data, key):
    hypothesis.assume(b"sk" not in data.lower())
    assert Redactor(key).clean(data) == data


@pytest.mark.parametrize("inside", ["\r", "\n", " ", "é", "\x07", "\u2028"])
def test_a_key_that_no_header_can_have_is_refused_and_not_printed(inside):
    assert checked_key(f" {KEY}\r\n", "THE_KEY") == KEY
    with pytest.raises(InputError, match="the key in THE_KEY has a space") as caught:
        checked_key(KEY[:20] + inside + KEY[20:], "THE_KEY")
    assert KEY[:8] not in str(caught.value)


# ---- A server that repeats the key ---------------------------------------------------


def choice(text="5", **fields):
    logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": None}
    return {"index": 0, "text": text, "logprobs": logprobs} | fields


def answer(*choices, **fields):
    return json.dumps({"choices": choices or [choice()]} | fields).encode()


def listed(tokens):
    return {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens)}


def entry(token, data, *top):
    entries = [{"token": t, "bytes": list(b), "logprob": -1.0} for t, b in top]
    own = {"token": token, "bytes": data, "logprob": -0.5}
    return own | {"top_logprobs": entries}


RAW = KEY.encode()
B64 = base64.b64encode(f"Bearer {KEY}".encode()).decode()
PARTS = [KEY[i : i + 6] for i in range(0, len(KEY), 6)]
ERROR = {"message": f"Incorrect API key provided: {KEY}"}
CUT = "x" * (300 - len("HTTP 400: ") - len(KEY) + 1) + KEY
ECHOES = {
    "error 400": http(400, json.dumps({"error": ERROR}).encode()),
    "error 500": http(500, json.dumps({"error": ERROR}).encode()),
    "error 422, text": http(422, b"bad key " + RAW),
    "error 429": http(429, b"slow down, " + RAW, **{"Retry-After": KEY}),
    "error, cut by us": http(400, CUT.encode()),
    "error, cut by the server": http(400, b"bad key " + RAW[:13]),
    "error, base64": http(400, f"Authorization: Basic {B64}".encode()),
    "error, hexadecimal": http(400, RAW.hex().encode()),
    "error, URL": http(400, urllib.parse.quote(f"?k=/{KEY}&", safe="").encode()),
    "error, base64 twice": http(400, base64.b64encode(B64.encode())),
    "error, base64 of a URL": http(400, base64.b64encode(percent(KEY).encode())),
    "error, base32": http(400, base64.b32encode(b"key=" + RAW)),
    "error, base32 in base64": http(400, base64.b64encode(base64.b32encode(RAW))),
    "error, hexadecimal in base64": http(400, base64.b64encode(RAW.hex().encode())),
    "error, base64 in hexadecimal": http(400, B64.encode().hex().encode()),
    "error, URL twice": http(400, percent(percent(KEY)).encode()),
    "error, hexadecimal with colons": http(400, RAW.hex(":").encode()),
    "200, base64 twice": http(
        200, answer(debug=base64.b64encode(B64.encode()).decode())
    ),
    "200, base32": http(200, answer(debug=base64.b32encode(RAW).decode())),
    "error, UTF-16": http(400, f"bad {KEY}".encode("utf-16")),
    "error, JSON in JSON": http(400, json.dumps(json.dumps(ERROR)).encode()),
    "error, escaped": http(
        400, "".join(f"\\u{ord(char):04x}" for char in KEY).encode()
    ),
    "error, a list of bytes": http(400, str(list(RAW)).encode()),
    "error, HTML": http(502, "".join(f"&#{byte};" for byte in RAW).encode()),
    "a header": http(400, b"no", **{"X-Debug": KEY, "Set-Cookie": f"k={KEY}"}),
    "the reason": Raw(f"HTTP/1.1 400 {KEY}\r\nContent-Length: 0\r\n\r\n".encode()),
    "redirect": http(302, b"", Location=f"ftp://{KEY}/v1"),
    "redirect to nowhere": http(307, b"", Location=f"http://127.0.0.1:9/{KEY}"),
    "200, error": http(200, json.dumps({"error": ERROR}).encode()),
    "200, not JSON": http(200, b"<html>" + RAW),
    "200, headers": http(200, answer(debug={"authorization": f"Bearer {KEY}"})),
    "200, headers in base64": http(200, answer(debug=B64)),
    "200, model": http(200, answer(model=KEY, id=KEY[:-1])),
    "200, text": http(200, answer(choice(KEY))),
    "200, text in tokens": http(200, answer(choice(KEY, logprobs=listed(PARTS)))),
    "200, only tokens": http(200, answer(choice("5", logprobs=listed(PARTS)))),
    "200, finish_reason": http(200, answer(choice(finish_reason=KEY))),
    "200, usage": http(200, answer(usage={"prompt_tokens": KEY})),
    "200, key of an object": http(200, answer(**{KEY: 1})),
    "200, bytes of a token": http(
        200, answer(choice(logprobs={"content": [entry("5", list(RAW))]}))
    ),
    "200, bytes of an alternative": http(
        200, answer(choice(logprobs={"content": [entry("5", [53], ("a", RAW))]}))
    ),
    "200, message of an impossible token": http(
        200, answer(choice(logprobs=listed([KEY]) | {"token_logprobs": [7]}))
    ),
    "200, reasoning": http(
        200, answer({"message": {"content": "", "reasoning": KEY}, "logprobs": {}})
    ),
}


def everything_in(folder):
    """Every byte of the files, and of the bodies in the databases."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.read_bytes()
        if path.suffix == ".sqlite":
            database = sqlite3.connect(path)
            for (body,) in database.execute("SELECT body FROM responses"):
                yield zlib.decompress(body)
            database.close()


def assert_no_key(*texts):
    searched = [KEY[:8], KEY[:-1], KEY[8:], urllib.parse.quote(KEY), RAW.hex()]
    for before in range(3):
        once = base64.b64encode(b"a" * before + RAW).decode()[4:-4]
        searched += [once, base64.b64encode(once.encode()).decode()[4:-4]]
        searched.append(base64.b32encode(b"a" * before + RAW).decode()[8:-8])
    for text in texts:
        data = text if isinstance(text, bytes) else text.encode()
        for one in searched:
            assert one.encode() not in data, data[:400]


@pytest.fixture
def problems(world):
    return read_problems(world.problems, "gsm8k")[:1]


@pytest.fixture
def server(problems, monkeypatch):
    server = FaultServer({p.question: p.answers[0] for p in problems})
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    with server.running() as server.url:
        yield server


def test_a_key_that_is_repeated_in_43_ways_reaches_no_file_and_no_message(
    server, problems, tmp_path, capfd
):
    assert len(ECHOES) == 43
    forms = list(ECHOES.values())
    server.fault = lambda request: forms[request.number % len(forms)]
    tally = sample.sample(
        problems,
        flat.endpoint(base_url=server.url, model="m", timeout_s=5.0),
        tmp_path / "r.sqlite",
        flat.asking(
            samples=len(forms),
            samples_per_request=1,
            concurrency=len(forms) + 1,
            attempts=1,
            backoff_s=0.01,
        ),
        convention="unknown",
    )
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert tally.done >= 5  # what only the rest of a body repeats is stored
    assert tally.failed >= 28
    sample.export(tmp_path / "r.sqlite", tmp_path / "x.jsonl")
    assert_no_key(*capfd.readouterr(), tally.last_fault, *everything_in(tmp_path))


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("form", [KEY, KEY[:9], "x" * 200 + KEY, B64])
def test_a_refusal_that_ends_the_run_does_not_print_the_key(
    server, problems, tmp_path, status, form
):
    server.fault = lambda request: http(status, form.encode())
    with pytest.raises(InputError) as caught:
        sample.sample(
            problems,
            flat.endpoint(base_url=f"{server.url}/{KEY}", model="m"),
            tmp_path / "r.sqlite",
            flat.asking(samples=1),
            convention="unknown",
        )
    assert caught.value.__cause__ is None
    assert_no_key(str(caught.value), *everything_in(tmp_path))


def words(world, tmp_path, *more):
    fixed = ["corpus", "sample", "--problems", str(world.problems), "--model", "m"]
    return [*fixed, "--responses", str(tmp_path / "r.sqlite"), *more]


SECRETS = ["user:HUNTER2-pass@host", "user:HUNTER2-/pass@host/v1", "HUNTER2-@host:99"]
ADDRESSES = [
    *(
        f"{scheme}://{one}"
        for scheme in ("http", "HTTP", "ftp", "x")
        for one in SECRETS
    ),
    *("HUNTER2-", "http://HUNTER2-%40host/v1", "http://host:HUNTER2-", "http://"),
    *("http://host:99999/HUNTER2-", "http://[::1/HUNTER2-", "http://h/v1?k=HUNTER2-"),
    *("http://h/v1#HUNTER2-", "http://h/ HUNTER2-", "http://h/\x1bHUNTER2-"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_password_is_refused_and_not_printed(
    world, tmp_path, address, capsys
):
    assert cli.main(words(world, tmp_path, "--base_url", address)) == 2
    said = "".join(capsys.readouterr())
    assert said.startswith("error: --base_url ") and said.count("\n") == 1
    assert "HUNTER2" not in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [KEY, "hf_HUNTER2HUNTER2", "0123456789abcdef", ""])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_printed(
    world, tmp_path, name, capsys
):
    more = ["--base_url", "http://127.0.0.1:9/v1", "--api_key_env", name]
    assert cli.main(words(world, tmp_path, *more)) == 2
    said = "".join(capsys.readouterr())
    assert said.startswith("error: --api_key_env ") and said.count("\n") == 1
    assert not name or name not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--model", "--system", "--stop", "--extra_body"])
def test_a_key_in_an_option_that_is_stored_is_refused(
    world, tmp_path, option, capsys, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    value = json.dumps({"key": KEY}) if option == "--extra_body" else KEY
    more = ["--base_url", "http://127.0.0.1:9/v1", option, value]
    assert cli.main(words(world, tmp_path, *more)) == 2
    said = "".join(capsys.readouterr())
    assert "the API key is in another option" in said
    assert_no_key(said)
    assert not list(tmp_path.iterdir())


def test_searching_an_answer_for_the_key_takes_little_time():
    body = answer(choice(logprobs=listed(["é\n\\"] * 50_000)))
    assert Redactor(KEY).clean(body) == body
    assert least.seconds(lambda: Redactor(KEY).clean(body)) < 1.0


HOSTILE = {
    "backslashes": b"\\",
    "escapes of escapes": b"\\\\u005cu005c",
    "percents": b"%25",
    "percent": b"%",
    "entities": b"&#0",
    "ampersands": b"&amp;amp;",
    "letters": b"%73k",
    "line ends": b"\\n",
    "zeros": b"\\u{0",
    "beginnings": KEY[:7].encode(),
    "keys": KEY.encode(),
    "keys in base64": B64.encode(),
    "nothing": b"a",
}


@pytest.mark.parametrize("family", HOSTILE)
@pytest.mark.parametrize(
    "size", [1 << 20, pytest.param(10 << 20, marks=pytest.mark.slow)]
)
def test_a_hostile_body_is_searched_in_linear_time(family, size):
    unit = HOSTILE[family]
    body = unit * (size // len(unit))
    found = least.seconds(lambda: Redactor(KEY).clean(body))
    assert found < 1.5 * size / (1 << 20)
    clean = Redactor(KEY).clean(body)
    assert (clean != body) == (family in ("keys", "keys in base64"))
