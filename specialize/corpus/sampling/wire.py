"""The JSON that servers send -> choices with their tokens and top-k.

Both layouts of log-probabilities are read, at either endpoint:

* OpenAI's completions: `{"tokens", "token_logprobs", "top_logprobs": [{token: lp}]}`;
* OpenAI's chat, and llama.cpp's own server: `{"content": [{"token", "bytes",
  "logprob", "top_logprobs": [{"token", "bytes", "logprob"}]}]}`.
"""

import contextlib
import math
import re
from collections.abc import Generator, Iterator, Sequence
from typing import Annotated, Any, cast

import msgspec

from specialize import typed_json
from specialize.corpus.records import TeacherToken, is_whole
from specialize.corpus.sampling.teachers import Choice, Unusable
from specialize.corpus.spelling import (
    IMPOSSIBLE,
    Reported,
    as_sampled,
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


class _Echoed(msgspec.Struct):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[_Pairs | None] | None = None


def usable_choices(
    body: bytes, where: str, *, spelt: bool = True, rows: bool = True
) -> list[Choice]:
    """The choices of a response that can be used.

    A choice is known by the index that the server gave it, or by its place if two
    choices have the same index. Half of a surrogate pair is read as U+FFFD.

    Args:
        body: JSON as the server sent it.
        where: name of the response in messages.
        spelt: whether tokens must spell the text.
        rows: whether a choice without log-probabilities is of no use.

    Raises:
        Unusable: none can be used; with the reason of the first.
    """
    read = read_choices(body, where, spelt=spelt, rows=rows)
    found = [one for one in read if isinstance(one, Choice)]
    faults = [one for one in read if isinstance(one, Unusable)]
    if not found:
        nothing = Unusable("no_choices", f"{where}: the response holds no choices")
        raise faults[0] if faults else nothing
    return found


def read_choices(
    body: bytes | dict[str, Any],
    where: str,
    *,
    spelt: bool = True,
    rows: bool = True,
) -> list[Choice | Unusable]:
    """Every choice of a response, or why it cannot be used; see `usable_choices`.

    Args:
        body: JSON as the server sent it, or the object that it holds.
        where: name of the response in messages.
        spelt: whether tokens must spell the text.
        rows: whether a choice without log-probabilities is of no use.

    Raises:
        Unusable: it is no response with choices.
    """
    read: list[tuple[int, _Choice]] = []
    found: list[Choice | Unusable] = []
    for place, value in enumerate(choices_of(body, where)):
        try:
            choice = typed_json.convert(value, _Choice, f"{where}, choice {place}")
        except InputError as error:
            found.append(Unusable("malformed", str(error)))
        else:
            read.append((place, choice))
    indices = {place if one.index is None else one.index for place, one in read}
    if len(indices) == len(read):
        read = [(n if one.index is None else one.index, one) for n, one in read]
    for index, choice in sorted(read, key=lambda pair: pair[0]):
        try:
            name = f"{where}, choice {index}"
            found.append(_choice(index, choice, name, spelt=spelt, rows=rows))
        except Unusable as error:
            found.append(error)
    return found


def choices_of(body: bytes | dict[str, Any], where: str) -> list[Any]:
    """The choices of a response as the server sent them, of any type.

    Raises:
        Unusable: it is no response with choices.
    """
    try:
        if isinstance(body, bytes):
            response = _decoded(body, where)
        else:
            response = typed_json.convert(body, _Response, where)
    except InputError as error:
        raise Unusable("malformed", f"not a response: {error}") from error
    if response.choices is msgspec.UNSET and response.error is not None:
        # Some gateways send an error with the status of a success.
        raise Unusable("error", f"{where}: the server sent an error: {_said(response)}")
    if response.choices is msgspec.UNSET:
        raise Unusable("malformed", f"{where}: the key 'choices' is missing.")
    return response.choices


def _said(response: _Response) -> str:
    error: object = response.error
    fields = cast(dict[str, Any], error) if isinstance(error, dict) else {}
    return str(fields.get("message") or response.error)[:300]


def echoed_tokens(body: bytes, where: str) -> tuple[str, list[TeacherToken]]:
    """The text and all tokens of a response that begins with its prompt (`echo`).

    A token without a log-probability, such as the first one, is unknown.

    Raises:
        Unusable: it is no such response, or knows no probability of what was sent.
    """
    choices = choices_of(body, where)
    if not choices:
        raise Unusable("no_choices", f"{where}: the response holds no choices")
    try:
        choice = typed_json.convert(choices[0], _Choice, where)
    except InputError as error:
        raise Unusable("malformed", str(error)) from error
    tokens = _tokens(choice, where, echoed=True)
    return choice.text or "", tokens


def parse_body(body: bytes, where: str) -> list[Choice]:
    """The usable choices of a stored response.

    Raises:
        InputError: the response is damaged.
    """
    try:
        return usable_choices(body, where, rows=False)
    except Unusable as error:
        raise InputError(
            f"{str(error).rstrip('.')}. The database is damaged: restore a copy, or "
            "name another --responses."
        ) from error


def token_counts(body: bytes) -> tuple[int | None, int | None]:
    """(prompt tokens, completion tokens) as the server counts them, or None."""
    try:
        usage = _decoded(body, "response").usage
    except InputError:  # no JSON
        return None, None
    counted = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
    return _count(counted.get("prompt_tokens")), _count(
        counted.get("completion_tokens")
    )


@contextlib.contextmanager
def paid_for(body: bytes) -> Generator[None]:
    """A response that the block cannot use says what it cost.

    Raises:
        Unusable: The block raised one.
    """
    try:
        yield
    except Unusable as error:
        error.usage = token_counts(body)
        raise


def _count(value: Any) -> int | None:
    # Without a count the cost is unknown, but the answer is as good.
    known = isinstance(value, int) and not isinstance(value, bool)
    return value if known and 0 <= value < 2**63 else None


def _decoded(body: bytes, where: str) -> _Response:
    return typed_json.decode(sound(body), _Response, where, infinities=True)


def sound(body: bytes) -> bytes:
    """JSON with U+FFFD for every half of a surrogate pair, which is no Unicode.

    Servers that tokenize UTF-16 send such halves.
    """
    return _ESCAPES.sub(lambda m: b"\\ufffd" if m[1] else m[0], body)


def _choice(
    index: int, choice: _Choice, where: str, *, spelt: bool, rows: bool
) -> Choice:
    text, thought = _text(choice, where), _reasoning(choice.message)
    reason = str(choice.finish_reason or "stop")[:100]
    tokens = _tokens(choice, where) if rows or _is_reported(choice.logprobs) else None
    if not text.strip() and thought:
        return Choice(index, "", None, reason)  # cut before its answer began
    if tokens is None:
        return _with_thought(Choice(index, text, None, reason), thought)
    text = _without_cut_token(text, tokens) if spelt else text
    covering = spell(text, tokens) if spelt else tuple(tokens)
    if covering is not None:
        if not covering and text:
            raise Unusable("no_logprobs", f"{where}: text without tokens")
        return _with_thought(Choice(index, text, covering, reason), thought)
    border = _border(text, thought, tokens)
    if border is not None:
        covering = spell(border + text, tokens)
    if border is None or covering is None:
        raise Unusable("tokens_differ", f"{where}: {_difference(choice, tokens)}")
    return Choice(index, border + text, covering, reason, len(border))


def _is_reported(logprobs: Any) -> bool:
    return isinstance(logprobs, dict) and any(cast(dict[str, Any], logprobs).values())


def _tokens(choice: _Choice, where: str, *, echoed: bool = False) -> list[TeacherToken]:
    """The tokens of a choice; `echoed` ones may lack log-probabilities."""
    if not isinstance(choice.logprobs, dict):
        raise Unusable("no_logprobs", f"{where}: the server sent no log-probabilities")
    logprobs = cast(dict[str, Any], choice.logprobs)
    try:
        if logprobs.get("content") is not None and not echoed:
            chat = typed_json.convert(logprobs, _ChatLogprobs, where)
            reported = list(map(_chat_token, chat.content))
        elif echoed:
            given = typed_json.convert(logprobs, _Echoed, where)
            reported = list(_completion_tokens(given, where))
        else:
            listed = typed_json.convert(logprobs, _Logprobs, where)
            reported = list(_completion_tokens(listed, where))
    except InputError as error:  # of another type, or not as many as tokens
        raise Unusable("no_logprobs", str(error)) from error
    # The first token has nothing before it, and the last one was not sent by us.
    sent = reported[1:-1]
    if echoed and sent and not any(value >= IMPOSSIBLE for _, value, _ in sent):
        what = f"{where}: the server sent no log-probability of any token of the prompt"
        if not any(math.isnan(value) for _, value, _ in sent):
            raise Unusable("no_logprobs", what)
    try:
        return [teacher_token(*token, where) for token in as_sampled(reported)]
    except InputError as error:  # NaN or above 1: only this choice is unusable
        raise Unusable("bad_logprobs", str(error)) from error


def _with_thought(choice: Choice, thought: str) -> Choice:
    """The choice with the reasoning that a server sent without its tokens."""
    if not thought.strip():
        return choice
    thought = f"{thought.strip()}\n\n"
    tokens = choice.tokens
    if tokens is not None:
        unknown = TeacherToken(thought.encode("utf-8", "surrogatepass"), -math.inf, ())
        tokens = (unknown, *tokens)
    text = thought + choice.text
    return Choice(choice.index, text, tokens, choice.finish_reason, len(thought))


def _border(text: str, thought: str, tokens: Sequence[TeacherToken]) -> str | None:
    """What the tokens spell before the text, if it is the reasoning; None if not."""
    written = b"".join(token.token for token in tokens).decode("utf-8", "replace")
    place = written.rfind(text.strip())
    before = written[: max(place, 0)].rstrip()
    words = thought.split()
    if not words or " ".join(words) not in " ".join(before.split()):
        return None
    return written[: place - len(text) + len(text.lstrip())]


def _without_cut_token(text: str, tokens: Sequence[TeacherToken]) -> str:
    """The text without white space at its end that no token spells.

    Where the stop text begins inside a token, llama.cpp's server sends the part of the
    token before it as text, but not the token.
    """
    written = b"".join(token.token for token in tokens).decode("utf-8", "replace")
    if text.startswith(written) and not text[len(written) :].strip() and written:
        return written
    return text


def _text(choice: _Choice, where: str) -> str:
    message = choice.message
    if message is msgspec.UNSET:
        if choice.text is None:
            raise Unusable("malformed", f"{where}: no text")
        return choice.text
    text = message.content
    if not (text or "").strip() and _reasoning(message):
        if not is_whole(str(choice.finish_reason or "stop")):
            return ""
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


def _reasoning(message: _Message | msgspec.UnsetType) -> str:
    """What the server sent as reasoning, apart from the text."""
    if message is msgspec.UNSET:
        return ""
    for found in (message.reasoning_content, message.reasoning):
        if found:
            return found if isinstance(found, str) else str(found)
    return ""


def _difference(choice: _Choice, tokens: Sequence[TeacherToken]) -> str:
    if _reasoning(choice.message):
        return (
            "the server removed the reasoning from the text, but its tokens hold it; "
            f"start it without a reasoning parser, or switch reasoning off with "
            f"{_NO_THINKING}"
        )
    if tokens and tokens[0].token.startswith(b"token_id:"):
        return "the tokens are ids; start vLLM without --return-tokens-as-token-ids"
    return "the tokens do not spell the text"


def _chat_token(entry: _Entry) -> Reported:
    alternatives = [
        (_chat_bytes(option), option.logprob)
        for option in entry.top_logprobs or ()
        if option.logprob is not None
    ]
    return _chat_bytes(entry), entry.logprob, alternatives


def _chat_bytes(entry: _Entry | _Option) -> bytes:
    return token_bytes(entry.token) if entry.bytes is None else bytes(entry.bytes)


def _completion_tokens(listed: _Logprobs | _Echoed, where: str) -> Iterator[Reported]:
    tops = listed.top_logprobs or [None] * len(listed.tokens)
    sizes = [len(listed.tokens), len(listed.token_logprobs), len(tops)]
    if len(set(sizes)) > 1:
        raise InputError(
            f"{where}: the numbers of tokens, token_logprobs and top_logprobs are "
            f"{sizes}, expected equal numbers."
        )
    for token, value, top in zip(
        listed.tokens, listed.token_logprobs, tops, strict=True
    ):
        pairs = top.items() if isinstance(top, dict) else top or ()
        alternatives = [(token_bytes(text), lp) for text, lp in pairs if lp is not None]
        yield token_bytes(token), -math.inf if value is None else value, alternatives
