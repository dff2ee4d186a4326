"""The paper's own judge, faults included, so that its figures can be reproduced."""

import pytest

from specialize.judging.answers import infer_answer_type, judge


@pytest.mark.parametrize(
    ("prediction", "gold", "correct", "value"),
    [
        ("The answer is 18.", "18", True, "18"),
        ("The answer is 18. She has 3.", "18", False, "3"),
        ("The answer is -3", "3", True, "3"),
        ("The answer is 1,000", "0", True, "000"),
        ("The answer is 1,080", "1,080", True, "080"),
        ("The answer is 18.0", "18", True, "18.0"),
        ("The answer is .5", "0.5", True, ".5"),
        ("The answer is 15", "5 (years); 15 (years)", True, "15"),
        ("no number", "18", False, None),
        ("18", "Mrs. Hilt", False, "18"),
    ],
)
def test_the_reference_compares_last_numbers_as_floats(
    prediction, gold, correct, value
):
    verdict = judge(prediction, (gold,), judge="reference")
    assert (verdict.correct, verdict.value) == (correct, value)
    assert verdict.how == ("none" if value is None else "last")


@pytest.mark.parametrize(
    ("prediction", "gold", "answer_only", "correct", "how"),
    [
        ("So the answer is (A).", "(A)", False, True, "marked"),
        ("So the answer is invalid.", "valid", False, True, "marked"),
        ("So the answer is 13.", "3", False, True, "marked"),
        ("The answer is (A).", "(A)", False, False, "none"),
        ("(A)", "(A)", False, False, "none"),
        ("the answer is (B). No, the answer is (A).", "(A)", False, False, "marked"),
        ("invalid", "valid", True, True, "last"),
        ("(A)", "(A)", True, True, "last"),
        ("(B)", "(A)", True, False, "last"),
    ],
)
def test_the_reference_looks_for_labels_by_substring(
    prediction, gold, answer_only, correct, how
):
    verdict = judge(
        prediction, (gold,), "choice", judge="reference", answer_only=answer_only
    )
    assert (verdict.correct, verdict.how) == (correct, how)


def test_an_unknown_type_or_judge_is_a_defect_of_the_caller():
    with pytest.raises(ValueError, match="answer_type is 'letter'"):
        judge("(A)", ("(A)",), "letter")
    with pytest.raises(ValueError, match="judge is 'lenient'"):
        judge("1", ("1",), judge="lenient")


@pytest.mark.parametrize(
    ("golds", "kind"),
    [
        (["(A)", "(B)"], "choice"),
        (["True", "False"], "boolean"),
        (["yes", "No"], "yes_no"),
        (["valid", "invalid"], "valid_invalid"),
        (["1", "-3", "1,080"], "number"),
        (["] ]", ")"], "brackets"),
        (["red", "blue"], "text"),
        (["3 apples"], "text"),
        ([], "text"),
    ],
)
def test_an_unknown_tasks_type_follows_from_its_golds(golds, kind):
    assert infer_answer_type(golds) == kind
