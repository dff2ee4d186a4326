"""The exact alignment: literal cases, its definition, and a teacher known in full."""

import itertools
import json
import math
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from teacher_cases import codex_tokens, token, train_vocabulary, vocabulary_of

from specialize.corpus.alignment import byte_offsets
from specialize.corpus.alignment.aligning import align, check_tokens
from specialize.corpus.alignment.readings import ending
from specialize.corpus.records import TeacherToken
from specialize.corpus.vocabulary import Vocabulary

PIECES = ["▁cat", "s", "▁dog", "▁dot", "▁do", "▁48", "▁4", "▁a", "/2", "48", "▁$12"]
PIECES += ["▁sell", "▁sells", "▁the", "ing", "▁sold", "▁May", "▁In", "▁She"]


@pytest.fixture(scope="session")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return vocabulary_of(tmp_path_factory.mktemp("exact"), PIECES)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return train_vocabulary(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def t5(shared_data: pathlib.Path) -> Vocabulary:
    return Vocabulary(shared_data / "t5" / "spiece.model")


def rows_of(
    tokens: list[TeacherToken], vocabulary: Vocabulary
) -> list[dict[str, float]]:
    """Rows by piece string, before anything is cut to K."""
    raw = b"".join(t.token for t in tokens)
    rows = byte_offsets.rows(check_tokens(tokens, raw, "test"), raw, vocabulary)
    return [
        {vocabulary.piece(index): mass for index, mass in row.items()}
        for row in rows.masses
    ]


# Literal cases ---------------------------------------------------------------------


def test_an_alternative_counts_for_the_piece_it_begins_with(exact: Vocabulary) -> None:
    tokens = [token(" dog", 0.5, {" cats": 0.2, " cat": 0.1, " sold": 0.1})]
    assert rows_of(tokens, exact) == [
        pytest.approx({"▁dog": 0.5, "▁cat": 0.3, "▁sold": 0.1})
    ]


def test_inside_a_token_of_several_pieces_the_chain_rule_holds(
    exact: Vocabulary,
) -> None:
    first, second = rows_of([token(" cats", 0.2, {" cat/2": 0.6, " dog": 0.2})], exact)
    assert first == pytest.approx({"▁cat": 0.8, "▁dog": 0.2})
    assert second == pytest.approx({"s": 0.25, "/2": 0.75})
    assert first["▁cat"] * second["s"] == pytest.approx(0.2)


def test_a_piece_of_several_tokens_has_the_product_of_their_probabilities(
    exact: Vocabulary,
) -> None:
    tokens = [token(" cat", 1.0), token("/", 0.7, {" dog": 0.2}), token("2", 0.9)]
    assert rows_of(tokens, exact)[1] == pytest.approx({"/2": 0.63, "▁dog": 0.2})


def test_alternatives_to_a_later_token_of_a_piece_count_too(exact: Vocabulary) -> None:
    tokens = [token(" cat", 1.0), token("/", 0.5), token("2", 0.8, {" dog": 0.2})]
    assert rows_of(tokens, exact)[1] == pytest.approx({"/2": 0.4, "/": 0.1})


def test_newlines_belong_to_the_word_behind_them(exact: Vocabulary) -> None:
    tokens = [
        token(" cat", 1.0),
        token("\n", 0.6, {" dog": 0.1, "\n\n": 0.2}),
        token("In", 0.5, {"She": 0.25, " the": 0.25}),
    ]
    # "\n\n" settles nothing: 0.2 stay in the tail.
    assert rows_of(tokens, exact)[1] == pytest.approx(
        {"▁In": 0.3, "▁She": 0.15, "▁the": 0.15, "▁dog": 0.1}
    )


def test_whitespace_alone_settles_nothing(exact: Vocabulary) -> None:
    tokens = [
        token(" cat", 1.0),
        token(" dog/2", 0.5, {" ": 0.3, "\n": 0.1, "  ": 0.1}),
    ]
    assert rows_of(tokens, exact)[1] == pytest.approx({"▁dog": 0.5})


def test_an_ending_that_goes_on_elsewhere_stays_open(exact: Vocabulary) -> None:
    tokens = [token(" cat", 0.5, {" dog/": 0.2, "/": 0.3}), token(" dog", 1.0)]
    assert rows_of(tokens, exact)[0] == pytest.approx(
        {"▁cat": 0.5, "▁dog": 0.2, "▁": 0.3}
    )
    tokens = [
        token(" cat", 0.5, {" 48/": 0.2}),
        token(" dog", 0.5, {"/": 0.2, "/2": 0.1, " the": 0.2}),
        token("/", 1.0),
        token("2", 1.0),
    ]
    # "/" is seen to go on as "/2", so what another "/" begins is not known.
    assert rows_of(tokens, exact)[:2] == [
        pytest.approx({"▁cat": 0.5, "▁48": 0.2}),
        pytest.approx({"▁dog": 0.5, "/2": 0.1, "▁the": 0.2}),
    ]


def test_an_alternative_that_would_recut_a_finished_piece_is_undetermined(
    exact: Vocabulary,
) -> None:
    others = {"s": 0.2, "ing": 0.2, " cats": 0.1}
    tokens = [token(" sell", 0.5), token(" the", 0.5, others)]
    assert rows_of(tokens, exact) == [
        pytest.approx({"▁sell": 0.5}),
        pytest.approx({"▁the": 0.5, "ing": 0.2, "▁cat": 0.1}),
    ]


def test_the_end_of_the_text_is_the_students_eos(exact: Vocabulary) -> None:
    others = {"<|endoftext|>": 0.2, "</s>": 0.1, "<|im_start|>": 0.1}
    tokens = [token(" cat", 1.0), token(" dog/2", 0.5, others)]
    row = rows_of(tokens, exact)[1]
    assert row == pytest.approx({"▁dog": 0.5, "</s>": 0.3})


def test_a_character_cut_in_half_settles_nothing(t5: Vocabulary) -> None:
    tokens = [token("I", 1.0), token(" naï".encode()[:-1], 0.5, {b" caf\xc3": 0.5})]
    tokens += [token(b"\xaf", 0.5, {b"\xae": 0.5}), token("ve", 0.5)]
    rows = rows_of(tokens, t5)
    pieces = [t5.piece(i) for i in t5.encode("I naïve")]
    product = math.prod(row[p] for row, p in zip(rows, pieces, strict=True))
    assert product == pytest.approx(0.125)
    assert all(sum(row.values()) <= 1 + 1e-12 for row in rows)


def test_what_the_student_cannot_write_is_a_piece_like_any_other(
    exact: Vocabulary,
) -> None:
    tokens = [token(" cat", 1.0), token("é", 0.9), token(" dog", 0.5, {"è": 0.5})]
    target = align(tokens, " caté dog", exact, k=2)
    assert target is not None
    assert [exact.piece(i) for i in target.ids] == ["▁cat", "<unk>", "▁dog", "</s>"]
    assert target.origin.tolist() == [0, 0, 0, 2]
    np.testing.assert_allclose(np.exp(target.teacher_logprobs[1]), [0.9, 0])
    assert target.tail[1] == pytest.approx(0.1)
    # " catéè" has the same pieces so far.
    assert target.teacher_ids[2].tolist() == [exact.id_of("▁dog"), 0]
    assert target.tail[2] == pytest.approx(0.5)


def test_a_sampled_token_of_probability_zero_goes_to_the_tail(
    exact: Vocabulary,
) -> None:
    tokens = [token(" cats", 0.0, {" dog": 0.9}), token(" the", 0.8, {" dog": 0.2})]
    target = align(tokens, " cats the", exact, k=3)
    assert target is not None
    assert target.teacher_ids[0].tolist() == [exact.id_of("▁dog"), 0, 0]
    assert target.tail[0] == pytest.approx(0.1)
    # Given the first piece, the second is certain; then everything is as usual.
    np.testing.assert_allclose(np.exp(target.teacher_logprobs[1]), [1, 0, 0])
    np.testing.assert_allclose(np.exp(target.teacher_logprobs[2]), [0.8, 0.2, 0])


# The definition, dense and slow ----------------------------------------------------


def dense_rows(
    tokens: list[TeacherToken], vocabulary: Vocabulary
) -> list[dict[int, float]]:
    """M(s v) / M(s) summed over all known paths, each text cut from its beginning.

    For texts that the vocabulary can write, without control tokens.
    """
    raw = b"".join(t.token for t in tokens)
    cut = vocabulary.segment(raw)
    starts = list(itertools.accumulate((len(t.token) for t in tokens), initial=0))
    open_endings = {
        how[0]
        for t, byte in zip(tokens, starts[1:-1], strict=False)
        if (how := ending(t.token)) is not None
        and byte not in cut.ends
        and not raw[byte - 1 : byte].isspace()
        and not raw[byte : byte + 1].isspace()
    }
    leaves: list[tuple[tuple[int, ...], float]] = []
    path = 1.0
    for t, byte in zip(tokens, starts, strict=False):
        settled = tuple(
            i for i, end in zip(cut.ids, cut.ends, strict=True) if end <= byte
        )
        if byte == 0:
            settled = ()
        if len(settled) == len(cut.ids):
            break
        listed = 0.0
        for text, logprob in t.top:
            probability = math.exp(logprob)
            listed += probability
            if text == t.token:
                continue
            known = vocabulary.segment(raw[:byte] + text)
            pieces = tuple(known.ids)
            how = ending(text)
            if how is not None and how[0] in open_endings:
                certain = byte + len(text) - how[1]
                pieces = pieces[: sum(end <= certain for end in known.ends)]
            if pieces[: len(settled)] != settled:
                pieces = settled
            leaves.append((pieces, path * probability))
        leaves.append((settled, path * max(0.0, 1.0 - listed)))
        path *= math.exp(t.logprob)
    leaves.append((tuple(cut.ids), path))
    rows = []
    for k, own in enumerate(cut.ids):
        before = tuple(cut.ids[:k])
        mass: dict[int, float] = defaultdict(float)
        total = 0.0
        for pieces, probability in leaves:
            if pieces[:k] == before:
                total += probability
                if len(pieces) > k:
                    mass[pieces[k]] += probability
        assert own in mass
        rows.append({piece: p / total for piece, p in mass.items()})
    return rows


Taught = list[tuple[str | bytes, float, dict[str | bytes, float]]]


@st.composite
def taught_texts(draw: st.DrawFn, alphabet: str, words: tuple[str, ...] = ()) -> Taught:
    """Random tokens with random alternatives over an alphabet."""
    chunk = st.text(alphabet, min_size=1, max_size=4) | st.sampled_from(words or ("a",))
    taught: Taught = []
    for own in draw(st.lists(chunk, min_size=1, max_size=7)):
        others = draw(st.lists(chunk, max_size=5, unique=True))
        size = len(others) + 2
        weights = draw(st.lists(st.floats(0.01, 1.0), min_size=size, max_size=size))
        probs = [weight / sum(weights) for weight in weights]
        rest = dict(zip(others, probs[1:], strict=False))
        taught.append((own, probs[0], {t: p for t, p in rest.items() if t != own}))
    return taught


WORDS = (" cat", " cats", " do", " dog", "/2", " 48", " sells", "\n", ".", "'s", " a")


@settings(max_examples=80, deadline=None)
@given(taught=taught_texts("catsdog48/2 \n", WORDS))
def test_rows_are_the_definition_summed_over_all_known_paths(
    exact: Vocabulary, taught: Taught
) -> None:
    tokens = [token(*step) for step in taught]
    raw = b"".join(t.token for t in tokens)
    pieces = exact.segment(raw).pieces
    # A teacher with the student's own pieces is read by their names; see below.
    assume(len(tokens) != len(pieces))
    steps = check_tokens(tokens, raw, "test")
    rows = byte_offsets.rows(steps, raw, exact)
    expected = dense_rows(tokens, exact)
    assert len(rows.masses) == len(expected)
    for row, reference in zip(rows.masses, expected, strict=True):
        assert row == pytest.approx(reference, abs=1e-9)


@st.composite
def taught_bytes(draw: st.DrawFn) -> Taught:
    """Any Unicode text, cut anywhere, with alternatives of any bytes."""
    text = draw(st.text(min_size=1, max_size=12)).encode("utf-8")
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=5)))
    bounds = [0, *[cut for cut in cuts if cut < len(text)], len(text)]
    any_bytes = st.binary(min_size=1, max_size=4)
    any_text = st.text(min_size=1, max_size=3).map(str.encode)
    taught: Taught = []
    for begin, end in itertools.pairwise(bounds):
        others = draw(
            st.dictionaries(any_bytes | any_text, st.floats(0.001, 0.2), max_size=4)
        )
        own = text[begin:end]
        taught.append((own, 0.2, {t: p for t, p in others.items() if t != own}))
    return taught


