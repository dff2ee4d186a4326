"""Decides which judged samples are kept, over all samples of a question."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from specialize.corpus.building.verification import NearDuplicates
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


class Member(NamedTuple):
    """What the decision about a sample depends on, apart from its text.

    Attributes:
        sample: its number.
        right: whether it is correct.
        place: where its verification is, in a form that the caller chooses.
    """

    sample: int
    right: bool
    place: Any


def count(funnel: Funnel, verification: Verification) -> None:
    """Adds one verification to the funnel, up to "verified" and its rejection."""
    part = funnel.of(human=verification.sample == HUMAN)
    part.read += 1
    part.reasoned += verification.reasoned
    if verification.reason is None:
        part.verified += 1
    else:
        part.reject(verification.reason)
    if verification.spelling is not None:
        part.spelling.add(verification.spelling)


def decide_question(
    members: Iterable[Member],
    verification: Callable[[Any], Verification],
    acceptance: AcceptanceSpec,
    funnel: Funnel,
) -> Iterator[tuple[Any, int]]:
    """Decides about the samples of one question.

    In memory are only the words of the samples that are kept, and those only if
    near-duplicates are looked for.

    Args:
        members: the samples in the order of their numbers, so that the result does not
            depend on their order in the files.
        verification: gives the verification at a place.
        acceptance: which correct samples are kept.
        funnel: gets the counts of the question and of what is rejected here.

    Yields:
        The place of every sample, with `DROP`, `KEEP` or `KEEP_FIRST` (the question's
        first correct sample).

    Raises:
        InputError: a sample's number occurs twice.
    """
    kept = 0
    found: set[bool] = set()
    solved: set[bool] = set()
    before: Member | None = None
    repeats = None
    if acceptance.near_duplicates is not None:
        repeats = NearDuplicates(acceptance.near_duplicates)
    for one in members:
        if before is not None and before.sample == one.sample:
            raise _twice(verification(before.place), verification(one.place))
        before = one
        human = one.sample == HUMAN
        part = funnel.of(human=human)
        part.questions += human not in found
        found.add(human)
        if not one.right:
            yield one.place, DROP
            continue
        part.solved += human not in solved
        solved.add(human)
        if repeats is not None and repeats.repeats(verification(one.place).text):
            part.reject("near_duplicate")
            yield one.place, DROP
        elif acceptance.max_samples is not None and kept >= acceptance.max_samples:
            part.reject("over_budget")
            yield one.place, DROP
        else:
            yield one.place, KEEP if kept else KEEP_FIRST
            kept += 1


def nothing_kept(funnel: Funnel) -> InputError:
    """The error to raise if no sample is kept, with the reasons and a remedy."""
    total = funnel.total()
    rejected = total.to_json()["rejected"].items()
    reasons = ", ".join(f"{name}: {number}" for name, number in rejected)
    return InputError(
        f"none of {total.read} samples is kept ({reasons}). Compare one of "
        "them with its question's gold answer ('specialize corpus verify --rejected' "
        "lists the reasons), and check that completions and problems belong together "
        "and that no length limit is too low."
    )


def _twice(before: Verification, one: Verification) -> InputError:
    return InputError(
        f"{one.where}: sample {one.sample} of {one.problem_id!r} was already given at "
        f"{before.where}. Every sample of a question needs its own number; remove or "
        "renumber one."
    )
