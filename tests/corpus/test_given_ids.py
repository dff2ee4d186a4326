"""Rows of ids that a student sampled: what the teacher says of them, and no more."""

import math
import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from teacher_cases import token, vocabulary_of
from test_alignment_bytes import PIECES, WORDS, all_paths, taught_texts, tokens_of

from specialize.corpus.alignment import byte_offsets, places
from specialize.corpus.alignment.aligning import align, check_tokens
from specialize.corpus.alignment.given_ids import (
    align_given,
    open_endings,
    speaks_as_student,
    text_of,
)
from specialize.corpus.alignment.rows import SOFT
from specialize.corpus.vocabulary import ByteVocabulary

K = 40  # more than there are pieces: no mass is cut


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return vocabulary_of(tmp_path_factory.mktemp("given"), PIECES)


def other_cuts(ids, vocabulary, draw):
    """The same text in other pieces: some pieces are spelt by single characters."""
    found = []
    for index in ids:
        name = vocabulary.piece(index)
        singles = [vocabulary.id_of(one) for one in name]
        if len(name) > 1 and None not in singles and draw.random() < 0.5:
            found += singles
        else:
            found.append(index)
    return found


def dense(row, rows):
    ids, probs, _ = row
    found = np.zeros(rows)
    np.add.at(found, ids, probs)
    return found


def test_a_row_says_no_more_than_that_of_a_corpus(words):
    """Which takes the end of an alternative for the end of a word."""
    equal = 0
    for path, _ in all_paths():
        target = align(tokens_of(path), "".join(path), words, k=K)
        ids = target.ids.tolist()
        found = text_of(ids, words)
        assert found.text == "".join(path).strip() and found.ids == ids[:-1]
        rows = align_given(tokens_of(path), found, len(ids), words, k=K, where="here")
        for position in np.flatnonzero(target.origin == SOFT):
            mine = dense(tuple(part[position] for part in rows), words.rows)
            theirs = np.zeros(words.rows)
            probs = np.exp(target.teacher_logprobs[position])
            np.add.at(theirs, target.teacher_ids[position], probs)
            assert (mine <= theirs + 1e-6).all()
            equal += bool((np.abs(mine - theirs) < 1e-6).all())
        assert rows[2][-1] == 1  # a scored text says nothing of EOS
    assert equal > 20


def test_rows_bracket_what_the_teacher_would_write_after_any_pieces(words):
    """Of a teacher known in full, whatever pieces the student wrote its text in."""
    draw = random.Random(0)
    texts = [(words.encode("".join(path)), p) for path, p in all_paths()]
    known = parted = 0
    for path, _ in all_paths():
        canonical = words.encode("".join(path))
        ids = other_cuts(canonical, words, draw)
        found = text_of(ids, words)
        tokens = tokens_of(path)
        if found.raw != b"".join(one.token for one in tokens):
            continue
        rows = align_given(tokens, found, len(ids), words, k=K, where="here")
        for mine, theirs in _positions(ids, canonical, words):
            row = tuple(part[mine] for part in rows)
            tail = float(row[2])
            truth = defaultdict(float)
            for pieces, probability in texts:
                if pieces[:theirs] == canonical[:theirs]:
                    after = [*pieces, words.eos_id][theirs]
                    truth[after] += probability
            total = sum(truth.values())
            values = dense(row, words.rows)
            for piece in range(words.rows):
                exactly = truth[piece] / total
                assert values[piece] <= exactly + 1e-6
                assert exactly <= values[piece] + tail + 1e-6
            known += tail < 0.5
            parted += tail < 0.5 and ids[mine] != canonical[theirs]
    assert known > 50 and parted > 5


@settings(max_examples=150)
@given(taught=taught_texts("catsdog48/2 \n", WORDS))
def test_rows_bracket_the_truth_where_alternatives_change_the_piece_before(
    words, taught
):
    """Such as "s" after " sell", in a text that alone is known of its teacher."""
    tokens = [token(*step) for step in taught]
    raw = b"".join(one.token for one in tokens)
    own = words.segment(raw).ids
    steps = check_tokens(tokens, raw, "here")
    endings = places.open_endings(steps, raw, words)
    rows = byte_offsets.rows(steps, raw, words, named=False, also_open=endings)
    texts, path, before = [], 1.0, b""
    for (_, _, others), one in zip(taught, tokens, strict=True):
        listed = [(text, math.exp(p)) for text, p in one.top if text != one.token]
        rest = 1 - math.exp(one.logprob) - sum(others.values())
        for text, p in [*listed, (b"", rest)]:  # what is not listed begins a word
            texts.append((words.segment(before + text + b" In").ids, path * p))
        before += one.token
        path *= math.exp(one.logprob)
    texts.append((words.segment(raw + b" In").ids, path))
    for place, row in enumerate(rows.masses):
        truth = defaultdict(float)
        for pieces, p in texts:
            if pieces[:place] == own[:place]:
                truth[[*pieces, words.eos_id][place]] += p
        total, tail = sum(truth.values()), 1 - sum(row.values())
        for piece in {*truth, *row}:
            low, exactly = row.get(piece, 0.0), truth[piece] / total
            assert low - 1e-9 <= exactly <= low + tail + 1e-9


