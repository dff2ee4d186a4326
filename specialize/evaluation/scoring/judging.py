"""Predictions of a suite -> verdicts -> a score that says how it came about.

One judge for all: `judge.answers.judge`, the same that keeps or rejects a teacher's
samples. A score counts how verdicts were reached (marked, last, none) and states its
ceiling: what no prediction can win because the gold has no number (56 of ASDiv's) or
because the student's vocabulary cannot write it (99 of dyck_languages' 250 targets for
T5).
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool

from specialize.evaluation.scoring import statistics
from specialize.evaluation.suites.loading import Example, Suite
from specialize.judging import answers
from specialize.judging.answers import HOWS, Verdict, spelled_gold
from specialize.judging.spec import JudgeSpec


@runtime_checkable
class Writes(Protocol):
    """The part of a vocabulary that tells what it can write."""

    unk_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of a text; `unk_id` where no piece fits."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Ceiling:
    """What nobody can win on a suite.

    Attributes:
        n: examples.
        without_gold: examples whose gold holds no usable answer.
        unwritable: examples whose every gold has a character outside the vocabulary.
    """

    n: int
    without_gold: int
    unwritable: int

    @property
    def accuracy(self) -> float:
        """The best possible accuracy."""
        return 1 - (self.without_gold + self.unwritable) / self.n

    def __str__(self) -> str:
        parts: list[str] = []
        if self.without_gold:
            parts.append(f"{self.without_gold} golds without a number")
        if self.unwritable:
            parts.append(f"{self.unwritable} golds the vocabulary cannot write")
        return f"{self.accuracy:.1%} ({', '.join(parts)})" if parts else "100.0%"


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """One example with what was said about each of its samples.

    Attributes:
        id: of the example.
        predictions: the texts, one or several samples.
        verdicts: one a sample.
        verdict: the example's own: of the only sample, or of the majority.
    """

    id: str
    predictions: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class SuiteScore:
    """How a system did on a suite.

    Attributes:
        name: of the suite.
        prompt: how it was asked.
        judge: "exact" or "reference".
        judged: verdicts, in the order of the suite.
        ceiling: what nobody can win.
        selection: which examples were asked (`Suite.selection`).
    """

    name: str
    prompt: str
    judge: str
    judged: tuple[Judged, ...]
    ceiling: Ceiling
    selection: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Name and prompt, as `Suite.key`."""
        return f"{self.name}:{self.prompt}"

    @property
    def n(self) -> int:
        """Examples."""
        return len(self.judged)

    @property
    def num_samples(self) -> int:
        """Samples an example."""
        return len(self.judged[0].verdicts)

    @property
    def right(self) -> Bool[np.ndarray, " n"]:
        """Whether each example is right [n], for paired tests."""
        return np.array([one.verdict.correct for one in self.judged], dtype=bool)

    @property
    def correct(self) -> int:
        """Examples that are right; with several samples, whose majority is."""
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
        """How many verdicts were reached in which way; all ways are there."""
        counted = collections.Counter(one.verdict.how for one in self.judged)
        return {how: counted[how] for how in HOWS}

    @property
    def sample_accuracy(self) -> float:
        """Mean share of an example's samples that are right (pass@1)."""
        return self.pass_at(1)

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

    def to_json(self, *, examples: bool = True) -> dict[str, Any]:
        """Plain values: figures, counts, ceiling and, if asked, every verdict."""
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
        if self.num_samples > 1:
            value["samples"] = self.num_samples
            ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= self.num_samples]
            value["pass_at"] = {str(k): self.pass_at(k) for k in ks}
        if examples:
            value["examples"] = [
                {
                    "id": one.id,
                    "correct": one.verdict.correct,
                    "value": one.verdict.value,
                    "how": one.verdict.how,
                }
                for one in self.judged
            ]
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
        suite: what was asked.
        predictions: one text for each example in its order, or several samples for
            each; then an example is judged by the answer most samples agree on.
        judge: which judge reads the predictions.
        vocabulary: the student's; makes the ceiling count golds it cannot write.

    Returns:
        The score.

    Raises:
        ValueError: another number of predictions than examples, an empty suite, or
            examples with different numbers of samples.
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
    )


def ceiling(suite: Suite, vocabulary: Writes | None = None) -> Ceiling:
    """What nobody can win on a suite.

    Args:
        suite: the suite.
        vocabulary: the student's; None counts golds without an answer alone.

    Returns:
        The ceiling.
    """
    answered = [example for example in suite.examples if example.golds]
    unwritable = 0
    if vocabulary is not None:
        writable = _remembering(vocabulary)
        unwritable = sum(
            not any(
                writable(_to_write(gold, example.answer_type)) for gold in example.golds
            )
            for example in answered
        )
    n = len(suite.examples)
    return Ceiling(n, without_gold=n - len(answered), unwritable=unwritable)


def _to_write(gold: str, answer_type: str) -> str:
    """What of a gold has to be written: of "5 (°F)" the number alone."""
    return spelled_gold(gold, answer_type) if answer_type == "number" else gold


def _remembering(vocabulary: Writes) -> Callable[[str], bool]:
    known: dict[str, bool] = {}

    def writable(gold: str) -> bool:
        if gold not in known:
            known[gold] = vocabulary.unk_id not in vocabulary.encode(gold)
        return known[gold]

    return writable


def _judged(
    example: Example, texts: tuple[str, ...], judge: JudgeSpec, answer_only: bool
) -> Judged:
    kind = judge.answer_type or example.answer_type
    verdicts = tuple(
        answers.judge(text, example.golds, kind, judge.judge, answer_only=answer_only)
        for text in texts
    )
    elected = statistics.majority([verdict.value for verdict in verdicts])
    # Equal values have equal verdicts up to `how`; the first one speaks for them.
    verdict = next(one for one in verdicts if elected is None or one.value == elected)
    return Judged(example.id, texts, verdicts, verdict)
