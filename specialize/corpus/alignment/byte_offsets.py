"""The exact alignment: what the teacher's tokens say about every student piece.

The teacher reported, at every token it sampled, alternatives with their probabilities.
Each alternative is a text we know: the sampled text before it, and itself. Cut into
student pieces, such a text says with which pieces it begins. So with P(a) the
probability of taking the path to alternative a,

    M(s)      = sum of P(a) over the alternatives whose pieces begin with s
    row_k(v)  = M(s_1 .. s_(k-1) v) / M(s_1 .. s_(k-1))

is the teacher's distribution over the k-th piece, and 1 minus its sum is the tail:
what the teacher did not list, and alternatives that end before the piece is settled.
docs/explanation/alignment.md says what "settled" means and why this is right;
`readings` decides it. Sums run over a few tokens only: where no alternative reaches
over the end of a token that is also the end of a piece, everything starts again at
M = 1.
"""

from collections.abc import Sequence

from specialize.corpus.alignment.readings import Book, Reader, ending, reader_of
from specialize.corpus.alignment.rows import (
    SOFT,
    UNDETERMINED,
    UNKNOWN_PIECE,
    Rows,
    Step,
)
from specialize.corpus.vocabulary import SPACE, Segmentation, Vocabulary

# A sampled token whose probability was rounded to 0 still happened. Anything far below
# what servers report serves: it cancels wherever the token decides alone.
_LEAST = 1e-12

_WHITESPACE = frozenset(b" \t\n\r\f\v")


def rows(steps: Sequence[Step], raw: bytes, vocabulary: Vocabulary) -> Rows:
    """The rows of a text.

    Args:
        steps: the teacher's T tokens, which spell `raw`.
        raw: the text in UTF-8.
        vocabulary: the student's.
    """
    text = _Text(steps, raw, vocabulary)
    while len(text.masses) < text.total:
        text.extend()
    origins = [SOFT] * text.total
    for position, index in enumerate(text.ids):
        if index == vocabulary.unk_id:
            origins[position] = UNKNOWN_PIECE
    for position in text.undetermined:
        origins[position] = UNDETERMINED
    return Rows(text.ids, text.masses, origins)


