"""Any OpenAI-compatible server as a teacher: completions or chat, with top-k."""

import asyncio
import email.utils
import json
import math
import os
import re
import time
from collections.abc import Mapping
from typing import Any, cast

from specialize.corpus.sampling.redaction import Redactor, checked_key
from specialize.corpus.sampling.spec import Endpoint
from specialize.corpus.sampling.teachers import Answer, Ask, Busy, Choice, Unusable
from specialize.corpus.sampling.wire import paid_for, token_counts, usable_choices
from specialize.errors import InputError, visible

# A longer answer is refused: a server may send without end.
MOST_BYTES = 256 << 20
# Names of the field for the longest completion; some servers refuse the older one.
_LIMITS = ("max_tokens", "max_completion_tokens")
# The field "n" in a refusal, and the largest value that it states.
_NUMBER_OF_CHOICES = re.compile(r"(?<![\w\\'’-])['\"`]?\bn\b(?![-’\w])")
_MOST_CHOICES = re.compile(r"(?:<=|at most|up to|maximum(?: of)?|n ?==?)\s*(\d{1,6})\b")


class OpenAITeacher:
    """Any server that has OpenAI's completions or chat API.

    Attributes:
        ADDRESS: the options that say which server and model is asked.

    Raises:
        InputError: there is no key although OpenAI itself is asked, or the extra
            `teacher` is not installed.
    """

    ADDRESS = "--base_url, --model and --api"

    def __init__(self, endpoint: Endpoint):
        """Opens no connection yet."""
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "sampling needs the extra 'teacher': pip install 'specialize[teacher]'."
            ) from error
        self.endpoint = endpoint
        self.name = endpoint.model
        self._openai = openai
        self._limit = _LIMITS[_LIMITS[1] in endpoint.extra_body]
        self._most: int | None = None  # choices that the server gives per request
        key = _key(endpoint)
        self._redactor = Redactor(key)
        if self._redactor.holds(json.dumps(self.describe()).encode()):
            raise InputError(
                "the API key is in another option (--model, --system, --stop or "
                "--extra_body), which is stored with the answers. Remove it there."
            )
        try:
            # We retry ourselves: each attempt must pass the limits and be counted.
            self._client = openai.AsyncOpenAI(
                base_url=endpoint.base_url,
                api_key=key or "no-key",
                max_retries=0,
                # `_post` has the deadline: two would end at the same moment.
                timeout=None,
                http_client=_door(openai, self._redactor)(timeout=None),
            )
        except Exception as error:  # of several libraries, for a URL or a proxy
            message = self._redactor.clean_text(f"{type(error).__name__}: {error}")
            raise InputError(
                f"no connection can be made ({visible(message)}). Check --base_url and "
                "the proxies of the environment."
            ) from None

    def describe(self) -> dict[str, Any]:
        """Everything that its completions depend on."""
        return self.endpoint.describe()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def ask(self, ask: Ask) -> Answer:
        """Asks for `ask.count` samples; see `Teacher.ask`."""
        began = time.monotonic()
        body = await self._post(
            ask.prompt,
            count=ask.count,
            seed=ask.seed,
            temperature=self.endpoint.request.temperature,
            max_tokens=self.endpoint.request.max_tokens,
        )
        seconds = time.monotonic() - began
        with paid_for(body):
            choices = self._choices(body, f"answer to {ask.problem_id}")[: ask.count]
        usage = token_counts(body)
        return Answer(choices, body, usage[0], usage[1], seconds)

    async def logprobs_are_raw(self, prompt: str) -> bool | None:
        """Finds out whether log-probabilities are before or after temperature.

        Asks twice for the first token's alternatives, at temperature 1 and another. A
        server that reports them before temperature returns the same both times.

        Args:
            prompt: any prompt of the run.

        Returns:
            True for before temperature, False for after, None if the two cannot be
            distinguished (the first token is certain, or too few alternatives agree).
        """
        other = self.endpoint.request.temperature
        if abs(other - 1) < 0.05 or other < 0.05:
            other = 0.5
        seen: list[dict[bytes, float]] = []
        for temperature in (1.0, other):
            body = await self._post(
                prompt, count=1, seed=0, temperature=temperature, max_tokens=1
            )
            tokens = self._choices(body, "probe", spelt=False)[0].tokens
            seen.append(dict(tokens[0].top) if tokens else {})
        return same_temperature(seen[0], seen[1], other)

    async def _post(
        self,
        prompt: str,
        *,
        count: int,
        seed: int,
        temperature: float,
        max_tokens: int,
        echo: bool = False,
    ) -> bytes:
        openai = self._openai
        endpoint, request = self.endpoint, self.endpoint.request
        limit = self._limit
        count = min(count, self._most or count)
        fields = {limit: max_tokens} | dict(endpoint.extra_body)
        if max_tokens != request.max_tokens:  # a probe is short whatever the options
            fields[limit] = max_tokens
        options: dict[str, Any] = {
            "model": endpoint.model,
            "n": count,
            "temperature": temperature,
            "top_p": request.top_p,
            "extra_body": fields,
        }
        if echo:
            options |= {"echo": True, "top_p": 1.0}
        if request.stop and not echo:
            options["stop"] = list(request.stop)
        if endpoint.send_seed:
            options["seed"] = seed
        rows = request.top_logprobs if request.logprobs else 0
        create: Any
        try:
            async with asyncio.timeout(endpoint.timeout_s):
                if endpoint.api == "chat":
                    messages = [{"role": "user", "content": prompt}]
                    if endpoint.system:
                        messages.insert(
                            0, {"role": "system", "content": endpoint.system}
                        )
                    create = self._client.chat.completions.with_raw_response.create
                    if rows:
                        options |= {"logprobs": True, "top_logprobs": rows}
                    raw: Any = await create(messages=messages, **options)
                else:
                    create = self._client.completions.with_raw_response.create
                    options |= {"logprobs": rows} if rows else {}
                    raw = await create(prompt=prompt, **options)
                return cast(bytes, raw.content)
        except (TimeoutError, openai.APITimeoutError):
            message = f"no whole answer in {endpoint.timeout_s:g} s"
            raise Busy("timeout", message) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, Unusable):
                raise cause from None
            message = self._redactor.clean_text(f"{type(cause).__name__}: {cause}")
            raise Busy("connection", message) from None
        except openai.APIStatusError as error:
            if limit != _LIMITS[1] and _wants_other_limit(error.response):
                self._limit = _LIMITS[1]
            elif (most := _most_choices(error.response, count)) is not None:
                self._most = min(most, self._most or most)
            else:
                raise self._status(error.response) from None
        return await self._post(
            prompt,
            count=count,
            seed=seed,
            temperature=temperature,
            max_tokens=max_tokens,
            echo=echo,
        )

    def _choices(self, body: bytes, where: str, *, spelt: bool = True) -> list[Choice]:
        try:
            rows = self.endpoint.request.logprobs
            choices = usable_choices(body, where, spelt=spelt, rows=rows)
        except Unusable as error:
            message = self._redactor.clean_text(str(error))
            raise Unusable(error.reason, message, again=error.again) from None
        if self._redactor.holds(b"|".join(map(_written, choices))):
            raise _echo()
        return choices

    def _status(self, response: Any) -> Exception:
        endpoint, code = self.endpoint, int(response.status_code)
        said = cast(bytes, response.content).decode("utf-8", "replace")
        message = visible(f"HTTP {code}: {' '.join(said.split())[:300]}")
        address = self._redactor.clean_text(endpoint.base_url)
        if code in (408, 409, 425, 429) or code >= 500:
            if "insufficient_quota" in said:
                return InputError(f"the account is used up ({message}).")
            wait = retry_after(response.headers)
            if wait is not None:
                wait = min(wait, endpoint.timeout_s)
            return Busy("rate_limit" if code == 429 else "server_error", message, wait)
        if code in (401, 403):
            return InputError(
                f"{address} refuses the key in {endpoint.api_key_env} "
                f"({message}). Set the right one; what is stored stays."
            )
        if code == 404:
            return InputError(
                f"{address} has no {endpoint.api} API for model "
                f"{endpoint.model!r} ({message}). Check {self.ADDRESS}."
            )
        return Unusable("refused", message, again=False)


