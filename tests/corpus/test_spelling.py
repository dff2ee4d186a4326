"""Tokens whose bytes a server lost still spell the text, or are refused."""

import math

import least
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.corpus.records import TeacherToken
from specialize.corpus.spelling import spell

LOST = "�"


def token(text, logprob=-0.5, **others):
    data = text if isinstance(text, bytes) else text.encode()
    top = [(data, logprob), *((key.encode(), value) for key, value in others.items())]
    return TeacherToken(data, logprob, tuple(top))


def written(tokens):
    return [t.token.decode() for t in tokens]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        # llama-cpp-python writes nothing for a byte that is no text by itself.
        ("a café.", ["a", " caf", "", "", "."], ["a", " caf", "é", "."]),
        ("a café", ["a", " caf", "", ""], ["a", " caf", "é"]),
        # vLLM and SGLang write U+FFFD, also beside what they can read.
        ("a café.", ["a", " caf", LOST, LOST, "."], ["a", " caf", "é", "."]),
        ("x ≥ 2", ["x", f" {LOST}", LOST, " 2"], ["x", " ≥", " 2"]),
        ("cafés", ["caf", LOST, f"{LOST}s"], ["caf", "és"]),
        ("🙂🙂!", [LOST, LOST, LOST, "!"], ["🙂🙂", "!"]),
        # Bytes of one character, the last of which reads as all of it (newer vLLM).
        ("é1", ["", "é", "1"], ["", "é", "1"]),
        # A mark that writes nothing stays one; what is behind the text goes.
        ("12", ["1", "", "2", "</s>"], ["1", "", "2"]),
        ("é12", ["", "", "1", "", "2", "\nQuestion", ":"], ["é", "1", "", "2"]),
    ],
)
def test_lost_bytes_are_what_stands_between_their_neighbours(text, tokens, expected):
    found = spell(text, [token(t) for t in tokens])
    assert found is not None
    assert written(found) == expected


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("éé", ["", "é", ""]),  # which of the two is lost?
        ("ab", ["a", LOST]),  # a lost character takes several bytes
        ("a é", ["a", "", " e"]),
        ("é", [b"\xc3", ""]),
    ],
)
def test_tokens_that_fit_in_no_way_or_in_several_are_refused(text, tokens):
    assert spell(text, [token(t) for t in tokens]) is None


def test_a_lost_run_has_the_runs_probability_and_its_first_tokens_alternatives():
    tokens = [
        token(" caf", -0.1),
        token("", -0.3, es=-1.4, **{f" {LOST}": -5.0}),
        token("", -0.2, s=-2.0),
    ]
    (_, merged) = spell(" café", tokens)
    assert merged.token == "é".encode()
    assert merged.logprob == pytest.approx(-0.5)
    assert dict(merged.top) == {"é".encode(): merged.logprob, b"es": -1.4}


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet="ab é≥🙂½", min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 30)),
    errors=st.sampled_from(["ignore", "replace"]),
)
def test_any_cut_in_bytes_is_spelled_or_refused_and_loses_no_probability(
    text, cuts, errors
):
    data = text.encode()
    ends = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    parts = [data[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    tokens = [token(part.decode("utf-8", errors)) for part in parts]
    found = spell(text, tokens)
    if found is not None:
        assert "".join(written(found)) == text
        total = sum(t.logprob for t in found)
        assert total == pytest.approx(-0.5 * len(parts))
        assert all(sum(map(math.exp, dict(t.top).values())) <= 1 for t in found)


def test_long_texts_of_lost_and_known_characters_take_no_long():
    # A pattern with a wildcard a character would try every way there is.
    text = "中é" * 100 + "文"
    tokens = [token(t) for _ in range(100) for t in ("中", "", "")]
    found = spell(text, [*tokens, token("文")])
    assert found is not None
    assert written(found) == [*text]
    assert spell(text, [*tokens, token("!")]) is None
    assert least.seconds(lambda: spell(text, [*tokens, token("文")])) < 1
    assert least.seconds(lambda: spell(text, [*tokens, token("!")])) < 1
