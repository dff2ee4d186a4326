"""The JSON that servers send -> choices with their tokens and top-k.

Both layouts of log-probabilities are read, at either endpoint:

* OpenAI's completions: `{"tokens", "token_logprobs", "top_logprobs": [{token: lp}]}`;
* OpenAI's chat, and llama.cpp's own server: `{"content": [{"token", "bytes",
  "logprob", "top_logprobs": [{"token", "bytes", "logprob"}]}]}`.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, cast

import msgspec

from specialize import typed_json
from specialize.corpus.records import TeacherToken
from specialize.corpus.sampling.teachers import Choice, Unusable
from specialize.corpus.spelling import (
    IMPOSSIBLE,
    is_text_of,
    spell,
    teacher_token,
    token_bytes,
)
from specialize.errors import InputError

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
# null: minus infinity, as orjson writes it (SGLang)
_Pairs = dict[str, float | None] | list[tuple[str, float | None]]

_NO_THINKING = '--extra_body \'{"chat_template_kwargs": {"enable_thinking": false}}\''
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL
)


class _Response(msgspec.Struct):
    choices: list[Any] | msgspec.UnsetType = msgspec.UNSET
    error: Any = None
    usage: Any = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    index: typed_json.Whole | None = None
    text: str | None = None
    message: _Message | msgspec.UnsetType = msgspec.UNSET
    finish_reason: Any = None
    logprobs: Any = None


class _Option(msgspec.Struct):
    token: str
    logprob: float | None
    bytes: list[_Byte] | None = None


class _Entry(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[_Byte] | None = None
    top_logprobs: list[_Option] | None = None


class _ChatLogprobs(msgspec.Struct):
    content: list[_Entry]


class _Logprobs(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[_Pairs | None] | None = None


def usable_choices(body: bytes, where: str, *, spelt: bool = True) -> list[Choice]:
    """The choices of a response that can be used.

    A choice is known by the index that the server gave it, or by its place if two
    choices have the same index. Half of a surrogate pair is read as U+FFFD.

    Args:
        body: JSON as the server sent it.
        where: name of the response in messages.
        spelt: whether tokens must spell the text.

    Raises:
        Unusable: none can be used; with the reason of the first.
    """
    try:
        response = _decoded(body, where)
        if response.choices is msgspec.UNSET and response.error is not None:
            # Some gateways send an error with the status of a success.
            raise Unusable("error", f"{where}: {str(response.error)[:300]}")
        if response.choices is msgspec.UNSET:
            raise Unusable("malformed", f"{where}: the key 'choices' is missing.")
    except InputError as error:
        raise Unusable("malformed", f"not a response: {error}") from error
    read: list[tuple[int, _Choice]] = []
    found: list[Choice] = []
    fault = Unusable("no_choices", f"{where}: the response holds no choices")
    for place, value in enumerate(response.choices):
        try:
            choice = typed_json.convert(value, _Choice, f"{where}, choice {place}")
        except InputError as error:
            fault = Unusable("malformed", str(error))
        else:
            read.append((place, choice))
    indices = {place if one.index is None else one.index for place, one in read}
    if len(indices) == len(read):
        read = [(n if one.index is None else one.index, one) for n, one in read]
    for index, choice in sorted(read, key=lambda pair: pair[0]):
        try:
            found.append(_choice(index, choice, f"{where}, choice {index}", spelt))
        except Unusable as error:
            fault = error if not found else fault
    if not found:
        raise fault
    return found


def parse_body(body: bytes, where: str) -> list[Choice]:
    """The usable choices of a stored response.

    Raises:
        InputError: the response is damaged.
    """
    try:
        return usable_choices(body, where)
    except Unusable as error:
        raise InputError(
            f"{str(error).rstrip('.')}. The database is damaged: restore a copy, or "
            "name another --responses."
        ) from error


def token_counts(body: bytes) -> tuple[int | None, int | None]:
    """(prompt tokens, completion tokens) as the server counts them, or None."""
    usage = _decoded(body, "response").usage
    counted = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
    return _count(counted.get("prompt_tokens")), _count(
        counted.get("completion_tokens")
    )


def _count(value: Any) -> int | None:
    # Without a count the cost is unknown, but the answer is as good.
    known = isinstance(value, int) and not isinstance(value, bool)
    return value if known and 0 <= value < 2**63 else None


def _decoded(body: bytes, where: str) -> _Response:
    # Servers that tokenize UTF-16 send half of a surrogate pair, which is no Unicode.
    sound = _ESCAPES.sub(lambda m: b"\\ufffd" if m[1] else m[0], body)
    return typed_json.decode(sound, _Response, where, infinities=True)


def _choice(index: int, choice: _Choice, where: str, spelt: bool) -> Choice:
    text = _text(choice, where)
    if not isinstance(choice.logprobs, dict):
        raise Unusable("no_logprobs", f"{where}: the server sent no log-probabilities")
    logprobs = cast(dict[str, Any], choice.logprobs)
    try:
        if logprobs.get("content") is not None:
            chat = typed_json.convert(logprobs, _ChatLogprobs, where)
            reported = list(map(_chat_token, chat.content))
        else:
            listed = typed_json.convert(logprobs, _Logprobs, where)
            reported = list(_completion_tokens(listed))
    except ValueError as error:  # of another type, or not as many as tokens
        raise Unusable("no_logprobs", f"{where}: {error}") from error
    try:
        tokens = [teacher_token(*token, where) for token in as_sampled(reported)]
    except InputError as error:  # NaN or above 1: only this choice is unusable
        raise Unusable("bad_logprobs", str(error)) from error
    covering = spell(text, tokens) if spelt else tuple(tokens)
    if covering is None:
        raise Unusable("tokens_differ", f"{where}: {_difference(choice, tokens)}")
    if not covering and text:
        raise Unusable("no_logprobs", f"{where}: text without tokens")
    reason = choice.finish_reason or "stop"
    return Choice(index, text, covering, str(reason)[:100])


def _text(choice: _Choice, where: str) -> str:
    message = choice.message
    if message is msgspec.UNSET:
        if choice.text is None:
            raise Unusable("malformed", f"{where}: no text")
        return choice.text
    text = message.content
    if not (text or "").strip() and _has_reasoning(message):
        raise Unusable(
            "only_reasoning",
            f"{where}: the text is empty, all of the answer is reasoning. Raise "
            "--max_tokens if the reasoning was cut, start the server without a "
            f"reasoning parser, or switch reasoning off with {_NO_THINKING}",
        )
    if text is None and message.refusal:
        raise Unusable("no_text", f"{where}: refused: {str(message.refusal)[:300]}")
    if text is None:
        raise Unusable("malformed", f"{where}: the text is null")
    return text


def _has_reasoning(message: _Message | msgspec.UnsetType) -> bool:
    return message is not msgspec.UNSET and bool(
        message.reasoning_content or message.reasoning
    )


def _difference(choice: _Choice, tokens: Sequence[TeacherToken]) -> str:
    if _has_reasoning(choice.message):
        return (
            "the server removed the reasoning from the text, but its tokens hold it; "
            f"start it without a reasoning parser, or switch reasoning off with "
            f"{_NO_THINKING}"
        )
    if tokens and tokens[0].token.startswith(b"token_id:"):
        return "the tokens are ids; start vLLM without --return-tokens-as-token-ids"
    return "the tokens do not spell the text"


_Reported = tuple[bytes, float, list[tuple[bytes, float]]]


def as_sampled(reported: Sequence[_Reported]) -> Iterator[_Reported]:
    """The tokens as the teacher sampled them, where a server reports other texts.

    llama.cpp's server holds back the bytes of a character that is not complete, and
    what may begin a stop text. It then reports the whole character, or "" and the text
    with the next token, but the alternatives are those of the token itself: it is not
    among them by its text, but by its log-probability. If a run of such tokens, by the
    texts among the alternatives, spells the same, these are the tokens. Otherwise the
    alternatives of such a token are of no use: they are unknown.
    """
    found = [(one, _listed(one)) for one in reported]
    for differs, run in itertools.groupby(found, key=lambda pair: pair[1] is not None):
        pairs = list(run)
        tokens = [one for one, _ in pairs]
        texts = [text for _, text in pairs if text is not None]
        if differs and b"".join(texts) == b"".join(token for token, _, _ in tokens):
            tokens = [(t, *one[1:]) for t, one in zip(texts, tokens, strict=True)]
        elif differs:
            tokens = [(token, logprob, []) for token, logprob, _ in tokens]
        yield from tokens


def _listed(reported: _Reported) -> bytes | None:
    """The text of the token among its alternatives, if the server reports another."""
    token, logprob, alternatives = reported
    equal = [text for text, value in alternatives if value == logprob]
    if not equal or token in equal or not IMPOSSIBLE <= logprob:
        return None
    if any(is_text_of(text, token) for text, _ in alternatives):
        return None
    return equal[0]


def _chat_token(entry: _Entry) -> _Reported:
    alternatives = [
        (_chat_bytes(option), option.logprob)
        for option in entry.top_logprobs or ()
        if option.logprob is not None
    ]
    return _chat_bytes(entry), entry.logprob, alternatives


def _chat_bytes(entry: _Entry | _Option) -> bytes:
    return token_bytes(entry.token) if entry.bytes is None else bytes(entry.bytes)


def _completion_tokens(listed: _Logprobs) -> Iterator[_Reported]:
    tops = listed.top_logprobs or [None] * len(listed.tokens)
    for token, value, top in zip(
        listed.tokens, listed.token_logprobs, tops, strict=True
    ):
        pairs = top.items() if isinstance(top, dict) else top or ()
        alternatives = [(token_bytes(text), lp) for text, lp in pairs if lp is not None]
        yield token_bytes(token), value, alternatives
