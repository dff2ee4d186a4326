"""Predictions of a suite -> verdicts -> a score.

`judging.answers.judge` judges predictions as it judges the teacher's samples. A score
counts how verdicts were reached (marked, last, none) and states its ceiling: some gold
answers have no number (56 of ASDiv), and some the student's vocabulary cannot write (99
of the 250 targets of dyck_languages for T5).
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from specialize.evaluation.scoring import statistics
from specialize.evaluation.suites.loading import Example, Suite
from specialize.judging import answers
from specialize.judging.answers import HOWS, Verdict, spelled_gold
from specialize.judging.spec import JudgeSpec


@runtime_checkable
class Writes(Protocol):
    """The part of a vocabulary that shows what it can write."""

    unk_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text; `unk_id` for characters without a piece."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Ceiling:
    """The examples of a suite that no prediction can answer right.

    Attributes:
        n: Number of examples.
        without_gold: Number of examples without a usable gold answer.
        unwritable: Number of examples whose gold answers all have a character outside
            the vocabulary.
    """

    n: int
    without_gold: int
    unwritable: int

    @property
    def accuracy(self) -> float:
        """The highest possible accuracy."""
        return 1 - (self.without_gold + self.unwritable) / self.n


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """One example with its verdicts.

    Attributes:
        id: Id of the example.
        predictions: The texts, one or several samples.
        verdicts: One verdict per sample.
        verdict: Verdict on the example, from its only sample or from the majority.
    """

    id: str
    predictions: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class SuiteScore:
    """The score of a model on a suite.

    Attributes:
        name: Name of the suite.
        prompt: Its prompt format.
        judge: Its judge, as in `JudgeSpec.judge`.
        judged: Verdicts, in the order of the suite.
        ceiling: The examples that no prediction can answer right.
        selection: Which examples were asked (`Suite.selection`).
        asked: Number of examples of the suite, if only some of them have a prediction.
    """

    name: str
    prompt: str
    judge: str
    judged: tuple[Judged, ...]
    ceiling: Ceiling
    selection: Mapping[str, Any]
    asked: int | None = None

    @property
    def key(self) -> str:
        """Name and prompt, as in `Suite.key`."""
        return f"{self.name}:{self.prompt}"

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.judged)

    @property
    def num_samples(self) -> int:
        """Number of samples per example."""
        return len(self.judged[0].verdicts)

    @property
    def correct(self) -> int:
        """Number of examples that are right; with samples, whose majority is right."""
        return sum(one.verdict.correct for one in self.judged)

    @property
    def accuracy(self) -> float:
        """Share of examples that are right."""
        return self.correct / self.n

    @property
    def interval(self) -> statistics.Interval:
        """Accuracy with its 95 % Wilson interval."""
        return statistics.wilson(self.correct, self.n)

    @property
    def hows(self) -> dict[str, int]:
        """Number of verdicts reached in each way, also 0."""
        counted = collections.Counter(one.verdict.how for one in self.judged)
        return {how: counted[how] for how in HOWS}

    def pass_at(self, k: int) -> float:
        """Unbiased pass@k, averaged over examples.

        Raises:
            ValueError: k is larger than the number of samples.
        """
        return sum(
            statistics.pass_at_k(
                len(one.verdicts), sum(verdict.correct for verdict in one.verdicts), k
            )
            for one in self.judged
        ) / len(self.judged)

    def to_json(self) -> dict[str, Any]:
        """The accuracy with its interval, counts and ceiling, as JSON values."""
        interval = self.interval
        value: dict[str, Any] = {
            "name": self.name,
            "prompt": self.prompt,
            "rule": self.judge,
            "n": self.n,
            "correct": self.correct,
            "accuracy": interval.value,
            "low": interval.low,
            "high": interval.high,
            "how": self.hows,
            "ceiling": {
                **dataclasses.asdict(self.ceiling),
                "accuracy": self.ceiling.accuracy,
            },
            "selection": dict(self.selection),
        }
        if self.asked is not None:
            value["asked"] = self.asked
        if self.num_samples > 1:
            value["samples"] = self.num_samples
            ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= self.num_samples]
            value["pass_at"] = {str(k): self.pass_at(k) for k in ks}
        return value


def judge_suite(
    suite: Suite,
    predictions: Sequence[str | Sequence[str]],
    *,
    judge: JudgeSpec = JudgeSpec(),
    vocabulary: Writes | None = None,
) -> SuiteScore:
    """Judges the predictions of a suite.

    Args:
        suite: What was asked.
        predictions: One text per example, in the order of the suite, or several samples
            per example; then the most frequent answer is judged.
        judge: The judge of the predictions.
        vocabulary: As in `ceiling`.

    Raises:
        ValueError: The numbers of predictions and examples differ, the suite is empty,
            or examples have different numbers of samples.
    """
    if not suite.examples or len(predictions) != len(suite.examples):
        raise ValueError(
            f"{suite.key} has {len(suite.examples)} examples, got {len(predictions)} "
            "predictions"
        )
    samples = [
        (texts,) if isinstance(texts, str) else tuple(texts) for texts in predictions
    ]
    if len({len(texts) for texts in samples}) != 1 or not samples[0]:
        counts = sorted({len(texts) for texts in samples})
        raise ValueError(f"{suite.key}: examples have {counts} samples, expected equal")
    judge = judge.for_task(suite.judge)
    judged = [
        _judged(example, texts, judge, suite.answer_only)
        for example, texts in zip(suite.examples, samples, strict=True)
    ]
    return SuiteScore(
        name=suite.name,
        prompt=suite.prompt,
        judge=judge.judge,
        judged=tuple(judged),
        ceiling=ceiling(suite, vocabulary),
        selection=suite.selection(),
        asked=suite.asked,
    )


def ceiling(suite: Suite, vocabulary: Writes | None = None) -> Ceiling:
    """The examples of a suite that no prediction can answer right.

    Args:
        suite: The suite.
        vocabulary: Vocabulary of the student. None: only missing gold answers count.
    """
    answered = [example for example in suite.examples if example.golds]
    unwritable = 0
    if vocabulary is not None:

        @functools.cache
        def writable(gold: str) -> bool:
            return vocabulary.unk_id not in vocabulary.encode(gold)

        unwritable = sum(
            not any(
                writable(_to_write(gold, example.answer_type)) for gold in example.golds
            )
            for example in answered
        )
    n = len(suite.examples)
    return Ceiling(n, without_gold=n - len(answered), unwritable=unwritable)


def _to_write(gold: str, answer_type: str) -> str:
    """The part of a gold answer that a model must write: the number of "5 (°F)"."""
    return spelled_gold(gold, answer_type) if answer_type == "number" else gold


def _judged(
    example: Example, texts: tuple[str, ...], judge: JudgeSpec, answer_only: bool
) -> Judged:
    verdicts = tuple(
        answers.verdict(
            text,
            example.golds,
            judge,
            answer_type=example.answer_type,
            answer_only=answer_only,
        )
        for text in texts
    )
    elected = statistics.majority([verdict.value for verdict in verdicts])
    # Equal values have equal verdicts except for `how`; the first one is taken.
    verdict = next(one for one in verdicts if elected is None or one.value == elected)
    return Judged(example.id, texts, verdicts, verdict)
