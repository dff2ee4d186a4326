"""Which of the judged samples stay, seen over all of a question's samples at once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from specialize.corpus.building.verification import near_duplicates
from specialize.corpus.storage.funnel import Funnel
from specialize.errors import InputError

# What becomes of a sample.
DROP, KEEP, KEEP_FIRST = 0, 1, 2


class Verdict(NamedTuple):
    """What one process found out about one sample.

    Attributes:
        problem_id: the question it answers.
        sample: its number; see `Completion.sample`.
        reason: why it goes, or None where it is right.
        where: "file:line", for messages.
        text: its text, where near-duplicates are looked for.
    """

    problem_id: str
    sample: int
    reason: str | None
    where: str
    text: str = ""


def decide(
    verdicts: Sequence[Verdict],
    *,
    near_duplicate: float | None = None,
    max_samples: int | None = None,
) -> tuple[list[int], Funnel]:
    """Decides about every sample.

    The order of samples within a question is that of their numbers, so the result
    does not depend on the order in which files hold them.

    Args:
        verdicts: of all samples of the run.
        near_duplicate: similarity from which a later sample of a question goes; None
            keeps repeats.
        max_samples: right samples to keep a question; None keeps all.

    Returns:
        For each verdict `DROP`, `KEEP` or `KEEP_FIRST` (its question's first right
        sample), and the funnel up to "verified" with what was rejected so far.

    Raises:
        InputError: a sample's number occurs twice in a question, or nothing stays.
    """
    check_limits(near_duplicate, max_samples)
    funnel = Funnel()
    by_question: dict[str, list[int]] = {}
    for index, verdict in enumerate(verdicts):
        by_question.setdefault(verdict.problem_id, []).append(index)
    decisions = [DROP] * len(verdicts)
    for members in by_question.values():
        decided, part = decide_question(
            [verdicts[index] for index in members],
            near_duplicate=near_duplicate,
            max_samples=max_samples,
        )
        funnel.merge(part)
        for index, decision in zip(members, decided, strict=True):
            decisions[index] = decision
    if not any(decisions):
        raise nothing_kept(funnel)
    return decisions, funnel


def decide_question(
    verdicts: Sequence[Verdict],
    *,
    near_duplicate: float | None = None,
    max_samples: int | None = None,
) -> tuple[list[int], Funnel]:
    """Decides about the samples of one question; see `decide`.

    Raises:
        InputError: a sample's number occurs twice.
    """
    funnel = Funnel(read=len(verdicts), questions=1)
    members = sorted(range(len(verdicts)), key=lambda index: verdicts[index].sample)
    _require_distinct(verdicts[index] for index in members)
    for verdict in verdicts:
        if verdict.reason is not None:
            funnel.reject(verdict.reason)
    right = [index for index in members if verdicts[index].reason is None]
    funnel.verified = len(right)
    funnel.solved = int(bool(right))
    stay = right
    if near_duplicate is not None:
        repeated = near_duplicates([verdicts[i].text for i in right], near_duplicate)
        stay = [i for i, again in zip(right, repeated, strict=True) if not again]
        _count(funnel, "near_duplicate", len(right) - len(stay))
    if max_samples is not None:
        _count(funnel, "over_budget", max(0, len(stay) - max_samples))
        stay = stay[:max_samples]
    decisions = [DROP] * len(verdicts)
    for rank, index in enumerate(stay):
        decisions[index] = KEEP if rank else KEEP_FIRST
    return decisions, funnel


def check_limits(near_duplicate: float | None, max_samples: int | None) -> None:
    """Refuses limits that cannot be.

    Raises:
        InputError: naming the value.
    """
    if near_duplicate is not None and not 0 < near_duplicate <= 1:
        raise InputError(f"near_duplicate is {near_duplicate}, expected (0, 1].")
    if max_samples is not None and max_samples < 1:
        raise InputError(f"max_samples is {max_samples}, expected 1 or more.")


def nothing_kept(funnel: Funnel) -> InputError:
    """What to raise where no sample is left, with the reasons and a remedy."""
    return InputError(
        f"none of {funnel.read} samples is kept: {funnel.rejected}. Compare one of "
        "them with its question's gold answer ('specialize corpus verify --rejected' "
        "says why each went), see that file and problems belong together, and that no "
        "length limit is too low."
    )


def _count(funnel: Funnel, reason: str, count: int) -> None:
    if count:
        funnel.reject(reason, count)


def _require_distinct(members: Iterable[Verdict]) -> None:
    before: Verdict | None = None
    for verdict in members:
        if before is not None and before.sample == verdict.sample:
            raise InputError(
                f"{verdict.where}: sample {verdict.sample} of {verdict.problem_id!r} "
                f"was already given at {before.where}. Every sample of a question "
                "needs its own number; remove or renumber one."
            )
        before = verdict
