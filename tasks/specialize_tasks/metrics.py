"""Metrics of the evaluation tasks: the judge of `specialize evaluate`, nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import gin

from specialize.evaluation.scoring import statistics
from specialize.judging.answers import HOWS, judge
from specialize.judging.spec import JudgeSpec


@gin.configurable(module=__name__)  # pyright: ignore[reportCallIssue]
def judging(rule: str = JudgeSpec.judge) -> str:
    """The judge: "exact", or "reference" to reproduce the paper's own."""
    return JudgeSpec(rule).judge


def target_or_prediction(
    text: str, *, example: Mapping[str, Any], is_target: bool
) -> Any:
    """SeqIO's `postprocess_fn`: what a metric sees of an example or of an output.

    Args:
        text: the decoded output, or the target text.
        example: the task's example; `golds`, `answer_type` and `answer_only` are read.
        is_target: whether the example's own target is wanted.

    Returns:
        For a target what the judge needs; for an output the text itself.
    """
    if not is_target:
        return text
    return {
        "golds": tuple(_text(gold) for gold in example["golds"]),
        "answer_type": _text(example["answer_type"]),
        "answer_only": bool(example["answer_only"]),
    }


def accuracy(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]
) -> dict[str, float]:
    """SeqIO's `metric_fn`: accuracy, its interval, n, and how verdicts were reached.

    Args:
        targets: what `target_or_prediction` made of each example.
        predictions: decoded outputs in the same order.

    Returns:
        `accuracy`, `accuracy_low` and `accuracy_high` (shares, 95 % Wilson), `n`, and
        the share of verdicts that were "marked", "last" and "none".
    """
    judge_name = judging()
    verdicts = [
        judge(
            prediction,
            target["golds"],
            target["answer_type"],
            judge_name,
            answer_only=target["answer_only"],
        )
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    n = len(verdicts)
    interval = statistics.wilson(sum(verdict.correct for verdict in verdicts), n)
    shares = {
        f"how_{how}": sum(verdict.how == how for verdict in verdicts) / n
        for how in HOWS
    }
    return {
        "accuracy": interval.value,
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "n": float(n),
        **shares,
    }


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
