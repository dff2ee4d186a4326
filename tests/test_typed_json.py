"""The one door for JSON: right values pass unchanged, everything else is one error."""

import dataclasses
import json
import math
import pathlib

import hypothesis
import pytest
from hypothesis import strategies

from specialize import cli, typed_json
from specialize.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    k: typed_json.Count
    share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    names: dict[str, list[Inner]] = dataclasses.field(default_factory=dict)
    note: str | None = None

    def __post_init__(self):
        if self.note == "odd":
            raise InputError("note is odd")


def refused(data, kind=Outer, **options):
    with pytest.raises(InputError) as caught:
        typed_json.decode(data, kind, "a.json", remedy="Make it again.", **options)
    text = str(caught.value)
    assert text.startswith("a.json: ") and text.endswith(". Make it again.")
    assert len(text) < 300
    return text.removeprefix("a.json: ").removesuffix(". Make it again.")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"inner": {"k": "5"}}', "inner.k: expected a whole number, found a text"),
        ('{"inner": {"k": -1}}', "inner.k: expected a whole number >= 0"),
        (
            '{"inner": {"k": true}}',
            "inner.k: expected a whole number, found true or false",
        ),
        (
            '{"inner": {"k": 1, "share": null}}',
            "inner.share: expected a number, found null",
        ),
        ('{"inner": {}}', "inner: the key 'k' is missing"),
        ("{}", "the key 'inner' is missing"),
        ("[]", "expected an object, found a list"),
        ('{"inner": 5}', "inner: expected an object, found a whole number"),
        (
            '{"inner": {"k": 1}, "names": {"a": [{"k": 1}, {"k": 1.5}]}}',
            "names[...][1].k: expected a whole number, found a number",
        ),
        (
            '{"inner": {"k": 1}, "note": 3}',
            "note: expected a text or null, found a whole number",
        ),
        ('{"inner": {"k": 1}, "note": "odd"}', "note is odd"),
        ('{"inner": {"k": 1, "share": 1e999}}', "inner.share: Number out of range"),
        ('{"inner": {"k": 1, "share": NaN}}', "not JSON (invalid character (byte 28))"),
        ("", "empty, expected JSON"),
        ('{"inner": {"k": 1}', "not JSON (Input data was truncated)"),
        (b'{"note": "\xff"}', "not UTF-8 (invalid start byte at byte 10)"),
        (
            '{"note": "\\ud83d"}',
            "a text holds half of a surrogate pair, which is no character",
        ),
        ('{"other": ' + "[" * 100_000, "nested too deeply"),
        (
            '{"inner": {"k": 1' + "0" * 5000 + "}}",
            "inner.k: Integer value out of range",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_field(data, message):
    assert refused(data) == message


def test_infinities_are_accepted_only_where_they_are_asked_for():
    data = '{"k": 1, "share": -Infinity}'
    assert "not JSON" in refused(data, Inner)
    read = typed_json.decode(data, Inner, "a.json", infinities=True)
    assert read == Inner(1, -math.inf)
    assert "k: expected a whole number" in refused('{"k": NaN}', Inner, infinities=True)
    for damage in (
        '{"k": NaN',
        '{"k": NaN, "x": "\\ud800"}',
        '{"k": NaN, "x": ' + "[" * 9**6,
    ):
        refused(damage, Inner, infinities=True)


values = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers(-(2**63), 2**63 - 1)
    | strategies.floats(allow_nan=False, allow_infinity=False)
    | strategies.text(strategies.characters(codec="utf-8")),
    lambda one: strategies.lists(one) | strategies.dictionaries(strategies.text(), one),
    max_leaves=12,
)


@hypothesis.given(values)
def test_every_value_that_python_writes_is_read_as_it_was(value):
    assert typed_json.decode(json.dumps(value), object, "a.json") == value


@hypothesis.given(values, strategies.data())
def test_a_mutation_of_valid_bytes_is_read_or_refused_but_never_crashes(value, data):
    raw = bytearray(json.dumps({"inner": {"k": 1}, "note": value}).encode())
    place = data.draw(strategies.integers(0, len(raw)))
    raw[place : place + data.draw(strategies.integers(0, 3))] = data.draw(
        strategies.binary(max_size=3)
    )
    try:
        read = typed_json.decode(bytes(raw), Outer, "a.json")
    except InputError as error:
        assert str(error).startswith("a.json: ")
    else:
        assert isinstance(read, Outer)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r"])
def test_a_line_ends_at_a_newline_alone(tmp_path, mark):
    path = tmp_path / "lines.jsonl"
    texts = [f"two{mark}halves", "", mark]
    path.write_bytes(
        b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in texts)
    )
    assert [one for _, one in typed_json.read_lines(path, str)] == texts


@pytest.mark.parametrize("size", range(1, 12))
def test_a_line_that_a_kill_cut_is_ignored_where_that_is_asked_for(tmp_path, size):
    path = tmp_path / "lines.jsonl"
    whole = b'"ein ganzer Satz"\n'
    path.write_bytes(whole + '"größer"\n'.encode()[:size])
    read = [one for _, one in typed_json.read_lines(path, str, cut=True)]
    assert read == ["ein ganzer Satz", *(["größer"] if size == 11 else [])]
    if size < 10:
        with pytest.raises(InputError, match=r"lines.jsonl:2: "):
            list(typed_json.read_lines(path, str))


def test_a_file_that_cannot_be_read_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is a folder, expected a file"),
        (tmp_path / "a", "cannot be read"),
        (tmp_path / ("n" * 300), "cannot be read"),
        ("nu\0l", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            typed_json.read(path, object)
        with pytest.raises(InputError, match=message):
            list(typed_json.read_lines(path, object))
    monkeypatch.setattr(typed_json, "MOST_BYTES", 1000)
    (tmp_path / "long").write_bytes(bytes(1001))
    for path, message in (
        (tmp_path / "long", "over 1 GiB"),
        ("/dev/zero", "/dev/zero is a device, expected a file"),
    ):
        with pytest.raises(InputError, match=message):
            typed_json.read(path, object)
        with pytest.raises(InputError, match=message):
            list(typed_json.read_lines(path, object))


@pytest.mark.parametrize(
    "device", ["/dev/zero", "/dev/null", "zero", "loop", "n" * 300]
)
@pytest.mark.parametrize(
    "words",
    [
        "corpus build --problems P --completions {} --teacher t --vocabulary V --out o",
        "corpus build --problems {} --completions C --teacher t --vocabulary V --out o",
        "corpus build --problems P --vocabulary {} --out o",
        "corpus verify --problems {} --completions C --teacher t --out o.jsonl",
        "corpus align --problems P --completions {} --vocabulary V --out o.jsonl",
        "corpus write --problems P --aligned {} --vocabulary V --out o",
        "corpus sample --problems P --prompt {} --model t --responses o.sqlite",
        "evaluate --predictions {} --benchmarks . --json o.json",
        "config --gin_file {}",
    ],
)
def test_a_device_a_loop_of_links_or_a_long_name_is_no_input(
    words, device, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    golden = pathlib.Path(__file__).parent / "golden" / "v0_1"
    places = {
        "P": golden / "world" / "gsm8k" / "train.jsonl",
        "C": golden / "completions.jsonl",
        "V": golden / "vocabulary.model",
    }
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    line = [str(places.get(word, word)) for word in words.format(device).split()]
    before = sorted(path.name for path in tmp_path.iterdir())
    assert cli.main(line) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and device in said and len(said) < 900
    assert said.count("error: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
