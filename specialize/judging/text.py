"""One text judged against its gold answers, for a notebook."""

from collections.abc import Sequence

from specialize.judging import answers
from specialize.judging.answers import Verdict
from specialize.judging.spec import JudgeSpec


def judge(
    text: str,
    gold: str | int | float | Sequence[str | int | float],
    *,
    answer_type: str | None = None,
    judge: str = "exact",
) -> Verdict:
    """Judges the final answer of a text, as teachers' samples and evaluations are.

    Args:
        text: Whole output of a model.
        gold: Accepted answer, or several of which any is right.
        answer_type: Kind of answer: "number", "choice", "boolean", "yes_no",
            "valid_invalid", "words", "brackets" or "text". None infers it from `gold`.
        judge: "exact", "reference" for the judge of the paper's code, or a function
            of your own, "file.py:function".

    Returns:
        The verdict: whether the text is right, the answer it states, and how that was
        found.

    Raises:
        InputError: An unknown answer type or judge, or your function fails.

    Example:
        >>> specialize.judge("6 * 3 = 18, so the answer is 18.", gold="18")
        Verdict(correct=True, value='18', how='marked')
        >>> specialize.judge("The answer is (B).", gold=["(A)", "(C)"]).correct
        False
    """
    golds = [str(gold)] if isinstance(gold, str | float | int) else [*map(str, gold)]
    spec = JudgeSpec(judge, answer_type or answers.infer_answer_type(golds))
    return answers.verdict(text, golds, spec)
