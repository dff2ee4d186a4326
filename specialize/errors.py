"""The one exception that means: the user's input is at fault, not the program."""

from collections.abc import Iterable


class InputError(ValueError):
    """A bad file, value or combination that the user can mend.

    The message says what was wrong, the values, where, and what to do. The command
    line prints it without a traceback and exits with status 2; everything else that
    is raised is a defect and keeps its traceback.

    Example:
        >>> try:
        ...     specialize.load("no/such/run")
        ... except specialize.InputError as error:
        ...     print(str(error).partition(".")[0])
        no/such/run does not exist
    """


def nearest(
    name: str, candidates: Iterable[str], *, count: int = 1, cutoff: float = 0.7
) -> list[str]:
    """The candidates that `name` may be a slip of, the likeliest first.

    Args:
        name: as written; case and underscores count for nothing.
        candidates: what it could have been.
        count: at most so many.
        cutoff: similarity (0 to 1) below which nothing is near.
    """
    import difflib  # only where something is wrong

    folded = {one.lower().replace("_", ""): one for one in sorted(set(candidates))}
    folded = {key: one for key, one in folded.items() if one != name}
    near = difflib.get_close_matches(
        name.lower().replace("_", ""), folded, count, cutoff
    )
    return [folded[key] for key in near]


def suggestion(names: Iterable[str]) -> str:
    """A sentence with what was probably meant, or "" without names."""
    meant = " or ".join(map(repr, names))
    return f" Did you mean {meant}?" if meant else ""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """A sentence with the nearest candidate, or "" if none is near."""
    return suggestion(nearest(name, candidates))
