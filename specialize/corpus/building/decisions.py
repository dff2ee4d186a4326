"""Decides which judged samples are kept, over all samples of a question."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from specialize.corpus.building.verification import near_duplicates
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.records import HUMAN
from specialize.corpus.spec import AcceptanceSpec
from specialize.corpus.storage.funnel import Funnel
from specialize.errors import InputError

# The decision about a sample.
DROP, KEEP, KEEP_FIRST = 0, 1, 2


class Verification(NamedTuple):
    """The result of the first pass for one sample.

    Attributes:
        problem_id: the question it answers.
        sample: its number; see `Completion.sample`.
        reason: why it is rejected, or None if it is correct.
        where: "file:line", for messages.
        text: its text if near-duplicates are looked for, else "".
        reasoned: whether reasoning was set apart from its answer.
        spelling: what the student cannot write of a right text, if that was counted.
    """

    problem_id: str
    sample: int
    reason: str | None
    where: str
    text: str = ""
    reasoned: bool = False
    spelling: SpellingCounts | None = None


def decide(
    verifications: Sequence[Verification], acceptance: AcceptanceSpec
) -> tuple[list[int], Funnel]:
    """Decides about every sample.

    Samples of a question are ordered by their numbers, so the result does not depend on
    their order in the files.

    Args:
        verifications: the verifications of all samples of the run.
        acceptance: which correct samples are kept.

    Returns:
        For each verification `DROP`, `KEEP` or `KEEP_FIRST` (its question's first
        correct sample), and the funnel up to "verified" with the rejections so far.

    Raises:
        InputError: a sample's number occurs twice in a question, or no sample is kept.
    """
    funnel = Funnel()
    by_question: dict[str, list[int]] = {}
    for index, verification in enumerate(verifications):
        by_question.setdefault(verification.problem_id, []).append(index)
    decisions = [DROP] * len(verifications)
    for members in by_question.values():
        decided, part = decide_question(
            [verifications[index] for index in members], acceptance
        )
        funnel.merge(part)
        for index, decision in zip(members, decided, strict=True):
            decisions[index] = decision
    if not any(decisions):
        raise nothing_kept(funnel)
    return decisions, funnel


def decide_question(
    verifications: Sequence[Verification], acceptance: AcceptanceSpec
) -> tuple[list[int], Funnel]:
    """Decides about the samples of one question; see `decide`.

    Raises:
        InputError: a sample's number occurs twice.
    """
    funnel = Funnel()
    numbers = [verification.sample for verification in verifications]
    members = sorted(range(len(numbers)), key=numbers.__getitem__)
    _require_distinct(verifications[index] for index in members)
    parts = [funnel.of(human=number == HUMAN) for number in numbers]
    for part, verification in zip(parts, verifications, strict=True):
        part.read += 1
        part.questions = 1
        part.reasoned += verification.reasoned
        if verification.reason is None:
            part.verified += 1
            part.solved = 1
        else:
            part.reject(verification.reason)
        if verification.spelling is not None:
            part.spelling.add(verification.spelling)
    right = [index for index in members if verifications[index].reason is None]
    stay = right
    threshold = acceptance.near_duplicates
    if threshold is not None:
        repeated = near_duplicates([verifications[i].text for i in right], threshold)
        stay = [i for i, again in zip(right, repeated, strict=True) if not again]
        for index in sorted({*right} - {*stay}):
            parts[index].reject("near_duplicate")
    budget = acceptance.max_samples
    if budget is not None:
        for index in stay[budget:]:
            parts[index].reject("over_budget")
        stay = stay[:budget]
    decisions = [DROP] * len(verifications)
    for rank, index in enumerate(stay):
        decisions[index] = KEEP if rank else KEEP_FIRST
    return decisions, funnel


def nothing_kept(funnel: Funnel) -> InputError:
    """The error to raise if no sample is kept, with the reasons and a remedy."""
    total = funnel.total()
    return InputError(
        f"none of {total.read} samples is kept: {total.rejected}. Compare one of "
        "them with its question's gold answer ('specialize corpus verify --rejected' "
        "lists the reasons), and check that completions and problems belong together "
        "and that no length limit is too low."
    )


def _require_distinct(members: Iterable[Verification]) -> None:
    before: Verification | None = None
    for one in members:
        if before is not None and before.sample == one.sample:
            raise InputError(
                f"{one.where}: sample {one.sample} of {one.problem_id!r} "
                f"was already given at {before.where}. Every sample of a question "
                "needs its own number; remove or renumber one."
            )
        before = one
