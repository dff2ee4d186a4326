"""The exact alignment: what the teacher's alternatives say about every student piece.

At every token that it sampled, the teacher reported alternatives with probabilities.
The text of each alternative is known: the sampled text before it, then itself. Cut
into student pieces, this text shows with which pieces it begins. Let P(a) be the
probability of the path to alternative a. Then

    M(s)      = sum of P(a) over the alternatives whose pieces begin with s
    row_k(v)  = M(s_1 .. s_(k-1) v) / M(s_1 .. s_(k-1))

is the teacher's distribution over the k-th piece. 1 minus its sum is the tail: tokens
that the teacher did not list, and alternatives that end before the piece is settled.
docs/explanation/alignment.md says what "settled" means and why this is right;
`readings` decides it. The sums cover few tokens: where a token and a piece end at the
same byte, and no alternative reaches beyond it, the computation restarts with M = 1.
"""

from collections.abc import Sequence

from specialize.corpus.alignment.places import (
    WHITESPACE,
    Places,
    changes,
    cuts,
    endings_within,
    has_pieces_of,
)
from specialize.corpus.alignment.readings import Reader, reader_of
from specialize.corpus.alignment.rows import (
    NO_DISTRIBUTION,
    SOFT,
    UNDETERMINED,
    Rows,
    Step,
)
from specialize.corpus.vocabulary import SPACE, Vocabulary

# The mass of a sampled token whose probability was rounded to 0. Any value far below
# what servers report will do: it cancels where this token alone decides.
_LEAST = 1e-12


def rows(
    steps: Sequence[Step],
    raw: bytes,
    vocabulary: Vocabulary,
    *,
    named: bool = True,
    also_open: frozenset[bytes] | None = None,
) -> Rows:
    """The teacher rows of a text.

    Args:
        steps: the T tokens that spell `raw`.
        raw: the text in UTF-8.
        vocabulary: the student's vocabulary.
        named: whether tokens that are pieces of the student are those pieces; they are
            not if they were rewritten.
        also_open: endings that any text has in the middle of a piece
            (`open_endings`). If they are given, no row says more than is certain: an
            alternative that ends within several pieces of a word stays open, too,
            because it may be the beginning of another word; a piece that an alternative
            to the next token would change is not settled before that token; and what
            may have passed a position counts there.
    """
    text = _Text(steps, raw, vocabulary, named, also_open)
    while len(text.masses) < text.total:
        text.extend()
    origins = [SOFT] * text.total
    for position in text.undetermined:
        origins[position] = UNDETERMINED
    for position in text.unreported:
        origins[position] = NO_DISTRIBUTION
    return Rows(text.ids, text.masses, origins)