@settings(max_examples=80, deadline=None)
@given(taught=taught_bytes())
def test_for_any_text_masses_are_probabilities_that_multiply_to_the_teachers(
    small: Vocabulary, taught: Taught
) -> None:
    tokens = [token(*step) for step in taught]
    raw = b"".join(t.token for t in tokens)
    steps = check_tokens(tokens, raw, "test")
    rows = byte_offsets.rows(steps, raw, small)
    assert rows.ids == small.encode(raw.decode())
    for row in rows.masses:
        assert all(mass >= 0 for mass in row.values())
        assert sum(row.values()) <= 1 + 1e-9
    if rows.ids:
        last = small.segment(raw).ends[-1]
        starts = itertools.accumulate((len(t.token) for t in tokens), initial=0)
        needed = [t for t, begin in zip(tokens, starts, strict=False) if begin < last]
        sampled = math.prod(math.exp(t.logprob) for t in needed)
        path = math.prod(
            row[index] for row, index in zip(rows.masses, rows.ids, strict=True)
        )
        # Other ways to write the same pieces may add to the sampled one.
        assert path >= sampled * (1 - 1e-9)
    target = align(tokens, raw.decode(), small, k=3)
    if target is not None:
        total = np.exp(target.teacher_logprobs).sum(axis=1) + target.tail
        np.testing.assert_allclose(total, 1.0, atol=1e-5)
        assert target.ids[-1] == small.eos_id


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_same_tokenizer_on_both_sides_is_the_identity(
    small: Vocabulary, data: st.DataObject
) -> None:
    words = st.sampled_from(
        "she sold half 48/2 = 24 clips, café a naïve $12.50".split()
    )
    text = " ".join(data.draw(st.lists(words, min_size=1, max_size=6)))
    pieces = [small.piece(i) for i in small.encode(text)]
    assume("<unk>" not in pieces)
    names = st.sampled_from(
        [small.piece(i) for i in range(3, small.size) if small.piece(i)[0] != "<"]
    )
    tokens, wanted = [], []
    for piece in pieces:
        others = data.draw(st.lists(names, max_size=4, unique=True))
        probs = {other: 0.5 / (n + 2) ** 2 for n, other in enumerate(others)}
        probs.pop(piece, None)
        wanted.append({piece: 0.6} | probs)
        spelled = {name.replace("▁", " "): p for name, p in probs.items()}
        tokens.append(token(piece.replace("▁", " "), 0.6, spelled))
    assert rows_of(tokens, small) == [pytest.approx(row) for row in wanted]


