"""The exception for invalid input, and suggestions for mistyped names."""

import contextlib
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """A file, value or combination is invalid, and the user can correct it.

    The message says what was wrong, the values, where, and what to do. The command
    line prints it without a traceback and exits with status 2; any other exception is
    a defect and keeps its traceback.

    Example:
        >>> try:
        ...     specialize.load("no/such/run")
        ... except specialize.InputError as error:
        ...     print(str(error).partition(".")[0])
        no/such/run does not exist
    """


class FieldError(InputError):
    """A field of a specification is invalid.

    Attributes:
        field: name of the field.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@contextlib.contextmanager
def of_field(field: str) -> Iterator[None]:
    """Errors of input inside are those of a field, whatever their words."""
    try:
        yield
    except InputError as error:
        raise FieldError(field, str(error)) from error.__cause__


class NotNamedError(InputError):
    """Data are needed whose place nothing names yet, as when only a recipe is read."""


class TerminatedError(KeyboardInterrupt):
    """A signal asks the process to end.

    As an interrupt it passes handlers of errors and of `SystemExit`, and asyncio.

    Attributes:
        status: the exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def visible(text: str) -> str:
    r"""A text of others with its control characters as escapes, such as `\x1b`.

    A terminal obeys them: they clear it, rename it, or reverse the order of letters.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t\u3000\xa0" else ascii(char)[1:-1]
        for char in text
    )


def message(error: object) -> str:
    """An error as a terminal shows it: `visible`, and without the middle of long lines.

    A file may hold a name of 100,000 characters, which a message about it repeats.
    """
    lines = visible(str(error)).split("\n")
    return "\n".join(
        line if len(line) <= 2_000 else f"{line[:1_000]} ... {line[-500:]}"
        for line in lines
    )


def nearest(
    name: str, candidates: Iterable[str], *, count: int = 1, cutoff: float = 0.7
) -> list[str]:
    """The candidates that a mistyped name may mean, the most similar first.

    Args:
        name: Name as written; case and underscores do not matter.
        candidates: Valid names.
        count: Largest number of candidates to return.
        cutoff: Smallest similarity of a returned candidate, from 0 to 1.
    """
    import difflib  # needed only after an error

    folded = {one.lower().replace("_", ""): one for one in sorted(set(candidates))}
    folded = {key: one for key, one in folded.items() if one != name}
    near = difflib.get_close_matches(
        name.lower().replace("_", ""), folded, count, cutoff
    )
    return [folded[key] for key in near]


def suggestion(names: Iterable[str]) -> str:
    """A sentence that suggests these names, or "" without names."""
    meant = " or ".join(map(repr, names))
    return f" Did you mean {meant}?" if meant else ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A sentence that suggests the nearest candidate, or "" if none is near."""
    return suggestion(nearest(name, candidates))
