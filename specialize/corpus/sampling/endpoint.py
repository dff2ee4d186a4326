"""Any OpenAI-compatible server as a teacher: completions or chat, with top-k."""

import email.utils
import math
import os
import time
from collections.abc import Mapping
from typing import Any, cast

from specialize.corpus.sampling.spec import Endpoint
from specialize.corpus.sampling.teachers import Answer, Ask, Busy, Unusable
from specialize.corpus.sampling.wire import token_counts, usable_choices
from specialize.errors import InputError


class OpenAITeacher:
    """Any server that has OpenAI's completions or chat API.

    Raises:
        InputError: there is no key although OpenAI itself is asked, or the extra
            `teacher` is not installed.
    """

    def __init__(self, endpoint: Endpoint):
        """Opens no connection yet."""
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "sampling needs the extra 'teacher': pip install 'specialize[teacher]'."
            ) from error
        key = os.environ.get(endpoint.api_key_env, "")
        if not key and "api.openai.com" in endpoint.base_url:
            raise InputError(
                f"the environment has no {endpoint.api_key_env}, and "
                f"{endpoint.base_url} needs a key. Set it, or name another variable "
                "with --api_key_env."
            )
        self.endpoint = endpoint
        self.name = endpoint.model
        self._openai = openai
        self._key = key
        # We retry ourselves: each attempt must pass the rate limits and be counted.
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=key or "no-key",
            max_retries=0,
            timeout=endpoint.timeout_s,
        )

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
        choices = usable_choices(body, f"answer to {ask.problem_id}")[: ask.count]
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
            tokens = usable_choices(body, "probe", spelt=False)[0].tokens
            seen.append(dict(tokens[0].top) if tokens else {})
        return same_temperature(seen[0], seen[1], other)

    async def _post(
        self, prompt: str, *, count: int, seed: int, temperature: float, max_tokens: int
    ) -> bytes:
        openai = self._openai
        endpoint, request = self.endpoint, self.endpoint.request
        options: dict[str, Any] = {
            "model": endpoint.model,
            "n": count,
            "temperature": temperature,
            "top_p": request.top_p,
            "max_tokens": max_tokens,
        }
        if endpoint.extra_body:
            options["extra_body"] = dict(endpoint.extra_body)
        if request.stop:
            options["stop"] = list(request.stop)
        if endpoint.send_seed:
            options["seed"] = seed
        create: Any
        try:
            if endpoint.api == "chat":
                messages: list[dict[str, str]] = []
                if endpoint.system:
                    messages.append({"role": "system", "content": endpoint.system})
                messages.append({"role": "user", "content": prompt})
                create = self._client.chat.completions.with_raw_response.create
                raw: Any = await create(
                    messages=messages,
                    logprobs=True,
                    top_logprobs=request.top_logprobs,
                    **options,
                )
            else:
                create = self._client.completions.with_raw_response.create
                raw = await create(
                    prompt=prompt, logprobs=request.top_logprobs, **options
                )
            return cast(bytes, raw.content)
        except openai.APITimeoutError as error:
            raise Busy("timeout", f"no answer in {endpoint.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            message = f"{type(cause).__name__}: {cause}"
            raise Busy("connection", self._redact(message)) from error
        except openai.APIStatusError as error:
            raise self._status(error) from error

    def _status(self, error: Any) -> Exception:
        code = int(error.status_code)
        message = self._redact(f"HTTP {code}: {str(error.message)[:300]}")
        if code in (408, 409, 425, 429) or code >= 500:
            reason = "rate_limit" if code == 429 else "server_error"
            if "insufficient_quota" in message:
                return InputError(f"the account is used up ({message}).")
            return Busy(reason, message, retry_after(error.response.headers))
        endpoint = self.endpoint
        if code in (401, 403):
            return InputError(
                f"{endpoint.base_url} refuses the key in {endpoint.api_key_env} "
                f"({message}). Set the right one; what is stored stays."
            )
        if code == 404:
            return InputError(
                f"{endpoint.base_url} has no {endpoint.api} API for model "
                f"{endpoint.model!r} ({message}). Check --base_url, --model and --api."
            )
        return Unusable("refused", message, again=False)

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


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
