"""With which student pieces an alternative of the teacher begins, as far as settled.

An alternative is read after the word it continues. Its pieces are those of T5's own
segmentation of that text; a piece counts only where nothing we know speaks against it
(docs/explanation/alignment.md):

- whitespace alone settles nothing: T5 gives it to the word that follows;
- a character cut in half settles nothing of its word;
- a piece that the student cannot write settles nothing from there on;
- a control token of the teacher settles nothing, unless it ends the text: then it is
  the student's EOS;
- where the completion itself shows a token with the same ending in the middle of a
  piece ("/" before "2" where T5 has "/2"), the pieces at such an ending stay open.
"""

import re
import weakref
from typing import NamedTuple

from specialize.corpus.vocabulary import SPACE, Vocabulary

# What teachers write when they stop, and everything else that is not text.
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
    """The pieces an alternative begins with.

    Attributes:
        pieces: student ids, after those that were settled before it.
        ending: key of how it ends, see `ending`; None where nothing can go on.
        certain: how many of the pieces remain where that ending is open.
    """

    pieces: tuple[int, ...]
    ending: bytes | None
    certain: int


_NOTHING = Reading((), None, 0)


class Book(dict[bytes, Reading]):
    """Readings of alternatives that continue one and the same word.

    Attributes:
        context: the text of the word so far.
        settled: the pieces of it that are settled.
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
    """Reads alternatives with one vocabulary; remembers what it has read.

    Attributes:
        by_name: the piece of exactly this text, for a teacher that has the same
            pieces.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        # Weak: the reader is kept for as long as its vocabulary, not the reverse.
        self._vocabulary = weakref.proxy(vocabulary)
        self._unk_id = vocabulary.unk_id
        self._eos_id = vocabulary.eos_id
        self._books: dict[tuple[bytes, tuple[int, ...]], Book] = {}
        self._count = 0
        self.by_name: dict[bytes, tuple[int, ...]] = {}
        for index in range(vocabulary.size):
            if index not in (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id):
                name = vocabulary.piece(index).replace(SPACE, " ").encode()
                self.by_name[name] = (index,)

    def book(self, context: bytes, settled: tuple[int, ...]) -> Book:
        """The readings of what may continue a word.

        Args:
            context: the text of the word so far; empty at its beginning.
            settled: the pieces of it that are settled.
        """
        key = (context, settled)
        book = self._books.get(key)
        if book is None:
            if self._count > _CACHE:
                self._books.clear()
                self._count = 0
            self._count += 1
            book = self._books[key] = Book(self, context, settled)
        return book

    def is_name(self, alternative: bytes) -> bool:
        """Whether this can be a token of a teacher with the student's vocabulary."""
        return (
            alternative in self.by_name
            or _END.fullmatch(alternative) is not None
            or _CONTROL.fullmatch(alternative) is not None
        )

    def read(
        self, context: bytes, settled: tuple[int, ...], alternative: bytes
    ) -> Reading:
        """Reads one alternative; `Book` remembers the result."""
        self._count += 1
        if _END.fullmatch(alternative):
            ids = self._vocabulary.segment(context).ids
            return self._after(settled, [*ids, self._eos_id], None, 0)
        if _CONTROL.fullmatch(alternative):
            return _NOTHING
        text = context + alternative
        whole = _whole_characters(text)
        ids, _, ends, word_starts, _ = self._vocabulary.segment(whole)
        if len(whole) < len(text):
            # The rest of the character may change the word it stands in.
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
        """What of `ids` comes after the settled pieces and can be written."""
        known = len(settled)
        if tuple(ids[:known]) != settled:
            # It would cut settled pieces anew: it is not settled itself.
            return _NOTHING
        ids = ids[known:]
        if self._unk_id in ids:
            ids = ids[: ids.index(self._unk_id)]
        return Reading(tuple(ids), key, max(0, certain - known))


def ending(token: bytes) -> tuple[bytes, int] | None:
    """How a token ends, for asking whether pieces go on after such an ending.

    Returns:
        (key, bytes of the ending). Equal keys mean the same kind of ending: as many
        digits, the same mark, or the same word fragment. None after whitespace or
        within a character.
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
        return b"#%d" % len(tail), length
    if tail.isalpha():
        return b"w" + token, length
    return b" " + tail.encode(), length


def _whole_characters(text: bytes) -> bytes:
    """`text` up to the first character that is cut, broken or was lost in transit."""
    try:
        text.decode("utf-8")
        end = len(text)
    except UnicodeDecodeError as error:
        end = error.start
    lost = text.find(_REPLACEMENT, 0, end)
    return text[: end if lost < 0 else lost]


_READERS: weakref.WeakKeyDictionary[Vocabulary, Reader] = weakref.WeakKeyDictionary()


def reader_of(vocabulary: Vocabulary) -> Reader:
    """The reader of a vocabulary; its memory serves all completions of a process."""
    reader = _READERS.get(vocabulary)
    if reader is None:
        reader = _READERS[vocabulary] = Reader(vocabulary)
    return reader
