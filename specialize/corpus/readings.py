"""With which student pieces an alternative of the teacher begins, as far as settled.

An alternative is read after the word it continues. Its pieces are those of T5's own
segmentation of that text; a piece counts only where nothing we know speaks against it
(docs/alignment.md):

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
from collections.abc import Set
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


class _Reading(NamedTuple):
    """Pieces of a text, and how it ends.

    Attributes:
        pieces: ids from the beginning of its word.
        ending: key of its ending, see `ending`, or None where nothing could go on.
        settled: how many pieces remain where that ending is open.
    """

    pieces: tuple[int, ...]
    ending: bytes | None
    settled: int


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
        self._known: dict[bytes, dict[bytes, _Reading]] = {}
        self._count = 0
        self.by_name: dict[bytes, tuple[int, ...]] = {}
        for index in range(vocabulary.size):
            if index not in (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id):
                name = vocabulary.piece(index).replace(SPACE, " ").encode()
                self.by_name[name] = (index,)

    def read(
        self, context: bytes, alternative: bytes, open_endings: Set[bytes]
    ) -> tuple[int, ...]:
        """The settled pieces of `context` + `alternative`.

        Args:
            context: the text of the word so far.
            alternative: the teacher's token.
            open_endings: endings that settle nothing.
        """
        here = self._known.get(context)
        if here is None:
            here = self._known[context] = {}
        reading = here.get(alternative)
        if reading is None:
            reading = here[alternative] = self._read(context, alternative)
            self._count += 1
            if self._count > _CACHE:
                self._known.clear()
                self._count = 0
        pieces, how, settled = reading
        return pieces[:settled] if how in open_endings else pieces

    def is_name(self, alternative: bytes) -> bool:
        """Whether this can be a token of a teacher with the student's vocabulary."""
        return (
            alternative in self.by_name
            or _END.fullmatch(alternative) is not None
            or _CONTROL.fullmatch(alternative) is not None
        )

    def _read(self, context: bytes, alternative: bytes) -> _Reading:
        if _END.fullmatch(alternative):
            ids = self._vocabulary.segment(context).ids
            return self._writable([*ids, self._eos_id], None, 0)
        if _CONTROL.fullmatch(alternative):
            return _Reading((), None, 0)
        text = context + alternative
        whole = _whole_characters(text)
        segmentation = self._vocabulary.segment(whole)
        ids = segmentation.ids
        if len(whole) < len(text):
            # The rest of the character may change the word it stands in.
            last = segmentation.word_starts[-1] if ids else 0
            return self._writable(ids[:last], None, 0)
        how = ending(alternative)
        if how is None:
            return self._writable(ids, None, 0)
        key, length = how
        cut = len(text) - length
        settled = sum(end <= cut for end in segmentation.ends)
        return self._writable(ids, key, settled)

    def _writable(self, ids: list[int], key: bytes | None, settled: int) -> _Reading:
        if self._unk_id in ids:
            ids = ids[: ids.index(self._unk_id)]
            key = key if settled < len(ids) else None
        return _Reading(tuple(ids), key, settled)


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