def _key(endpoint: Endpoint) -> str:
    name = endpoint.api_key_env
    key = checked_key(os.environ.get(name, ""), name)
    if not key and name != Endpoint.api_key_env:
        raise InputError(
            "--api_key_env names no variable of the environment that holds a key. Give "
            "the variable's name, not the key: what was given is not printed."
        )
    if not key and "api.openai.com" in endpoint.base_url:
        raise InputError(
            f"the environment has no {name}, and {endpoint.base_url} needs a key. Set "
            "it, or name another variable with --api_key_env."
        )
    return key


def _door(openai: Any, redactor: Redactor) -> Any:
    """The HTTP client whose responses hold no key, and nothing that has no end."""

    class Door(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **how: Any) -> Any:
            base: Any = super()
            response = await base.send(request, stream=True, **how)
            return await _entered(response, redactor)

    return Door


async def _entered(response: Any, redactor: Redactor) -> Any:
    """What is used of a response: status, time to wait, and the body without the key.

    Raises:
        Unusable: the body has no end, or its answers hold the key.
    """
    body = bytearray()
    try:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > MOST_BYTES:
                message = f"the answer has over {MOST_BYTES >> 20} MiB"
                raise Unusable("endless", message)
    finally:
        await response.aclose()
    content = _admitted(bytes(body), redactor, response.status_code)
    waits = ("retry-after", "retry-after-ms")
    headers = {one: response.headers[one] for one in waits if one in response.headers}
    return type(response)(
        response.status_code, headers=headers, content=content, request=response.request
    )


