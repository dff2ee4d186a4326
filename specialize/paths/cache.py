"""Local copies of what is in buckets, shared by the processes of a machine.

A copy is complete or absent. Its name is made of the URL and of the version of every
object, so a changed object is copied again and an unchanged one never. Its files are
read-only, and messages show the URL in its place. Copies that no process uses are
removed, the least recently used first, when all of them together are larger than the
limit.

| variable | meaning | default |
|---|---|---|
| `SPECIALIZE_CACHE_DIR` | folder of the copies | `$XDG_CACHE_HOME/specialize` |
| `SPECIALIZE_CACHE_GB` | most gigabytes | 100 |
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence

from specialize.errors import InputError, stands_for
from specialize.paths import store
from specialize.paths.urls import (
    Path,
    checked,
    in_bucket,
    joined,
    name_of,
    parent_of,
)

CACHE_DIR, CACHE_GB = "SPECIALIZE_CACHE_DIR", "SPECIALIZE_CACHE_GB"
_DEFAULT_GB = "100"
# What makes a folder one of ours, written last; and what its writer holds meanwhile.
MARKER, WRITING = "specialize.json", "specialize.writing.json"
# How the name of a copy ends that is not complete.
_PARTIAL = ".partial"
# Errors of a disk that is full.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Locks of the copies that this process uses, until it ends.
_in_use: dict[pathlib.Path, int] = {}


def local(
    path: Path,
    *,
    only: Sequence[str] = ("*",),
    but: Sequence[str] = (),
    companion: str | None = None,
) -> pathlib.Path:
    """The local copy of a file or folder in a bucket; a local path is returned as is.

    Args:
        path: A path, or a URL of a bucket.
        only: Of a folder, patterns of names that are copied.
        but: Of a folder, patterns of names that are not copied.
        companion: Of a file, the end that its name has with another one that is to be
            beside the copy, if there is one.

    Raises:
        InputError: There is nothing at the URL, it cannot be read or copied, or it was
            changed twice while it was.
    """
    if not in_bucket(path):
        return pathlib.Path(path)
    url = checked(path)
    try:
        return _local(url, only, but, companion)
    except store.ChangedError:  # what is there now may stay
        return _local(url, only, but, companion)


def _local(
    url: str, only: Sequence[str], but: Sequence[str], companion: str | None
) -> pathlib.Path:
    entry = store.stat(url)
    if entry is not None:
        other = store.stat(f"{url}{companion}") if companion else None
        if other is None:
            return _copy(url, {"": entry}) / name_of(url)
        place, name = parent_of(url), name_of(url)
        both = {name: entry, f"{name}{companion}": other}
        return _copy(place, both) / name_of(place) / name
    inside = store.find(url)
    if not inside:
        raise InputError(f"{url} does not exist. Check the name of bucket and folder.")
    if WRITING in inside and MARKER not in inside:
        raise InputError(
            f"{url} is not complete: a command is writing it, or was killed while it "
            "did. Wait for it, or run it again."
        )
    chosen = {
        name: one
        for name, one in inside.items()
        if name != WRITING and matches(name, only) and not matches(name, but)
    }
    refuse_clash(url, chosen)
    return _copy(url, chosen) / name_of(url)


def refuse_clash(url: str, names: Iterable[str]) -> None:
    """Refuses a folder that no disk can hold, though a store can.

    Args:
        url: The folder.
        names: Its objects, relative to it.

    Raises:
        InputError: A name is that of an object and of a folder.
    """
    known = set(names)
    for name in sorted(known):
        parts = name.split("/")
        for end in range(1, len(parts)):
            if (parent := "/".join(parts[:end])) in known:
                raise InputError(
                    f"{url} cannot be copied to a disk: {parent} is an object and a "
                    f"folder ({name}) in it. Remove one of the two, or rename it."
                )


def exists(path: Path) -> bool:
    """Whether a file or folder exists, in a bucket or on this machine."""
    if not in_bucket(path):
        return os.path.exists(path)
    return store.stat(path) is not None or bool(store.names(path))


def folder() -> pathlib.Path:
    """The folder of copies and prepared examples.

    Raises:
        InputError: It cannot be created.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    named = os.environ.get(CACHE_DIR) or os.path.join(home, "specialize")
    place = pathlib.Path(os.path.abspath(os.path.expanduser(named)))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache {place} cannot be created ({error.strerror}). Set {CACHE_DIR} "
            "to a folder on a local disk."
        ) from error
    return place


