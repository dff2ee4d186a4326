"""Teacher tokens as servers report them -> bytes that spell the text."""

import bisect
import dataclasses
import itertools
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence

from specialize.corpus.records import PROBABILITY_SLACK, TeacherToken
from specialize.errors import InputError

# Servers write values below this, such as -9999, for "cannot be sampled".
IMPOSSIBLE = -1000.0

# The largest relative difference of two values that bfloat16 rounds from one.
_ROUNDING = 1 / 128

_BYTES_TOKEN = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)", re.IGNORECASE)
_LOST = "\ufffd".encode()  # U+FFFD: the server could not decode this token by itself


def token_text(token: bytes) -> str:
    r"""A token's bytes as OpenAI's API writes them: text, or `bytes:\xe2\x80`."""
    try:
        text = token.decode()
        if not _BYTES_TOKEN.fullmatch(text):  # a token may look like `bytes:...` itself
            return text
    except UnicodeDecodeError:
        pass
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def token_bytes(text: str) -> bytes:
    """Inverse of `token_text`."""
    match = _BYTES_TOKEN.fullmatch(text) if text.startswith("bytes:") else None
    if match:
        return bytes.fromhex(match.group(1).replace("\\x", ""))
    # surrogatepass: some servers send half a surrogate pair; it must not end a run.
    return text.encode("utf-8", "surrogatepass")


def is_text_of(option: bytes, token: bytes) -> bool:
    """Whether an option is the token itself, perhaps in the tokenizer's alphabet."""
    return option == token or bool(
        _MARK.match(option) and token in (_of_bytes(option), _of_pieces(option))
    )


def teacher_token(
    token: bytes,
    logprob: float,
    alternatives: Iterable[tuple[bytes, float]],
    where: str,
) -> TeacherToken:
    """One checked teacher token.

    Args:
        token: the sampled token.
        logprob: natural logarithm of its probability; -inf if that was rounded to 0.
        alternatives: what the teacher reported, in any order, with or without the
            sampled token. Two entries of one text and one value (up to rounding) are
            one token. With two values they are two tokens of the teacher that read the
            same, and their probabilities are added, also to that of the sampled one.
        where: name of the token in messages.

    Raises:
        InputError: a value is NaN or positive, or together they exceed 1.
    """
    options: dict[bytes, list[float]] = {}
    for text, value in alternatives:
        if not value <= 0.0:  # NaN too
            value = _checked(value, text, where)
        if value < IMPOSSIBLE:
            continue
        if is_text_of(text, token):
            text = token
        values = options.setdefault(text, [])
        if not any(_equal(value, other) for other in values):
            values.append(value)
    if not logprob <= 0.0:
        logprob = _checked(logprob, token, where)
    if logprob >= IMPOSSIBLE:
        values = options.setdefault(token, [])
        if not any(_equal(logprob, value) for value in values):
            values.append(logprob)
    summed = {text: _log_sum(values) for text, values in options.items()}
    total = sum(math.exp(value) for value in summed.values())
    if total > 1 + PROBABILITY_SLACK:
        raise InputError(
            f"{where}: the probabilities of the alternatives to {token!r} sum to "
            f"{total:.4f}, more than 1. Expected natural logarithms (or, in a dump, "
            "probabilities) of one distribution."
        )
    return _token(token, summed)


def _token(token: bytes, options: Mapping[bytes, float]) -> TeacherToken:
    top = sorted(options.items(), key=_by_probability)
    return TeacherToken(token, options.get(token, -math.inf), tuple(top))


def _added(token: bytes, options: Iterable[tuple[bytes, float]]) -> TeacherToken:
    """A token whose alternatives that read alike are added up."""
    values: dict[bytes, list[float]] = {}
    for text, value in options:
        values.setdefault(text, []).append(value)
    return _token(token, {text: _log_sum(some) for text, some in values.items()})


def _equal(one: float, other: float) -> bool:
    """Whether two log-probabilities differ by no more than bfloat16 rounds."""
    return abs(one - other) <= _ROUNDING * max(1.0, abs(one))


def _log_sum(values: Iterable[float]) -> float:
    """The logarithm of a sum of probabilities."""
    first, *rest = values
    for value in rest:
        if value == -math.inf:
            continue
        high, low = max(first, value), min(first, value)
        first = high + math.log1p(math.exp(low - high))
    return min(first, 0.0) if first <= PROBABILITY_SLACK else first


def _by_probability(option: tuple[bytes, float]) -> tuple[float, bytes]:
    return -option[1], option[0]


# (token, log-probability, alternatives) as a server sends them.
Reported = tuple[bytes, float, list[tuple[bytes, float]]]


