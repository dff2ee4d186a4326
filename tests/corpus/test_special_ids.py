"""Vocabularies whose padding and EOS are not T5's, and how many sentinels follow."""

import pathlib
from typing import Any

import pytest
from sentencepiece import sentencepiece_model_pb2
from teacher_cases import train_vocabulary

from specialize.corpus.piece_models import CONTROL, NORMAL, UNKNOWN, sentinels
from specialize.corpus.vocabulary import Vocabulary, read_vocabulary
from specialize.errors import InputError
from specialize.student.network.architecture import T5Config

PIECES = {
    "<unk>": UNKNOWN,
    "<s>": CONTROL,
    "</s>": CONTROL,
    "<pad>": CONTROL,
    "▁ordinary": NORMAL,
}


def model_of(folder: pathlib.Path, first: str, **ids: int) -> pathlib.Path:
    """A model whose first pieces are those of `first`, split at spaces."""
    small: Any = sentencepiece_model_pb2.ModelProto.FromString(
        train_vocabulary(folder).path.read_bytes()
    )
    rest = [(piece.piece, piece.score, piece.type) for piece in small.pieces[3:]]
    del small.pieces[:]
    for piece in first.split():
        small.pieces.add(piece=piece, score=0.0, type=PIECES[piece])
    for piece, score, kind in rest:
        small.pieces.add(piece=piece, score=score, type=kind)
    for name in ("unk", "bos", "eos", "pad"):
        setattr(small.trainer_spec, f"{name}_id", ids.get(name, -1))
    path = folder / "special.model"
    path.write_bytes(small.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("first", "ids", "special"),
    [
        ("<pad> </s> <unk>", dict(pad=0, eos=1, unk=2), (0, 1)),
        ("<unk> <s> </s>", dict(unk=0, bos=1, eos=2), (1, 2)),  # MADLAD-400
        ("<unk> <pad> </s>", dict(unk=0, pad=1, eos=2), (1, 2)),
        ("<s> <pad> </s> <unk>", dict(bos=0, pad=1, eos=2, unk=3), (1, 2)),
        ("<pad> <unk> <s> </s>", dict(pad=0, unk=1, bos=2, eos=3), (0, 3)),
        ("<unk> </s>", dict(unk=0, eos=1), (0, 1)),
    ],
)
def test_padding_and_eos_are_those_of_the_model(tmp_path, first, ids, special):
    path = model_of(tmp_path, first, **ids)
    found = Vocabulary(path)
    assert found.special == special
    assert (found.pad_id, found.eos_id, found.unk_id) == (*special, ids["unk"])
    text = "she sold half as many clips"
    coded = found.encode(text)
    assert min(coded) >= len(first.split())
    assert found.decode([*coded, found.eos_id, 9, 9]) == text
    # What is no text spells nothing; what is, itself.
    for index in range(len(first.split())):
        assert found.spelling(index) is None
    spelt = b"".join(found.spelling(index) or b"" for index in coded)
    assert spelt.decode().strip() == text
    t5s = special == (0, 1) and "pad" in ids
    assert found.extra_ids == (100 if t5s else 0)


@pytest.mark.parametrize(
    ("first", "ids", "said"),
    [
        (
            "▁ordinary <pad> </s> <unk>",
            dict(pad=1, eos=2, unk=3),
            "'▁ordinary' at id 0",
        ),
        (
            "<s> </s> <unk>",
            dict(bos=0, eos=1, unk=2),
            "padding id -1 and '<s>' at id 0",
        ),
        ("<pad> <unk> <s>", dict(pad=0, unk=1, bos=2), "EOS id -1"),
        ("</s> <pad> <unk>", dict(eos=0, pad=1, unk=2), "EOS id 0"),
    ],
)
def test_a_model_that_cannot_be_padded_or_ended_is_refused(tmp_path, first, ids, said):
    with pytest.raises(InputError, match=said):
        Vocabulary(model_of(tmp_path, first, **ids))


@pytest.mark.parametrize(
    ("pieces", "ids", "count"),
    [
        (32_000, (0, 1), 100),  # T5
        (256_000, (0, 1), 300),  # umT5
        (256_000, (-1, 2), 0),  # MADLAD-400
        (250_100, (0, 1), 0),  # mT5, whose model holds them
    ],
)
def test_the_number_of_sentinels_is_known_by_the_model(pieces, ids, count):
    class Piece:
        piece = "a"

    class Sentinel:
        piece = "▁<extra_id_0>"

    class Model:
        class trainer_spec:  # noqa: N801
            pad_id, eos_id = ids

    held = [Piece] * pieces
    if pieces == 250_100:
        held[-1] = Sentinel
    Model.pieces = held
    assert sentinels(Model) == count
    # Rounded up they are the rows of the published models.
    rows = -(-(pieces + count) // 128) * 128
    assert rows in (32_128, 256_384, 256_000, 250_112)


@pytest.mark.parametrize("rows", [1, 100, 258])
def test_a_vocabulary_with_more_ids_than_rows_is_refused(rows):
    with pytest.raises(InputError, match=f"259 ids, but the network only {rows} "):
        read_vocabulary("byt5", network=T5Config(vocab_size=rows))
    assert read_vocabulary("byt5", network=T5Config(vocab_size=259)).rows == 384