def copies() -> pathlib.Path:
    """The folder of the copies of what is in buckets; it may be absent."""
    return folder() / "buckets"


@contextlib.contextmanager
def locked(place: pathlib.Path) -> Iterator[None]:
    """Waits until no other process of this machine is in such a block for `place`."""
    descriptor = os.open(_lock_of(place), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(url: str, entries: dict[str, store.Entry]) -> pathlib.Path:
    """The folder with the copy of these objects, named relative to the URL."""
    text = json.dumps([url, [(n, e.size, e.version) for n, e in entries.items()]])
    made = copies()
    made.mkdir(exist_ok=True)
    place = made / hashlib.sha256(text.encode()).hexdigest()[:32]
    with locked(made / "all"):
        _use(place)
    if not place.is_dir():
        with locked(_making(place)):
            if not place.is_dir():
                _make(place, url, entries)
    os.utime(place)
    stands_for(place / name_of(url), url)
    return place


def _make(place: pathlib.Path, url: str, entries: dict[str, store.Entry]) -> None:
    for old in place.parent.glob(f"{place.name}.*{_PARTIAL}"):
        shutil.rmtree(old, ignore_errors=True)  # of a killed process: we have the lock
    needed = sum(entry.size for entry in entries.values())
    with locked(place.parent / "all"):
        _make_room(place.parent, needed)
    partial = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    try:
        (partial / name_of(url)).parent.mkdir(parents=True)
        if "" not in entries:
            (partial / name_of(url)).mkdir()
        for name, entry in entries.items():
            target = partial / name_of(url) / name if name else partial / name_of(url)
            target.parent.mkdir(parents=True, exist_ok=True)
            store.download(joined(url, name) if name else url, target, entry)
            # The same on every machine, for what identifies files by their time.
            digest = hashlib.sha256(entry.version.encode()).digest()
            seconds = 10**9 + int.from_bytes(digest[:3])
            os.utime(target, (seconds, seconds))
            # What is corrected in a copy would be read on this machine alone.
            target.chmod(target.stat().st_mode & ~0o222)
        os.rename(partial, place)
    except OSError as error:
        room = "Make room, or set" if error.errno in _NO_ROOM else "Set"
        raise InputError(
            f"{url} ({needed / 1e6:,.0f} MB) cannot be copied to {place.parent}: "
            f"{error.strerror}. {room} {CACHE_DIR} to a folder on another disk."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _making(place: pathlib.Path) -> pathlib.Path:
    """What the process that makes a copy has locked, from the copy or a part of it."""
    return place.with_name(f"{place.name.partition('.')[0]}.making")


def _use(place: pathlib.Path) -> None:
    """Prevents, until this process ends, that others remove a copy."""
    if place not in _in_use:
        descriptor = os.open(_lock_of(place), os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _in_use[place] = descriptor


def _make_room(copies: pathlib.Path, needed: int) -> None:
    """Removes copies that nobody uses until `needed` bytes more are allowed.

    Its caller has locked `copies`; other processes may be making copies, or giving up.
    """
    limit = _limit()
    used: dict[pathlib.Path, float] = {}
    for one in copies.iterdir():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if one.is_dir():
                used[one] = one.stat().st_mtime
    sizes = {one: _size(one) for one in used}
    total = sum(sizes.values()) + needed
    for one in sorted(used, key=lambda one: (used[one], one)):
        if total <= limit:
            return
        # Who makes a copy has locked its making, and who uses it the copy itself.
        lock = _making(one) if one.suffix == _PARTIAL else one
        descriptor = os.open(_lock_of(lock), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(one, ignore_errors=True)
            total -= sizes[one]
        finally:
            os.close(descriptor)


def _limit() -> float:
    text = os.environ.get(CACHE_GB) or _DEFAULT_GB
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise InputError(f"{CACHE_GB} is {text!r}; it must be a number of gigabytes.")
    return limit * 1e9


def _size(place: pathlib.Path) -> int:
    """Bytes of the files in a folder, which may be removed meanwhile."""
    total = 0
    for folder, _, files in os.walk(place):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, file)).st_size
    return total


def _lock_of(place: pathlib.Path) -> pathlib.Path:
    locks = folder() / "locks"
    locks.mkdir(exist_ok=True)
    return locks / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns, in which "*" fits "/" as well."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
