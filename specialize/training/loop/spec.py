"""Evaluations during training. A light module, which gin and the lint read quickly."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from specialize import checks
from specialize.errors import InputError, did_you_mean
from specialize.evaluation.spec import EvaluationSpec
from specialize.inference.spec import DecodingSpec
from specialize.judging.spec import JudgeSpec
from specialize.student.loss.spec import FORMATS, METRICS, ROW_METRICS, Z_LOSS
from specialize.training.data.spec import DataSpec

# Number of metrics that a message names.
_SHOWN = 16


@dataclasses.dataclass(frozen=True)
class PeriodicEvaluation:
    """What is measured during training, periodically and after the last step.

    Attributes:
        period: number of steps between evaluations.
        split: split whose loss is measured. None: no loss is measured, unless `mixture`
            has examples in memory.
        mixture: name of the mixture that the split belongs to, or a `mixtures.Mixture`.
            None: the mixture that is trained on.
        batch_size: number of sequences per batch whose loss is measured, and of prompts
            that are decoded together; rounded up to a multiple of the devices over
            which a batch is split.
        max_examples: number of examples of each task, and of questions of each suite.
            None: all.
        weights: "last", or "ema" for the moving average (`OptimizerSpec.ema_decay`).
        suites: the suites that are decoded and judged, with prompt format and files;
            `decoded` sets the other fields. None: no suites.

    Raises:
        InputError: a field has another type or is outside its range.

    Example:
        >>> specialize.PeriodicEvaluation(period=100, batch_size=30).rows(8)
        32
    """

    period: int = 500
    split: str | None = None
    mixture: Any = None
    batch_size: int = 32
    max_examples: int | None = None
    weights: str = "last"
    suites: EvaluationSpec | None = None

    def __post_init__(self) -> None:
        checks.whole("period", self.period)
        checks.text("split", self.split)
        checks.whole("batch_size", self.batch_size)
        checks.whole("max_examples", self.max_examples, optional=True)
        checks.one_of("weights", self.weights, ("last", "ema"))

    def check_metric(self, metric: str, parts: Sequence[str] | None = None) -> None:
        """Checks that an evaluation measures a metric, as that of the best checkpoint.

        Args:
            metric: the name, such as "held_out/zero_shot_cot/kl" or "gsm8k/accuracy".
            parts: names of the parts of the mixture. None: any.

        Raises:
            InputError: nothing measures it; with what is measured.
        """
        known: list[str] = []
        if self.split is not None or hasattr(self.mixture, "tasks"):
            known += [f"held_out/{name}" for name in (*METRICS, Z_LOSS, *ROW_METRICS)]
        of_suites = [] if self.suites is None else self.suites.metrics()
        if of_suites is None:
            return  # the names of its tasks are in files that cannot be read now
        known += of_suites
        # "held_out/kl" of "held_out/zero_shot_cot/kl", of a format or part.
        first, _, last = metric.rpartition("/")
        part = first.removeprefix("held_out/")
        right = parts is None or part in (*FORMATS, *parts)
        of_all = f"held_out/{last}" if part != first and right else metric
        if metric in known or of_all in known:
            return
        if not known:
            raise InputError(
                f"best_metric = {checks.shown(metric)}, but nothing is measured. Set "
                "EVAL_SPLIT or SUITES, or BEST_METRIC = None."
            )
        more = ", ..." if len(known) > _SHOWN else ""
        raise InputError(
            f"best_metric = {checks.shown(metric)} is not measured. These are: "
            f"{', '.join(known[:_SHOWN])}{more}.{did_you_mean(metric, known)}"
        )

    def rows(self, shards: int) -> int:
        """`batch_size`, rounded up to a multiple of the devices that split a batch."""
        return -(-self.batch_size // shards) * shards

    def decoded(self, data: DataSpec, shards: int) -> EvaluationSpec | None:
        """Returns the evaluation of suites during training, if there is one.

        The questions are `max_examples` of each suite's validation split. The student
        decodes greedily, with the lengths of its training sequences; the exact judge
        reads the predictions. `shards` is the number of devices that split a batch.
        """
        if self.suites is None or not self.suites.suites:
            return None
        lengths = data.lengths
        return dataclasses.replace(
            self.suites,
            split="validation",
            max_examples=self.max_examples,
            demonstrations=EvaluationSpec.demonstrations,
            judge=JudgeSpec(),
            decoding=DecodingSpec(
                batch_size=self.rows(shards),
                input_length=lengths["inputs"],
                output_length=lengths["targets"],
            ),
        )
