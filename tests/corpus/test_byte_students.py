"""ByT5's bytes: SeqIO's ids, and an alignment that is exact wherever it can be."""

import math
import pickle
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_cases import token
from test_alignment_bytes import Taught, all_paths, taught_bytes, tokens_of

from specialize.corpus.alignment import byte_offsets
from specialize.corpus.alignment.aligning import align, check_tokens, one_hot
from specialize.corpus.completions import Completion
from specialize.corpus.vocabulary import ByteVocabulary, read_vocabulary
from specialize.errors import InputError
from specialize.quickstart import exact_teacher
from specialize.quickstart.word_problems import problems

BYTES = ByteVocabulary()
Choice = tuple[dict[str, float], str]
TEXTS = st.text(max_size=30)


@given(text=TEXTS, ids=st.lists(st.integers(0, 400), max_size=30))
def test_ids_and_texts_equal_seqios(text, ids):
    seqio = pytest.importorskip("seqio")
    theirs = seqio.ByteVocabulary(extra_ids=125)
    assert BYTES.encode(text) == list(theirs.encode(text))
    assert BYTES.decode(BYTES.encode(text)) == text
    assert BYTES.decode(ids) == theirs.decode(ids)
    assert BYTES.size == theirs.vocab_size == BYTES.rows == 384
    assert (BYTES.pad_id, BYTES.eos_id, BYTES.unk_id) == (0, 1, 2)
    assert BYTES.extra_ids == theirs.extra_ids == 125


@pytest.mark.parametrize("name", ["byt5", "byte", "bytes", "ByT5"])
def test_bytes_are_named_not_read(name):
    found = pickle.loads(pickle.dumps(read_vocabulary(name, rows=512)))
    assert found.bytes_are_pieces and found.rows == 512
    assert found.sha256 == BYTES.sha256
    with pytest.raises(InputError, match="only 300 rows"):
        read_vocabulary(name, rows=300)


@given(text=TEXTS)
def test_every_byte_of_a_text_is_one_span(text):
    spans = BYTES.spans(text)
    raw = text.encode()
    assert [span.id for span in spans] == BYTES.encode(text)
    assert b"".join(raw[span.begin : span.end] for span in spans) == raw
    written = [BYTES.spelling(span.id) for span in spans]
    assert written == [bytes([byte]) for byte in raw]
    assert [BYTES.spelling(i) for i in (0, 1, 2, 259, 383, 384)] == [None] * 6


# A teacher whose texts can be written in one way only: its byte conditionals are known.


def byte_truth(
    texts: list[tuple[bytes, float]], prefix: bytes
) -> tuple[dict[int, float], float]:
    """P(next id | prefix), EOS included, and the prefix's probability."""
    found: dict[int, float] = defaultdict(float)
    for text, probability in texts:
        if text.startswith(prefix):
            rest = text[len(prefix) :]
            found[rest[0] + 3 if rest else BYTES.eos_id] += probability
    total = sum(found.values())
    return {index: mass / total for index, mass in found.items()}, total


def total_variation(row: dict[int, float], truth: dict[int, float]) -> float:
    return 0.5 * sum(
        abs(row.get(index, 0.0) - truth.get(index, 0.0)) for index in row | truth
    )


def test_rows_are_the_true_byte_conditionals_of_a_teacher_known_in_full():
    """Where no alternative is a part of what was sampled, nothing is left open."""
    paths = list(all_paths())
    texts = [("".join(path).encode(), p) for path, p in paths]
    exact = 0
    positions = 0
    for path, _ in paths:
        tokens = tokens_of(path)
        raw = "".join(path).encode()
        rows = byte_offsets.rows(check_tokens(tokens, raw, "test"), raw, BYTES)
        assert rows.ids == [byte + 3 for byte in raw]
        for k, row in enumerate(rows.masses):
            truth, _ = byte_truth(texts, raw[:k])
            tail = 1 - sum(row.values())
            positions += 1
            if tail < 1e-9:
                exact += 1
                assert total_variation(row, truth) <= 1e-6, (path, k)
            for index in row | truth:
                known, exactly = row.get(index, 0.0), truth.get(index, 0.0)
                assert known <= exactly + 1e-9, (path, k, index)
                assert exactly <= known + tail + 1e-9, (path, k, index)
    assert exact / positions > 0.9


@pytest.fixture(scope="module")
def miniature() -> list[tuple[Completion, list[Choice]]]:
    """Solutions of the miniature world's teacher, with the choices that made them."""
    made: list[Choice] = []
    marginalise = exact_teacher._marginalise

    def recorded(options: dict[str, float], chosen: str) -> Any:
        made.append((options, chosen))
        return marginalise(options, chosen)

    solved = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_teacher, "_marginalise", recorded)
        for problem in problems(60, seed=0, prefix="bytes"):
            made.clear()
            completion = exact_teacher.ExactTeacher().sample(problem, 0, seed=0)
            solved.append((completion, list(made)))
    return solved


