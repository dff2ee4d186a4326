"""Limits of a configuration's values; what exceeds them is one error, not a hang."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from specialize.errors import InputError

# No value of a configuration needs more; a few lines of macros can make more.
MOST_LEAVES = 100_000
MOST_NESTED = 50


class Size(NamedTuple):
    """Number of values in a value, and of macros inside macros."""

    leaves: int
    nested: int


ONE = Size(1, 0)


def joined(parts: Iterable[Size]) -> Size:
    """The size of a value that is made of these."""
    leaves, nested = 0, 0
    for part in parts:
        leaves, nested = leaves + part.leaves, max(nested, part.nested)
    return Size(leaves, nested + 1)


def too_large(size: Size) -> bool:
    """Whether a value exceeds a limit."""
    return size.leaves > MOST_LEAVES or size.nested > MOST_NESTED


def shortened(text: str) -> str:
    """A line for a message."""
    return text if len(text) <= 200 else f"{text[:200]} ..."


def check_literal(value: Any, origin: object) -> None:
    """Refuses a value that is nested too deeply, or a number of too many digits."""
    level = [value]
    for _ in range(MOST_NESTED):
        if any(isinstance(item, int) and item.bit_length() > 64 for item in level):
            raise InputError(
                f"{origin}: a whole number has more than 64 bits. Correct this value."
            )
        level = [
            inner
            for item in level
            if isinstance(item, Mapping | list | tuple | set)
            for inner in (
                (*item, *item.values()) if isinstance(item, Mapping) else item
            )
        ]
        if not level:
            return
    raise InputError(
        f"{origin}: a value has more than {MOST_NESTED} brackets inside brackets. "
        "Correct this value."
    )