def test_the_conditionals_of_a_token_multiply_to_its_probability(
    small: Vocabulary,
) -> None:
    words = [
        " she",
        " half",
        " many",
        " April",
        " therefore",
        " friends",
        " was",
        "\n2",
    ]
    for first, second in itertools.permutations(words, 2):
        others = {word: 0.05 for word in words if word not in (first, second)}
        tokens = [token(first, 0.3, others), token(second, 0.4, others)]
        rows = rows_of(tokens, small)
        for word, probability in ((first, 0.3), (second, 0.4)):
            pieces = [small.piece(i) for i in small.encode(word)]
            mine = rows[: len(pieces)] if word == first else rows[-len(pieces) :]
            product = math.prod(row[p] for row, p in zip(mine, pieces, strict=True))
            assert product == pytest.approx(probability)


# A teacher known in full -----------------------------------------------------------

END = "</s>"
# What may follow a token, in full. Tokens hold several pieces (" cats", " dogs/2"),
# pieces hold several tokens ("▁dog", "▁dot" of " do" + ...), alternatives meet in one
# piece, and no text can be written in two ways.
FOLLOWS = {
    "": {"In": 0.4, "She": 0.6},
    "In": {" May": 0.7, " cats": 0.2, END: 0.1},
    "She": {" sold": 0.5, " cats": 0.1, " cat": 0.2, " sells": 0.2},
    " May": {".": 0.5, " cats": 0.25, " cats/2": 0.25},
    " sold": {" dogs/2": 0.5, " cat": 0.25, " 48": 0.25},
    " sells": {" 48": 0.6, " the": 0.4},
    " cat": {".": 0.5, END: 0.5},
    " cats": {".": 0.75, " the": 0.25},
    " cats/2": {END: 1.0},
    " dogs/2": {".": 0.5, END: 0.5},
    " 48": {"/2": 0.5, ".": 0.25, " cats": 0.25},
    "/2": {END: 1.0},
    " the": {" do": 1.0},
    " do": {"g": 0.5, "t": 0.25, "gs": 0.25},
    "g": {".": 0.5, END: 0.5},
    "t": {END: 1.0},
    "gs": {END: 1.0},
    ".": {END: 1.0},
}


