"""The student's vocabulary: SentencePiece text <-> ids, and which bytes a piece covers.

The ids equal those of `seqio.SentencePieceVocabulary` for the same file and number of
extra ids, so a SeqIO task would encode the texts of a corpus in the same way; reading
the file does not need tensorflow.
"""

import bisect
import importlib
import operator
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import sentencepiece

from specialize import typed_json
from specialize.digests import file_digest
from specialize.errors import InputError

# SentencePiece writes a space this way; it opens a word.
SPACE = "▁"


class Span(NamedTuple):
    """One piece of a text and the UTF-8 bytes of the text that it covers."""

    id: int
    piece: str
    begin: int
    end: int


class Segmentation(NamedTuple):
    """A text in pieces, with the byte where each piece is known to be complete.

    Attributes:
        ids: ids [L].
        pieces: pieces [L] in UTF-8; an unknown character is its own piece.
        ends: bytes [L]; non-decreasing. Nothing after `ends[i]` is in piece i. Differs
            from the end of a span only inside words that normalisation rewrites (the
            character "½" becomes the pieces of "1⁄2").
        word_starts: index [L] of the first piece of the word that contains piece i.
        begins: byte [L] where that word begins, including its leading whitespace.
    """

    ids: list[int]
    pieces: list[bytes]
    ends: list[int]
    word_starts: list[int]
    begins: list[int]


class Vocabulary:
    """A SentencePiece model as the student uses it.

    T5's model normalises (NFKC and more), turns every run of whitespace, newlines
    included, into one "▁" and puts one before the first word. `spans` nevertheless
    counts bytes of the original text.

    Args:
        path: the `.model` file, for T5 the `spiece.model` of its authors.
        extra_ids: number of sentinels after the pieces; 100 for every T5.
        rows: rows of the student's embedding. Default: `size` rounded up to a
            multiple of 128, which is 32128 for T5.
        digits: "single" spells numbers with pieces of one digit; "whole" as the model.

    Raises:
        InputError: the file is missing or not a SentencePiece model, its ids 0 and 1
            are not padding and EOS, or it has more ids than `rows`.
    """

    pad_id = 0
    eos_id = 1

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        extra_ids: int = 100,
        rows: int | None = None,
        digits: str = "whole",
    ) -> None:
        self.path = pathlib.Path(path)
        self.extra_ids = extra_ids
        self.digits = digits
        typed_json.refuse_device(self.path, remedy="Give the student's spiece.model.")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the vocabulary {self.path}: {error.strerror}. Give the "
                "SentencePiece model of the student, for T5 its spiece.model."
            ) from error
        self.sha256 = file_digest(self.path)
        self._processor, self._pieces = _load(
            content, extra_ids, self.path, single_digits=digits == "single"
        )
        self.unk_id: int = self._processor.unk_id()
        self.size: int = self._processor.get_piece_size()
        self.rows = -(-self.size // 128) * 128 if rows is None else rows
        if self.rows < self.size:
            raise InputError(
                f"the vocabulary {self.path} has {self.size} ids ({extra_ids} of them "
                f"extra) but the embedding only {self.rows} rows. Give more rows."
            )
        self._ids = {piece: index for index, piece in enumerate(self._pieces)}
        # If no piece spans a space, and spaces are written as T5 writes them, every
        # word is segmented by itself.
        self.words_are_independent = (
            SPACE in self._ids
            and not any(SPACE in piece[1:] for piece in self._pieces)
            and self.encode("  a  b") == self.encode("a b")
        )

    def __repr__(self) -> str:
        return f"Vocabulary({str(self.path)!r}, extra_ids={self.extra_ids})"

    def __reduce__(self) -> tuple[object, ...]:
        # The other process loads the file: the C++ processor cannot be pickled.
        return _restore, (str(self.path), self.extra_ids, self.rows, self.digits)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without EOS."""
        return self._processor.encode(_utf8(text))

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of `ids`, as SeqIO decodes them.

        Ids at or above `size` count as unknown; ids after the first EOS are ignored.
        Padding and EOS write nothing.
        """
        clean: list[int] = []
        for index in map(operator.index, ids):
            clean.append(index if index < self.size else self.unk_id)
            if index == self.eos_id:
                break
        return self._processor.decode(clean) if clean else ""

    def unwritable(self, text: str) -> str:
        """The characters of `text` that become <unk>, in order; "" for most texts.

        They are those of the normalised text, in which "½" is "1⁄2".
        """
        raw = _utf8(text)
        if self.unk_id not in self._processor.encode(raw):
            return ""
        coded = self._processor.encode(raw, out_type="offset_mapping")
        pieces = zip(coded["ids"], coded["pieces"], strict=True)
        lost = [piece.decode() for index, piece in pieces if index == self.unk_id]
        return "".join(lost).replace(SPACE, "")

    def piece(self, index: SupportsIndex) -> str:
        """The piece with this id; "<row 32100>" for rows without a piece.

        Raises:
            InputError: the id is outside the embedding.
        """
        index = operator.index(index)
        if 0 <= index < self.size:
            return self._pieces[index]
        if self.size <= index < self.rows:
            return f"<row {index}>"
        raise InputError(f"id {index} is outside the {self.rows} rows of {self.path}.")

    def is_used(self, index: int) -> bool:
        """Whether texts are encoded with this piece."""
        return not self._processor.is_unused(index)

    def id_of(self, piece: str) -> int | None:
        """The id of a piece by its exact string, or None."""
        return self._ids.get(piece)

    def spans(self, text: str) -> list[Span]:
        """The pieces of `text` with the bytes that they cover; empty for whitespace.

        The spans tile the UTF-8 bytes of `text`: leading whitespace belongs to its
        piece, whitespace at the very end to the last one. If one character is
        normalised to several pieces, one of them covers its bytes and the others none.
        """
        raw = _utf8(text)
        coded = self._processor.encode(raw, out_type="offset_mapping")
        ids, offsets = coded["ids"], coded["offsets"]
        if not ids:
            return []
        ends: list[int] = [end for _, end in offsets]
        ends[-1] = len(raw)
        begins = [0, *ends[:-1]]
        return [
            Span(index, piece.decode("utf-8", "replace"), begin, end)
            for index, piece, begin, end in zip(
                ids, coded["pieces"], begins, ends, strict=True
            )
        ]

    def segment(self, raw: bytes) -> Segmentation:
        """The pieces of a UTF-8 text for alignment; see `Segmentation`."""
        coded = self._processor.encode(raw, out_type="offset_mapping")
        ids: list[int] = coded["ids"]
        surfaces: list[bytes] = coded["pieces"]
        ends: list[int] = [end for _, end in coded["offsets"]]
        word_starts: list[int] = []
        begins: list[int] = []
        start = begin = last_end = 0
        split = self.words_are_independent
        for index, piece in enumerate(surfaces):
            if split and index and piece.startswith(_SPACE_BYTES):
                start, begin = index, last_end
            word_starts.append(start)
            begins.append(begin)
            last_end = ends[index]
        written = b"".join(surfaces).replace(_SPACE_BYTES, b"")
        if written != raw.translate(None, _WHITESPACE):
            for start in sorted(set(word_starts)):
                stop = bisect.bisect_right(word_starts, start)
                self._settle(raw, surfaces, ends, start, stop, begins[start])
        for index, piece in enumerate(surfaces[:-1]):
            if piece == _SPACE_BYTES:
                # Whether a space stays alone is known when its successor begins.
                ends[index] = min(ends[index] + 1, ends[index + 1])
        return Segmentation(ids, surfaces, ends, word_starts, begins)

    def _settle(
        self,
        raw: bytes,
        surfaces: list[bytes],
        ends: list[int],
        start: int,
        stop: int,
        begin: int,
    ) -> None:
        """Moves the ends of pieces [start, stop) of a word to where they are certain.

        SentencePiece maps all bytes of a rewritten character to its first byte, so the
        piece before such a character may hold part of it but end earlier. A cut is
        certain where the text up to it normalises to the pieces up to it.
        """
        certain = ends[stop - 1]
        written = b"".join(surfaces[start:stop]).replace(_SPACE_BYTES, b"")
        if written == raw[begin:certain].translate(None, _WHITESPACE):
            return
        for index in range(stop - 2, start - 1, -1):
            spelled = b"".join(surfaces[start : index + 1])
            head = raw[begin : ends[index]].decode("utf-8", "replace")
            if self._processor.normalize(head).encode() == spelled:
                certain = ends[index]
            ends[index] = certain


_SPACE_BYTES = SPACE.encode()
_WHITESPACE = b" \t\n\r\f\v"
_DIGIT = re.compile("[0-9]")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text {text[:60]!r} holds half of a surrogate pair at character "
            f"{error.start}, which UTF-8 cannot write. Correct or remove the record."
        ) from error