@pytest.mark.parametrize(
    ("taught", "piece", "row"),
    [
        (
            [("In", 1.0, {}), (" sell", 0.9, {" a": 0.1}), (" the", 0.2, {"s": 0.8})],
            "▁sell",
            {"▁sell": 0.18, "▁sells": 0.72, "▁a": 0.1},
        ),
        (
            [(" do", 0.6, {" a": 0.4}), (" the", 0.5, {"g": 0.3, "t": 0.2})],
            "▁do",
            {"▁do": 0.3, "▁dog": 0.18, "▁dot": 0.12, "▁a": 0.4},
        ),
        (  # two pieces before it change
            [(" 4", 0.5, {}), ("8", 1.0, {}), ("/2", 1.0, {}), (" a", 0.5, {"x": 0.5})],
            "▁48",
            {"▁48": 0.5},
        ),
    ],
)
def test_a_piece_that_an_alternative_changes_has_the_rest_alone(
    words, taught, piece, row
):
    tokens = [token(*step) for step in taught]
    raw = b"".join(one.token for one in tokens)
    steps = check_tokens(tokens, raw, "here")
    endings = places.open_endings(steps, raw, words)
    rows = byte_offsets.rows(steps, raw, words, named=False, also_open=endings)
    place = rows.ids.index(words.id_of(piece))
    found = {words.piece(one): mass for one, mass in rows.masses[place].items()}
    assert found == pytest.approx(row)


@pytest.mark.parametrize(
    ("texts", "row"),
    [  # " 4" may be the beginning of " 48" if no token has two digits
        ([[(" 48", 0.6, {" 4": 0.4})]], {"▁48": 0.6, "▁4": 0.4}),
        ([[(" a", 0.6, {" 4": 0.4})]], {"▁a": 0.6}),
        ([[(" a", 0.6, {" 4": 0.4})], [(" 48", 1.0, {})]], {"▁a": 0.6, "▁4": 0.4}),
        ([[(" a", 0.6, {" 48": 0.4})], [(" 4", 1.0, {})]], {"▁a": 0.6}),
    ],
)
def test_a_number_may_go_on_that_has_as_many_digits_as_any_token(words, texts, row):
    scored = []
    for taught in texts:
        tokens = [token(*step) for step in taught]
        raw = b"".join(one.token for one in tokens)
        ids = words.encode(raw.decode())
        scored.append((tokens, text_of(ids, words)._replace(raw=raw)))
    tokens, given = scored[0]
    endings = open_endings(scored, words)
    rows = byte_offsets.rows(
        check_tokens(tokens, given.raw, "here"),
        given.raw,
        words,
        named=False,
        also_open=endings,
    )
    found = {words.piece(one): mass for one, mass in rows.masses[0].items()}
    assert found == pytest.approx(row)


def test_a_teacher_is_not_the_students_by_chance(words):
    """Its tokens are pieces of the student, but "s" after " sell" would be none."""
    alone = [token(" sell", 0.6, {" the": 0.4}), token(" a", 0.5, {"s": 0.5})]
    plain = [token(" sell", 0.6, {" the": 0.4}), token(" a", 0.5, {" dog": 0.5})]
    for tokens, same in ((alone, False), (plain, True)):
        raw = b"".join(one.token for one in tokens)
        given = text_of(words.encode(raw.decode()), words)
        given = given._replace(raw=raw)
        assert speaks_as_student(tokens, given, words) == same


def _positions(ids, canonical, vocabulary):
    """Positions of two cuts of one text, before which they write the same text."""
    begins = [0]
    for index in canonical:
        begins.append(begins[-1] + len(vocabulary.piece(index)))
    at = 0
    for number, index in enumerate(ids):
        if at in begins:
            place = begins.index(at)
            if place < len(canonical):
                yield number, place
        at += len(vocabulary.piece(index))


def test_what_a_text_does_not_say_is_unknown(words):
    eos, unknown = words.eos_id, words.unk_id
    cat = words.id_of("▁cat")
    found = text_of([cat, unknown, cat, eos], words)
    assert (found.text, found.ids) == ("cat", [cat])
    tokens = [tokens_of(path) for path, _ in all_paths()][0][:0]
    rows = align_given(tokens, text_of([eos], words), 3, words, k=2, where="here")
    assert (rows[1] == 0).all() and (rows[2] == 1).all()


def test_half_a_character_ends_the_text():
    vocabulary = ByteVocabulary()
    ids = [byte + 3 for byte in "aé".encode()]
    assert text_of(ids[:2], vocabulary).text == "a"
    assert text_of(ids, vocabulary).text == "aé"
    assert text_of([ids[1], *ids], vocabulary).text == ""


def test_the_closing_begins_a_line_where_a_student_has_no_line_breaks(words):
    ids = [words.id_of(one) for one in ("▁She", "▁sold", "▁the", "▁cat", "▁the")]
    assert text_of(ids, words, "the").text == "She sold the cat\nthe"
    assert text_of(ids, words, "In").text == "She sold the cat the"