def all_paths() -> Iterator[tuple[tuple[str, ...], float]]:
    """Every text of the teacher, in tokens, with its probability."""
    unfinished = [((), "", 1.0)]
    while unfinished:
        path, last, probability = unfinished.pop()
        for text, p in FOLLOWS[last].items():
            if text == END:
                yield path, probability * p
            else:
                unfinished.append(((*path, text), text, probability * p))


def tokens_of(path: Sequence[str]) -> list[TeacherToken]:
    """A text of the teacher, whose tokens have all their alternatives."""
    tokens = []
    for before, own in itertools.pairwise(("", *path)):
        rest = {t: p for t, p in FOLLOWS[before].items() if t != own}
        tokens.append(token(own, FOLLOWS[before][own], rest))
    return tokens


def test_rows_bracket_the_true_distribution_of_a_teacher_known_in_full(
    exact: Vocabulary,
) -> None:
    paths = list(all_paths())
    assert sum(p for _, p in paths) == pytest.approx(1.0)
    texts = [
        ((*exact.encode("".join(path)), exact.eos_id), probability)
        for path, probability in paths
    ]
    settled = 0
    for path, _ in paths:
        tokens = tokens_of(path)
        raw = "".join(path).encode()
        rows = byte_offsets.rows(check_tokens(tokens, raw, "test"), raw, exact)
        for k, row in enumerate(rows.masses):
            truth: dict[int, float] = defaultdict(float)
            for pieces, probability in texts:
                if pieces[:k] == tuple(rows.ids[:k]):
                    truth[pieces[k]] += probability
            total = sum(truth.values())
            tail = 1 - sum(row.values())
            for piece in truth.keys() | row.keys():
                exactly = truth[piece] / total
                known = row.get(piece, 0.0)
                assert known <= exactly + 1e-12, (path, k, exact.piece(piece))
                assert exactly <= known + tail + 1e-12, (path, k, exact.piece(piece))
            settled += tail < 1e-12
    positions = sum(len(pieces) - 1 for pieces, _ in texts)
    # Only where an alternative ends inside the sampled token is there a tail.
    assert settled > 0.8 * positions


