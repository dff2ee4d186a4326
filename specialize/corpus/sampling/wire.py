"""The JSON that servers send -> choices with their tokens and top-k.

Both layouts of log-probabilities are read, at either endpoint:

* OpenAI's completions: `{"tokens", "token_logprobs", "top_logprobs": [{token: lp}]}`;
* OpenAI's chat, and llama.cpp's own server: `{"content": [{"token", "bytes",
  "logprob", "top_logprobs": [{"token", "bytes", "logprob"}]}]}`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from specialize.corpus.records import TeacherToken
from specialize.corpus.sampling.teachers import Choice, Unusable
from specialize.corpus.spelling import spell, teacher_token, token_bytes
from specialize.errors import InputError


def usable_choices(body: bytes, where: str, *, spelt: bool = True) -> list[Choice]:
    """The choices of a response that can be used.

    Args:
        body: JSON as the server sent it.
        where: name of the response in messages.
        spelt: whether tokens must spell the text.

    Raises:
        Unusable: none can be used; with the reason of the first.
    """
    try:
        value: Any = json.loads(body)
        if "choices" not in value and "error" in value:
            # Some gateways send an error with the status of a success.
            raise Unusable("error", f"{where}: {str(value['error'])[:300]}")
        choices = value["choices"]
        entries = [(int(c.get("index", n)), c) for n, c in enumerate(choices)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable("malformed", f"{where}: not a response ({error})") from error
    found: list[Choice] = []
    fault = Unusable("no_choices", f"{where}: the response holds no choices")
    for index, choice in sorted(entries, key=lambda entry: entry[0]):
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
        raise InputError(f"{error}. The database is damaged.") from error


def token_counts(body: bytes) -> tuple[int | None, int | None]:
    """(prompt tokens, completion tokens) as the server counts them, or None."""
    usage = cast(dict[str, Any], json.loads(body).get("usage") or {})
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    first, second = (n if isinstance(n, int) else None for n in counts)
    return first, second


def _choice(index: int, choice: Any, where: str, spelt: bool) -> Choice:
    try:
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        logprobs: Any = choice.get("logprobs")
        reason = str(choice.get("finish_reason") or "stop")
    except (KeyError, TypeError, AttributeError) as error:
        raise Unusable("malformed", f"{where}: no text ({error})") from error
    if not isinstance(text, str) or any("\ud800" <= char <= "\udfff" for char in text):
        # Half of a surrogate pair cannot be written to a file.
        raise Unusable("malformed", f"{where}: the text is {text!r}")
    if not isinstance(logprobs, dict):
        raise Unusable("no_logprobs", f"{where}: the server sent no log-probabilities")
    logprobs = cast(dict[str, Any], logprobs)
    try:
        if logprobs.get("content") is not None:
            tokens = list(_chat_tokens(logprobs["content"], where))
        else:
            tokens = list(_completion_tokens(logprobs, where))
    except InputError as error:  # NaN or above 1: only this choice is unusable
        raise Unusable("bad_logprobs", str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unusable("no_logprobs", f"{where}: {error!r}") from error
    covering = spell(text, tokens) if spelt else tuple(tokens)
    if covering is None:
        raise Unusable("tokens_differ", f"{where}: {_difference(choice, tokens)}")
    if not covering and text:
        raise Unusable("no_logprobs", f"{where}: text without tokens")
    return Choice(index, text, covering, reason)


def _difference(choice: Mapping[str, Any], tokens: Sequence[TeacherToken]) -> str:
    message = cast(dict[str, Any], choice.get("message") or {})
    if message.get("reasoning_content") or message.get("reasoning"):
        return (
            "the server removed the reasoning from the text, but its tokens hold it; "
            "start it without a reasoning parser, or switch reasoning off with "
            '--extra_body \'{"chat_template_kwargs": {"enable_thinking": false}}\''
        )
    if tokens and tokens[0].token.startswith(b"token_id:"):
        return "the tokens are ids; start vLLM without --return-tokens-as-token-ids"
    return "the tokens do not spell the text"


def _chat_tokens(content: Any, where: str) -> Iterator[TeacherToken]:
    for entry in content:
        alternatives = [
            (_chat_bytes(option), float(option["logprob"]))
            for option in entry.get("top_logprobs") or ()
            # null: minus infinity, as orjson writes it (SGLang)
            if option["logprob"] is not None
        ]
        yield teacher_token(
            _chat_bytes(entry), float(entry["logprob"]), alternatives, where
        )


def _chat_bytes(entry: Mapping[str, Any]) -> bytes:
    data = entry.get("bytes")
    return bytes(data) if data is not None else token_bytes(entry["token"])


def _completion_tokens(
    logprobs: Mapping[str, Any], where: str
) -> Iterator[TeacherToken]:
    tokens = cast(Sequence[str], logprobs["tokens"])
    values = cast(Sequence[float], logprobs["token_logprobs"])
    tops = cast(Sequence[Any], logprobs.get("top_logprobs") or [None] * len(tokens))
    for token, value, top in zip(tokens, values, tops, strict=True):
        items = cast(
            Iterable[tuple[str, float | None]],
            cast(dict[str, Any], top).items() if isinstance(top, dict) else top or (),
        )
        alternatives = [
            (token_bytes(text), float(lp)) for text, lp in items if lp is not None
        ]
        yield teacher_token(token_bytes(token), float(value), alternatives, where)
