"""Finds gin files on this machine, in an installed package or in a bucket."""

import codecs
import functools
import importlib.util
import os
import pathlib
import posixpath
from collections.abc import Iterator, Sequence

from specialize import paths, typed_json
from specialize.errors import InputError
from specialize.paths import store

PACKAGE = "t5x_configs"


@functools.cache
def package_folder() -> pathlib.Path:
    """The installed folder of gin files, of a wheel or of a checkout."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"The package {PACKAGE!r} is not installed beside specialize; install "
            "specialize again (pip install -e . or its wheel)."
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def find(name: str, search_paths: Sequence[str], including: str = "") -> str | None:
    """The path or URL of a gin file; None if there is none.

    The order is that of gin: here, in the search paths, in an installed package. Before
    that, what a file in a bucket includes is looked for beside it, because no folder of
    a machine is "here" for it.

    Args:
        name: As it is written on the command line or in an include.
        search_paths: Folders, local or in buckets.
        including: The path or URL of the file that includes it.

    Raises:
        InputError: It is a URL of another store, or a store cannot be read.
    """
    if is_url(name):
        url = paths.checked(name, "The gin file")
        return url if store.stat(url) else None
    path = pathlib.Path(name)
    if path.is_absolute():
        return name if os.path.isfile(path) else None
    beside = [paths.parent_of(including)] if paths.in_bucket(including) else []
    for folder in (*beside, "", *search_paths):
        if paths.in_bucket(folder):
            url = _in_bucket(os.fspath(folder), name)
            if url and store.stat(url):
                return url
        elif os.path.isfile(candidate := pathlib.Path(folder) / path):
            return str(candidate)
    for folder in _package_of(path):
        if os.path.isfile(candidate := pathlib.Path(folder, *path.parts[1:])):
            return str(candidate)
    return None


def is_url(name: str) -> bool:
    """Whether the name of a file or folder is a URL, of whatever store."""
    scheme = paths.scheme_of(name)
    return scheme is not None and (scheme in paths.SCHEMES or "://" in name)


def _in_bucket(folder: str, name: str) -> str | None:
    """The URL of a file relative to a folder; None if ".." leads out of the bucket."""
    scheme, _, place = folder.partition("://")
    found = posixpath.normpath(posixpath.join(place, name))
    bucket = place.partition("/")[0]
    return f"{scheme}://{found}" if found.startswith(f"{bucket}/") else None


def _package_of(path: pathlib.Path) -> Sequence[str]:
    """The folders of the package that the first part of a path names."""
    if len(path.parts) < 2:
        return ()
    try:  # of the first part alone: for the others Python imports the package
        spec = importlib.util.find_spec(path.parts[0])
    except (ImportError, ValueError):
        return ()
    return tuple(spec.submodule_search_locations or ()) if spec else ()


def available(search_paths: Sequence[str]) -> list[str]:
    """Names of all gin files that can be found, for "did you mean".

    Of a folder in a bucket only the files directly in it.
    """
    names: list[str] = []
    for folder in (*search_paths, str(package_folder())):
        if paths.in_bucket(folder):
            names += [one for one in store.names(folder) if one.endswith(".gin")]
            continue
        root = pathlib.Path(folder)
        names += [str(path.relative_to(root)) for path in root.glob("*/**/*.gin")]
    return names + [f"{PACKAGE}/{name}" for name in names]


def identity(place: str) -> str:
    """What two names of one file have in common."""
    return place if is_url(place) else os.path.realpath(place)


def text_of(place: str) -> str:
    """The text of a gin file; like gin, we read UTF-8 in any locale.

    Raises:
        InputError: It is not UTF-8, or cannot be read.
    """
    data = typed_json.read_bytes(paths.local(place))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = ""
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "; it looks like UTF-16"
        line = data[: error.start].count(b"\n") + 1
        raise InputError(
            f"{displayed(place)}:{line}: not UTF-8 (byte {error.start} is "
            f"0x{data[error.start]:02x}{encoding}). Save the file as UTF-8."
        ) from error


def displayed(place: str) -> str:
    """A short name, relative to here or to the installed package; a URL as it is."""
    if is_url(place):
        return place
    resolved = pathlib.Path(place).resolve()
    for root, prefix in ((pathlib.Path.cwd(), ""), (package_folder(), PACKAGE)):
        if resolved.is_relative_to(root.resolve()):
            return str(pathlib.Path(prefix) / resolved.relative_to(root.resolve()))
    return str(resolved)


def searched(search_paths: Sequence[str], including: str = "") -> Iterator[str]:
    """The folders in which `find` looks, for a message."""
    if paths.in_bucket(including):
        yield paths.parent_of(including)
    yield from dict.fromkeys((".", *search_paths, str(package_folder())))
