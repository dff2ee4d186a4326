"""Tokens that read alike, encoded alternatives, and what follows an unknown piece."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.corpus.alignment.aligning import align
from specialize.corpus.records import TeacherToken
from specialize.corpus.spelling import spell, teacher_token
from specialize.corpus.vocabulary import Vocabulary

log = math.log


@pytest.fixture(scope="module")
def t5(shared_data) -> Vocabulary:
    return Vocabulary(shared_data / "t5" / "spiece.model")


def read(token: str, p: float, **others: float) -> TeacherToken:
    pairs = [(text.encode(), log(q)) for text, q in others.items()]
    return teacher_token(token.encode(), log(p), pairs, "here")


def probabilities(token: TeacherToken) -> dict[str, float]:
    return {text.decode(): math.exp(value) for text, value in token.top}


@pytest.mark.parametrize(
    "alternatives",
    [
        [(" 20", 0.9), (" 20", 0.05), (" 30", 0.02)],
        [(" 20", 0.9), (" 30", 0.02)],  # the sampled one is not listed
        [(" 20", 0.05), (" 30", 0.02), (" 20", 0.9)],
        [(" 20", 0.9), (" 20", 0.05), (" 20", 0.05), (" 30", 0.02)],  # listed twice
    ],
)
def test_two_tokens_that_read_alike_have_the_sum_of_their_probabilities(alternatives):
    pairs = [(text.encode(), log(p)) for text, p in alternatives]
    token = teacher_token(b" 20", log(0.05), pairs, "here")
    assert math.exp(token.logprob) == pytest.approx(0.95)
    assert probabilities(token) == pytest.approx({" 20": 0.95, " 30": 0.02})


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", " a", "é"]), st.integers(1, 60)),
        min_size=1,
        max_size=8,
        unique_by=lambda pair: pair[1],
    ),
    st.data(),
)
def test_the_mass_of_every_text_is_the_sum_over_its_tokens(pairs, data):
    values = {number: 2.0 ** -(number + 2) for _, number in pairs}
    total = sum(values.values())
    options = [(text.encode(), log(values[number] / total)) for text, number in pairs]
    index = data.draw(st.integers(0, len(pairs) - 1))
    listed = data.draw(st.permutations(options))
    token = teacher_token(*options[index], listed, "here")
    wanted: dict[bytes, float] = {}
    for text, value in options:
        if value >= -1000:
            wanted[text] = wanted.get(text, 0.0) + math.exp(value)
    found = {text: math.exp(value) for text, value in token.top}
    assert found == pytest.approx(wanted, rel=0.02)
    assert math.exp(token.logprob) == pytest.approx(found[token.token])


@pytest.mark.parametrize("rounding", [1e-6, 1e-4, 1e-3, 4e-3])
def test_one_value_that_is_rounded_twice_is_one_token(rounding):
    value = log(0.6)
    top = [(b"x", value * (1 + rounding)), (b"y", log(0.3))]
    token = teacher_token(b"x", value, top, "here")
    assert sum(map(math.exp, dict(token.top).values())) == pytest.approx(0.9, rel=0.01)


def test_a_stripped_first_token_and_its_twin_are_added():
    first = read(" It", 0.5, **{"It": 0.3, " A": 0.1})
    (token,) = spell("It", [first]) or ()
    assert token.token == b"It" and math.exp(token.logprob) == pytest.approx(0.8)


def byte_alphabet(text: str) -> str:
    """A text as byte-level BPE writes it: the table of GPT-2, made independently."""
    table, extra = {}, 0
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return "".join(table[byte] for byte in text.encode())


def pieces(text: str) -> str:
    return {"\n": "<0x0A>"}.get(text, text.replace(" ", "▁"))


@settings(max_examples=50)
@pytest.mark.parametrize("encode", [byte_alphabet, pieces])
@given(
    others=st.lists(
        st.sampled_from([" 30", " é", "40", " half", "\n", "文", " ½ x".split()[0]]),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_alternatives_in_the_tokenizers_alphabet_are_read(encode, others):
    plain = {text: 0.1 for text in [" and", *others]}
    encoded = {encode(text): p for text, p in plain.items()}
    tokens = [read("It", 0.9), read(" is", 0.5, **encoded), read(" 20", 0.9)]
    found = spell("It is 20", tokens)
    assert found is not None
    assert probabilities(found[1]) == pytest.approx({" is": 0.5} | plain)
    # The sampled token, once as text and once encoded, is one token.
    twice = [tokens[0], read(" is", 0.5, **encoded, **{encode(" is"): 0.5}), tokens[2]]
    again = spell("It is 20", twice)
    assert again is not None
    assert probabilities(again[1]) == probabilities(found[1])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        # Maltese has the letter; its alternatives have spaces.
        ("Il ktieb", [read("Il", 0.9, Ġ=0.05), read(" ktieb", 0.5, **{" Ġie": 0.4})]),
        ("Ġie ", [read("Ġie", 0.5, Ġid=0.4), read(" ", 0.5, x=0.4)]),
        ("a▁b", [read("a", 0.9), read("▁b", 0.5, **{"▁c": 0.4})]),
    ],
)
def test_letters_that_only_look_like_an_alphabet_stay(text, tokens):
    assert list(spell(text, tokens) or ()) == tokens


def row(target, vocabulary, piece):
    at = [vocabulary.piece(i) for i in target.ids].index(piece)
    mass = np.exp(target.teacher_logprobs[at])
    found = zip(target.teacher_ids[at], mass, strict=True)
    return {vocabulary.piece(i): float(p) for i, p in found if p}, target.tail[at]


@pytest.mark.parametrize("other", [0.4, 0.1, 0.25])
def test_what_follows_a_piece_the_student_cannot_write_is_uncertain(t5, other):
    tokens = [
        read("8", 0.9, **{"9": 0.1}),
        read(" \\times", 0.5, **{" \\div": other}),
        read(" ", 0.95, **{"\n": 0.05}),
        read("9", 0.9, **{"7": 0.1}),
    ]
    target = align(tokens, "8 \\times 9", t5, k=5)
    assert target is not None
    mass, tail = row(target, t5, "<unk>")
    assert mass == pytest.approx({"<unk>": 1.0})
    mass, tail = row(target, t5, "time")
    total = 0.5 + other
    assert mass == pytest.approx({"time": 0.5 / total, "div": other / total})
    assert tail == pytest.approx(0, abs=1e-6)
    masses = np.exp(target.teacher_logprobs).sum(axis=1) + target.tail
    np.testing.assert_allclose(masses, 1, atol=1e-6)


@pytest.mark.parametrize("sampled", [" ×", " ÷"])
def test_unknown_signs_are_one_piece(t5, sampled):
    others = {" ×": 0.3, " ÷": 0.3, " *": 0.3}
    mine = others.pop(sampled)
    tokens = [read("8", 0.9), read(sampled, mine, **others), read(" 9", 0.9)]
    target = align(tokens, f"8{sampled} 9", t5, k=5)
    assert target is not None
    mass, tail = row(target, t5, "<unk>")
    assert mass == pytest.approx({"<unk>": 1.0})  # both signs are
    _, tail = row(target, t5, "▁9")
    assert tail > 0.3  # after the other unknown sign, nothing is known