def true_bytes(choices: list[Choice]) -> list[dict[int, float] | None]:
    """The true P(next byte | bytes so far); None where the text could be cut in two.

    That is where one string of a choice begins another: its next byte comes from the
    next choice.
    """
    found: list[dict[int, float] | None] = []
    for options, chosen in choices:
        spelled = {text.encode(): weight for text, weight in options.items()}
        raw = chosen.encode()
        ended = False
        for at in range(len(raw)):
            alive = {t: w for t, w in spelled.items() if t.startswith(raw[:at])}
            ended = ended or raw[:at] in alive
            total = sum(alive.values())
            truth: dict[int, float] = defaultdict(float)
            for text, weight in alive.items():
                if len(text) > at:
                    truth[text[at] + 3] += weight / total
            found.append(None if ended else dict(truth))
    return found


def test_rows_are_the_true_byte_conditionals_of_the_miniature_teacher(
    miniature: list[tuple[Completion, list[Choice]]],
) -> None:
    """Total variation at most 1e-6 wherever the teacher's list is whole."""
    whole = positions = 0
    for completion, choices in miniature:
        assert completion.tokens is not None
        raw = completion.text.encode()
        # What the grammar writes, before anything is cut to K and after.
        steps = check_tokens(completion.tokens, raw, "test")
        rows = byte_offsets.rows(steps, raw, BYTES)
        begin = len(raw) - len(raw.lstrip())
        target = align(completion.tokens, completion.text, BYTES, k=60)
        assert target is not None
        assert BYTES.decode(target.ids) == completion.text.strip()
        for k, truth in enumerate(true_bytes(choices)):
            if truth is None:
                continue
            positions += 1
            row, at = rows.masses[k], k - begin
            if 1 - sum(row.values()) > 1e-9:
                continue  # an alternative ends within the sampled token
            whole += 1
            assert total_variation(row, truth) <= 1e-6
            if 0 <= at < len(target.ids) - 1:
                probs = np.exp(target.teacher_logprobs[at].astype(np.float64))
                ids = target.teacher_ids[at].tolist()
                stored = {i: p for i, p in zip(ids, probs, strict=True) if p > 0}
                assert total_variation(stored, truth) <= 1e-6
                assert target.tail[at] <= 1e-6
    assert whole / positions > 0.97


def test_the_text_that_is_taught_has_no_whitespace_at_its_ends() -> None:
    """T5 ignores it; bytes would teach it, and inputs would not end as they do."""
    tokens = [token("\n", 0.5, {" ": 0.5}), token(" a", 0.75, {" b": 0.25})]
    tokens += [token("c", 0.5, {"d": 0.25}), token(" \n", 1.0)]
    target = align(tokens, "\n ac \n", BYTES, k=3)
    assert target is not None
    assert target.ids.tolist() == one_hot("ac", BYTES, 3).ids.tolist()
    rows = np.exp(target.teacher_logprobs)
    np.testing.assert_allclose(rows[0], [0.75, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(rows[1], [0.5, 0.25, 0], atol=1e-6)
    np.testing.assert_allclose(target.tail, [0, 0.25, 0], atol=1e-6)
    assert align([token(" \n", 1.0)], " \n", BYTES, k=3) is None


def test_half_a_character_settles_its_bytes_and_a_lost_one_nothing() -> None:
    half = "é".encode()[:1]
    tokens = [token("x", 0.5, {half: 0.25, "\ufffd": 0.125, "y\ufffd": 0.125})]
    raw = b"x"
    (row,) = byte_offsets.rows(check_tokens(tokens, raw, "test"), raw, BYTES).masses
    expected = {b"x": 0.5, half: 0.25, b"y": 0.125}
    assert row == pytest.approx({text[0] + 3: p for text, p in expected.items()})


def test_the_end_of_the_text_is_eos() -> None:
    tokens = [token("a", 1.0), token("b", 0.5, {"<|im_end|>": 0.25, "<pad>": 0.25})]
    _, row = byte_offsets.rows(check_tokens(tokens, b"ab", "test"), b"ab", BYTES).masses
    assert row == pytest.approx({ord("b") + 3: 0.5, BYTES.eos_id: 0.25})


def test_dtw_is_refused_for_bytes() -> None:
    with pytest.raises(InputError, match="'dtw' compares the names.*bytes have none"):
        align([token("a", 1.0)], "a", BYTES, method="dtw")


@settings(max_examples=60, deadline=None)
@given(taught=taught_bytes())
def test_for_any_text_byte_masses_are_probabilities(taught: Taught) -> None:
    tokens = [token(*step) for step in taught]
    raw = b"".join(t.token for t in tokens)
    rows = byte_offsets.rows(check_tokens(tokens, raw, "test"), raw, BYTES)
    assert rows.ids == [byte + 3 for byte in raw]
    assert set(rows.origins) <= {0}
    for row in rows.masses:
        assert all(mass >= 0 for mass in row.values())
        assert sum(row.values()) <= 1 + 1e-9
    sampled = math.prod(math.exp(t.logprob) for t in tokens)
    path = math.prod(
        row[index] for row, index in zip(rows.masses, rows.ids, strict=True)
    )
    assert path >= sampled * (1 - 1e-9)