def _admitted(body: bytes, redactor: Redactor, code: int) -> bytes:
    """A body without the key.

    Raises:
        Unusable: the key is in a text or a token of an answer, which would change.
    """
    clean = redactor.clean(body)
    if clean != body and code < 300 and _read(clean) != _read(body):
        with paid_for(clean):
            raise _echo()
    return clean


def _read(body: bytes) -> list[Choice] | None:
    try:
        return usable_choices(body, "answer", spelt=False, rows=False)
    except Unusable:
        return None


def _written(choice: Choice) -> bytes:
    options = [text for token in choice.tokens or () for text, _ in token.top]
    reason = choice.finish_reason.encode()
    return b"|".join([choice.text.encode(), reason, *options])


def _echo() -> Unusable:
    return Unusable(
        "echo",
        "the answer holds the API key, or its first 8 characters, and is not stored. "
        "Where no key is needed, unset it or give one of fewer than 8 characters",
    )


def _wants_other_limit(response: Any) -> bool:
    content = cast(bytes, response.content)
    return response.status_code in (400, 422) and _LIMITS[1].encode() in content


def _most_choices(response: Any, count: int) -> int | None:
    """How many choices a server gives per request, if that is why it refused.

    llama.cpp's server gives as many as it has slots: "Field 'n': Value must be between
    1 <= value <= 2, but got 4". Others give one and state no number.
    """
    if response.status_code not in (400, 422) or count == 1:
        return None
    said = cast(bytes, response.content).decode("utf-8", "replace")
    if not _NUMBER_OF_CHOICES.search(said):
        return None
    stated = [int(number) for number in _MOST_CHOICES.findall(said)]
    return max((one for one in stated if 1 <= one < count), default=1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The number of seconds that a server asks to wait, or None.

    Reads `retry-after-ms`, or `Retry-After` as seconds or a date (RFC 9110, 10.2.3).
    """
    milliseconds = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        else:
            try:
                seconds = float(value)
            except ValueError:
                when = email.utils.parsedate_to_datetime(value)
                seconds = when.timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def same_temperature(
    at_one: Mapping[bytes, float], at_other: Mapping[bytes, float], temperature: float
) -> bool | None:
    """Whether two reports of one distribution are before (True) or after temperature.

    After temperature T, differences of log-probabilities are those at 1 divided by T.

    Args:
        at_one: token -> log-probability reported at temperature 1.
        at_other: the same at `temperature`.
        temperature: another temperature than 1.

    Returns:
        None if fewer than two tokens are in both, or the two cases are too close.
    """
    common = sorted(at_one.keys() & at_other.keys(), key=lambda t: -at_one[t])
    if len(common) < 2:
        return None
    best, rest = common[0], common[1:]
    before = sum(at_one[best] - at_one[token] for token in rest)
    after = sum(at_other[best] - at_other[token] for token in rest)
    if before < 0.1:
        return None
    ratio = after / before  # 1 if before temperature, 1 / T if after
    expected = 1 / temperature
    middle = (1 + expected) / 2
    return (ratio < middle) == (expected > 1)
