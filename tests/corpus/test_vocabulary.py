"""The student's vocabulary: SeqIO's ids, and offsets into the text as given."""

import json
import pathlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher_cases import SENTENCES, train_vocabulary, vocabulary_of

from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError

HARD = (
    "",
    " ",
    "\n",
    "  She  sold\n\n48/2 = 24 clips.\n",
    "tab\there\r\nand\u00a0there\u200bx",
    "ｆull ﬁne ½ 3½x ¨y … ’ e\u0301",
    "a<b{c}d~ \U0001f600 日本 \x00 \x7f ▁ _",
    "<extra_id_0> and <extra_id_99>, not <extra_id_100>",
    "</s> <pad> <unk>",
)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return train_vocabulary(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def t5(shared_data: pathlib.Path) -> Vocabulary:
    return Vocabulary(shared_data / "t5" / "spiece.model")


def test_ids_and_texts_equal_seqios(
    small: Vocabulary, request: pytest.FixtureRequest
) -> None:
    seqio = pytest.importorskip("seqio")
    vocabularies = [small]
    texts = [*HARD, *SENTENCES]
    try:
        vocabularies.append(request.getfixturevalue("t5"))
    except pytest.skip.Exception:
        pass
    else:
        data: pathlib.Path = request.getfixturevalue("shared_data")
        lines = (data / "gsm8k" / "test.jsonl").read_text().splitlines()[:100]
        texts += [json.loads(line)["question"] for line in lines]
        texts += [json.loads(line)["answer"] for line in lines]
    for ours in vocabularies:
        theirs = seqio.SentencePieceVocabulary(str(ours.path), extra_ids=100)
        assert ours.size == theirs.vocab_size
        assert (ours.pad_id, ours.eos_id) == (theirs.pad_id, theirs.eos_id)
        assert ours.unk_id == theirs.unk_id
        for text in texts:
            assert ours.encode(text) == theirs.encode(text), text
        ids = ours.encode(SENTENCES[0])
        high = ours.size + 5
        for row in (ids, [*ids, 1, *ids], [0, *ids, 0], [high, *ids, 2], [1], []):
            assert ours.decode(row) == theirs.decode(row), row
        assert ours.decode(np.asarray(ids)) == theirs.decode(ids)


def test_the_published_t5_tokenizations_are_reproduced(
    t5: Vocabulary, shared_data: pathlib.Path
) -> None:
    assert (t5.size, t5.rows, t5.sha256[:8]) == (32100, 32128, "d60acb12")
    published = json.loads(
        (shared_data / "codex" / "t5_tokenizations.json").read_text()
    )
    pairs = [pair for pair in published["pairs"] if "text" in pair]
    assert pairs
    for pair in pairs:
        assert [t5.piece(i) for i in t5.encode(pair["text"])] == pair["pieces"]
    for pair in published["pairs"]:
        assert all(t5.id_of(piece) is not None for piece in pair["pieces"])
    ids = json.loads((shared_data / "codex" / "t5_ids_text_pairs.json").read_text())
    text = ids["argmax_dist_text"].removesuffix("</s>")
    assert t5.decode(ids["argmax_dist_ids"]) == text
    target = ids["target_ids"]
    assert [*t5.encode(t5.decode(target)), t5.eos_id] == target


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20) | st.sampled_from(HARD))
def test_spans_cover_every_byte_of_the_text_once(small: Vocabulary, text: str) -> None:
    spans = small.spans(text)
    assert [span.id for span in spans] == small.encode(text)
    if spans:
        assert spans[0].begin == 0
        assert spans[-1].end == len(text.encode())
        for before, after in zip(spans, spans[1:], strict=False):
            assert before.end == after.begin
            assert before.begin <= before.end


def test_spans_are_offsets_into_the_text_as_given(t5: Vocabulary) -> None:
    text = "She  sold\n48/2 ﬁne é\n"
    raw = text.encode()
    covered = [(span.piece, raw[span.begin : span.end]) for span in t5.spans(text)]
    assert covered == [
        ("▁She", b"She"),
        ("▁sold", b"  sold"),
        ("▁48", b"\n48"),
        ("/2", b"/2"),
        ("▁fine", " ﬁne".encode()),
        ("▁", b" "),
        ("é", "é\n".encode()),
    ]


def test_a_piece_is_complete_only_when_all_its_characters_are(t5: Vocabulary) -> None:
    # "½" becomes "1⁄2"; its first piece needs the whole character.
    cut = t5.segment(" 3½x é".encode())
    assert [p.decode() for p in cut.pieces] == ["▁31", "⁄", "2", "x", "▁", "é"]
    assert cut.ends == [4, 4, 4, 5, 7, 8]
    assert cut.word_starts == [0, 0, 0, 0, 4, 4]
    assert cut.begins == [0, 0, 0, 0, 5, 5]


def test_rows_are_rounded_up_and_can_be_given(small: Vocabulary) -> None:
    assert small.rows % 128 == 0
    assert 0 <= small.rows - small.size < 128
    assert Vocabulary(small.path, rows=1024).rows == 1024
    assert small.piece(small.rows - 1).startswith("<row ")
    with pytest.raises(InputError, match="outside"):
        small.piece(small.rows)
    with pytest.raises(InputError, match="only 10 rows"):
        Vocabulary(small.path, rows=10)


def test_words_are_independent_unless_a_piece_reaches_over_a_space(
    small: Vocabulary, tmp_path: pathlib.Path
) -> None:
    assert small.words_are_independent
    reaching = vocabulary_of(tmp_path, ["▁the", "▁the▁cat"])
    assert not reaching.words_are_independent
    cut = reaching.segment(b"the cat sat")
    assert cut.pieces[0].decode() == "▁the▁cat"
    assert cut.word_starts == [0] * len(cut.ids)


def test_it_travels_to_another_process(small: Vocabulary) -> None:
    there = pickle.loads(pickle.dumps(Vocabulary(small.path, rows=1024)))
    assert there.encode(SENTENCES[1]) == small.encode(SENTENCES[1])
    assert (there.rows, there.sha256) == (1024, small.sha256)


def test_a_missing_vocabulary_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"absent\.model.*No such file.*spiece\.model"):
        Vocabulary(tmp_path / "absent.model")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_vocabulary_is_named(
    tmp_path: pathlib.Path, content: bytes
) -> None:
    path = tmp_path / "wrong.model"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"wrong\.model.*not a SentencePiece model"):
        Vocabulary(path)


def test_a_vocabulary_without_t5s_special_ids_is_refused(
    small: Vocabulary, tmp_path: pathlib.Path
) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(small.path.read_bytes())
    model.trainer_spec.pad_id = -1
    model.pieces[0].piece = "<s>"
    path = tmp_path / "llama.model"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="padding id -1"):
        Vocabulary(path)


def test_half_a_surrogate_pair_is_refused(small: Vocabulary) -> None:
    with pytest.raises(InputError, match="surrogate pair at character 3"):
        small.encode("abc\ud83d")
