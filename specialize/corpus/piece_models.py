"""SentencePiece models: read, completed with sentinels, and their special ids."""

import importlib
import pathlib
import re
from typing import Any, NamedTuple

import sentencepiece

from specialize.errors import InputError

# SentencePiece writes a space this way; it opens a word.
SPACE = "▁"

# Types of SentencePiece's pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_DIGIT = re.compile("[0-9]")
REMEDY = (
    "Give the SentencePiece model of the student, for T5 its spiece.model, or 'byt5' "
    "for the bytes of ByT5."
)


class SpecialIds(NamedTuple):
    """The ids that are not text. T5's are 0 and 1, those of MADLAD-400 1 and 2."""

    pad_id: int = 0
    eos_id: int = 1


def sentinels(model: Any) -> int:
    """How many sentinels follow the pieces of a SentencePiece model.

    The model of mT5 holds its own. umT5 has 300 after its 256,000 pieces, T5 has 100. A
    model whose padding and EOS are not 0 and 1 is not one of T5's: MADLAD-400 has none.
    """
    if any("<extra_id_0>" in piece.piece for piece in model.pieces):
        return 0
    spec = model.trainer_spec
    if (spec.pad_id, spec.eos_id) != SpecialIds():
        return 0
    return 300 if len(model.pieces) == 256_000 else 100


def special_ids(model: Any, processor: Any, path: pathlib.Path) -> SpecialIds:
    """The ids of padding and EOS of a loaded model.

    Raises:
        InputError: it has no EOS, or text at id 0, which the network ignores.
    """
    pad, eos, bos = processor.pad_id(), processor.eos_id(), processor.bos_id()
    first = model.pieces[0]
    # T5X and SeqIO take id 0 for padding, so no text may need it. An unknown piece
    # there (MADLAD-400) is ignored too, as it was when the student was trained.
    if pad != 0 and (first.type != UNKNOWN and not (pad > 0 and first.type == CONTROL)):
        raise InputError(
            f"the vocabulary {path} has padding id {pad} and {first.piece!r} at id 0, "
            f"which batches are padded with and the network ignores. {REMEDY}"
        )
    if eos < 1:
        raise InputError(
            f"the vocabulary {path} has EOS id {eos}; a student needs an EOS above 0 "
            f"to end its answers. {REMEDY}"
        )
    return SpecialIds(pad if pad >= 0 else max(bos, 0), eos)


def parsed(content: bytes) -> Any:
    """The message that a model file holds; raises protobuf's DecodeError."""
    # protobuf makes this module at run time, invisible to a type checker.
    model_pb2: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    return model_pb2.ModelProto.FromString(content)


def load(
    content: bytes,
    extra_ids: int | None,
    path: pathlib.Path,
    *,
    single_digits: bool = False,
) -> tuple[Any, sentencepiece.SentencePieceProcessor, int]:
    """The model with its sentinels, its processor, and how many sentinels were added.

    With `single_digits`, every digit of a text is a piece, alone or after a space.

    Raises:
        InputError: the file holds no SentencePiece model.
    """
    from google.protobuf.message import DecodeError

    processor = sentencepiece.SentencePieceProcessor()
    try:
        model = parsed(content)
        if not model.pieces:
            raise RuntimeError("it holds no pieces")
        if not all(isinstance(piece.piece, str) for piece in model.pieces):
            raise RuntimeError("a piece is not UTF-8")  # protobuf gives bytes then
        count = sentinels(model) if extra_ids is None else extra_ids
        # As SeqIO does: the first sentinel gets the highest id.
        for index in reversed(range(count)):
            model.pieces.add(
                piece=f"{SPACE}<extra_id_{index}>",
                score=0.0,
                type=USER_DEFINED,
            )
        for piece in model.pieces if single_digits else ():
            longer = len(piece.piece.removeprefix(SPACE)) > 1
            if longer and piece.type == NORMAL and _DIGIT.search(piece.piece):
                piece.type = UNUSED
        processor.LoadFromSerializedProto(model.SerializeToString())
    except (DecodeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} ({len(content)} bytes) is not a SentencePiece model: {error}. "
            f"{REMEDY}"
        ) from error
    return model, processor, count
