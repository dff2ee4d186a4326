"""A killed decoding resumes from whatever the kill left; other damage is one error."""

import json

import pytest
from hypothesis import given, settings, strategies

from specialize.errors import InputError
from specialize.inference.engine import Engine, Generation
from specialize.inference.resumable import decode_to_file

PROMPTS = ["a", "b", "c", "d"]


class Scripted(Engine):
    """Answers every prompt with one text, and remembers what it was asked."""

    def __init__(self, text, stop=9):
        self.text, self.stop, self.asked = text, stop, []

    def generate(self, prompts, *, done=(), alternatives=0):
        for index in range(len(prompts)):
            if index in done:
                continue
            if index >= self.stop:
                raise KeyboardInterrupt
            self.asked.append(index)
            yield Generation(index, (self.text,), (-0.5,), (1,), 0)


def decode(path, engine, used=None):
    return decode_to_file(engine, PROMPTS, path, used or {"w": [1, 2.5, "ü"]})


@settings(max_examples=60, deadline=None)
@given(
    text=strategies.text(
        alphabet="\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n\t aü😀\ufeff", max_size=8
    ),
    stop=strategies.integers(0, 4),
    data=strategies.data(),
)
def test_a_decoding_that_is_cut_at_any_byte_is_resumed(
    tmp_path_factory, text, stop, data
):
    path = tmp_path_factory.mktemp("decoded") / "x.jsonl"
    try:
        decode(path, Scripted(text, stop))
    except KeyboardInterrupt:
        pass
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(strategies.integers(0, len(whole)))])
    left = max(path.read_bytes().count(b"\n") - 1, 0)
    again = Scripted(text)
    found = decode(path, again)
    assert [line["texts"] for line in found] == [[text]] * 4
    assert again.asked == list(range(left, 4))
    assert found == decode(path, Scripted("never asked"))


def test_a_score_that_is_not_finite_is_read_back(tmp_path):
    class Odd(Scripted):
        def generate(self, prompts, *, done=(), alternatives=0):
            for one in super().generate(prompts, done=done):
                yield Generation(one.index, one.texts, (-float("inf"),), (1,), 0)

    path = tmp_path / "x.jsonl"
    assert decode(path, Odd("t"))[0]["scores"] == [-float("inf")]
    assert decode(path, Scripted("never asked"))[0]["scores"] == [-float("inf")]


LINE = {"index": 0, "texts": ["t"], "scores": [1], "num_tokens": [1], "truncated": 0}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (LINE | {"index": "x"}, "index: expected a whole number"),
        (LINE | {"index": None}, "index: expected a whole number"),
        (LINE | {"index": -1}, "index: "),
        (LINE | {"index": 10**400}, "index"),
        (LINE | {"texts": "t"}, "texts: expected a list"),
        (LINE | {"texts": []}, "texts: "),
        (LINE | {"scores": ["1"]}, "scores"),
        ({"index": 0}, "the key 'texts' is missing"),
        ([LINE], "expected an object"),
        (5, "expected an object"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path, line, named):
    path = tmp_path / "x.jsonl"
    decode(path, Scripted("t"))
    head, first, *rest = path.read_text().split("\n")
    damaged = "\n".join([head, json.dumps(line), *rest])
    path.write_text(damaged)
    with pytest.raises(InputError) as caught:
        decode(path, Scripted("t"))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert named in str(caught.value) and "Remove the file" in str(caught.value)
    assert path.read_text() == damaged


@pytest.mark.parametrize(
    "bytes_", [b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"settings": 5}\n', b"[]\n"]
)
def test_a_damaged_first_line_is_named(tmp_path, bytes_):
    path = tmp_path / "x.jsonl"
    path.write_bytes(bytes_)
    with pytest.raises(InputError, match="x.jsonl:1: "):
        decode(path, Scripted("t"))
