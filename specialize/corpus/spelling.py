"""Teacher tokens as servers report them -> bytes that spell the text."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from specialize.corpus.alignment_rows import PROBABILITY_SLACK
from specialize.corpus.records import TeacherToken
from specialize.errors import InputError

# Below this is -9999 and the like, which servers write for "cannot be sampled".
IMPOSSIBLE = -1000.0

_BYTES_TOKEN = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)", re.IGNORECASE)
_LOST = "\ufffd".encode()  # U+FFFD: the server could not decode this token by itself


def token_text(token: bytes) -> str:
    r"""A token's bytes as OpenAI's API writes them: text, or `bytes:\xe2\x80`."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
    if _BYTES_TOKEN.fullmatch(text):  # not lossy even for a token that looks like that
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
    return text


def token_bytes(text: str) -> bytes:
    """Inverse of `token_text`."""
    match = _BYTES_TOKEN.fullmatch(text) if text.startswith("bytes:") else None
    if match:
        return bytes.fromhex(match.group(1).replace("\\x", ""))
    # surrogatepass: some servers send half a surrogate pair; it must not end a run.
    return text.encode("utf-8", "surrogatepass")


def teacher_token(
    token: bytes,
    logprob: float,
    alternatives: Iterable[tuple[bytes, float]],
    where: str,
) -> TeacherToken:
    """One checked teacher token.

    Args:
        token: the sampled token.
        logprob: its natural logarithm; -inf where it was rounded to 0.
        alternatives: what the teacher reported, in any order, the sampled one among
            them or not. A token that is listed twice with one value is one entry;
            with two values they are two tokens of the teacher that read the same, and
            their probabilities are added.
        where: for messages.

    Raises:
        InputError: a value is NaN or positive, or together they exceed 1.
    """
    options: dict[bytes, float] = {}
    total = 0.0
    for text, value in alternatives:
        if not value <= 0.0:  # NaN too
            value = _checked(value, text, where)
        if value < IMPOSSIBLE:
            continue
        before = options.get(text)
        if before is None:
            options[text] = value
        elif before != value:
            options[text] = before + math.log1p(math.exp(value - before))
        else:
            continue
        total += math.exp(value)
    if not logprob <= 0.0:
        logprob = _checked(logprob, token, where)
    if logprob < IMPOSSIBLE:
        logprob = -math.inf
    elif token not in options:
        options[token] = logprob
        total += math.exp(logprob)
    if total > 1 + PROBABILITY_SLACK:
        raise InputError(
            f"{where}: the probabilities of the alternatives to {token!r} sum to "
            f"{total:.4f}, more than 1. Expected natural logarithms (or, in a dump, "
            "probabilities) of one distribution."
        )
    top = sorted(options.items(), key=_by_probability)
    return TeacherToken(token, logprob, tuple(top))


def _by_probability(option: tuple[bytes, float]) -> tuple[float, bytes]:
    return -option[1], option[0]


def spell(text: str, tokens: Sequence[TeacherToken]) -> tuple[TeacherToken, ...] | None:
    """Makes the tokens spell the text, or says that they do not.

    Tokens behind the end of the text (an end-of-sequence mark, a stop string the
    server cut) are dropped. A server that reports parts of a character as U+FFFD has
    lost their bytes: such a run of tokens becomes one token, the characters that stand
    there in the text, whose probability is the run's by the chain rule and whose
    alternatives are unknown.

    Args:
        text: what the teacher answered.
        tokens: what it says it sampled.

    Returns:
        The tokens, or None where they cannot be made to spell the text.
    """
    data = text.encode("utf-8", "surrogatepass")
    kept = _covering(tokens, data)
    if kept is not None:
        return kept
    if any(_LOST in token.token for token in tokens):
        merged = _merge_replaced(text, tokens)
        return None if merged is None else _covering(merged, data)
    return None


def _covering(
    tokens: Sequence[TeacherToken], data: bytes
) -> tuple[TeacherToken, ...] | None:
    position = 0
    for index, token in enumerate(tokens):
        if position == len(data):
            return tuple(tokens[:index])
        end = position + len(token.token)
        if data[position:end] != token.token:
            rest = data[position:]
            if not position or not token.token.startswith(rest):
                return None
            # A stop string was cut off inside this token. White space behind the text
            # does no harm; of anything else only the probability of what stands in
            # the text is known, as a lower bound.
            if not token.token[len(rest) :].strip():
                return tuple(tokens[: index + 1])
            last = dataclasses.replace(token, token=rest, top=((rest, token.logprob),))
            return (*tokens[:index], last)
        position = end
    return tuple(tokens) if position == len(data) else None


def _merge_replaced(
    text: str, tokens: Sequence[TeacherToken]
) -> list[TeacherToken] | None:
    groups: list[tuple[bool, list[TeacherToken]]] = []
    for token in tokens:
        unknown = _LOST in token.token
        if groups and unknown and groups[-1][0]:
            groups[-1][1].append(token)
        else:
            groups.append((unknown, [token]))

    def pattern(lazy: str) -> str:
        return "".join(
            f"([^\x00-\x7f]+{lazy})"
            if unknown
            else re.escape(group[0].token.decode("utf-8", "replace"))
            for unknown, group in groups
        )

    wide, narrow = re.match(pattern(""), text), re.match(pattern("?"), text)
    if not wide or not narrow or wide.groups() != narrow.groups():
        return None
    characters = iter(wide.groups())
    merged: list[TeacherToken] = []
    for unknown, group in groups:
        if unknown:
            logprob = sum(token.logprob for token in group)
            token = next(characters).encode("utf-8", "surrogatepass")
            merged.append(TeacherToken(token, logprob, ((token, logprob),)))
        else:
            merged.extend(group)
    return merged


def _checked(logprob: float, token: bytes, where: str) -> float:
    """What to read for a value that is not 0 or less."""
    if math.isnan(logprob) or logprob > PROBABILITY_SLACK:
        raise InputError(
            f"{where}: the log-probability of {token!r} is {logprob}, expected a "
            "natural logarithm of a probability, 0 or less."
        )
    return 0.0
