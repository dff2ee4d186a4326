"""The final answer of a text: extract, normalise, compare."""

import dataclasses
from collections.abc import Sequence

from specialize.corpus.quantities import find_quantities, normalised, same_quantity

ANSWER_TYPES = (
    "number",
    "choice",
    "boolean",
    "yes_no",
    "valid_invalid",
    "words",
    "brackets",
    "text",
)
RULES = ("exact", "reference")


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about one prediction.

    Attributes:
        correct: whether the extracted answer equals one of the golds.
        value: the extracted answer in its one canonical spelling; None if there is
            none. Predictions with equal values are votes for the same answer.
        how: "marked" (behind "The answer is", "####", ...), "last" (no mark; the last
            or only candidate of the text), "none" (nothing that could be an answer).
    """

    correct: bool
    value: str | None
    how: str


def judge(
    prediction: str,
    golds: Sequence[str],
    answer_type: str = "number",
    rule: str = "exact",
) -> Verdict:
    """Judges one prediction."""
    text = normalised(prediction)
    how = "last"
    lowered = text.lower()
    if "answer is" in lowered:
        how = "marked"
        text = text[lowered.rindex("answer is") + len("answer is") :]
    if answer_type == "number":
        found = find_quantities(text)
        if not found:
            return Verdict(False, None, "none")
        value = found[0] if how == "marked" else found[-1]
        correct = any(
            same_quantity(value, gold)
            for text in golds
            for gold in find_quantities(normalised(text))[:1]
        )
        return Verdict(correct, str(value), how)
    value_text = text.strip().rstrip(".").strip()
    return Verdict(
        value_text in golds, value_text or None, how if value_text else "none"
    )
