"""The interface of a teacher: what it is asked, and what it may return.

An answer that cannot be used says why (`Unusable`), one that may come later says when
(`Busy`), and one that will never come ends the run (`InputError`).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

from specialize.corpus.records import TeacherToken
from specialize.corpus.sampling.spec import CAN_SCORE
from specialize.errors import InputError, visible

# Errors that were sent with the status of a success.
_OF_THE_MOMENT = ("error",)
# After so many texts in a row without any score, a server is taken to have none.
MOST_UNSCORED = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One request to a teacher.

    Attributes:
        problem_id: id of the question.
        first_sample: number of the first sample asked for.
        count: number of samples asked for.
        prompt: the text that the teacher reads.
        seed: depends on the run's seed, the question and the first sample.
    """

    problem_id: str
    first_sample: int
    count: int
    prompt: str
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One completion in a response.

    Attributes:
        index: its position in the response.
        text: the text.
        tokens: its tokens with alternatives; they spell the text.
        finish_reason: what the server sent.
        reasoning: number of characters at the beginning of `text` that the server sent
            as reasoning, apart from the answer.
    """

    index: int
    text: str
    tokens: tuple[TeacherToken, ...] | None
    finish_reason: str
    reasoning: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One usable response.

    Attributes:
        choices: one or more; may be fewer than asked for.
        body: the JSON of the response as it was received.
        prompt_tokens: number of prompt tokens by the server's count, or None.
        completion_tokens: the same for all choices.
        seconds: time from request to response.
    """

    choices: list[Choice]
    body: bytes
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float


class Busy(Exception):
    """The teacher may answer later.

    Attributes:
        reason: "rate_limit", "server_error", "timeout" or "connection".
        retry_after: seconds that the server asks to wait, or None.
    """

    def __init__(self, reason: str, message: str, retry_after: float | None = None):
        super().__init__(visible(message))
        self.reason = reason
        self.retry_after = retry_after


class Unusable(Exception):
    """The teacher answered, but the response cannot be used.

    Attributes:
        reason: a word for the kind of error.
        again: whether asking again may help ("malformed") or not ("refused").
        usage: (prompt tokens, completion tokens) by the server's count, which are paid
            for all the same; None if it did not say.
    """

    def __init__(self, reason: str, message: str, *, again: bool = True):
        super().__init__(visible(message))
        self.reason = reason
        self.again = again
        self.usage: tuple[int | None, int | None] = (None, None)

    @property
    def is_lasting(self) -> bool:
        """Whether it is the answer, and not the moment, that is at fault."""
        return self.reason not in _OF_THE_MOMENT


@runtime_checkable
class Teacher(Protocol):
    """A model or server that answers questions with samples and their top-k."""

    @property
    def name(self) -> str:
        """The teacher's name, for fingerprints."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that its completions depend on, as JSON values; no secrets."""
        ...

    async def ask(self, ask: Ask) -> Answer:
        """Answers one request.

        Raises:
            Busy: the request may succeed later.
            Unusable: nothing in the response can be used.
            InputError: no request of this run can succeed.
        """
        ...

    async def close(self) -> None:
        """Releases its connections."""
        ...


def in_vain(requests: int, fault: Busy | Unusable) -> InputError:
    """The error of a run in which request after request is given up.

    Args:
        requests: number of requests that were given up in a row.
        fault: why the last one was.
    """
    many = f"{requests} requests in a row were given up, the last one"
    return InputError(
        f"{'1 request was given up' if requests == 1 else many} because of "
        f"{fault.reason} ({fault}). {_remedy(fault.reason)}What came before is stored; "
        "run the same command again to continue."
    )


def scores_nothing(requests: int, fault: Unusable) -> InputError:
    """The error of a server from which text after text gets no scores.

    Args:
        requests: number of texts without scores.
        fault: why the last one has none.
    """
    return InputError(
        f"the server has scored none of the last {requests} texts. What it sends is of "
        f"no use because of {fault.reason} ({str(fault).rstrip('.')}), and would be "
        f"the same if it were asked again. Check its settings and --model; {CAN_SCORE} "
        "score texts. What was scored before is stored."
    )


def _remedy(reason: str) -> str:
    remedy = {
        "no_logprobs": "Start the server with log-probabilities on (vLLM and "
        "llama.cpp send them; transformers' server does not), lower --top_logprobs, or "
        "give --without_logprobs for one-hot rows.",
        "refused": "The server's message says what it does not accept.",
        "malformed": "Check --base_url (that of most servers ends in /v1) and --api.",
        "rate_limit": "Lower --requests_per_minute or --concurrency.",
        "timeout": "Raise --timeout, or lower --concurrency.",
        "only_reasoning": "",  # the message says it
        "echo": "",
        "connection": "Check that the server runs and --base_url is right.",
    }.get(reason, "See the server's log.")
    return remedy and f"{remedy} "
