"""Decides which samples are correct, with the evaluation's judge, or repeated."""

import re

from rapidfuzz.distance import Indel

from specialize.corpus.completions import Sample
from specialize.corpus.plain_text.counting import SpellingCounts
from specialize.corpus.plain_text.round_trip import as_spelt
from specialize.corpus.plain_text.writer import Writer
from specialize.corpus.records import Problem, is_whole
from specialize.judging.answers import verdict
from specialize.judging.spec import JudgeSpec

_WORD = re.compile(r"\w+|[^\w\s]")


def verify(sample: Sample, problem: Problem, judging: JudgeSpec) -> str | None:
    """Judges one sample of `problem` as the evaluation judges a student.

    Returns:
        None if the sample is correct, else one of `funnel.REASONS`.
    """
    if sample.rejection is not None:
        return sample.rejection
    completion = sample.completion
    if not is_whole(completion.finish_reason):
        # The last number of a text that was cut is not its answer, even if equal.
        return "cut_off"
    if not completion.answer.strip():
        return "empty"
    if not problem.answers:
        return "no_gold"
    found = verdict(completion.answer, problem.answers, judging)
    if found.correct:
        return None
    return "no_answer" if found.value is None else "wrong_answer"


def verify_as_spelt(
    sample: Sample, problem: Problem, judging: JudgeSpec, writer: Writer | None
) -> tuple[str | None, SpellingCounts | None]:
    """As `verify`, and then once more as the student is taught to spell the text.

    Args:
        sample: the sample.
        problem: the question that it answers.
        judging: the judge.
        writer: how the student writes; None judges only the teacher's text.

    Returns:
        None if the sample is correct, else one of `funnel.REASONS`. Then, if the text
        is right, what the student cannot write of it.
    """
    reason = verify(sample, problem, judging)
    if reason is not None or writer is None:
        return reason, None
    completion = sample.completion
    return as_spelt(
        completion.text, problem.answers, judging, writer, answer=completion.answer
    )


class NearDuplicates:
    """Finds samples of one question that nearly repeat an earlier one.

    Two texts are compared as sequences of words, numbers and signs, by the share of
    them that a shortest edit leaves in place (2·LCS / (m + n)); letter case and white
    space do not count.
    """

    def __init__(self, threshold: float):
        """Knows no texts.

        Args:
            threshold: similarity in (0, 1] from which a later text is a near-duplicate;
                1 finds only texts of exactly the same words.
        """
        self._threshold = threshold
        self._kept: list[list[str]] = []

    def repeats(self, text: str) -> bool:
        """Whether the next text nearly repeats an earlier one that did not repeat."""
        words = _WORD.findall(text.casefold())
        least = self._threshold
        same = any(
            Indel.normalized_similarity(words, one, score_cutoff=least) >= least
            for one in self._kept
        )
        if not same:
            self._kept.append(words)
        return same
