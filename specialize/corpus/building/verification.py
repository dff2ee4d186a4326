"""Which samples are right: the judge of the evaluation, and near-duplicates."""

import re
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import Indel

from specialize.corpus.completions import Sample
from specialize.corpus.records import Problem
from specialize.judging.answers import judge
from specialize.judging.spec import JudgeSpec

_WORD = re.compile(r"\w+|[^\w\s]")


def verify(
    sample: Sample,
    problem: Problem,
    judging: JudgeSpec,
) -> str | None:
    """Judges one sample as the evaluation judges a student.

    Args:
        sample: a completion of a file.
        problem: the question it answers.
        judging: the judge, and the kind of answer the question has.

    Returns:
        None where the sample is right, else one of `funnel.REASONS`.
    """
    if sample.rejection is not None:
        return sample.rejection
    completion = sample.completion
    if not completion.text.strip():
        return "empty"
    if completion.finish_reason == "length":
        # What stands last in a text that was cut is not the answer, even if equal.
        return "cut_off"
    if not problem.answers:
        return "no_gold"
    verdict = judge(
        completion.text, problem.answers, judging.answer_type or "number", judging.judge
    )
    if verdict.correct:
        return None
    return "no_answer" if verdict.value is None else "wrong_answer"


def near_duplicates(texts: Sequence[str], threshold: float) -> list[bool]:
    """Finds samples of one question that say what an earlier one says.

    Two texts are compared as sequences of words, numbers and signs, by the share of
    them that a shortest edit leaves in place (2·LCS / (m + n)); letter case and white
    space do not count.

    Args:
        texts: samples of one question, in order.
        threshold: similarity in (0, 1] from which the later one goes; 1 removes only
            texts of the very same words.

    Returns:
        For each text, whether it nearly repeats one that stays.
    """
    kept: list[list[str]] = []
    repeated: list[bool] = []
    for text in texts:
        words = _WORD.findall(text.casefold())
        same = _resembles(words, kept, threshold)
        repeated.append(same)
        if not same:
            kept.append(words)
    return repeated


def _resembles(words: list[str], others: Iterable[list[str]], threshold: float) -> bool:
    return any(
        Indel.normalized_similarity(words, other, score_cutoff=threshold) >= threshold
        for other in others
    )
