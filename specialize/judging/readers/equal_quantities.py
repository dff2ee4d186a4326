"""When two quantities are the same number, whatever their spelling."""

from collections.abc import Sequence
from fractions import Fraction

from specialize.judging.quantities import MOST_DIGITS, Clock, Quantity, canonical


def same_quantity(one: Quantity, other: Quantity) -> bool:
    """Whether two quantities are the same number, whatever their format.

    A per cent sign is a unit where only one side has it ("how many per cent?": 50 =
    50%) and a hundredth where the other side is the share (0.5 = 50%). A full hour is
    its number (7 = 7:00); 15:45 is 3:45 p.m.; 3:4 is also 3/4.
    """
    if isinstance(one.value, Clock) and isinstance(other.value, Clock):
        return _same_clock(one.value, other.value)
    if isinstance(one.value, Clock):
        one, other = other, one
    if isinstance(other.value, Clock):
        assert isinstance(one.value, Fraction)
        return _clock_is_number(other.value, one.value)
    ones, others = _readings(one), _readings(other)
    if max(map(_length, ones | others)) >= 10 ** (MOST_DIGITS - 1):
        return False
    if ones & others or any(_same_double(a, b) for a in ones for b in others):
        return True
    if one.percent == other.percent:
        return False
    if one.percent:
        return any(value / 100 in others for value in ones)
    return any(value / 100 in ones for value in others)


def same_quantities(ones: Sequence[Quantity], others: Sequence[Quantity]) -> bool:
    """Whether two lists hold the same numbers, in any order."""
    if len(ones) != len(others):
        return False
    left = list(others)
    for one in ones:
        match = next((other for other in left if same_quantity(one, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _length(value: Fraction) -> int:
    return max(abs(value.numerator), value.denominator)


def _readings(quantity: Quantity) -> set[Fraction]:
    assert isinstance(quantity.value, Fraction)
    return {quantity.value} | (
        {quantity.other} if quantity.other is not None else set()
    )


def _same_double(one: Fraction, other: Fraction) -> bool:
    """Whether two numbers are one, but for the last digits of a printed double.

    "0.30000000000000004" is how a program prints 0.3; only numbers written with at
    least 16 significant digits are meant, and 14 of them must agree.
    """
    if max(one.denominator, other.denominator) < 10**9 or not one * other > 0:
        return False
    printed = max(len(canonical(abs(value)).lstrip("0.")) for value in (one, other))
    return printed >= 16 and abs(one - other) <= abs(one) / 10**14


def _same_clock(one: Clock, other: Clock) -> bool:
    if one.parts == other.parts:
        return not (one.half and other.half) or one.half == other.half
    if not one.half and not other.half:
        return False  # 15:45 and 3:45 may be ratios
    return _on_24_hours(one) == _on_24_hours(other)


def _on_24_hours(clock: Clock) -> tuple[int, ...]:
    hours, *rest = clock.parts
    if clock.half:
        hours = hours % 12 + (12 if clock.half == "p" else 0)
    return (hours, *rest)


def _clock_is_number(clock: Clock, number: Fraction) -> bool:
    if len(clock.parts) != 2:
        return False
    first, second = clock.parts
    if second == 0:
        return number == first
    return (
        not clock.half and number.denominator != 1 and number == Fraction(first, second)
    )
