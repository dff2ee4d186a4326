"""Which judge reads final answers; light, so that `--help` and gin are quick."""

import dataclasses

from specialize import checks
from specialize.judging import own_judge
from specialize.judging.choices import ANSWER_TYPES, JUDGES


@dataclasses.dataclass(frozen=True)
class JudgeSpec:
    """Which judge reads final answers, and what kind of answer it looks for.

    Attributes:
        judge: "exact", "reference" to reproduce the paper's own judge, or a function
            of one's own: "file.py:function" (`own_judge`).
        answer_type: one of `choices.ANSWER_TYPES`; None takes the type of each suite
            or problem.
        mark: a text that says that the answer follows, such as "So my verdict:", beside
            the marks that the judge knows; "" for none.

    Raises:
        InputError: an unknown judge or answer type.

    Example:
        >>> specialize.JudgeSpec("reference").judge
        'reference'
    """

    judge: str = "exact"
    answer_type: str | None = None
    mark: str = ""

    def __post_init__(self) -> None:
        if ":" in str(self.judge):
            own_judge.check(self.judge)
        else:
            checks.one_of("judge", self.judge, JUDGES)
        if self.answer_type is not None:
            checks.one_of("answer_type", self.answer_type, ANSWER_TYPES)

    def for_task(self, task: "JudgeSpec") -> "JudgeSpec":
        """The judge of a task, unless this one was chosen instead of the default."""
        if self.judge in (task.judge, JudgeSpec.judge):
            return dataclasses.replace(task, answer_type=self.answer_type)
        return self
