"""The exception for invalid input, and suggestions for mistyped names."""

from collections.abc import Iterable


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


def visible(text: str) -> str:
    """The text for a terminal: control characters and half characters are escaped."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text
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
