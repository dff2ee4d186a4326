"""The numbers of a sampling run, which its panel reads while it runs."""

import collections
import dataclasses
import time

from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.sampling.teachers import Busy, Unusable


@dataclasses.dataclass
class Tally:
    """The numbers of a run; the panel reads them during the run.

    Attributes:
        cached: samples that were stored before the run began.
        done: samples that arrived in this run.
        planned: samples that there will be, as far as is known.
        failed: samples that were given up.
        right: samples of cached and done with the right answer.
        spelling: what the student cannot write of the right samples of this run, if
            its vocabulary is known.
        misspelt: samples of this run that are right, but not as the student would
            spell them.
        unsolved: questions that have all planned samples, none of them right.
        questions: questions of the run.
        in_flight: requests without a response yet.
        requests: attempts sent in this run.
        retries: failed attempts, by reason.
        prompt_tokens: tokens paid for, earlier runs included.
        completion_tokens: likewise.
        spent: likewise, in the currency of the prices.
        began: `time.monotonic()` of the start.
        recent: (time, requests, tokens) of the last minute.
        last_fault: the message of the last failed attempt.
        cut: samples of this run that the server cut or refused; none of them is right.
        given_up: (question, sample) -> why a given text has no scores.
        one_hot: whether no log-probabilities are asked for.
    """

    cached: int = 0
    done: int = 0
    planned: int = 0
    failed: int = 0
    right: int = 0
    spelling: SpellingCounts = dataclasses.field(default_factory=SpellingCounts)
    misspelt: int = 0
    unsolved: int = 0
    questions: int = 0
    in_flight: int = 0
    requests: int = 0
    retries: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter[str]
    )
    prompt_tokens: int = 0
    completion_tokens: int = 0
    spent: float = 0.0
    began: float = dataclasses.field(default_factory=time.monotonic)
    recent: collections.deque[tuple[float, int, int]] = dataclasses.field(
        default_factory=collections.deque[tuple[float, int, int]]
    )
    last_fault: str = ""
    cut: int = 0
    given_up: dict[tuple[str, int], Busy | Unusable] = dataclasses.field(
        default_factory=dict[tuple[str, int], Busy | Unusable]
    )
    one_hot: bool = False

    @property
    def projected(self) -> float:
        """What the whole run will cost, at the mean price per sample so far."""
        have = self.cached + self.done
        return self.spent * max(self.planned, have) / have if have else 0.0

    @property
    def acceptance(self) -> float:
        """Share of right samples, 0 to 1."""
        have = self.cached + self.done
        return self.right / have if have else 0.0

    def per_minute(self) -> tuple[float, float]:
        """(requests, tokens) per minute, over the last minute."""
        now = time.monotonic()
        while self.recent and self.recent[0][0] < now - 60:
            self.recent.popleft()
        window = min(60.0, max(1.0, now - self.began))
        return (
            sum(requests for _, requests, _ in self.recent) * 60 / window,
            sum(tokens for _, _, tokens in self.recent) * 60 / window,
        )
