"""Objects in buckets: read, list, write, remove. Everything else is built on these.

Each call goes to the store: listings are not cached, so a process sees what another
has just written. A call that fails for a passing reason (429, 5xx, a cut connection)
is repeated for about half a minute. Credentials and endpoints are those of the
libraries: for `s3://` AWS_* variables and ~/.aws, for `gs://` Google's application
default credentials.
"""

import contextlib
import dataclasses
import functools
import importlib
import logging
import os
import pathlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from specialize.errors import InputError
from specialize.paths import failures
from specialize.paths.failures import is_known, is_passing, is_taken
from specialize.paths.urls import Path, checked, in_bucket, scheme_of

T = TypeVar("T")

# Seconds between the tries of a call; the libraries' own retries come before each.
DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
# Seconds after which a call is not repeated, and s3fs's tries, which take them.
# (gcsfs tries for as long by itself. Orbax knows only the tries of the libraries.)
PATIENCE, _S3_TRIES = 30.0, 10
_LIBRARIES = {"gs": "gcsfs", "s3": "s3fs"}


class TakenError(InputError):
    """Another process has written the object first."""


class ChangedError(InputError):
    """An object was replaced or removed while it was read."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An object.

    Attributes:
        size: Number of bytes.
        version: Changes whenever the object is replaced: its generation or ETag.
    """

    size: int
    version: str


def prepare() -> None:
    """Makes every library of this process use the same clients in the same way.

    `etils.epath`, which Orbax uses, would choose TensorFlow's file systems if
    TensorFlow is installed, and these know no `s3://`. Listings are never cached.
    An emulator that fsspec is told of is told to TensorStore, too. gcsfs logs the
    traceback of every error that it raises; our message about it is enough.
    """
    import fsspec
    import fsspec.config
    from etils.epath import gpath

    if "GCSFS_DEBUG" not in os.environ:  # with which gcsfs is told to log
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    os.environ["EPATH_USE_TF"] = "false"
    gpath._is_tf_installed.cache_clear()  # a path may have been asked before
    for protocol in ("gs", "gcs", "s3", "s3a"):
        fsspec.config.conf.setdefault(protocol, {})["use_listings_cache"] = False
    if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
        # The default one asks Google for the kind of each bucket.
        plain = importlib.import_module("gcsfs.core").GCSFileSystem
        for protocol in ("gs", "gcs"):
            fsspec.register_implementation(protocol, plain, clobber=True)


def filesystem(url: Path) -> Any:
    """The fsspec file system of a URL.

    Raises:
        InputError: Its library is not installed.
    """
    import fsspec

    scheme = str(scheme_of(url))
    try:
        prepare()
        if scheme == "s3":
            s3fs = importlib.import_module("s3fs.core")
            s3fs.set_custom_error_handler(is_passing)
            s3fs.S3FileSystem.retries = _S3_TRIES
        return fsspec.filesystem(scheme)
    except ImportError as error:
        library = _LIBRARIES[scheme]
        raise InputError(
            f"{scheme}:// needs {library}, which is not installed here ({error}). "
            f"Install it: pip install {library}."
        ) from error


def stat(url: Path) -> Entry | None:
    """The object of a URL; None if there is none, also if it is a folder."""
    url, fs = checked(url), filesystem(url)

    def call() -> Entry | None:
        try:
            found = fs.info(url)
        except FileNotFoundError:
            return None
        return None if found["type"] == "directory" else _entry(found)

    return repeated(url, "read", call)


def find(url: Path) -> dict[str, Entry]:
    """The objects in a folder and its folders: name relative to the folder -> object.

    Raises:
        InputError: A name is absolute or leads out of the folder.
    """
    url, fs = checked(url), filesystem(url)
    root = url.partition("://")[2] + "/"

    def call() -> dict[str, Entry]:
        found = {}
        for name, info in fs.find(url + "/", detail=True).items():
            relative = name.removeprefix(root)
            # An empty object with such a name represents a folder.
            if info["type"] == "directory" or name.endswith("/") or relative == name:
                continue
            if {"", ".", ".."} & set(relative.split("/")):
                raise InputError(
                    f"{url} has an object named {relative!r}, which is no name of a "
                    "file. Remove it."
                )
            found[relative] = _entry(info)
        return dict(sorted(found.items()))

    return repeated(url, "listed", call)


def names(url: Path) -> list[str]:
    """The names of the files and folders that are directly in a folder."""
    url, fs = checked(url), filesystem(url)
    root = url.partition("://")[2]

    def call() -> list[str]:
        try:
            found = fs.ls(url + "/", detail=False)
        except FileNotFoundError:
            return []
        inside = (name.rstrip("/").removeprefix(root).strip("/") for name in found)
        return sorted(name for name in inside if name)

    return repeated(url, "listed", call)


def read_bytes(url: Path) -> bytes | None:
    """The content of an object; None if there is none."""
    url, fs = checked(url), filesystem(url)

    def call() -> bytes | None:
        try:
            return fs.cat_file(url)
        except FileNotFoundError:
            return None

    return repeated(url, "read", call)


def write_bytes(url: Path, data: bytes) -> None:
    """Writes an object in one step."""
    url, fs = checked(url), filesystem(url)
    repeated(url, "written", lambda: fs.pipe_file(url, data))


def create(url: Path, data: bytes) -> None:
    """Writes an object that must not exist: of several writers exactly one succeeds.

    `data` has to be unique: after a cut connection it tells whether the object there
    is ours.

    Raises:
        TakenError: The object exists.
    """
    url, fs = checked(url), filesystem(url)

    def call() -> None:
        try:
            fs.pipe_file(url, data, mode="create")
        except OSError as error:
            if not is_taken(error):
                raise
            if fs.cat_file(url) != data:
                raise TakenError(f"{url} exists.") from error

    repeated(url, "written", call)


