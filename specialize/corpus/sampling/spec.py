"""Specifications of sampling a served teacher: the server, the requests, how many."""

import dataclasses
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from specialize import checks
from specialize.corpus.spec import AlignmentSpec
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec

# The end of a message.
CAN_SCORE = "vLLM, SGLang and llama-cpp-python (--logits_all true) can"
# Hosted servers that do not report the log-probabilities of a given text.
_CANNOT = {
    "api.openai.com": "OpenAI",
    "api.anthropic.com": "Anthropic",
    "generativelanguage.googleapis.com": "Gemini",
    "api.groq.com": "Groq",
    "api.mistral.ai": "Mistral",
    "api.deepseek.com": "DeepSeek",
}

# Fields of a request that have options, or would change the response.
_OURS = frozenset(
    "model n temperature top_p max_tokens stop seed prompt messages logprobs "
    "top_logprobs stream echo".split()
)
MOST_AT_ONCE = 10_000
# Alternatives per token that a request may ask for.
MOST_ALTERNATIVES = 100
# Seconds between the beginnings of two uploads of a database in a bucket.
UPLOAD_EVERY_S = 30.0
APIS = ("completions", "chat")
# Whether log-probabilities are before or after temperature; "auto" finds out.
CONVENTIONS = ("auto", "before_temperature", "after_temperature", "unknown")


def _whole(name: str, value: int, most: int) -> None:
    checks.whole(name, value)
    checks.real(name, value, most=most)


def _check_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is not Unicode ({text!r}). Correct it.") from None


def check_url(url: str, name: str = "base_url") -> None:
    """Checks a base URL, and prints nothing of one that may hold a password."""
    if "@" in url or "%40" in url:
        raise InputError(
            f"{name} holds credentials. Put the key in an environment variable and "
            "leave only the address: it is not printed."
        )
    try:
        parts = urllib.parse.urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right or not url.isprintable() or " " in url or "?" in url or "#" in url:
        raise InputError(
            f"{name} is not the address of a server: expected http:// or https://, a "
            "host, perhaps a port of 1 to 65535 and a path, and nothing after it, "
            "for example http://localhost:8000/v1. What was given is not printed: it "
            "may hold a password."
        )


def check_scores(url: str, name: str) -> None:
    """Refuses a hosted server that does not score given texts."""
    host = urllib.parse.urlsplit(url).hostname or ""
    if host in _CANNOT:
        raise InputError(
            f"{name}: {_CANNOT[host]} does not report the probabilities of a given "
            f"text; {CAN_SCORE}. Name such a server."
        )


