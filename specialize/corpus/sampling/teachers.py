"""Who answers: what is asked of a teacher, and what may come back.

An answer that cannot be used says why (`Unusable`), one that may come later says when
(`Busy`), and one that will never come ends the run (`InputError`).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

from specialize.corpus.records import TeacherToken


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One request to a teacher.

    Attributes:
        problem_id: the question.
        first_sample: number of the first sample asked for.
        count: how many samples.
        prompt: what the teacher reads.
        seed: of this request; follows from the run's seed, question and first sample.
    """

    problem_id: str
    first_sample: int
    count: int
    prompt: str
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One answer in a response.

    Attributes:
        index: its place in the response.
        text: the text.
        tokens: its tokens with alternatives; they spell the text.
        finish_reason: what the server said.
    """

    index: int
    text: str
    tokens: tuple[TeacherToken, ...] | None
    finish_reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One usable response.

    Attributes:
        choices: one or more; fewer than asked for is possible.
        body: the response as it came, JSON.
        prompt_tokens: as the server counts them, or None.
        completion_tokens: of all choices.
        seconds: from asking to answer.
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
        retry_after: seconds the server asks to wait, or None.
    """

    def __init__(self, reason: str, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class Unusable(Exception):
    """The teacher answered, but not in a way that can be used.

    Attributes:
        reason: a word for the kind of fault.
        again: whether asking again may help ("malformed") or not ("refused").
    """

    def __init__(self, reason: str, message: str, *, again: bool = True):
        super().__init__(message)
        self.reason = reason
        self.again = again


@runtime_checkable
class Teacher(Protocol):
    """Whoever answers questions with samples and their top-k."""

    @property
    def name(self) -> str:
        """The teacher's name, for fingerprints."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that changes what it answers, as JSON values; no secrets."""
        ...

    async def ask(self, ask: Ask) -> Answer:
        """Answers one request.

        Raises:
            Busy: ask again later.
            Unusable: nothing in the response can be used.
            InputError: no request of this run can succeed.
        """
        ...

    async def close(self) -> None:
        """Gives back connections."""
        ...
