"""Checks of a specification's fields; the error has the value and the remedy."""

import argparse
import contextlib
import math
import numbers
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from specialize.errors import InputError, credentials, did_you_mean, named


def shown(value: Any) -> str:
    """A value for a message: its `repr`, `named`, without the middle of a long one."""
    try:
        text = named(repr(value))
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-30:]}"


@contextlib.contextmanager
def called(**names: str) -> Iterator[None]:
    """Names fields in the message of an `InputError` as the user gave them.

    Args:
        **names: Name of the field -> its option, as in `samples="--n"`.

    Raises:
        InputError: The block raised one.
    """
    try:
        yield
    except InputError as error:
        fields = rf"\b({'|'.join(names)})(?= =| is\b| holds\b| sets\b| \(|s? \[)"
        said = re.sub(fields, lambda found: names[found[1]], str(error))
        raise InputError(said) from None


def flag(name: str, value: Any) -> None:
    """Raises an `InputError` if `value` is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(
            f"{name} = {shown(value)}; it must be True or False, without quotes."
        )


def text(name: str, value: Any) -> None:
    """Raises an `InputError` if `value` is neither None nor a text with a character."""
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise InputError(f"{name} = {shown(value)}; it must be a text, or None.")


def path(name: str, value: Any) -> None:
    """Raises an `InputError` if `value` is neither None nor a path or URL."""
    if value is None or isinstance(value, os.PathLike):
        return
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InputError(
            f"{name} = {shown(value)}; it must be the path of a file or folder, or "
            "None."
        )


def no_credentials(name: str, value: str) -> None:
    """Raises an `InputError` if a text has a URL with a user name or password.

    Args:
        name: Where the text is: an option, or a file and line.
        value: The text.
    """
    if (url := credentials(value)) is not None:
        verb = "is" if re.match(r"\s*[A-Za-z][\w+.-]*:/", value) else "has"
        raise InputError(
            f"{name} {verb} {url!r}, a URL with a user name or password, which files "
            "and logs would keep. Remove them: credentials come from the environment "
            "or the store's own configuration."
        )


def task_files(name: str, value: Any) -> None:
    """Raises an `InputError` if `value` is no tuple or list of paths."""
    if not isinstance(value, tuple | list) or not all(
        isinstance(one, str | os.PathLike) for one in value
    ):
        raise InputError(
            f"{name} is {shown(value)}, expected a tuple of task files. Write a single "
            "one as ('task.toml',)."
        )


def one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """Raises an `InputError` if `value` is not one of the words in `choices`."""
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise InputError(
            f"{name} is {shown(value)}, expected one of {', '.join(choices)}.{hint}"
        )


def whole(
    name: str,
    value: Any,
    least: int = 1,
    *,
    most: int = 2**31 - 1,
    optional: bool = False,
) -> None:
    """Raises an `InputError` if `value` is not an integer from `least` to `most`.

    None is valid if `optional`.
    """
    if value is None and optional:
        return
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(f"{name} = {shown(value)}; it must be a whole number.")
    if value < least:
        raise InputError(f"{name} = {shown(value)}; it must be at least {least}.")
    if int(value) > most:
        raise InputError(f"{name} = {shown(value)}; it must be at most {most}.")


def real(
    name: str,
    value: Any,
    *,
    above: float | int = -math.inf,
    least: float | int = -math.inf,
    most: float | int = math.inf,
    below: float | int = math.inf,
) -> None:
    """Raises an `InputError` if `value` is not a finite number in its range.

    Args:
        name: Name of the field, for the message.
        value: Value of the field.
        above: Lower limit, which is not valid itself.
        least: Smallest valid number.
        most: Largest valid number.
        below: Upper limit, which is not valid itself.
    """
    ends = [
        f"{word} {end:g}"
        for word, end in (
            *(("above", above), ("at least", least)),
            *(("at most", most), ("below", below)),
        )
        if math.isfinite(end)
    ]
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number of 400 digits
            number = float(value)
    if above < number < below and least <= number <= most and math.isfinite(number):
        return
    limits = f" {' and '.join(ends)}" if ends else ""
    raise InputError(f"{name} = {shown(value)}; it must be a number{limits}.")


# ---- Numbers of a command line -------------------------------------------------------


def count(text: str) -> int:
    """Reads a whole number of 1 or more, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if len(text) > 9 or not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(
            f"= {shown(text)}; it must be a whole number, at least 1"
        )
    return int(text)


def few(text: str) -> int:
    """`count` of processes, at most 1,024."""
    if count(text) > 1024:
        raise argparse.ArgumentTypeError(f"= {text}; it must be at most 1024")
    return int(text)


def pause(text: str) -> float:
    """Reads a number of seconds from 0.1 to a day, as `count`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(
            f"= {shown(text)}; it must be a number of seconds, 0.1 to 86400"
        )
    return seconds
