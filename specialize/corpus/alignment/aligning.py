"""Alignment: a teacher's alternatives become teacher rows over the student's pieces.

`bytes` (`byte_offsets`, the default) is exact: for every student piece it adds up the
probabilities of the teacher's alternatives whose text begins with that piece. `dtw`
(`time_warping`) reproduces the paper. docs/explanation/alignment.md defines both.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np

from specialize.corpus.alignment import byte_offsets, time_warping
from specialize.corpus.alignment.readings import Reader
from specialize.corpus.alignment.rows import (
    EOS,
    NO_DISTRIBUTION,
    Rows,
    Step,
    assemble,
)
from specialize.corpus.alignment.targets import AlignedTarget
from specialize.corpus.choices import ALIGNMENTS
from specialize.corpus.plain_text.machine import Machine
from specialize.corpus.plain_text.tokens import rewrite
from specialize.corpus.records import PROBABILITY_SLACK, TeacherToken
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError


def align(
    tokens: Sequence[TeacherToken],
    text: str,
    vocabulary: Vocabulary,
    *,
    method: str = "bytes",
    k: int = 5,
    machine: Machine | None = None,
    where: str = "this completion",
) -> AlignedTarget | None:
    """Gives every student piece of `text` the teacher's distribution.

    Args:
        tokens: the teacher's T tokens, which spell `text` exactly.
        text: the target; whitespace at its ends belongs to no piece.
        vocabulary: the student's vocabulary.
        method: "bytes" or "dtw".
        k: number of entries of a teacher row. The target piece is one of them if it
            has any mass; the mass that is not kept is in the tail.
        machine: rewrites the text and the alternatives as the student writes them. The
            pieces are then those of `machine.text(text)`.
        where: name of the completion in messages.

    Returns:
        The target with EOS, whose row is one-hot; None if `text` has no piece.

    Raises:
        InputError: the tokens do not spell `text`, a probability is NaN, or the
            distinct alternatives of a token exceed 1 beyond rounding.
    """
    check_method(method, vocabulary)
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: its text holds half of a surrogate pair at character "
            f"{error.start}, which UTF-8 cannot write. Correct or remove the record."
        ) from error
    # The paper does not correct sums.
    steps = check_tokens(tokens, raw, where, scaled=method == "bytes")
    before = steps
    if machine is not None:
        steps, raw = rewritten(steps, raw, machine)
    if method == "bytes":
        rows = byte_offsets.rows(steps, raw, vocabulary, named=steps is before)
        rows = _stripped(rows, raw.decode(), vocabulary)
    else:
        rows = time_warping.rows(steps, raw, vocabulary)
    return assemble(rows, vocabulary, k) if rows.ids else None


def rewritten(
    steps: list[Step], raw: bytes, machine: Machine
) -> tuple[list[Step], bytes]:
    """The steps of the rewritten text; see `plain_text.tokens`."""
    found = rewrite(
        [step.token for step in steps],
        [[other for other, _ in step.others] for step in steps],
        machine,
        Reader.is_control,
    )
    if found is None:
        return steps, raw
    done: list[Step] = []
    for step, token, others in zip(
        steps, found.tokens, found.alternatives, strict=True
    ):
        if token == step.token and [other for other, _ in step.others] == others:
            done.append(step)
            continue
        pairs = list(zip(others, (mass for _, mass in step.others), strict=True))
        # What an alternative that writes nothing leads to is not known.
        rest = step.rest + sum(mass for other, mass in pairs if not other)
        done.append(Step(token, step.sampled, [p for p in pairs if p[0]], rest))
    return done, found.text


def check_method(method: str, vocabulary: Vocabulary) -> None:
    """Refuses an alignment that is unknown or cannot serve the vocabulary.

    Raises:
        InputError: naming what can be used.
    """
    if method not in ALIGNMENTS:
        raise InputError(
            f"alignment is {method!r}, expected one of {list(ALIGNMENTS)}."
        )
    if method == "dtw" and vocabulary.bytes_are_pieces:
        raise InputError(
            "alignment 'dtw' compares the names of tokens and pieces, and bytes have "
            "none. Use --alignment bytes."
        )


def _stripped(rows: Rows, text: str, vocabulary: Vocabulary) -> Rows:
    """The rows of `text.strip()`, which is what the student is taught.

    T5's vocabulary ignores whitespace at the ends of a text. Others write it, as bytes
    or as pieces of their own: then it has rows, which are left out here. If it cannot
    be cut from the pieces beside it, no rows are left.
    """
    stripped = text.strip()
    if stripped == text:
        return rows
    own = vocabulary.encode(stripped)
    for begin in range(len(rows.ids) - len(own) + 1):
        end = begin + len(own)
        if rows.ids[begin:end] == own:
            cut = slice(begin, end)
            return Rows(rows.ids[cut], rows.masses[cut], rows.origins[cut])
    return Rows([], [], [])


def one_hot(text: str, vocabulary: Vocabulary, k: int) -> AlignedTarget:
    """A target without a distribution from the teacher: K entries, all one-hot."""
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
    """Turns the log-probabilities of every token into probabilities and checks them.

    `raw` is the UTF-8 text that the tokens must spell. `scaled` says whether a sum
    that rounding raised above 1 is scaled down to 1.

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
                f"token {number} is {_shown(token.token)} but the text continues with "
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
