"""However a number is written its verdict is the same, and no other number passes."""

from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specialize.judging.answers import judge
from specialize.judging.quantities import canonical, find_quantities, normalised

WHOLE = st.integers(-10_000_000, 10_000_000)
CENTS = st.integers(-10_000_000, 10_000_000).map(lambda cents: Fraction(cents, 100))
NUMBERS = st.one_of(WHOLE.map(Fraction), CENTS)


def plain(value: Fraction) -> str:
    return canonical(value)


def grouped(separator: str):
    def write(value: Fraction) -> str:
        whole, _, decimals = canonical(value).partition(".")
        text = f"{int(whole):,}".replace(",", separator)
        if whole == "-0":
            text = "-0"
        return f"{text}.{decimals}" if decimals else text

    return write


def padded(value: Fraction) -> str:
    text = canonical(value)
    return f"{text}0" if "." in text else f"{text}.00"


def unicode_minus(value: Fraction) -> str:
    return canonical(value).replace("-", "\u2212")


def dollars(value: Fraction) -> str:
    return f"-${canonical(-value)}" if value < 0 else f"${canonical(value)}"


def scientific(value: Fraction) -> str:
    mantissa, exponent = f"{float(value):.10e}".split("e")
    return f"{mantissa} × 10^{int(exponent)}"


def exponent(value: Fraction) -> str:
    return f"{float(value):.10e}"


def fraction(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def latex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def full_width(value: Fraction) -> str:
    return "".join(
        chr(ord(one) + 0xFEE0) if one.isdigit() else one for one in canonical(value)
    )


WRITINGS = st.sampled_from(
    [
        plain,
        grouped(","),
        grouped("'"),
        grouped("_"),
        grouped("\u00a0"),
        grouped("\u202f"),
        grouped("{,}"),
        padded,
        unicode_minus,
        dollars,
        scientific,
        exponent,
        fraction,
        latex,
        full_width,
    ]
)
# (what stands around the number, how the verdict is reached)
PLACES = st.sampled_from(
    [
        ("The answer is {}", "marked"),
        ("The answer is {}.", "marked"),
        ("So the answer is {} dollars.", "marked"),
        ("16 - 7 = 9\nThe final answer is: {}", "marked"),
        ("16 - 7 = 9\n#### {}", "marked"),
        ("\\boxed{{{}}}", "marked"),
        ("The answer is $\\boxed{{{}}}$.", "marked"),
        ("**Answer:** {}", "marked"),
        ("**Answer: {}**", "marked"),
        ("A: {}", "marked"),
        ("The answer is ${}$", "marked"),
        ("The answer is **{}**.", "marked"),
        ("The answer is {} because 3 times 2 is 6.", "marked"),
        ("The answer is {}.\n\nQ: How many are 4?\nA: The answer is 4.", "marked"),
        ("<answer>{}</answer>", "marked"),
        ("{}", "last"),
        ("She has 12 and pays {}", "last"),
        ("**{}**", "last"),
        ("= {} dollars.", "last"),
    ]
)
# Reading is defined for what people write; "/1" is not a number anyone writes.
ordinary = settings(max_examples=120, deadline=None, derandomize=True)


@ordinary
@given(NUMBERS, WRITINGS, PLACES)
def test_the_writing_of_a_number_never_changes_the_verdict(value, write, place):
    text, how = place
    assume(write not in (fraction, latex) or value.denominator > 1)
    prediction = text.format(write(value))
    verdict = judge(prediction, (canonical(value),))
    assert (verdict.correct, verdict.how) == (True, how), (prediction, verdict)
    assert verdict.value == canonical(value)


@ordinary
@given(NUMBERS, WRITINGS, PLACES)
def test_the_writing_of_the_gold_never_changes_the_verdict(value, write, place):
    text, how = place
    assume(write not in (fraction, latex) or value.denominator > 1)
    verdict = judge(text.format(canonical(value)), (write(value),))
    assert (verdict.correct, verdict.how) == (True, how), (write(value), verdict)


@ordinary
@given(NUMBERS, NUMBERS, WRITINGS, WRITINGS, PLACES)
def test_a_different_number_never_passes(value, other, write, write_gold, place):
    assume(value != other)
    assume(write not in (fraction, latex) or value.denominator > 1)
    assume(write_gold not in (fraction, latex) or other.denominator > 1)
    verdict = judge(place[0].format(write(value)), (write_gold(other),))
    assert not verdict.correct, (write(value), write_gold(other), verdict)


@ordinary
@given(st.integers(0, 10**9), st.integers(1, 9))
def test_a_number_that_contains_the_gold_never_passes(value, digit):
    for text in (f"{digit}{value}", f"{value}{digit}", f"{value}.{digit}"):
        assert not judge(f"The answer is {text}.", (str(value),)).correct


@ordinary
@given(st.integers(0, 23), st.integers(0, 59))
def test_a_time_is_itself_on_both_clocks(hours, minutes):
    half = "p.m." if hours >= 12 else "a.m."
    gold = f"{hours % 12 or 12}:{minutes:02} {half}"
    assert judge(f"The answer is {hours}:{minutes:02}.", (gold,)).correct
    later = (minutes + 1) % 60
    assert not judge(f"The answer is {hours}:{later:02}.", (gold,)).correct
    if 1 <= hours < 12:
        # 3:45 alone may be either; 15:45 is not 3:45 a.m.
        assert not judge(f"The answer is {hours + 12}:{minutes:02}.", (gold,)).correct


@ordinary
@given(st.integers(1, 9), st.integers(1, 8), st.integers(2, 9))
def test_a_mixed_number_is_its_sum(whole, numerator, denominator):
    assume(numerator < denominator)
    gold = fraction(whole + Fraction(numerator, denominator))
    for text in (
        f"{whole} {numerator}/{denominator}",
        f"{whole}-{numerator}/{denominator}",
        f"{whole} and {numerator}/{denominator}",
        f"{whole}\\frac{{{numerator}}}{{{denominator}}}",
    ):
        assert judge(f"The answer is {text}.", (gold,)).correct, text


@ordinary
@given(st.text(max_size=200))
def test_any_text_gets_a_verdict_and_only_an_answer_has_a_value(text):
    for kind in ("number", "choice", "boolean", "yes_no", "valid_invalid", "words"):
        verdict = judge(text, ("1",), kind)
        assert (verdict.value is None) == (verdict.how == "none")


@ordinary
@given(st.text(alphabet="0123456789.,/:-+ $%()eEx=*^ampk½", max_size=40))
def test_quantities_stand_in_order_and_do_not_overlap(text):
    found = find_quantities(normalised(text))
    for one, following in zip(found, found[1:], strict=False):
        assert one.begin < one.end <= following.begin


@ordinary
@given(st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=2, unique=True))
def test_only_the_gold_letter_passes(letters):
    gold, other = letters
    for text in ("({})", "{}", "The answer is ({}).", "Option {}", "**{}**", "({}) x"):
        assert judge(text.format(gold), (f"({gold})",), "choice").correct, text
        assert not judge(text.format(other), (f"({gold})",), "choice").correct, text


@ordinary
@given(st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "emu"]), min_size=2))
def test_only_the_whole_list_in_order_passes(words):
    gold = " ".join(words)
    assert judge(", ".join(words), (gold,), "words").correct
    assert judge(f"So the answer is {gold}.", (gold,), "words").correct
    assert not judge(" ".join(words[:-1]), (gold,), "words").correct
    assert not judge(f"{gold} fox", (gold,), "words").correct