def test_whatever_is_left_out_no_path_is_ever_given_more_than_its_probability(
    exact: Vocabulary,
) -> None:
    """The same teacher reporting two alternatives, and with newlines for spaces."""
    paths = list(all_paths())
    for path, _ in paths:
        tokens = []
        for before, own in itertools.pairwise(("", *path)):
            rest = sorted(
                ((p, t) for t, p in FOLLOWS[before].items() if t != own), reverse=True
            )
            spelled = own.replace(" ", "\n")
            tokens.append(
                token(spelled, FOLLOWS[before][own], {t: p for p, t in rest[:1]})
            )
        raw = "".join(path).replace(" ", "\n").encode()
        rows = byte_offsets.rows(check_tokens(tokens, raw, "test"), raw, exact)
        reached = 1.0
        for k, row in enumerate(rows.masses):
            before = tuple(rows.ids[:k])
            for piece, mass in row.items():
                truth = sum(
                    p
                    for other, p in paths
                    if (*exact.encode("".join(other)), exact.eos_id)[: k + 1]
                    == (*before, piece)
                )
                assert reached * mass <= truth + 1e-12
            reached *= row[rows.ids[k]]


# Real distributions ----------------------------------------------------------------


def test_every_position_of_the_real_codex_samples_is_soft(
    shared_data: pathlib.Path, t5: Vocabulary
) -> None:
    dump = json.loads(
        (shared_data / "codex" / "codex_raw_q0_50samples.json").read_text()
    )
    shares = {}
    for method in ("bytes", "dtw"):
        soft = positions = 0
        kept = 0.0
        for sample in dump["samples"]:
            tokens = codex_tokens(sample["steps"][2:-2])
            text = b"".join(t.token for t in tokens).decode()
            target = align(tokens, text, t5, method=method, k=5)
            assert target is not None
            mine = target.origin == 0
            soft += int(mine.sum())
            positions += len(mine) - 1
            kept += float((1 - target.tail[mine]).sum())
        assert positions == 2193
        shares[method] = soft / positions, kept / soft
    assert shares["bytes"][0] == 1.0
    assert shares["bytes"][1] > 0.95
    assert shares["dtw"][0] == pytest.approx(1792 / 2193)
