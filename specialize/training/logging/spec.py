"""What a run reports. A light module, which gin and the lint read quickly."""

import dataclasses

from specialize import checks
from specialize.errors import InputError


@dataclasses.dataclass(frozen=True)
class LoggingSpec:
    """What a run reports while it trains.

    Attributes:
        period: number of steps between log lines.
        tensorboard: whether summaries for TensorBoard are written.
        peak_flops: FLOP/s of all devices together, for the model FLOPs utilization.
            None: the maker's figure, or a measured one.
        profile_steps: (first, last), counted from 0. The steps from first to last - 1
            are traced into the run's folder. None: no trace.

    Raises:
        InputError: a field has another type or is outside its range.

    Example:
        >>> specialize.LoggingSpec(period=50).tensorboard
        True
    """

    period: int = 10
    tensorboard: bool = True
    peak_flops: float | None = None
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        checks.whole("period", self.period)
        checks.flag("tensorboard", self.tensorboard)
        if self.peak_flops is not None:
            checks.real("peak_flops", self.peak_flops, above=0)
        if self.profile_steps is not None:
            first, last = self.profile_steps
            checks.whole("profile_steps[0]", first, 0)
            if last <= first:
                raise InputError(
                    f"profile_steps = {self.profile_steps}; it must be (first, last) "
                    "with 0 <= first < last."
                )
