"""Where the tokens of a text are among the student's pieces, and what stays open.

A token may end within a piece, or where one ends that an alternative to the next token
would change. docs/explanation/alignment.md says when a piece is settled.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from specialize.corpus.alignment.readings import (
    Book,
    Reader,
    digits_ending,
    ending,
    reader_of,
)
from specialize.corpus.alignment.rows import Step
from specialize.corpus.vocabulary import SPACE, Segmentation, Vocabulary

# An alternative that is at least as probable shows that a piece goes on there.
_SHOWN = 0.01

WHITESPACE = frozenset(b" \t\n\r\f\v")


class Places(NamedTuple):
    """Where the tokens of a text are among its pieces.

    Attributes:
        raw: the text.
        segmentation: its pieces.
        starts: the byte at which each token begins.
        first_open: the first piece that is not settled there.
        reader: reads alternatives.
    """

    raw: bytes
    segmentation: Segmentation
    starts: Sequence[int]
    first_open: Sequence[int]
    reader: Reader

    def book(self, node: int) -> tuple[Book, int, bool]:
        """Readings of alternatives to token `node`, with their word.

        Returns:
            The readings, the first piece of the word that they continue, and whether
            that word is whole: then an alternative with a leading space begins a new
            one.
        """
        byte, piece = self.starts[node], self.first_open[node]
        ids, _, _, word_starts, begins = self.segmentation
        fresh = piece == len(ids) or begins[piece] == byte
        last = piece - 1 if fresh and piece else piece
        context = self.raw[begins[last] : byte]
        word = word_starts[last]
        return self.reader.book(context, tuple(ids[word:piece])), word, fresh


def open_endings(
    steps: Sequence[Step], raw: bytes, vocabulary: Vocabulary
) -> frozenset[bytes]:
    """Endings of tokens that a text, or an alternative to it, has within a piece."""
    segmentation = vocabulary.segment(raw)
    starts, first_open = cuts(steps, segmentation)
    found = endings_within(steps, starts, raw, segmentation)
    text = Places(raw, segmentation, starts, first_open, reader_of(vocabulary))
    for node, _, probability in changes(steps, text):
        how = ending(steps[node - 1].token)
        if probability >= _SHOWN and how is not None:
            found.add(how[0])
    return frozenset(found)


def most_digits(steps: Sequence[Step]) -> int:
    """The most digits with which a token or an alternative ends."""
    texts = (
        text
        for step in steps
        for text in (step.token, *(alternative for alternative, _ in step.others))
    )
    found = (how for text in texts if (how := ending(text)) is not None)
    return max((size for key, size in found if key == digits_ending(size)), default=0)


def speaks_as_student(
    steps: Sequence[Step], raw: bytes, vocabulary: Vocabulary
) -> bool:
    """Whether nothing in a text tells its teacher from one with the student's pieces.

    All tokens and alternatives are pieces of the student, and no alternative would
    change the pieces before it.
    """
    segmentation, reader = vocabulary.segment(raw), reader_of(vocabulary)
    if not has_pieces_of(steps, segmentation, reader):
        return False
    places = Places(raw, segmentation, *cuts(steps, segmentation), reader)
    return next(changes(steps, places), None) is None


def changes(steps: Sequence[Step], places: Places) -> Iterator[tuple[int, int, float]]:
    """Yields alternatives that would change a piece that is settled before them.

    As (number of the token, number of the first piece that changes, probability).
    """
    for node in range(1, len(steps) if places.segmentation.ids else 0):
        book, word, fresh = places.book(node)
        for alternative, probability in steps[node].others:
            if fresh and alternative[0] in WHITESPACE:
                continue  # it begins a new word
            if (agrees := book[alternative].agrees) is not None:
                yield node, word + agrees, probability


def cuts(
    steps: Sequence[Step],
    segmentation: Segmentation,
    open_endings: Collection[bytes] = (),
) -> tuple[list[int], list[int]]:
    """The bytes where tokens begin, and the first piece that is not settled there.

    A piece that ends with a token is not settled before the next token if the token has
    an open ending: an alternative to the next one may continue the piece.
    """
    ends = segmentation.ends
    total = len(ends)
    starts: list[int] = []
    first_open: list[int] = []
    byte = piece = 0
    for step in steps:
        starts.append(byte)
        first_open.append(piece)
        byte += len(step.token)
        how = ending(step.token) if open_endings else None
        least = byte - (how is not None and how[0] in open_endings)
        while piece < total and ends[piece] <= least:
            piece += 1
    while piece < total and ends[piece] <= byte:
        piece += 1
    first_open.append(piece)
    return starts, first_open


def endings_within(
    steps: Sequence[Step], starts: list[int], raw: bytes, segmentation: Segmentation
) -> set[bytes]:
    """Endings of tokens that this text has in the middle of a piece."""
    cuts = set(segmentation.ends)
    found: set[bytes] = set()
    last = b""
    for number in range(1, len(steps)):
        byte = starts[number]
        # A token that writes nothing ends where the one before it does.
        last = steps[number - 1].token or last
        if byte in cuts or raw[byte - 1 : byte].isspace():
            continue
        if not raw[byte : byte + 1].isspace():
            how = ending(last)
            if how is not None:
                found.add(how[0])
    return found


def has_pieces_of(
    steps: Sequence[Step], segmentation: Segmentation, reader: Reader
) -> bool:
    """Whether all tokens and alternatives of a text are pieces of the student.

    Then the teacher has the student's vocabulary, and an alternative is the piece with
    its name, even if T5 would segment the text so far differently.
    """
    pieces = segmentation.pieces
    if not pieces or len(steps) != len(pieces):
        return False
    space = SPACE.encode()
    return (
        pieces[0].replace(space, b"") == steps[0].token.lstrip(b" ")
        and all(
            piece.replace(space, b" ") == step.token
            for piece, step in zip(pieces[1:], steps[1:], strict=True)
        )
        and all(reader.is_name(text) for step in steps for text, _ in step.others)
    )
