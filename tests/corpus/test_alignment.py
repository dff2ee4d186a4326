"""The paper's alignment to the digit, one-hot targets, K, and refusals."""

import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_cases import codex_tokens, token, vocabulary_of

from specialize.corpus.alignment import time_warping
from specialize.corpus.alignment.aligning import align, check_tokens, one_hot
from specialize.corpus.records import TeacherToken
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    pieces = ["▁she", "▁sold", "▁half", "▁many", "▁april", "▁total", "▁in"]
    return vocabulary_of(tmp_path_factory.mktemp("small"), pieces)


@pytest.fixture(scope="session")
def t5(shared_data: pathlib.Path) -> Vocabulary:
    return Vocabulary(shared_data / "t5" / "spiece.model")


def test_dtw_reproduces_the_golden_pair_of_the_paper(
    shared_data: pathlib.Path, t5: Vocabulary
) -> None:
    path = shared_data / "codex" / "aligned_q0_sample0_codex_to_t5.json"
    golden = json.loads(path.read_text())
    tokens = codex_tokens(golden["raw_steps"][2:-2])
    raw = b"".join(t.token for t in tokens)
    steps = check_tokens(tokens, raw, "golden", scaled=False)
    rows = time_warping.rows(steps, raw, t5)
    published = [dict(row) for row in golden["t5_per_step_probs"]]
    assert len(rows.ids) == len(published) == 40
    for index, mass, origin, row in zip(*rows, published, strict=True):
        if origin == 0:
            mine = {t5.piece(i): round(p, 12) for i, p in mass.items()}
        else:
            mine = {t5.piece(index): 1.0}
        assert mine == row
    target = align(tokens, raw.decode(), t5, method="dtw", k=6)
    assert target is not None
    for position, row in enumerate(published):
        slots = zip(
            target.teacher_ids[position], target.teacher_logprobs[position], strict=True
        )
        stored = {t5.piece(i): math.exp(p) for i, p in slots if p > -math.inf}
        assert stored == pytest.approx({t: p for t, p in row.items() if p}, abs=1e-6)
        assert target.tail[position] == pytest.approx(1 - sum(row.values()), abs=1e-6)


def plain_dtw(tokens: list[str], pieces: list[str]) -> list[list[int]]:
    """Textbook warping: full matrix, then back along the least predecessor."""

    def distance(a: str, b: str) -> int:
        line = list(range(len(b) + 1))
        for i, x in enumerate(a, start=1):
            before, line[0] = line[0], i
            for j, y in enumerate(b, start=1):
                best = min(before + (x != y), line[j] + 1, line[j - 1] + 1)
                before, line[j] = line[j], best
        return line[-1]

    best = np.full((len(tokens) + 1, len(pieces) + 1), np.inf)
    best[0, 0] = 0
    for i, a in enumerate(tokens):
        for j, b in enumerate(pieces):
            least = min(best[i, j], best[i, j + 1], best[i + 1, j])
            cost = distance(a.replace(" ", ""), b.replace("▁", ""))
            best[i + 1, j + 1] = least + cost
    i, j = len(tokens), len(pieces)
    partners: list[list[int]] = [[] for _ in pieces]
    while i > 0 and j > 0:
        partners[j - 1].insert(0, i - 1)
        options = [best[i - 1, j - 1], best[i - 1, j], best[i, j - 1]]
        move = int(np.argmin(options))
        i, j = i - (move != 2), j - (move != 1)
    return partners


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.text(" ab\n", max_size=4), min_size=1, max_size=8),
    pieces=st.lists(st.text("▁ab", max_size=4), min_size=1, max_size=8),
)
def test_warping_equals_the_textbook(tokens: list[str], pieces: list[str]) -> None:
    assert time_warping.warp(tokens, pieces) == plain_dtw(tokens, pieces)


def test_dtw_gives_nothing_to_a_piece_of_another_string(small: Vocabulary) -> None:
    tokens = [token("she", 0.5, {"in": 0.2}), token(" sold", 0.6, {" half": 0.1})]
    target = align(tokens, "she sold", small, method="dtw", k=2)
    assert target is not None
    words = [small.piece(i) for i in target.ids]
    assert words[0] == "▁she"
    assert target.origin[0] == 3
    np.testing.assert_array_equal(np.exp(target.teacher_logprobs[0]), [1, 0])


