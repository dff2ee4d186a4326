"""Shares and weights of merges, as a command line names them.

They are decimal numbers, so that 0:1:0.1 ends at 1, and 0.7 leaves 0.3.
"""

import decimal

from specialize.errors import InputError


def alphas(option: str, text: str) -> list[decimal.Decimal]:
    """The shares in "0.3", "0,0.5" or "0:1:0.1" (both ends count), each once.

    Raises:
        InputError: the text is no such list, or a share is outside [0, 1].
    """
    examples = "0.3, 0:1:0.1 or 0.2,0.5"
    found = _range(option, text, examples) or numbers(option, text, examples)
    shares = list(dict.fromkeys(found))
    if outside := [share for share in shares if not 0 <= share <= 1]:
        raise InputError(f"{option} {outside[0]} is outside [0, 1].")
    return shares


def weights_of(share: float | decimal.Decimal) -> list[float]:
    """The weights of two checkpoints, of which the second has a share.

    They are the numbers next to the decimal ones: 0.3 beside 0.7, which 1 - 0.7 is not.
    """
    exact = decimal.Decimal(str(share))
    return [float(1 - exact), float(exact)]


def numbers(
    option: str, text: str, examples: str, *, separator: str = ","
) -> list[decimal.Decimal]:
    """The numbers of a list in a text.

    Args:
        option: what the text is of, for the message.
        text: the list.
        examples: how such a list is written, for the message.
        separator: what is between two numbers.

    Raises:
        InputError: the text is no such list.
    """
    try:
        found = [decimal.Decimal(part).normalize() for part in text.split(separator)]
    except decimal.InvalidOperation:
        found = []
    # Decimal also reads "NaN" and "Infinity", and 1e999, which no float holds.
    if not found or not all(one.is_finite() and abs(one) < 1000 for one in found):
        raise InputError(f"{option} {text:.80}: write {examples}.")
    return found


def _range(option: str, text: str, examples: str) -> list[decimal.Decimal]:
    """The numbers of first:last:step; [] for another form.

    Raises:
        InputError: it has such a form, but no numbers, more than 1,000, or steps that
            miss the last one.
    """
    if ":" not in text:
        return []
    ends = numbers(option, text, examples, separator=":")
    if len(ends) != 3 or ends[2] <= 0 or ends[1] < ends[0]:
        raise InputError(
            f"{option} {text:.80}: write first:last:step, as in 0:1:0.1, with last not "
            "below first and step above 0."
        )
    first, last, step = ends
    count = int((last - first) / step) + 1
    if count > 1000:
        raise InputError(f"{option} {text:.80} are {count:,} merges; at most 1,000.")
    found = [(first + step * number).normalize() for number in range(count)]
    if found[-1] != last:
        raise InputError(
            f"{option} {text:.80}: the steps end at {found[-1]:f} and miss {last:f}. "
            f"Write {first:f}:{found[-1]:f}:{step:f}, a step that divides the range, "
            "or a list of shares."
        )
    return found
