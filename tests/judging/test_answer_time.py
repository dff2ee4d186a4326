"""A verdict takes little time and never an exception, however hostile a text is."""

import least
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.judging.answers import judge
from specialize.judging.choices import ANSWER_TYPES

SIZE = 1_000_000
# On each of these a reader of answers took quadratic time or worse.
PIECES = [
    "\n", " ", "\t", "7", "12 ", "123,", "11,", "1.", "1/2 ", "1:1 ", "1e", "<<1", "<<",
    "the answer is ", "the answer is not 5. ", "\\boxed{", '"answer":"', "<answer>",
    "Q1: x\n", "\n\nQ: a", "'ape', ", "(A) ", "(A) or ", "#### x\n", "#", ".", "a-",
    "**", "**1** ", "So (A) is. ", "<think>", "</think>", "<|end|>", "²", "½", '"a. ',
    "1. a\n", "1=", "not True and ", "yes, ", "A", "- ", "= \n", "Answer: 1 ",
    "\nA: 4 x", "1 million ", "1 hour ", "\\frac{", "the best ", "\u00a0", "so ",
    "A. ", "to ", ": ",
]  # fmt: skip


def seconds(text: str, answer_type: str) -> float:
    return least.seconds(lambda: judge(text, ["7"], answer_type))


@pytest.mark.parametrize("number", range(len(PIECES)))
def test_a_megabyte_of_one_piece_is_judged_within_a_second(number):
    piece, answer_type = PIECES[number], ANSWER_TYPES[number % len(ANSWER_TYPES)]
    text = (piece * (SIZE // len(piece) + 1))[:SIZE]
    assert seconds(text, "number" if "1" in piece else answer_type) < 1


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(
    pieces=st.lists(
        st.one_of(st.sampled_from(PIECES), st.text(min_size=1, max_size=20)),
        min_size=1,
        max_size=4,
    ),
    end=st.sampled_from(["", "\nThe answer is 7.", "7", "</think>", "\n\nQ: a"]),
    answer_type=st.sampled_from(ANSWER_TYPES),
)
def test_any_megabyte_is_judged_within_a_second(pieces, end, answer_type):
    text = "".join(pieces)
    text = (text * (SIZE // len(text) + 1))[:SIZE] + end
    assert seconds(text, answer_type) < 1


# Places in one passage where patterns could split a long run in many ways.
PLACES = [
    "The answer is 5 {}~ 6", "Answer: 5 {}~", "#### 5 {}~", "The answer is {}5",
    "She has 5 {} and 6 {}~", "So (A) {} (B) {}~", "The answer is (B) {}~ (C)",
    "The answer is not {} True {}", "So {} True {}~", "Answer: yes {}~ no",
    "Sorted: {}, {}~", "1. {}\n2. {}\n{}~", "**5 {}**", "Step 1: {} 5\n{}",
    "A: {} 5. {}",
]  # fmt: skip
RUNS = ["a", "aB", "a.", "(", "a-", "*", "* ", "%", "$", "= ", '"', "x ", "A) ", "1,"]


@pytest.mark.parametrize("place", PLACES)
def test_a_long_run_within_a_passage_takes_no_time(place):
    for number, run in enumerate(RUNS):
        text = place.replace("{}", run * (900 // len(run)))
        assert seconds(text, "number") < 1
        assert seconds(text, ANSWER_TYPES[number % len(ANSWER_TYPES)]) < 1


@pytest.mark.parametrize(
    "form",
    [
        "{}", "The answer is {}.", "-{}", "${}", "0.{}", "{}.5", "1/{}", "{}/3",
        "{}:30", "7:{}", "{} pm", "1e{}", "{}e5", "1.5 x 10^{}", "{}%", "{} million",
        "\\frac{{{}}}{{3}}", "\\boxed{{{}}}", "#### {}", "{0} hours {0} minutes",
        "Q{}: a\n", "The answer is 5 or {}.", "**{}**", "1,{}", "<<1={}>>",
    ],
)  # fmt: skip
def test_a_number_of_thousands_of_digits_is_a_wrong_answer(form):
    for digits in (300, 4_301, 50_000):
        text = form.format("3" * digits)
        for answer_type in ANSWER_TYPES:
            assert not judge(text, ["18"], answer_type).correct
        assert not judge("18", [text], "number").correct
        assert not judge(text.replace("3", "4"), [text], "number").correct
