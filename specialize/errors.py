"""The exception for invalid input, how messages show it, and what was meant instead."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator

# A URL inside of a text: its scheme, and the rest up to a space, a quote or the next
# URL of a list. It may be in a path, where only that of a bucket has lost a "/".
_URL = re.compile(
    r"((?<![a-z0-9])[a-z][a-z0-9+.-]*(?=://)|(?<![\w./~+-])[a-z][a-z0-9+.-]*"
    r"|(?<![a-z0-9])(?:gs|s3))(:/+)"
    r"((?:(?![,;|=([{][a-z][a-z0-9+.-]*:/)[^\s'\"])*)",
    re.IGNORECASE,
)
# A host with a port, after which a path may have "@" or ":".
_HOST_AND_PORT = re.compile(r"[\w.-]*:\d{1,5}|\[[\da-fA-F:.]*\](:\d{1,5})?")
# The local path of a copy, or of work in progress -> the URL that messages show.
_copies: dict[str, str] = {}


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

    def __str__(self) -> str:
        """The message, in the names that the user knows (`named`)."""
        return named(super().__str__())


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


def stands_for(copy: str | os.PathLike[str], url: str | os.PathLike[str]) -> None:
    """Lets messages show a URL instead of the local path of its copy.

    Args:
        copy: Absolute path of a copy of what is at the URL, or of the folder in which
            a command prepares what it uploads there.
        url: The URL.
    """
    for path in {os.fspath(copy), os.path.realpath(copy)}:
        _copies[path] = os.fspath(url)


def named(text: str) -> str:
    """A text for the user: URLs in place of local copies, and no user information.

    Every message passes through it, so what a user may correct has the name by which
    the user knows it, and no password is printed.
    """
    for copy, url in list(_copies.items()):
        if copy in text:
            text = text.replace(copy, url)
    return _URL.sub(_without_user, text)


def credentials(text: str) -> str | None:
    """The first URL of a text that has user information, without it; None if none has.

    Of a text that is a URL of a bucket as a whole, spaces and quotes are part of it.
    """
    whole = re.match(r"\s*(gs|s3)(:/+)(.*)", text, re.DOTALL | re.IGNORECASE)
    for found in ([whole] if whole else []) + [*_URL.finditer(text)]:
        if _user(found[1], found[3]):
            return _without_user(found)
    return None


def _without_user(found: re.Match[str]) -> str:
    scheme, slashes, rest = found.groups()
    user = _user(scheme, rest)
    return f"{scheme}{slashes}...{rest[len(user) :]}" if user else found[0]


def _user(scheme: str, rest: str) -> str:
    """The user information in what follows "scheme://"; "" if there is none.

    A password may have "/" or "@", so it ends at the last "@".
    """
    host, slash, path = rest.partition("/")
    if not slash:
        host = host.rstrip(":;,.)]}")  # the words of a message go on after a URL
    if "@" in host:
        return rest.rpartition("@")[0]
    if ":" not in host:
        return ""
    if scheme.lower() in ("gs", "s3"):  # no bucket has ":"
        return rest.rpartition("@")[0] or host
    is_host = _HOST_AND_PORT.fullmatch(host) is not None
    return "" if is_host or "@" not in path else rest.rpartition("@")[0]


def visible(text: str) -> str:
    r"""A text of others with its control characters as escapes, such as `\x1b`.

    A terminal obeys them: they clear it, rename it, or reverse the order of letters.
    """
    return "".join(
        char if char.isprintable() or char in "\n\t\u3000\xa0" else ascii(char)[1:-1]
        for char in text
    )


def message(error: object) -> str:
    """An error as a terminal shows it: `named`, `visible`, long lines without a middle.

    A file may hold a name of 100,000 characters, which a message about it repeats.
    """
    lines = visible(named(str(error))).split("\n")
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