def _load(
    content: bytes, extra_ids: int, path: pathlib.Path, *, single_digits: bool
) -> tuple[sentencepiece.SentencePieceProcessor, list[str]]:
    from google.protobuf.message import DecodeError

    # protobuf makes this module at run time, invisible to a type checker.
    model_pb2: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    remedy = "Give the SentencePiece model of the student, for T5 its spiece.model."
    processor = sentencepiece.SentencePieceProcessor()
    try:
        model = model_pb2.ModelProto.FromString(content)
        if not model.pieces:
            raise RuntimeError("it holds no pieces")
        # As SeqIO does: the first sentinel gets the highest id.
        for index in reversed(range(extra_ids)):
            model.pieces.add(
                piece=f"{SPACE}<extra_id_{index}>",
                score=0.0,
                type=model_pb2.ModelProto.SentencePiece.USER_DEFINED,
            )
        if single_digits:
            for piece in model.pieces:
                longer = len(piece.piece.removeprefix(SPACE)) > 1
                if longer and piece.type == piece.NORMAL and _DIGIT.search(piece.piece):
                    piece.type = piece.UNUSED
        processor.LoadFromSerializedProto(model.SerializeToString())
        size = processor.get_piece_size()
        pieces = [str(processor.id_to_piece(index)) for index in range(size)]
    except (DecodeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} ({len(content)} bytes) is not a SentencePiece model: {error}. "
            f"{remedy}"
        ) from error
    if processor.pad_id() != 0 or processor.eos_id() != 1:
        raise InputError(
            f"the vocabulary {path} has padding id {processor.pad_id()} and EOS id "
            f"{processor.eos_id()}; a T5 student needs 0 and 1. {remedy}"
        )
    return processor, pieces


def _restore(path: str, extra_ids: int, rows: int, digits: str) -> Vocabulary:
    return Vocabulary(path, extra_ids=extra_ids, rows=rows, digits=digits)
