"""URLs of buckets, as text: `gs://BUCKET/NAME` and `s3://BUCKET/NAME`."""

import os
import re
from typing import TypeGuard

from specialize.errors import InputError, credentials, named

Path = str | os.PathLike[str]

# Stores that are read and written.
SCHEMES = ("gs", "s3")


def scheme_of(path: Path) -> str | None:
    """The scheme of a URL, such as "gs"; None for a path of this machine."""
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", os.fspath(path))
    return url[1] if url else None


def in_bucket(path: object) -> TypeGuard[Path]:
    """Whether a value is a URL of a store that is read and written."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    return isinstance(text, str) and bool(re.match(r"(gs|s3)://[^/]", text))


def read_from_bucket(path: Path, name: str) -> bool:
    """`in_bucket`, for a path that is read.

    Args:
        path: The path.
        name: What it is of, for the message.

    Raises:
        InputError: It is a URL that is not read.
    """
    if scheme_of(path) and "://" in os.fspath(path):
        checked(path, name)
    return in_bucket(path)


def shown(path: Path) -> str:
    """A path for a message: a URL without a user name and password."""
    return named(os.fspath(path))


def checked(path: Path, name: str = "The path") -> str:
    """The URL of a file or folder in a bucket, without slashes at its end.

    Args:
        path: A URL.
        name: What it is of, for the message.

    Raises:
        InputError: Its scheme is another one, or it names no bucket or a part ".".
    """
    text = os.fspath(path)
    scheme = scheme_of(text)
    if scheme not in SCHEMES:
        raise InputError(
            f"{name} is {shown(text)!r}, a URL of {scheme}:. Name a local file or "
            "folder, or one in a bucket: gs://BUCKET/NAME or s3://BUCKET/NAME."
        )
    bucket, *parts = text.partition("://")[2].rstrip("/").split("/")
    if credentials(text) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", bucket):
        hidden = credentials(text) or text
        raise InputError(
            f"{name} is {hidden!r}, which names no bucket. Write "
            f"{scheme}://BUCKET/FOLDER; credentials come from the environment or the "
            "store's own configuration."
        )
    if {"", ".", ".."} & set(parts):
        raise InputError(
            f"{name} is {text!r}; a part of it is empty, '.' or '..', which buckets do "
            "not have. Write the whole name."
        )
    return text.rstrip("/")


def checked_for_checkpoints(path: Path, name: str = "The path") -> str:
    """`checked`, for a folder in which Orbax removes old checkpoints.

    The libraries of the stores remove what fits a pattern, so that of `a?1/run` would
    take with it that of `ab1/run`.

    Raises:
        InputError: As for `checked`, or a part is a pattern of names.
    """
    url = checked(path, name)
    if signs := sorted(set("*?[") & set(url)):
        raise InputError(
            f"{name} is {url!r}; {' and '.join(map(repr, signs))} in it would be read "
            "as a pattern of names, and checkpoints of other folders removed with its "
            "own. Name another folder."
        )
    return url


def joined(url: Path, *parts: str) -> str:
    """The URL of something in a folder."""
    return "/".join([os.fspath(url).rstrip("/"), *parts])


def name_of(url: Path) -> str:
    """The last part of a URL."""
    return os.fspath(url).rstrip("/").rpartition("/")[2]


def parent_of(url: Path) -> str:
    """The URL of the folder of a file or folder."""
    return os.fspath(url).rstrip("/").rpartition("/")[0]
