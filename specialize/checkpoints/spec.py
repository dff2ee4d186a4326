"""Which checkpoints of a run are kept; imports nothing heavy, for gin and the lint."""

import dataclasses
import os

from specialize import checks, paths


@dataclasses.dataclass(frozen=True)
class CheckpointSpec:
    """Where the checkpoints of a run are stored, and which are kept.

    Attributes:
        dir: folder, also in a bucket (gs://..., s3://...). None: the run's folder.
        period: number of steps between checkpoints; the last step is always saved.
        keep: number of newest checkpoints that are kept.
        best_metric: metric of an evaluation, such as "held_out/loss" or
            "gsm8k/accuracy", whose best checkpoint is kept as well. None: no metric.
        best_mode: "max" or "min": which value of that metric is the best.

    Raises:
        InputError: a field has another type or is outside its range.

    Example:
        >>> specialize.CheckpointSpec(period=100, best_metric="gsm8k/accuracy").keep
        3
    """

    dir: str | os.PathLike[str] | None = None
    period: int = 500
    keep: int = 3
    best_metric: str | None = None
    best_mode: str = "max"

    def __post_init__(self) -> None:
        checks.path("dir", self.dir)
        if paths.scheme_of(self.dir or ""):
            paths.checked_for_checkpoints(self.dir or "", "dir")
        checks.text("best_metric", self.best_metric)
        checks.whole("period", self.period)
        checks.whole("keep", self.keep)
        checks.one_of("best_mode", self.best_mode, ("max", "min"))
