"""Teacher tokens <-> student pieces: a teacher's top-k becomes rows over student ids.

Two methods. `bytes` (the default, `alignment_bytes`) is exact: it counts, for every
student piece, the probability of the teacher's alternatives whose text begins with it.
`dtw` (`alignment_dtw`) reproduces the paper.
docs/explanation/alignment.md defines both.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np

from specialize.corpus.alignment import byte_offsets, time_warping
from specialize.corpus.alignment.rows import EOS, NO_DISTRIBUTION, Step, assemble
from specialize.corpus.choices import ALIGNMENTS
from specialize.corpus.records import PROBABILITY_SLACK, AlignedTarget, TeacherToken
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError


def align(
    tokens: Sequence[TeacherToken],
    text: str,
    vocabulary: Vocabulary,
    *,
    method: str = "bytes",
    k: int = 5,
    where: str = "this completion",
) -> AlignedTarget | None:
    """Gives every student piece of `text` the teacher's distribution.

    Args:
        tokens: T teacher tokens that spell `text` exactly.
        text: the target; whitespace at its ends is no part of any piece.
        vocabulary: the student's.
        method: "bytes" or "dtw".
        k: alternatives to keep a position. The target token is always among them
            where it has any mass; what is not kept is in the tail.
        where: names the completion in messages.

    Returns:
        The target with EOS, which is one-hot; or None where `text` has no piece.

    Raises:
        InputError: the tokens do not spell `text`; a probability is NaN or the
            distinct alternatives of a token exceed 1 beyond rounding.
    """
    if method not in ALIGNMENTS:
        raise InputError(
            f"alignment is {method!r}, expected one of {list(ALIGNMENTS)}."
        )
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: its text holds half of a surrogate pair at character "
            f"{error.start}, which UTF-8 cannot write. Mend or drop the record."
        ) from error
    if method == "bytes":
        steps = check_tokens(tokens, raw, where)
        rows = byte_offsets.rows(steps, raw, vocabulary)
    else:
        # As reported: the paper does not mend sums.
        steps = check_tokens(tokens, raw, where, scaled=False)
        rows = time_warping.rows(steps, raw, vocabulary)
    return assemble(rows, vocabulary, k) if rows.ids else None


def one_hot(text: str, vocabulary: Vocabulary, k: int) -> AlignedTarget:
    """A target without a teacher's distribution: all mass on the text's own pieces.

    Args:
        text: the target.
        vocabulary: the student's.
        k: entries of a teacher row.
    """
    ids = [*vocabulary.encode(text), vocabulary.eos_id]
    length = len(ids)
    teacher_ids = np.zeros((length, k), np.int32)
    teacher_ids[:, 0] = ids
    teacher_logprobs = np.full((length, k), -np.inf, np.float32)
    teacher_logprobs[:, 0] = 0.0
    origin = np.full(length, NO_DISTRIBUTION, np.int32)
    origin[-1] = EOS
    return AlignedTarget(
        ids=np.asarray(ids, np.int32),
        teacher_ids=teacher_ids,
        teacher_logprobs=teacher_logprobs,
        tail=np.zeros(length, np.float32),
        origin=origin,
    )


def check_tokens(
    tokens: Sequence[TeacherToken], raw: bytes, where: str, *, scaled: bool = True
) -> list[Step]:
    """Turns log-probabilities into probabilities and refuses what cannot be true.

    Args:
        tokens: the teacher's tokens.
        raw: the text in UTF-8 that they should spell.
        where: names the completion in messages.
        scaled: whether a sum that rounding lifted above 1 is brought back to 1.

    Returns:
        One step a token.

    Raises:
        InputError: naming the token, its number and the values.
    """
    if b"".join([token.token for token in tokens]) != raw:
        raise InputError(f"{where}: {_first_difference(tokens, raw)}")
    exp = math.exp
    steps: list[Step] = []
    for number, (token, logprob, top) in enumerate(map(_FIELDS, tokens)):
        # "not <=" rather than ">": NaN must not pass.
        if not logprob <= PROBABILITY_SLACK:
            raise InputError(_bad_logprob(where, number, token, token, logprob))
        sampled = exp(logprob) if logprob < 0.0 else 1.0
        total = sampled
        others: list[tuple[bytes, float]] = []
        for alternative, other in top:
            if not other <= PROBABILITY_SLACK:
                raise InputError(_bad_logprob(where, number, token, alternative, other))
            if alternative != token and alternative:
                probability = exp(other)
                if probability > 0.0:
                    total += probability
                    others.append((alternative, probability))
        if total > 1.0:
            if total > 1.0 + PROBABILITY_SLACK:
                raise InputError(
                    f"{where}: the alternatives of token {number} ({_shown(token)}) "
                    f"have probability {total:.6f} together, expected at most 1. Give "
                    "each alternative once, as natural logarithms."
                )
            if scaled:
                sampled /= total
                others = [(other, mass / total) for other, mass in others]
        steps.append(Step(token, sampled, others, max(0.0, 1.0 - total)))
    return steps


_FIELDS = operator.attrgetter("token", "logprob", "top")


def _bad_logprob(
    where: str, number: int, token: bytes, alternative: bytes, logprob: float
) -> str:
    return (
        f"{where}: token {number} ({_shown(token)}) gives {_shown(alternative)} the "
        f"log-probability {logprob}, expected at most 0. Sample the completion again."
    )


def _first_difference(tokens: Sequence[TeacherToken], raw: bytes) -> str:
    at = 0
    for number, token in enumerate(tokens):
        if raw[at : at + len(token.token)] != token.token:
            return (
                f"token {number} is {_shown(token.token)} but the text goes on with "
                f"{_shown(raw[at : at + 20])} at byte {at}. Its tokens must spell "
                "its text."
            )
        at += len(token.token)
    return (
        f"its {len(tokens)} tokens end at byte {at}, its text at byte {len(raw)}. Its "
        "tokens must spell its text."
    )


def _shown(data: bytes) -> str:
    return repr(data.decode("utf-8", "backslashreplace"))