@dataclasses.dataclass(frozen=True)
class RequestSpec:
    """How one completion is drawn, and what is reported with it.

    Attributes:
        temperature: sampling temperature, 0 to 2.
        top_p: nucleus of sampling, above 0 and up to 1.
        max_tokens: longest completion in tokens.
        stop: texts at which a completion ends.
        top_logprobs: number of alternatives per token (OpenAI: at most 5 for
            completions, 20 for chat; vLLM: its --max-logprobs).
        logprobs: whether log-probabilities are asked for. Without them, every teacher
            row is one-hot.

    Raises:
        InputError: a value outside its range.
    """

    temperature: float = 0.5
    top_p: float = 1.0
    max_tokens: int = 256
    stop: Sequence[str] = ("\nQuestion:",)
    top_logprobs: int = 5
    logprobs: bool = True

    def __post_init__(self) -> None:
        checks.real("temperature", self.temperature, least=0.0, most=2.0)
        checks.real("top_p", self.top_p, above=0.0, most=1.0)
        _whole("max_tokens", self.max_tokens, 1_000_000)
        _whole("top_logprobs", self.top_logprobs, MOST_ALTERNATIVES)
        for text in self.stop:
            _check_text("stop", text)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A server, its model, and the requests that it gets.

    Attributes:
        base_url: for example "http://localhost:8000/v1".
        model: name of the model on the server.
        api: one of `APIS`.
        system: system message, chat only.
        request: how one completion is drawn.
        send_seed: whether requests carry a seed.
        timeout_s: seconds until a response must arrive.
        api_key_env: environment variable that holds the key.
        extra_body: more fields of every request, as the server names them.

    Raises:
        InputError: the API is unknown, the base URL is invalid or holds credentials, or
            a field of `extra_body` has an option.
    """

    base_url: str
    model: str
    api: str = "completions"
    system: str | None = None
    request: RequestSpec = RequestSpec()
    send_seed: bool = True
    timeout_s: float = 120.0
    api_key_env: str = "OPENAI_API_KEY"
    extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        checks.one_of("api", self.api, APIS)
        checks.real("timeout_s", self.timeout_s, above=0.0, most=86_400.0)
        check_url(self.base_url)
        if not self.api_key_env.isidentifier():
            raise InputError(
                "--api_key_env is not the name of an environment variable. Put the "
                "key in a variable and give its name: what was given is not printed."
            )
        for name in ("model", "system"):
            _check_text(name, getattr(self, name) or "")
        if taken := sorted(self.extra_body.keys() & _OURS):
            raise InputError(
                f"extra_body sets {taken}, which have options of their own."
            )

    def describe(self) -> dict[str, Any]:
        """Everything that changes a completion; the address of the server does not."""
        extra = {"extra_body": dict(self.extra_body)} if self.extra_body else {}
        request = self.request
        return {
            **extra,
            "model": self.model,
            "api": self.api,
            "top_logprobs": request.top_logprobs if request.logprobs else 0,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "stop": list(request.stop),
            "system": self.system,
        }


@dataclasses.dataclass(frozen=True)
class PaceSpec:
    """How fast a teacher is asked, and how often requests are repeated.

    Attributes:
        concurrency: number of requests in flight at once.
        requests_per_minute: limit; None for no limit.
        tokens_per_minute: limit, prompt and completion together; None for no limit.
        attempts: number of times a request is tried on rate limits, server errors and
            cut connections; at most three times on timeouts.
        backoff_s: seconds before the second attempt; they double with each attempt.

    Raises:
        InputError: a value is outside its range.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempts: int = 8
    backoff_s: float = 0.5

    def __post_init__(self) -> None:
        _whole("concurrency", self.concurrency, MOST_AT_ONCE)
        _whole("attempts", self.attempts, 100)
        checks.real("backoff_s", self.backoff_s, least=0.0, most=60.0)
        for name, least in (("requests_per_minute", 0.01), ("tokens_per_minute", 1.0)):
            if (value := getattr(self, name)) is not None:
                checks.real(name, value, least=least, most=1e9)


@dataclasses.dataclass(frozen=True)
class PriceSpec:
    """What a teacher costs, and how much may be spent.

    Attributes:
        per_input: price of a million prompt tokens.
        per_output: price of a million completion tokens.
        max_cost: once this much is spent, no more requests are sent; None for no limit.

    Raises:
        InputError: a price is negative.
    """

    per_input: float = 0.0
    per_output: float = 0.0
    max_cost: float | None = None

    def __post_init__(self) -> None:
        checks.real("price_input", self.per_input, least=0.0)
        checks.real("price_output", self.per_output, least=0.0)
        if self.max_cost is not None:
            checks.real("max_cost", self.max_cost, least=0.0)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of some tokens."""
        spent = prompt_tokens * self.per_input / 1e6
        return spent + completion_tokens * self.per_output / 1e6


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """How many samples a run asks for, at which pace and price.

    Attributes:
        samples: number of samples per question.
        max_samples: most samples of a question that has no right one yet; None asks
            for no more than `samples`.
        samples_per_request: number of samples that one request asks for.
        seed: random seed of the run.
        judge: the judge that says which samples are right.
        student: the vocabulary and spelling of the student; a sample is then right
            only if it also is as the student would spell it. None: not known yet.
        pace: how fast the teacher is asked.
        price: what tokens cost.

    Raises:
        InputError: a value is outside its range.
    """

    samples: int = 8
    max_samples: int | None = None
    samples_per_request: int = 4
    seed: int = 0
    judge: JudgeSpec = JudgeSpec(answer_type="number")
    student: AlignmentSpec | None = None
    pace: PaceSpec = PaceSpec()
    price: PriceSpec = PriceSpec()

    def __post_init__(self) -> None:
        _whole("samples", self.samples, 10_000)
        _whole("samples_per_request", self.samples_per_request, 1_000)
        checks.whole("seed", self.seed, -(2**63))
        checks.real("seed", self.seed, most=2**63 - 1)
        if self.max_samples is not None:
            _whole("max_samples", self.max_samples, 10_000)
        if self.max_samples is not None and self.max_samples < self.samples:
            raise InputError(
                f"max_samples is {self.max_samples}, less than samples "
                f"({self.samples}). It is the most samples that a question may get."
            )
