"""The student's vocabulary: text <-> ids, and which bytes a piece covers.

A vocabulary is a SentencePiece model or, for ByT5, the bytes of UTF-8. The ids equal
those of `seqio.SentencePieceVocabulary` for the same file and number of extra ids, or
of `seqio.ByteVocabulary`, so a SeqIO task would encode the texts of a corpus in the
same way; reading the file does not need tensorflow.

A vocabulary is the only home of the ids of padding and EOS. Batches are padded with 0
whatever the vocabulary, as in SeqIO and T5X, and the network ignores id 0.
"""

import bisect
import operator
import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

from specialize import typed_json
from specialize.corpus.piece_models import (
    BYTE,
    CONTROL,
    REMEDY,
    SPACE,
    UNKNOWN,
    UNUSED,
    SpecialIds,
    load,
    special_ids,
)
from specialize.digests import BYTE_NAMES, BYTES_SHA256, file_digest, is_bytes
from specialize.errors import InputError


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
        extra_ids: number of sentinels after the pieces. Default: as `sentinels`, which
            is 100 for T5.
        rows: rows of the student's embedding. Default: `size` rounded up to a
            multiple of 128, which is 32128 for T5.
        digits: "single" spells numbers with pieces of one digit; "whole" as the model.

    Attributes:
        special: ids of padding and EOS. The padding id is that of an exported
            tokenizer; a model without one pads with its BOS, as MADLAD-400 does.

    Raises:
        InputError: the file is missing or not a SentencePiece model, it has no EOS or
            an ordinary piece at id 0, or it has more ids than `rows`.
    """

    special: SpecialIds
    unk_id: int
    bytes_are_pieces = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        extra_ids: int | None = None,
        rows: int | None = None,
        digits: str = "whole",
    ) -> None:
        self.path = pathlib.Path(path)
        self.digits = digits
        typed_json.refuse_device(self.path, remedy="Give the student's spiece.model.")
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise InputError(
                f"cannot read the vocabulary {self.path}: {error.strerror}. {REMEDY}"
            ) from error
        self.sha256 = file_digest(self.path)
        model, self._processor, self.extra_ids = load(
            content, extra_ids, self.path, single_digits=digits == "single"
        )
        self.special = special_ids(model, self._processor, self.path)
        self.unk_id = self._processor.unk_id()
        self._types = [piece.type for piece in model.pieces]
        self._define([piece.piece for piece in model.pieces], rows)
        # If no piece spans a space, and spaces are written as T5 writes them, every
        # word is segmented by itself.
        self.words_are_independent = (
            SPACE in self._ids
            and not any(SPACE in piece[1:] for piece in self._pieces)
            and self.encode("  a  b") == self.encode("a b")
        )

    def _define(self, pieces: list[str], rows: int | None) -> None:
        self._pieces, self.size = pieces, len(pieces)
        self._ids = {piece: index for index, piece in enumerate(pieces)}
        self.rows = -(-self.size // 128) * 128 if rows is None else rows
        if self.rows < self.size:
            raise InputError(
                f"the vocabulary {self.path} has {self.size} ids ({self.extra_ids} of "
                f"them extra) but the embedding only {self.rows} rows. Give more rows."
            )

    def __repr__(self) -> str:
        return f"Vocabulary({str(self.path)!r}, extra_ids={self.extra_ids})"

    @property
    def pad_id(self) -> int:
        """The id with which an exported tokenizer pads."""
        return self.special.pad_id

    @property
    def eos_id(self) -> int:
        """The id that ends inputs and targets."""
        return self.special.eos_id

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

    def spelling(self, index: SupportsIndex) -> bytes | None:
        """The bytes that a piece writes; None if it is no text (padding, EOS, ...)."""
        index = operator.index(index)
        kind = self._types[index] if 0 <= index < self.size else UNUSED
        if kind in (UNKNOWN, CONTROL, UNUSED) or index in self.special:
            return None
        piece = self._pieces[index]
        if kind == BYTE:
            return bytes.fromhex(piece[3:5])
        return piece.replace(SPACE, " ").encode()

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


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text {text[:60]!r} holds half of a surrogate pair at character "
            f"{error.start}, which UTF-8 cannot write. Correct or remove the record."
        ) from error


class ByteVocabulary(Vocabulary):
    """The bytes of UTF-8, as ByT5 uses them; the ids are `seqio.ByteVocabulary`'s.

    Ids 0 to 2 are padding, EOS and unknown, id 3 + b is byte b, and 125 sentinels
    follow. No text is normalised, and every text can be written: whitespace at the ends
    of a text is part of it.

    Args:
        rows: rows of the student's embedding. Default: 384.
    """

    special = SpecialIds()
    unk_id = 2
    bytes_are_pieces = True
    digits = "single"  # each is a byte
    extra_ids = 125
    offset = 3

    def __init__(self, *, rows: int | None = None) -> None:
        self.path = pathlib.Path(BYTE_NAMES[0])
        self.sha256 = BYTES_SHA256
        self.words_are_independent = True
        sentinels = [f"<extra_id_{index}>" for index in reversed(range(self.extra_ids))]
        written = [f"<0x{byte:02X}>" for byte in range(256)]
        self._define(["<pad>", "</s>", "<unk>", *written, *sentinels], rows)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore_bytes, (self.rows,)

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without EOS."""
        return [byte + self.offset for byte in _utf8(text)]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of `ids` up to the first EOS; halves of characters write nothing."""
        found = bytearray()
        for index in map(operator.index, ids):
            if index == self.eos_id:
                break
            if 0 <= index - self.offset < 256:
                found.append(index - self.offset)
        return found.decode("utf-8", "ignore")

    def unwritable(self, text: str) -> str:
        """No character: all have bytes."""
        _utf8(text)
        return ""

    def spelling(self, index: SupportsIndex) -> bytes | None:
        """The byte of an id; None if it is no byte."""
        byte = operator.index(index) - self.offset
        return bytes([byte]) if 0 <= byte < 256 else None

    def spans(self, text: str) -> list[Span]:
        """The bytes of `text`, each with itself."""
        return [
            Span(byte + self.offset, self._pieces[byte + self.offset], at, at + 1)
            for at, byte in enumerate(_utf8(text))
        ]

    def segment(self, raw: bytes) -> Segmentation:
        """Every byte is complete in itself, also one of half a character."""
        numbers = list(range(len(raw)))
        ids = [byte + self.offset for byte in raw]
        pieces = [bytes([byte]) for byte in raw]
        ends = list(range(1, len(raw) + 1))
        return Segmentation(ids, pieces, ends, numbers, numbers)


def read_vocabulary(
    name: str | os.PathLike[str],
    *,
    rows: int | None = None,
    digits: str = "whole",
    network: Any = None,
) -> Vocabulary:
    """The vocabulary that `name` names: a SentencePiece model, or "byt5" for bytes.

    Args:
        name: a path, or one of `BYTE_NAMES`.
        rows: rows of the student's embedding, which must hold the sentinels too.
        digits: as for `Vocabulary`; bytes are single digits anyway.
        network: a network whose embedding must hold all other ids.

    Raises:
        InputError: as `Vocabulary`, or it is not the vocabulary of `network`.
    """
    if is_bytes(name):
        found = ByteVocabulary(rows=rows)
    else:
        found = Vocabulary(name, rows=rows, digits=digits)
    if network is not None:
        check_rows(found.path, found.size - found.extra_ids, network.vocab_size)
    return found


def check_rows(vocabulary: object, ids: int, rows: int) -> None:
    """Refuses a vocabulary whose ids a network cannot look up.

    Raises:
        InputError: there are more ids than rows.
    """
    if ids > rows:
        raise InputError(
            f"the vocabulary {vocabulary} has {ids:,} ids, but the network only "
            f"{rows:,} embedding rows (vocab_size). Name the vocabulary of this "
            "student, or the model file of this vocabulary."
        )


def _restore(path: str, extra_ids: int, rows: int, digits: str) -> Vocabulary:
    return Vocabulary(path, extra_ids=extra_ids, rows=rows, digits=digits)


def _restore_bytes(rows: int) -> ByteVocabulary:
    return ByteVocabulary(rows=rows)
