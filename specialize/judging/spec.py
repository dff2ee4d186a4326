"""Which judge reads final answers; light, so that `--help` and gin are quick."""

import dataclasses

from specialize import checks
from specialize.judging.choices import ANSWER_TYPES, JUDGES


@dataclasses.dataclass(frozen=True)
class JudgeSpec:
    """Which judge reads final answers, and what kind of answer it looks for.

    Attributes:
        judge: "exact", or "reference" to reproduce the paper's own judge.
        answer_type: one of `choices.ANSWER_TYPES`; None takes the type of each suite
            or problem.

    Raises:
        InputError: an unknown judge or answer type.

    Example:
        >>> specialize.JudgeSpec("reference").judge
        'reference'
    """

    judge: str = "exact"
    answer_type: str | None = None

    def __post_init__(self) -> None:
        checks.one_of("judge", self.judge, JUDGES)
        if self.answer_type is not None:
            checks.one_of("answer_type", self.answer_type, ANSWER_TYPES)
