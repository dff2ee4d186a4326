"""Metrics of the evaluation tasks, by the judge of `specialize evaluate`."""

from collections.abc import Mapping, Sequence
from typing import Any

import gin

from specialize.evaluation.scoring import statistics
from specialize.judging.answers import HOWS, verdict
from specialize.judging.spec import JudgeSpec


@gin.configurable(module=__name__)  # pyright: ignore[reportCallIssue]
def judging(rule: str = JudgeSpec.judge) -> str:
    """The judge: "exact", or "reference" to reproduce the paper's own."""
    return JudgeSpec(rule).judge


def target_or_prediction(
    text: str, *, example: Mapping[str, Any], is_target: bool
) -> Any:
    """SeqIO's `postprocess_fn`, which prepares targets and outputs for the metric.

    Args:
        text: The decoded output, or the target text.
        example: Example of the task with the fields of `benchmarks.dataset`.
        is_target: Whether `text` is the target.

    Returns:
        The fields of `example` for a target; the text itself for an output.
    """
    if not is_target:
        return text
    return {
        "golds": tuple(_text(gold) for gold in example["golds"]),
        "answer_type": _text(example["answer_type"]),
        "answer_only": bool(example["answer_only"]),
        "judge": _text(example["judge"]),
        "mark": _text(example["mark"]),
    }


def accuracy(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]
) -> dict[str, float]:
    """SeqIO's `metric_fn`: accuracy, its interval, n, and how verdicts were reached.

    Args:
        targets: Results of `target_or_prediction` for each example.
        predictions: Decoded outputs in the same order.

    Returns:
        `accuracy`, `accuracy_low` and `accuracy_high` (shares, 95 % Wilson), `n`, and
        the share of verdicts that were "marked", "last" and "none".
    """
    asked = JudgeSpec(judging())
    verdicts = [
        verdict(
            prediction,
            target["golds"],
            asked.for_task(JudgeSpec(target["judge"], mark=target["mark"])),
            answer_type=target["answer_type"],
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