class _Text:
    """A text on its way to rows, from left to right.

    Attributes:
        ids: its L pieces.
        total: L.
        masses: the rows so far.
        undetermined: positions of rows that no known path reaches.
    """

    def __init__(
        self, steps: Sequence[Step], raw: bytes, vocabulary: Vocabulary
    ) -> None:
        self.segmentation = vocabulary.segment(raw)
        self.ids = self.segmentation.ids
        self.total = len(self.ids)
        self.masses: list[dict[int, float]] = []
        self.undetermined: list[int] = []
        self._steps = steps
        self._raw = raw
        self._reader: Reader = reader_of(vocabulary)
        self._starts, self._first_open = _cuts(steps, self.segmentation)
        self._same = _speaks_as_student(steps, self.segmentation, self._reader)
        if self._same:
            self._first_open = list(range(len(steps) + 1))
        self._open_endings = _open_endings(steps, self._starts, raw, self.segmentation)
        self._node = 0

    def extend(self) -> None:
        """Appends rows from the next token on, up to where everything starts again.

        That is the next token which begins a piece that no alternative before it
        reaches into.
        """
        ids, total, first_open = self.ids, self.total, self._first_open
        open_endings, by_name = self._open_endings, self._reader.by_name
        new_words = self._reader.book(b"", ())
        node = self._node
        base = len(self.masses)
        # By position from `base` on: mass by piece, and all mass that leaves there.
        found: list[dict[int, float]] = [{}]
        leaving: list[float] = [0.0]
        weight = 1.0
        reach = base
        while True:
            at = first_open[node]
            token, sampled, others, rest = self._steps[node]
            if at > reach:
                reach = at
                _lengthen(found, leaving, at - base)
            here, own = found[at - base], ids[at]
            left = rest
            book, fresh = self._book(node)
            # At the start of a text a piece's own space may have been stripped.
            same = self._same and (node > 0 or token.startswith(b" "))
            for alternative, probability in others:
                if same and alternative in by_name:
                    pieces = by_name[alternative]
                else:
                    if fresh and alternative[0] in _WHITESPACE:
                        pieces, how, certain = new_words[alternative]
                    else:
                        pieces, how, certain = book[alternative]
                    if how in open_endings:
                        pieces = pieces[:certain]
                if not pieces:
                    left += probability
                elif pieces[0] != own:
                    piece = pieces[0]
                    left += probability
                    here[piece] = here.get(piece, 0.0) + weight * probability
                else:
                    position, piece = self._departure(pieces, at)
                    if position > reach:
                        reach = position
                        _lengthen(found, leaving, position - base)
                    leaving[position - base] += weight * probability
                    if piece is not None:
                        there = found[position - base]
                        there[piece] = there.get(piece, 0.0) + weight * probability
            leaving[at - base] += weight * left
            weight *= sampled if sampled > _LEAST else _LEAST
            node += 1
            if first_open[node] > reach or first_open[node] == total:
                break
        self._node = node
        self._close(first_open[node], weight, found, leaving)

    def _departure(self, pieces: tuple[int, ...], at: int) -> tuple[int, int | None]:
        """Where `pieces`, laid on the text from position `at`, leave it, and to what.

        Returns:
            (position, piece); the piece is None where they end before they leave.
        """
        for position, piece in enumerate(pieces, start=at):
            if position == self.total or self.ids[position] != piece:
                return position, piece
        return at + len(pieces), None

    def _book(self, node: int) -> tuple[Book, bool]:
        """How to read what could stand in place of token `node`.

        Returns:
            (readings after the word so far, whether that word is whole, so that an
            alternative with a space begins a new one).
        """
        byte, piece = self._starts[node], self._first_open[node]
        starts, begins = self.segmentation.word_starts, self.segmentation.begins
        fresh = begins[piece] == byte
        last = piece - 1 if fresh and piece else piece
        context = self._raw[begins[last] : byte]
        settled = tuple(self.ids[starts[last] : piece])
        return self._reader.book(context, settled), fresh

    def _close(
        self,
        end: int,
        weight: float,
        found: list[dict[int, float]],
        leaving: list[float],
    ) -> None:
        """Turns the masses up to position `end` into rows.

        Args:
            end: the first position that is not theirs.
            weight: the mass of the sampled path, which passes `end`.
            found: mass by piece, by position.
            leaving: all mass that leaves the text's own pieces, by position.
        """
        base = len(self.masses)
        if end == base + 1 == base + len(found):
            # Nothing reaches further, so what arrives is 1 up to rounding.
            own = self.ids[base]
            found[0][own] = found[0].get(own, 0.0) + weight
            self.masses.append(found[0])
            return
        _lengthen(found, leaving, end - base)
        passing = weight + sum(leaving[end - base :])
        for position in range(end - 1, base - 1, -1):
            row = found[position - base]
            arriving = passing + leaving[position - base]
            own = self.ids[position]
            if arriving > 0.0:
                if arriving != 1.0:
                    row = {piece: mass / arriving for piece, mass in row.items()}
                row[own] = row.get(own, 0.0) + passing / arriving
            else:
                self.undetermined.append(position)
            found[position - base] = row
            passing = arriving
        self.masses.extend(found[: end - base])


def _lengthen(found: list[dict[int, float]], leaving: list[float], last: int) -> None:
    while len(found) <= last:
        found.append({})
        leaving.append(0.0)


def _cuts(
    steps: Sequence[Step], segmentation: Segmentation
) -> tuple[list[int], list[int]]:
    """Where tokens begin, and the first piece that is not settled there."""
    ends = segmentation.ends
    total = len(ends)
    starts: list[int] = []
    first_open: list[int] = []
    byte = piece = 0
    for step in steps:
        starts.append(byte)
        first_open.append(piece)
        byte += len(step.token)
        while piece < total and ends[piece] <= byte:
            piece += 1
    first_open.append(piece)
    return starts, first_open


def _open_endings(
    steps: Sequence[Step],
    starts: list[int],
    raw: bytes,
    segmentation: Segmentation,
) -> set[bytes]:
    """Endings of tokens that this text shows in the middle of a piece."""
    cuts = set(segmentation.ends)
    found: set[bytes] = set()
    for number in range(1, len(steps)):
        byte = starts[number]
        if byte in cuts or raw[byte - 1 : byte].isspace():
            continue
        if not raw[byte : byte + 1].isspace():
            how = ending(steps[number - 1].token)
            if how is not None:
                found.add(how[0])
    return found


def _speaks_as_student(
    steps: Sequence[Step], segmentation: Segmentation, reader: Reader
) -> bool:
    """Whether every token and every alternative of a text is a piece of the student's.

    Then the teacher has the student's vocabulary, and an alternative is the piece of
    its name, also where T5 would cut the text so far in another way.
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
