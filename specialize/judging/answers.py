r"""The judge of final answers, used at both ends of the way of one example.

The same rules decide which teacher samples are kept and which student outputs are
right. A verdict always says how it was reached:

- "marked": after "The answer is", `####`, `\boxed{}` and the like (`marks`);
- "last": no such mark; what the text states without one, often its last number;
- "none": nothing that could be an answer, or an answer withheld ("is unknown").

A text is split into reply and thought (`segments`), candidates are ranked (`ranks`),
and each answer type reads them: `numbers`, `letters`, `labels`, `lists`. Nothing is
ever compared by substring. The judge "reference" is that of the paper's own code
instead (`paper_judge`).
"""

import dataclasses
import re
from collections.abc import Sequence

from specialize.judging import own_judge, paper_judge
from specialize.judging.choices import ANSWER_TYPES, JUDGES
from specialize.judging.quantities import find_quantities, normalised
from specialize.judging.ranks import Reader, locate
from specialize.judging.readers import labels, letters, lists, numbers
from specialize.judging.segments import without_latex
from specialize.judging.spec import JudgeSpec

HOWS = ("marked", "last", "none")


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about one prediction.

    Attributes:
        correct: whether the extracted answer equals one of the golds.
        value: the extracted answer in its one spelling ("1080", "(B)"); None if there
            is none. Predictions with equal values are votes for the same answer.
        how: one of `HOWS`.

    Example:
        >>> specialize.judge("I do not know.", gold="18").how
        'none'
    """

    correct: bool
    value: str | None
    how: str


_READERS = {
    "choice": Reader(letters.marked, letters.unmarked, without_latex),
    "words": Reader(
        lists.words_marked, lists.words_unmarked, without_latex, withholdable=False
    ),
    "brackets": Reader(lists.brackets_marked, lists.brackets_unmarked),
    "text": Reader(
        lists.text_marked, lists.text_unmarked, without_latex, withholdable=False
    ),
    **{
        name: Reader(
            labels.marked(name), labels.unmarked(name), without_latex, deniable=False
        )
        for name in ("boolean", "yes_no", "valid_invalid")
    },
}
_NUMBERS = Reader(
    numbers.read_marked, numbers.read_unmarked, prepared=normalised, first_end=True
)


def judge(
    prediction: str,
    golds: Sequence[str],
    answer_type: str = "number",
    judge: str = "exact",
    *,
    answer_only: bool = False,
) -> Verdict:
    """Judges one prediction.

    Args:
        prediction: a model's whole output.
        golds: accepted answers; equalling any of them is right. A gold with several
            parts ("5 (ft); 7 (ft)") wants them all. Empty: nothing is right.
        answer_type: one of `ANSWER_TYPES`.
        judge: "exact", or "reference", which is the judge of the paper's code.
        answer_only: whether the prompt asked for the answer alone, which only the
            reference judge of labels wants to know.

    Returns:
        The verdict.

    Raises:
        ValueError: unknown answer type or judge.
    """
    if answer_type not in ANSWER_TYPES:
        raise ValueError(
            f"answer_type is {answer_type!r}, expected one of {ANSWER_TYPES}"
        )
    if judge not in JUDGES:
        raise ValueError(f"judge is {judge!r}, expected one of {JUDGES}")
    if judge == "reference":
        return _judge_by_reference(prediction, golds, answer_type, answer_only)
    if answer_type == "number":
        return _judge_number(prediction, golds)
    value, how = locate(prediction, _READERS[answer_type])
    accepted = {spelled_gold(gold, answer_type) for gold in golds}
    if answer_type == "choice" and not all(_is_letter(gold) for gold in accepted):
        # Two of BBH's golds are an option's text instead of its letter.
        text, text_how = locate(prediction, _READERS["text"])
        if text in accepted:
            value, how = text, text_how
    return Verdict(value in accepted, value, how)


def verdict(
    prediction: str,
    golds: Sequence[str],
    spec: JudgeSpec,
    *,
    answer_type: str | None = None,
    answer_only: bool = False,
) -> Verdict:
    """Judges one prediction as a specification says.

    Args:
        prediction: a model's whole output.
        golds: accepted answers.
        spec: the judge, which may be a function of one's own.
        answer_type: the kind of answer where `spec` has none; None: a number.
        answer_only: as for `judge`.

    Raises:
        InputError: the function of one's own fails.
    """
    if not prediction.strip():
        return Verdict(False, None, "none")  # also for a judge of one's own
    if ":" in spec.judge:
        correct, value = own_judge.call(spec.judge, prediction, golds)
        return Verdict(correct, value, "none" if value is None else "marked")
    if spec.mark:
        # Another wording of the mark that every type of answer is read after.
        pattern = re.compile(re.escape(spec.mark), re.IGNORECASE)
        prediction = pattern.sub("The answer is ", prediction)
    kind = spec.answer_type or answer_type or "number"
    return judge(prediction, golds, kind, spec.judge, answer_only=answer_only)


def spelled_gold(gold: str, answer_type: str) -> str:
    """A gold in the one spelling of its type, which a verdict's value must equal."""
    if answer_type == "choice":
        return letters.unmarked(gold) or lists.spelled_text(gold)
    if answer_type == "words":
        return lists.spelled_words(gold)
    if answer_type == "brackets":
        return lists.spelled_brackets(gold)
    if answer_type == "text":
        return lists.spelled_text(gold)
    if answer_type == "number":
        parts = numbers.gold_quantities(normalised(gold))
        return "; ".join(str(part) for part in parts)
    return _READERS[answer_type].unmarked(gold) or gold.strip()


def infer_answer_type(golds: Sequence[str]) -> str:
    """The narrowest type that fits all golds of a suite; "text" if none does."""
    stripped = [gold.strip() for gold in golds]
    lowered = {gold.lower() for gold in stripped}
    if not stripped:
        return "text"
    if all(_is_letter(gold) for gold in stripped):
        return "choice"
    for answer_type, words in (
        ("boolean", {"true", "false"}),
        ("yes_no", {"yes", "no"}),
        ("valid_invalid", {"valid", "invalid"}),
    ):
        if lowered <= words:
            return answer_type
    if all(not set(gold) - set("()[]{}<> ") for gold in stripped):
        return "brackets"
    if all(_is_number(gold) for gold in stripped):
        return "number"
    return "text"


def _is_letter(gold: str) -> bool:
    return len(gold) == 3 and gold[0] + gold[2] == "()" and gold[1].isupper()


def _is_number(gold: str) -> bool:
    found = find_quantities(normalised(gold))
    return len(found) == 1 and not any(character.isalpha() for character in gold)


def _judge_number(prediction: str, golds: Sequence[str]) -> Verdict:
    answer, how = locate(prediction, _NUMBERS)
    if answer is None:
        return Verdict(False, None, how)
    golds = [normalised(gold) for gold in golds]
    correct = any(numbers.equals(answer, gold, how) for gold in golds)
    return Verdict(correct, numbers.spelled(answer, golds, how), how)


def _judge_by_reference(
    prediction: str, golds: Sequence[str], answer_type: str, answer_only: bool
) -> Verdict:
    if answer_type == "number":
        correct, value = paper_judge.number_equals(prediction, golds)
        return Verdict(correct, value, "none" if value is None else "last")
    return Verdict(
        *paper_judge.label_contained(prediction, golds, answer_only=answer_only)
    )
