"""The student pieces with which an alternative of the teacher begins, if settled.

An alternative is read after the word that it continues. Its pieces are those of T5's
segmentation of this text; a piece counts only if nothing known contradicts it
(docs/explanation/alignment.md). The bytes of ByT5 are settled as they come; for all
other vocabularies:

- whitespace alone settles nothing: T5 attaches it to the next word;
- half of a character settles nothing of its word;
- a control token of the teacher settles nothing, unless it ends the text: then it is
  the student's EOS;
- if the completion has a token with the same ending in the middle of a piece ("/"
  before "2" where T5 has "/2"), the pieces at such an ending stay open.
"""

import re
import weakref
from typing import NamedTuple

from specialize.corpus.vocabulary import Vocabulary

# The tokens with which teachers stop, and all other tokens that are not text.
_END = re.compile(
    rb"<\|(endoftext|im_end|end_of_text|eot_id|eom_id|end|return)\|>"
    rb"|</s>|<eos>|<end_of_turn>|<\xef\xbd\x9cend\xe2\x96\x81of\xe2\x96\x81sentence"
    rb"\xef\xbd\x9c>"
)
_CONTROL = re.compile(
    rb"<\|[^<>|\s]+\|>|<(s|pad|unk|bos|mask|start_of_turn)>"
    rb"|<\xef\xbd\x9c[^<>\s]+\xef\xbd\x9c>|<0x[0-9A-F]{2}>"
)
_REPLACEMENT = "�".encode()
# The last letters, the last digits, or the last mark of a text.
_RUN = re.compile(r"(?:[^\W\d_]+|\d+|\S)\Z")
_CACHE = 1 << 18


class Reading(NamedTuple):
    """The pieces with which an alternative begins.

    Attributes:
        pieces: student ids, after the pieces that were settled before.
        ending: key of its ending, see `ending`; None if nothing can continue it.
        certain: number of pieces that remain if that ending is open.
        agrees: number of settled pieces before the first that the alternative
            contradicts; None if it contradicts none.
    """

    pieces: tuple[int, ...]
    ending: bytes | None
    certain: int
    agrees: int | None = None


_NOTHING = Reading((), None, 0)


class Book(dict[bytes, Reading]):
    """Readings of alternatives that continue the same word.

    `context` is the text of the word so far, `settled` its settled pieces.
    """

    __slots__ = ("_reader", "context", "settled")

    def __init__(
        self, reader: "Reader", context: bytes, settled: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._reader = reader
        self.context = context
        self.settled = settled

    def __missing__(self, alternative: bytes) -> Reading:
        reading = self._reader.read(self.context, self.settled, alternative)
        self[alternative] = reading
        return reading


class Reader:
    """Reads alternatives with one vocabulary and keeps the readings.

    Attributes:
        by_name: the piece with exactly this text, for a teacher with the same pieces.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        # Weak: the reader is kept for as long as its vocabulary, not the reverse.
        self._vocabulary = weakref.proxy(vocabulary)
        self._bytes = vocabulary.bytes_are_pieces
        self._eos_id = vocabulary.eos_id
        self._books: dict[tuple[bytes, tuple[int, ...]], Book] = {}
        self._count = 0
        self.by_name: dict[bytes, tuple[int, ...]] = {}
        for index in range(vocabulary.size):
            name = vocabulary.spelling(index)
            if name is not None:
                self.by_name[name] = (index,)

    def book(self, context: bytes, settled: tuple[int, ...]) -> Book:
        """The readings of what may continue a word whose text so far is `context`."""
        key = (context, settled)
        book = self._books.get(key)
        if book is None:
            if self._count > _CACHE:
                self._books.clear()
                self._count = 0
            self._count += 1
            book = self._books[key] = Book(self, context, settled)
        return book

    @staticmethod
    def is_control(alternative: bytes) -> bool:
        """Whether this is a teacher's mark that is no text."""
        return bool(_END.fullmatch(alternative) or _CONTROL.fullmatch(alternative))

    def is_name(self, alternative: bytes) -> bool:
        """Whether this can be a token of a teacher with the student's vocabulary."""
        return alternative in self.by_name or self.is_control(alternative)

    def read(
        self, context: bytes, settled: tuple[int, ...], alternative: bytes
    ) -> Reading:
        """Reads one alternative; `Book` keeps the result."""
        self._count += 1
        if _END.fullmatch(alternative):
            ids = self._vocabulary.segment(context).ids
            return self._after(settled, [*ids, self._eos_id], None, 0)
        if _CONTROL.fullmatch(alternative):
            return _NOTHING
        text = context + alternative
        if self._bytes:
            # Nothing that follows changes a byte, but lost bytes are not known.
            lost = alternative.find(_REPLACEMENT)
            known = text if lost < 0 else text[: len(context) + lost]
            return self._after(settled, self._vocabulary.segment(known).ids, None, 0)
        whole = _whole_characters(text)
        ids, _, ends, word_starts, _ = self._vocabulary.segment(whole)
        if len(whole) < len(text):
            # The rest of the character may change its word.
            last = word_starts[-1] if ids else 0
            return self._after(settled, ids[:last], None, 0)
        how = ending(alternative)
        if how is None:
            return self._after(settled, ids, None, 0)
        key, length = how
        certain = sum(end <= len(text) - length for end in ends)
        return self._after(settled, ids, key, certain)

    def _after(
        self, settled: tuple[int, ...], ids: list[int], key: bytes | None, certain: int
    ) -> Reading:
        """The part of `ids` after the settled pieces."""
        known = len(settled)
        if tuple(ids[:known]) != settled:
            # It would change settled pieces, so it settles nothing.
            pairs = zip(ids, settled, strict=False)
            agrees = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
            return _NOTHING._replace(agrees=agrees)
        ids = ids[known:]
        return Reading(tuple(ids), key, max(0, certain - known))


def ending(token: bytes) -> tuple[bytes, int] | None:
    """How a token ends, to ask whether pieces continue after such an ending.

    Returns:
        (key, bytes of the ending). Equal keys mean the same kind of ending: the same
        number of digits, the same mark, or the same word fragment. None after
        whitespace or within a character.
    """
    try:
        text = token.decode("utf-8")
    except UnicodeDecodeError:
        return None
    run = _RUN.search(text)
    if run is None:
        return None
    tail = run[0]
    length = len(tail.encode())
    if tail.isdigit():
        return digits_ending(len(tail)), length
    if tail.isalpha():
        return b"w" + token, length
    return b" " + tail.encode(), length


def digits_ending(count: int) -> bytes:
    """The key of an ending of so many digits, see `ending`."""
    return b"#%d" % count


def _whole_characters(text: bytes) -> bytes:
    """`text` up to the first character that is cut, invalid or lost in transit."""
    try:
        text.decode("utf-8")
        end = len(text)
    except UnicodeDecodeError as error:
        end = error.start
    lost = text.find(_REPLACEMENT, 0, end)
    return text[: end if lost < 0 else lost]


_READERS: weakref.WeakKeyDictionary[Vocabulary, Reader] = weakref.WeakKeyDictionary()


def reader_of(vocabulary: Vocabulary) -> Reader:
    """The reader of a vocabulary; all completions of a process share it."""
    reader = _READERS.get(vocabulary)
    if reader is None:
        reader = _READERS[vocabulary] = Reader(vocabulary)
    return reader