def replace(url: Path, data: bytes, version: str) -> None:
    """Writes an object if it is still the one of this version.

    `data` has to be unique, as for `create`.

    Raises:
        TakenError: Another process has replaced or removed it.
    """
    url, fs = checked(url), filesystem(url)
    bucket, _, name = url.partition("://")[2].partition("/")

    def call() -> None:
        try:
            if scheme_of(url) == "s3":
                fs.pipe_file(url, data, IfMatch=f'"{version}"')
            else:  # gcsfs has no argument for a generation
                fs.call(
                    "POST",
                    f"{fs._location}/upload/storage/v1/b/{quote(bucket)}/o",
                    uploadType="media",
                    name=name,
                    ifGenerationMatch=version,
                    data=data,
                )
        except OSError as error:
            if not (is_taken(error) or isinstance(error, FileNotFoundError)):
                raise
            if read_bytes(url) != data:
                raise TakenError(f"{url} was replaced.") from error

    repeated(url, "written", call)


def upload(file: Path, url: Path) -> None:
    """Copies a file of this machine into a bucket; the object appears in one step."""
    url, fs = checked(url), filesystem(url)
    repeated(url, "written", lambda: fs.put_file(os.fspath(file), url))


def download(url: Path, file: pathlib.Path, entry: Entry) -> None:
    """Copies an object into a new file of this machine.

    The libraries read a large object in parts, so it is compared after the last one.

    Raises:
        ChangedError: It is no longer what `entry` says.
        InputError: It cannot be read.
    """
    url, fs = checked(url), filesystem(url)

    def call() -> None:
        try:
            fs.get_file(url, os.fspath(file))
        except FileNotFoundError as error:
            raise _changed(url) from error
        if stat(url) != entry:
            raise _changed(url)
        if file.stat().st_size != entry.size:
            raise ConnectionError(f"{file.stat().st_size} of {entry.size} bytes")

    repeated(url, "read", call)


def remove(urls: Iterable[Path]) -> None:
    """Removes objects; those that do not exist are ignored."""
    for url in urls:
        url, fs = checked(url), filesystem(url)

        def call(url: str = url, fs: Any = fs) -> None:
            try:
                fs.rm_file(url)
            except FileNotFoundError:
                return

        repeated(url, "removed", call)


def move(folder: Path, target: Path, *, marker: str) -> None:
    """Moves the objects of a folder within its bucket, which copies them.

    The object `marker`, without which nobody reads the folder, is removed first and
    not copied.
    """
    folder, fs = checked(folder), filesystem(folder)
    remove([f"{folder}/{marker}"])
    for name in find(folder):
        source, place = f"{folder}/{name}", f"{checked(target)}/{name}"
        repeated(place, "written", functools.partial(fs.cp_file, source, place))
        remove([source])


def _changed(url: str) -> ChangedError:
    return ChangedError(
        f"{url} was changed or removed while it was read. Run the same command again."
    )


def _entry(info: Any) -> Entry:
    version = info.get("generation") or info.get("ETag") or info.get("etag")
    return Entry(int(info["size"]), str(version or info.get("LastModified")).strip('"'))


def repeated(url: str, verb: str, call: Callable[[], T]) -> T:
    """Calls, and repeats the call after a failure that may pass.

    Raises:
        InputError: It failed for another reason, or too often.
    """
    end = time.monotonic() + PATIENCE
    for delay in (*DELAYS, None):
        try:
            return call()
        except InputError:
            raise
        except Exception as error:
            late = time.monotonic() > end
            if delay is not None and not late and is_passing(error):
                time.sleep(delay * random.uniform(0.7, 1.3))
                continue
            if is_known(error):
                told = told_why(url, error)
                reason = failures.reason(told, anonymous=_is_anonymous(url))
                raise InputError(f"{url} cannot be {verb}: {reason}") from error
            raise
    raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def explained(url: Path, verb: str = "read") -> Iterator[None]:
    """Lets the libraries that reach a store themselves fail in our words.

    Raises:
        InputError: The store has failed in the block.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        explain(url, verb, error)
        raise


def explain(url: Path, verb: str, error: BaseException) -> None:
    """Raises our message if the cause of a library's error is a failure of the store.

    Raises:
        InputError: It is, and `url` is in a bucket.
    """
    found = failures.of_store(error) if in_bucket(url) else None
    if found is not None:
        text = os.fspath(url)
        told = told_why(text, found)
        reason = failures.reason(told, anonymous=_is_anonymous(text))
        raise InputError(f"{text} cannot be {verb}: {reason}") from error


def told_why(url: str, error: BaseException) -> BaseException:
    """A refused call's error, or that of another call of which the store says more.

    Args:
        url: The object of the call.
        error: The error.
    """
    if scheme_of(url) == "s3" and failures.is_silent(error):
        try:
            filesystem(url).cat_file(url, start=0, end=1)
        except Exception as other:
            if failures.is_refusal(other) and not failures.is_silent(other):
                return other
    return error


def _is_anonymous(url: str) -> bool:
    """Whether Google is asked without credentials, because none were found."""
    if scheme_of(url) != "gs" or os.environ.get("STORAGE_EMULATOR_HOST"):
        return False
    credentials = getattr(filesystem(url), "credentials", None)
    return getattr(credentials, "method", None) == "anon"