def test_a_one_hot_target_puts_everything_on_its_own_pieces(small: Vocabulary) -> None:
    target = one_hot("the answer\nis 72", small, 4)
    ids = [*small.encode("the answer\nis 72"), 1]
    assert target.ids.tolist() == ids
    assert target.teacher_ids[:, 0].tolist() == ids
    probs = np.exp(target.teacher_logprobs)
    np.testing.assert_array_equal(probs, np.eye(4)[np.zeros(len(ids), int)])
    assert not target.tail.any()
    assert target.origin.tolist() == [1] * (len(ids) - 1) + [2]


def test_the_k_most_probable_stay_and_the_target_is_among_them(
    small: Vocabulary,
) -> None:
    words = {" half": 0.3, " many": 0.25, " april": 0.2, " total": 0.1}
    tokens = [token("she", 1.0), token(" sold", 0.05, words)]
    target = align(tokens, "she sold", small, k=3)
    assert target is not None
    first = [small.encode(word)[0] for word in ("half", "many", "sold")]
    assert target.teacher_ids[1].tolist() == first
    np.testing.assert_allclose(
        np.exp(target.teacher_logprobs[1]), [0.3, 0.25, 0.05], rtol=1e-6
    )
    assert target.tail[1] == pytest.approx(0.4)
    roomy = align(tokens, "she sold", small, k=8)
    assert roomy is not None
    assert roomy.tail[1] == pytest.approx(0.1)
    np.testing.assert_array_equal(roomy.teacher_logprobs[1, 5:], [-np.inf] * 3)
    np.testing.assert_array_equal(roomy.teacher_ids[1, 5:], 0)


@pytest.mark.parametrize("method", ["bytes", "dtw"])
def test_rounding_above_one_is_brought_back_to_one(
    small: Vocabulary, method: str
) -> None:
    tokens = [token("she", 1.0), token(" sold", 0.7, {" half": 0.305})]
    target = align(tokens, "she sold", small, method=method, k=3)
    assert target is not None
    total = np.exp(target.teacher_logprobs).sum(axis=1) + target.tail
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize("method", ["bytes", "dtw"])
def test_a_text_without_pieces_has_no_target(small: Vocabulary, method: str) -> None:
    assert align([], "", small, method=method, k=2) is None
    assert align([token("\n", 0.5)], "\n", small, method=method, k=2) is None


BAD = math.nan
REFUSED = {
    "tokens 'she' and ' sold' for another text": (
        [token("she", 1.0), token(" sold", 1.0)],
        "she sells",
        r"token 1 is ' sold' but the text continues with ' sells' at byte 3",
    ),
    "too few tokens": ([token("she", 1.0)], "she sold", "end at byte 3.*at byte 8"),
    "NaN": (
        [TeacherToken(b"she", BAD, ((b"she", BAD),))],
        "she",
        "token 0 .'she'. gives 'she' the log-probability nan",
    ),
    "an alternative that is NaN": (
        [TeacherToken(b"she", -0.1, ((b"she", -0.1), (b"in", BAD)))],
        "she",
        "token 0 .'she'. gives 'in' the log-probability nan",
    ),
    "a probability above 1": (
        [token("she", 1.0), TeacherToken(b" sold", 0.5, ((b" sold", 0.5),))],
        "she sold",
        "token 1 .' sold'. gives ' sold' the log-probability 0.5",
    ),
    "a sum above 1": (
        [token("she", 0.9, {"in": 0.3})],
        "she",
        "the alternatives of token 0 .'she'. have probability 1.2",
    ),
}


@pytest.mark.parametrize("method", ["bytes", "dtw"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_teacher_can_have_reported_is_refused(
    small: Vocabulary, case: str, method: str
) -> None:
    tokens, text, message = REFUSED[case]
    with pytest.raises(InputError, match=f"file.jsonl:7: .*{message}"):
        align(tokens, text, small, method=method, k=2, where="file.jsonl:7")


def test_an_unknown_method_is_refused(small: Vocabulary) -> None:
    with pytest.raises(InputError, match="'fast'.*bytes.*dtw"):
        align([], "", small, method="fast", k=2)


def test_half_a_surrogate_pair_is_refused(small: Vocabulary) -> None:
    with pytest.raises(
        InputError, match="file.jsonl:7: .*surrogate pair at character 1"
    ):
        align([token("a", 1.0)], "a\ud83d", small, k=2, where="file.jsonl:7")
