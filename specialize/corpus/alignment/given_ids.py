"""Teacher rows for ids that a student sampled, which are scored as a text.

The ids need not be those into which the vocabulary cuts the text. A row says what the
teacher would write next, cut as the vocabulary cuts it. Within each word it therefore
holds for the ids before which the student's and the vocabulary's pieces agree; the id
at which they part is given what would have been right. What a scored text does not say
stays unknown, a row without entries whose tail is 1: the other ids of such a word, EOS
(a server scores texts, not where they end), pieces that the teacher's tokens do not
determine, and all that follows an id that writes no text.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from specialize.corpus.alignment import byte_offsets, places
from specialize.corpus.alignment.aligning import check_tokens
from specialize.corpus.alignment.readings import digits_ending
from specialize.corpus.alignment.rows import SOFT, assemble
from specialize.corpus.records import TeacherToken
from specialize.corpus.vocabulary import SPACE, Vocabulary


class GivenText(NamedTuple):
    """The text that ids write.

    Attributes:
        raw: the text in UTF-8, whole characters only.
        ids: the first ids, which write it.
        begins: the byte at which each of them begins.
    """

    raw: bytes
    ids: list[int]
    begins: list[int]

    @property
    def text(self) -> str:
        """The text."""
        return self.raw.decode()


def text_of(
    ids: Sequence[int], vocabulary: Vocabulary, line_before: str = ""
) -> GivenText:
    """The text that ids write, up to the first that writes none.

    Args:
        ids: ids of the student.
        vocabulary: its vocabulary.
        line_before: words that a line begins with, such as "The answer is". A student
            that cannot write line breaks has a space before them; the last such space
            becomes a line break, as a teacher writes it.
    """
    spelt: list[bytes] = []
    for index in ids:
        text = vocabulary.spelling(index)
        if text is None:
            break
        spelt.append(text)
    if spelt and not vocabulary.bytes_are_pieces:
        spelt[0] = spelt[0].removeprefix(b" ")  # of the first word; it is not written
    raw = b"".join(spelt)
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raw = raw[: error.start]
    ends = [0, *np.cumsum([len(text) for text in spelt], dtype=np.int64).tolist()]
    count = sum(end <= len(raw) for end in ends) - 1
    raw = raw[: ends[count]]
    if not vocabulary.bytes_are_pieces and line_before:
        at = raw.rfind(f" {line_before}".encode())
        if at >= 0:
            raw = raw[:at] + b"\n" + raw[at + 1 :]
    return GivenText(raw, list(ids[:count]), ends[:count])


def open_endings(
    scored: Iterable[tuple[Sequence[TeacherToken], GivenText]], vocabulary: Vocabulary
) -> frozenset[bytes]:
    """Endings of the teacher's tokens after which a piece may go on.

    An alternative with such an ending may be the beginning of a longer piece, whatever
    text it is an alternative in. They are the endings that a text, or an alternative of
    at least 1 %, has within a piece; and as many digits as a token has at most, because
    a shorter number that goes on would be a longer token.

    Args:
        scored: the tokens of each text; none of a text that was not scored.
        vocabulary: the student's vocabulary.
    """
    found: set[bytes] = set()
    digits = 0
    for tokens, given in scored:
        if tokens and given.raw.strip():
            steps = check_tokens(tokens, given.raw, "a scored text")
            found |= places.open_endings(steps, given.raw, vocabulary)
            digits = max(digits, places.most_digits(steps))
    return frozenset(found | {digits_ending(digits)} if digits else found)


def speaks_as_student(
    tokens: Sequence[TeacherToken], given: GivenText, vocabulary: Vocabulary
) -> bool:
    """Whether the teacher of a scored text may have the student's own pieces.

    One text may look so by chance; all texts of a teacher do not.
    """
    if not tokens or not given.raw.strip():
        return True
    steps = check_tokens(tokens, given.raw, "a scored text")
    return places.speaks_as_student(steps, given.raw, vocabulary)


def align_given(
    tokens: Sequence[TeacherToken],
    given: GivenText,
    length: int,
    vocabulary: Vocabulary,
    *,
    k: int,
    where: str,
    also_open: frozenset[bytes] = frozenset(),
    named: bool = True,
) -> tuple[
    Int[np.ndarray, "L {k}"], Float[np.ndarray, "L {k}"], Float[np.ndarray, " L"]
]:
    """The rows of L ids, of which the first write the scored text.

    Args:
        tokens: the teacher's tokens, which spell the text.
        given: the text and its ids.
        length: number L of all ids.
        vocabulary: the student's vocabulary.
        k: number of entries of a row.
        where: name of the text in messages.
        also_open: endings of the teacher's tokens that other texts have in the middle
            of a piece (`open_endings`).
        named: whether a token that is a piece of the student is that piece, if all
            tokens of this text are (`speaks_as_student`).

    Returns:
        Ids, probabilities and tail. The teacher's probability of any piece lies in
        [row(piece), row(piece) + tail], if no alternative goes on within a piece but
        those with an ending in `also_open`.

    Raises:
        InputError: the tokens do not spell the text, or their probabilities are none.
    """
    ids, probs = np.zeros((length, k), np.int32), np.zeros((length, k), np.float32)
    tail = np.ones(length, np.float32)
    if given.raw.strip():
        steps = check_tokens(tokens, given.raw, where)
        rows = byte_offsets.rows(
            steps, given.raw, vocabulary, named=named, also_open=also_open
        )
        found = assemble(rows, vocabulary, k)
        for mine, theirs in common_pieces(given, vocabulary):
            if rows.origins[theirs] == SOFT:
                ids[mine] = found.teacher_ids[theirs]
                probs[mine] = np.exp(found.teacher_logprobs[theirs])
                tail[mine] = found.tail[theirs]
    return ids, probs, tail


def common_pieces(
    given: GivenText, vocabulary: Vocabulary
) -> Iterator[tuple[int, int]]:
    """Pairs of the numbers of an id and a piece of the text that are one place.

    Within a word, what is before both of them is the same pieces.
    """
    segmentation = vocabulary.segment(given.raw)
    pieces: dict[int, list[int]] = {}
    for number, begin in enumerate(segmentation.begins):
        pieces.setdefault(begin, []).append(number)
    words = vocabulary.bytes_are_pieces or vocabulary.words_are_independent
    theirs: Iterator[int] = iter(())
    for mine, (index, begin) in enumerate(zip(given.ids, given.begins, strict=True)):
        new = vocabulary.bytes_are_pieces or vocabulary.piece(index).startswith(SPACE)
        if not mine or (new and words):
            theirs = iter(pieces.get(begin, ()))
        found = next(theirs, None)
        if found is None:
            continue
        yield mine, found
        if segmentation.ids[found] != index:
            theirs = iter(())
