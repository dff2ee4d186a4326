"""Checks of a specification's fields; the error has the value and the remedy."""

import math
import numbers
from collections.abc import Collection
from typing import Any

from specialize.errors import InputError, did_you_mean


def one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises an `InputError` if `value` is not one of the words in `choices`."""
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise InputError(
            f"{name} is {value!r}, expected one of {', '.join(choices)}.{hint}"
        )


def whole(name: str, value: Any, least: int = 1, *, optional: bool = False) -> None:
    """Raises an `InputError` if `value` is not an integer of at least `least`.

    None is valid if `optional`.
    """
    if value is None and optional:
        return
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{name} = {value!r}; it must be a whole number.")
    if value < least:
        raise InputError(f"{name} = {value}; it must be at least {least}.")


def real(
    name: str,
    value: Any,
    *,
    above: float | int = -math.inf,
    least: float | int = -math.inf,
    most: float | int = math.inf,
) -> None:
    """Raises an `InputError` if `value` is not a finite number in its range.

    Args:
        name: Name of the field, for the message.
        value: Value of the field.
        above: Lower limit, which is not valid itself.
        least: Smallest valid number.
        most: Largest valid number.
    """
    ends = [
        f"{word} {end:g}"
        for word, end in (("above", above), ("at least", least), ("at most", most))
        if math.isfinite(end)
    ]
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
    if math.isfinite(number) and above < number and least <= number <= most:
        return
    limits = f" {' and '.join(ends)}" if ends else ""
    raise InputError(f"{name} = {value!r}; it must be a number{limits}.")