def as_sampled(reported: Iterable[Reported]) -> Iterator[Reported]:
    """The tokens as the teacher sampled them, where a server reports other texts.

    llama.cpp's server holds back the bytes of a character that is not complete, and
    what may begin a stop text. It then reports "", and the held text with a later
    token, but the alternatives are those of the token itself: it is not among them by
    its text, but by its log-probability. At the end, what is held is the end of the
    text, or was cut with the stop text.

    A token that is reported as a whole character, while its alternatives are bytes of
    one, is the last of several: nothing is known of those before it. The alternatives
    of other such tokens are of no use: they are unknown.
    """
    held: list[Reported] = []
    owed = b""  # what the held tokens write
    for one in reported:
        token, logprob, alternatives = one
        listed = _listed(one)
        if owed and (not token or token.startswith(owed)):
            rest = (token[len(owed) :], logprob, alternatives)
            if not token:
                held.append((listed or b"", logprob, alternatives))
                owed += listed or b""
            else:
                yield from (*held, *_split(rest, _listed(rest)))
                held, owed = [], b""
            continue
        yield from ((b"", value, []) for _, value, _ in held)
        held, owed = [], b""
        if listed and not token:
            held, owed = [(listed, logprob, alternatives)], listed
        else:
            yield from _split(one, listed)
    yield from held


def _split(one: Reported, listed: bytes | None) -> Iterator[Reported]:
    """A token that is `listed` among its alternatives, and what was written with it."""
    token, logprob, alternatives = one
    if listed is None:
        yield one
    elif listed and token.endswith(listed):
        yield token[: -len(listed)], -math.inf, []
        yield listed, logprob, alternatives
    else:
        yield token, logprob, []


def _listed(reported: Reported) -> bytes | None:
    """The text of the token among its alternatives, if the server reports another."""
    token, logprob, alternatives = reported
    equal = [text for text, value in alternatives if value == logprob]
    if not equal or token in equal or not IMPOSSIBLE <= logprob:
        return None
    if any(is_text_of(text, token) for text, _ in alternatives):
        return None
    return equal[0]


def spell(text: str, tokens: Sequence[TeacherToken]) -> tuple[TeacherToken, ...] | None:
    """Makes the tokens spell the text, or returns None.

    Tokens after the end of the text (an end-of-sequence mark, a stop string that the
    server cut) are dropped. A server that reports parts of a character as U+FFFD
    (vLLM) or as nothing (llama-cpp-python) has lost their bytes. Such a run of tokens
    becomes one token: the characters at its place in the text. Its probability is the
    run's by the chain rule, and its alternatives are the known ones of its first token.

    Args:
        text: the text that the teacher returned.
        tokens: the tokens that it reported.

    Returns:
        The tokens, or None if they cannot spell the text, or can in several ways.
    """
    data = text.encode("utf-8", "surrogatepass")
    tokens = _decoded(data, tokens)
    kept = _covering(tokens, data)
    if kept is None and any(map(_is_lost, tokens)):
        kept = _merge_lost(text, tokens)
    if kept is None:
        tokens = _same_beginning(text, tokens)
        kept = _covering(tokens, data)
        if kept is None and any(map(_is_lost, tokens)):
            kept = _merge_lost(text, tokens)
    return kept


def _decoded(text: bytes, tokens: Sequence[TeacherToken]) -> Sequence[TeacherToken]:
    """The tokens with alternatives as text, if a server left them encoded.

    Some servers decode the sampled tokens, but write the alternatives in the alphabet
    of the tokenizer: "Ġ30" (byte-level BPE) or "▁30" (SentencePiece) for " 30". Then
    no alternative has a space.
    """
    others = [
        option for token in tokens for option, _ in token.top if option != token.token
    ]
    marks = {match[0] for option in others if (match := _MARK.match(option))}
    if not marks or any(map(_SPACE.search, others)) or any(m in text for m in marks):
        return tokens
    decode = _of_pieces if "▁".encode() in marks else _of_bytes
    return [
        teacher_token(
            token.token,
            token.logprob,
            [
                (option if option == token.token else decode(option), value)
                for option, value in token.top
            ],
            "this completion",
        )
        for token in tokens
    ]


def _of_pieces(option: bytes) -> bytes:
    code = re.fullmatch(rb"<0x([0-9A-F]{2})>", option)
    if code:
        return bytes([int(code[1], 16)])
    return option.replace("▁".encode(), b" ")


def _of_bytes(option: bytes) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in option.decode())
    except (UnicodeDecodeError, KeyError):
        return option


# Byte-level BPE writes printable bytes as the character with that number, and the
# others, in order, as the characters from 256 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(0x100) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + number): byte for number, byte in enumerate(_OTHERS)
}
_MARK = re.compile("Ġ|Ċ|▁".encode())
_SPACE = re.compile(rb"[ \n]")


def _same_beginning(text: str, tokens: Sequence[TeacherToken]) -> list[TeacherToken]:
    """The tokens with the whitespace at the beginning of the text.

    Chat servers strip it from the text, and tokenizers that put a space before the
    first word strip it from the token.
    """
    rest = list(itertools.dropwhile(lambda t: t.token.isspace(), tokens))
    if not rest:
        return list(tokens)
    first, *rest = rest
    space = text[: len(text) - len(text.lstrip(string.whitespace))].encode()
    token = space + first.token.lstrip()
    if not first.token:
        return list(tokens)
    own = (token, first.logprob)
    others = [option for option in first.top if option[0] != first.token]
    return [_added(token, [own, *others]), *rest]


