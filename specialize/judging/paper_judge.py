r"""The judge of the paper's own code, for reproducing its figures.

Numbers: the last match of `\d*\.?\d+` in the prediction against the last one in the
gold, compared as floats; there are no signs and no thousands separators, so "-3"
passes for 3 and "1,000" reads 0. A gold without a number cannot be matched.

Labels: after chain-of-thought prompts, whether the gold is a substring of the text
between the first "the answer is" (this case) and the next; after answer-only prompts,
whether it is a substring of the whole prediction. "valid" is in "invalid", and "3" is
in "13".
"""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\d*\.?\d+")
_MARK = "the answer is"


def last_number(text: str) -> str | None:
    """The last number of a text as the reference sees it."""
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def number_equals(prediction: str, golds: Sequence[str]) -> tuple[bool, str | None]:
    """Whether the last numbers agree as floats, and the prediction's last number."""
    predicted = last_number(prediction)
    if predicted is None:
        return False, None
    numbers = [last_number(gold) for gold in golds]
    correct = any(number and float(number) == float(predicted) for number in numbers)
    return correct, predicted


def label_contained(
    prediction: str, golds: Sequence[str], *, answer_only: bool
) -> tuple[bool, str | None, str]:
    """Whether a gold is a substring of the part that counts.

    Returns:
        (correct, the part that counts or None, how it was found).
    """
    if answer_only:
        part, how = prediction, "last"
    elif _MARK in prediction:
        part, how = prediction.split(_MARK)[1], "marked"
    else:
        return False, None, "none"
    return any(gold in part for gold in golds), part.strip() or None, how
