"""Rows of ids that a student sampled: what the teacher says of them, and no more."""

import random
from collections import defaultdict

import numpy as np
import pytest
from teacher_cases import vocabulary_of
from test_alignment_bytes import PIECES, all_paths, tokens_of

from specialize.corpus.alignment.aligning import align
from specialize.corpus.alignment.given_ids import align_given, text_of
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