class _Text:
    """A text whose rows are computed from left to right.

    Attributes:
        ids: the text's pieces [L].
        total: L.
        masses: the rows so far.
        undetermined: positions of rows that no known path reaches.
        unreported: positions that a token without any distribution has a part in.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        raw: bytes,
        vocabulary: Vocabulary,
        named: bool,
        also_open: frozenset[bytes] | None,
    ) -> None:
        self.segmentation = vocabulary.segment(raw)
        self.ids = self.segmentation.ids
        self.total = len(self.ids)
        self.masses: list[dict[int, float]] = []
        self.undetermined: list[int] = []
        self.unreported: list[int] = []
        self._steps = steps
        self._raw = raw
        self._reader: Reader = reader_of(vocabulary)
        self._starts, self._first_open = cuts(steps, self.segmentation)
        self._same = named and has_pieces_of(steps, self.segmentation, self._reader)
        if self._same:
            self._first_open = list(range(len(steps) + 1))
        self._open_endings = endings_within(steps, self._starts, raw, self.segmentation)
        self._cautious = also_open is not None
        if also_open is not None:
            self._open_endings |= also_open
            if not self._same:
                _, self._first_open = cuts(steps, self.segmentation, self._open_endings)
                self._reopen()
        self._node = 0

    def _reopen(self) -> None:
        """Leaves the pieces open that an alternative to a later token would change."""
        first_open = self._first_open = list(self._first_open)
        for node, place, _ in changes(self._steps, self._places()):
            first_open[node] = min(first_open[node], place)
        for node in range(len(first_open) - 2, -1, -1):
            first_open[node] = min(first_open[node], first_open[node + 1])

    def _places(self) -> Places:
        return Places(
            *(self._raw, self.segmentation, self._starts, self._first_open),
            self._reader,
        )

    def extend(self) -> None:
        """Appends rows from the next token to the place where the computation restarts.

        That is the next token that begins a piece into which no earlier alternative
        reaches.
        """
        ids, total, first_open = self.ids, self.total, self._first_open
        open_endings, by_name = self._open_endings, self._reader.by_name
        new_words = self._reader.book(b"", ())
        places = self._places()
        node = self._node
        base = len(self.masses)
        # Per position from `base`: the mass per piece, and all mass that leaves there.
        found: list[dict[int, float]] = [{}]
        leaving: list[float] = [0.0]
        # Of what leaves, what may go on as the text does: (from, to, mass).
        perhaps: list[tuple[int, int, float]] = []
        weight = 1.0
        reach = base
        unreported: int | None = None
        while True:
            at = first_open[node]
            token, sampled, others, rest = self._steps[node]
            if unreported is None and sampled == 0.0 and not others:
                unreported = at
            if at > reach:
                reach = at
                _lengthen(found, leaving, at - base)
            here, own = found[at - base], ids[at]
            left = rest
            book, _, fresh = places.book(node)
            # At the start of a text the space of a piece may have been stripped.
            same = self._same and (node > 0 or token.startswith(b" "))
            for alternative, probability in others:
                if same and alternative in by_name:
                    pieces = by_name[alternative]
                else:
                    if fresh and alternative[0] in WHITESPACE:
                        pieces, how, certain, _ = new_words[alternative]
                    else:
                        pieces, how, certain, _ = book[alternative]
                    if how in open_endings or (
                        self._cautious and how is not None and len(pieces) > certain + 1
                    ):
                        agreeing = at + self._agreeing(pieces, at)
                        pieces = pieces[:certain]
                        if self._cautious:
                            cut = min(agreeing, at + certain)
                            last = self._passable(node, alternative, agreeing)
                            if last > reach:
                                reach = last
                                _lengthen(found, leaving, last - base)
                            perhaps.append((cut, last, weight * probability))
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
            if self._cautious:
                # A token that is not known may begin as this one does, and what is
                # open before it may be as it is here.
                last = self._passable(node, b"", at)
                if last > reach:
                    reach = last
                    _lengthen(found, leaving, last - base)
                last = max(last, first_open[node + 1] - 1)
                perhaps.append((at, last, weight * rest))
            weight *= sampled if sampled > _LEAST else _LEAST
            node += 1
            if first_open[node] > reach or first_open[node] == total:
                break
        self._node = node
        self._close(first_open[node], weight, found, leaving, perhaps)
        if unreported is not None:
            self.unreported.extend(range(unreported, first_open[node]))

    def _agreeing(self, pieces: tuple[int, ...], at: int) -> int:
        """How many first `pieces`, placed at position `at`, are those of the text."""
        pairs = zip(pieces, self.ids[at:], strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pieces))

    def _passable(self, node: int, alternative: bytes, position: int) -> int:
        """The last position that an alternative may reach if its pieces are not known.

        It passes the text's pieces, from `position`, of which it has all bytes. A space
        that is a piece has no more than the bytes before its successor.
        """
        begin = self._starts[node]
        same = zip(alternative, self._raw[begin:], strict=False)
        common = next((n for n, (a, b) in enumerate(same) if a != b), len(alternative))
        _, pieces, ends, *_ = self.segmentation
        alone = SPACE.encode()
        while position < self.total and (
            ends[position] - (pieces[position] == alone) <= begin + common
        ):
            position += 1
        return min(position, self.total - 1)

    def _departure(self, pieces: tuple[int, ...], at: int) -> tuple[int, int | None]:
        """Where `pieces`, placed at position `at`, leave the text, and the piece there.

        The piece is None if they end before they leave.
        """
        for position, piece in enumerate(pieces, start=at):
            if position == self.total or self.ids[position] != piece:
                return position, piece
        return at + len(pieces), None

    def _close(
        self,
        end: int,
        weight: float,
        found: list[dict[int, float]],
        leaving: list[float],
        perhaps: Sequence[tuple[int, int, float]],
    ) -> None:
        """Turns the masses `found` and `leaving` before position `end` into rows.

        `weight` is the mass of the sampled path, which passes `end`. What may arrive at
        a position (`perhaps`) counts as arriving, so that no entry is greater than the
        true probability.
        """
        base = len(self.masses)
        if end == base + 1 == base + len(found):
            # No path reaches further, so the arriving mass is 1 up to rounding.
            own = self.ids[base]
            found[0][own] = found[0].get(own, 0.0) + weight
            self.masses.append(found[0])
            return
        _lengthen(found, leaving, end - base)
        passed = [0.0] * (len(found) + 1)
        for first, last, mass in perhaps:
            last = min(last, end - 1)
            if first < last:
                passed[last - base] += mass
                passed[first - base] -= mass
        may_pass = 0.0
        passing = weight + sum(leaving[end - base :])
        for position in range(end - 1, base - 1, -1):
            row = found[position - base]
            arriving = passing + leaving[position - base]
            may_pass += passed[position - base]
            own = self.ids[position]
            if arriving > 0.0:
                whole = arriving + may_pass
                if whole != 1.0:
                    row = {piece: mass / whole for piece, mass in row.items()}
                row[own] = row.get(own, 0.0) + passing / whole
            else:
                self.undetermined.append(position)
            found[position - base] = row
            passing = arriving
        self.masses.extend(found[: end - base])


def _lengthen(found: list[dict[int, float]], leaving: list[float], last: int) -> None:
    while len(found) <= last:
        found.append({})
        leaving.append(0.0)
