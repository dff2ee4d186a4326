"""The paper's alignment: dynamic time warping by edit distance.

Teacher tokens and student pieces of a text are warped onto each other. The cost of a
pair is the Levenshtein distance of the token without spaces and the piece without "▁".
A piece gets the teacher's distribution if exactly one token maps to it and the two are
the same string (space = "▁"); alternatives that are not pieces are dropped, and the
mass is not renormalised. Every other piece is one-hot. This method exists to reproduce
the paper; `byte_offsets` is better in every respect.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from specialize.corpus.alignment.rows import SOFT, UNMATCHED, Rows, Step
from specialize.corpus.vocabulary import SPACE, Vocabulary

_DIAGONAL, _UP, _LEFT = 0, 1, 2


def rows(steps: Sequence[Step], raw: bytes, vocabulary: Vocabulary) -> Rows:
    """The teacher rows of a text; `steps` are the T tokens that spell `raw` (UTF-8).

    As in the paper, whitespace tokens at either end are ignored.
    """
    ids = vocabulary.encode(raw.decode("utf-8").strip())
    pieces = [vocabulary.piece(index) for index in ids]
    first, last = 0, len(steps)
    while first < last and steps[first].token.isspace():
        first += 1
    while first < last and steps[last - 1].token.isspace():
        last -= 1
    used = steps[first:last]
    spelled = [step.token.decode("utf-8", "replace") for step in used]
    partners: list[list[int]] = [[] for _ in ids]
    if ids and spelled:
        partners = warp(spelled, pieces)
    masses: list[dict[int, float]] = []
    origins: list[int] = []
    for piece, mapped in zip(pieces, partners, strict=True):
        known = [n for n in mapped if used[n].sampled or used[n].others]
        if len(mapped) == len(known) == 1 and (
            spelled[mapped[0]].replace(" ", SPACE) == piece
        ):
            masses.append(_distribution(used[mapped[0]], vocabulary))
            origins.append(SOFT)
        else:
            masses.append({})
            origins.append(UNMATCHED)
    return Rows(ids, masses, origins)


def warp(tokens: Sequence[str], pieces: Sequence[str]) -> list[list[int]]:
    """Warps tokens onto pieces with the least total edit distance.

    Among moves of equal cost, the diagonal comes before the token's ("up"), and that
    before the piece's ("left").

    Args:
        tokens: T > 0 strings.
        pieces: L > 0 strings.

    Returns:
        For each piece, the tokens on its part of the path, in order.
    """
    costs = _costs(
        [token.replace(" ", "") for token in tokens],
        [piece.replace(SPACE, "") for piece in pieces],
    ).tolist()
    moves: list[list[int]] = []
    above = [0] + [_INFINITE] * len(pieces)
    for line in costs:
        best = _INFINITE
        diagonal = above[0]
        current = [_INFINITE]
        move: list[int] = []
        for cost, up in zip(line, above[1:], strict=True):
            if diagonal <= up and diagonal <= best:
                move.append(_DIAGONAL)
                best = diagonal + cost
            elif up <= best:
                move.append(_UP)
                best = up + cost
            else:
                move.append(_LEFT)
                best += cost
            diagonal = up
            current.append(best)
        moves.append(move)
        above = current
    partners: list[list[int]] = [[] for _ in pieces]
    token, piece = len(tokens) - 1, len(pieces) - 1
    while token >= 0 and piece >= 0:
        partners[piece].append(token)
        went = moves[token][piece]
        token -= went != _LEFT
        piece -= went != _UP
    for mapped in partners:
        mapped.reverse()
    return partners


_INFINITE = 1 << 60


def _costs(tokens: list[str], pieces: list[str]) -> Int[np.ndarray, "T L"]:
    """Edit distances of all pairs; equal pairs are computed once."""
    own_tokens = {text: index for index, text in enumerate(dict.fromkeys(tokens))}
    own_pieces = {text: index for index, text in enumerate(dict.fromkeys(pieces))}
    distances = process.cdist(
        list(own_tokens), list(own_pieces), scorer=Levenshtein.distance, dtype=np.int32
    )
    lines = [own_tokens[text] for text in tokens]
    columns = [own_pieces[text] for text in pieces]
    return distances[np.ix_(lines, columns)]


def _distribution(step: Step, vocabulary: Vocabulary) -> dict[int, float]:
    mass: dict[int, float] = {}
    for alternative, probability in [(step.token, step.sampled), *step.others]:
        piece = alternative.decode("utf-8", "replace").replace(" ", SPACE)
        index = vocabulary.id_of(piece)
        if index is not None and index not in mass:
            mass[index] = probability
    return mass