def _is_lost(token: TeacherToken) -> bool:
    """Whether bytes of a token may be missing."""
    return not token.token or _LOST in token.token


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
            # A stop string was cut off inside this token. Whitespace after the text is
            # harmless. Otherwise only a lower bound of the probability is known: that
            # of the whole token.
            if not token.token[len(rest) :].strip():
                return tuple(tokens[: index + 1])
            top = () if token.is_unknown else ((rest, token.logprob),)
            last = dataclasses.replace(token, token=rest, top=top)
            return (*tokens[:index], last)
        position = end
    return tuple(tokens) if position == len(data) else None


def _merge_lost(
    text: str, tokens: Sequence[TeacherToken]
) -> tuple[TeacherToken, ...] | None:
    """The tokens, with every run of lost ones replaced by what it must have written."""
    runs = [(lost, list(run)) for lost, run in itertools.groupby(tokens, key=_is_lost)]
    try:
        places = _only_places(text, [_elements(run) for _, run in runs])
    except UnicodeDecodeError:
        return None  # half characters as bytes, beside lost ones
    if places is None:
        return None
    merged: list[TeacherToken] = []
    for (lost, run), (begin, end) in zip(runs, itertools.pairwise(places), strict=True):
        if begin == len(text):
            break
        written = text[begin:end].encode("utf-8", "surrogatepass")
        if not lost:
            merged.extend(_covering(run, written) or ())
        elif not written:
            merged.extend(run)  # marks that write nothing
        else:
            logprob = sum(token.logprob for token in run)
            # Alternatives that are empty or replaced are unknown.
            others = [
                (other, value)
                for other, value in run[0].top
                if other and _LOST not in other
            ]
            merged.append(_added(written, [(written, logprob), *others]))
    return _covering(merged, text.encode("utf-8", "surrogatepass"))


def _elements(run: Sequence[TeacherToken]) -> list[str]:
    """What a run wrote: texts, "" for lost characters, U+FFFD for at least one."""
    elements: list[str] = []
    for token in run:
        parts = re.split("(\ufffd+)", token.token.decode("utf-8", "surrogatepass"))
        for part in [part[:1] if part[:1] == "\ufffd" else part for part in parts]:
            lost_before = bool(elements) and elements[-1] in ("", "\ufffd")
            if part == "\ufffd" and lost_before:
                elements[-1] = part
            elif part or (len(parts) == 1 and not lost_before):
                elements.append(part)
    return elements


def _only_places(text: str, runs: Sequence[Sequence[str]]) -> list[int] | None:
    """The places in the text between which the runs are, if only one way fits.

    `runs` are the elements of each run; a lost one is characters of several bytes.
    The text may lack the end of what they wrote. There is one place more than runs.
    """
    size = len(text)
    wide = [size] * (size + 1)  # where a run of non-ASCII characters from here ends
    for place in range(size - 1, -1, -1):
        wide[place] = wide[place + 1] if text[place] > "\x7f" else place

    def after(element: str, place: int, cut: bool) -> range:
        if element in ("", "\ufffd"):
            first = place + (element != "" and not (cut and place == size))
            return range(first, wide[place] + 1)
        end = place + len(element)
        if cut and end > size:
            return range(size, size + element.startswith(text[place:]))
        return range(end, end + text.startswith(element, place))

    # If no way writes the whole text, its end was cut off.
    for cut in (False, True):
        reached = [[0]]
        for element in itertools.chain.from_iterable(runs):
            ends: list[int] = []
            for place in reached[-1]:  # in rising order, so each end is added once
                found = after(element, place, cut)
                least = max(found.start, ends[-1] + 1 if ends else 0)
                ends.extend(range(least, found.stop))
            reached.append(ends)
        if size in reached[-1]:
            break
    else:
        return None
    # Backwards: keep only the places from which the end is reached.
    reached.pop()
    kept = [size]
    places = [size]
    for run in reversed(runs):
        for element in reversed(run):
            before: list[int] = []
            for place in reached.pop():
                found = after(element, place, cut)
                index = bisect.bisect_left(kept, found.start)
                if index < len(kept) and kept[index] < found.stop:
                    before.append(place)
            kept = before
        if len(kept) != 1:
            return None
        places.append(*kept)
    return places[::-1]


def _checked(logprob: float, token: bytes, where: str) -> float:
    """The value to use for a log-probability that is not 0 or less."""
    if math.isnan(logprob) or logprob > PROBABILITY_SLACK:
        raise InputError(
            f"{where}: the log-probability of {token!r} is {logprob}, expected a "
            "natural logarithm of a probability, 0 or less."
        )
    return 0.0
