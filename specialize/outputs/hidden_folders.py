"""Hidden folders for work in progress, and errors that name an output.

The process that works in a folder locks it. A folder without a lock is what a killed
process left, and the next command removes it.
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Iterator

from specialize.errors import InputError

Path = str | os.PathLike[str]

# The system's errors for a full disk, an exceeded quota and a file that is too large.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes of the name of a file or folder, on every common file system.
LONGEST_NAME = 255
# The file in a folder that the only command that writes in it locks (`one_writer`).
LOCK = ".specialize.lock"
WORK = re.compile(rf"\..*\.[0-9a-z_]{{8}}\.(partial|spool|staging)|{re.escape(LOCK)}")


@contextlib.contextmanager
def scratch(path: Path, suffix: str = ".partial") -> Iterator[pathlib.Path]:
    """Yields a hidden folder beside `path`, which is removed when the block ends.

    What killed processes left there is removed first. If `path` is a mount point, or
    its parent cannot be written, the folder is in `path`.

    Raises:
        InputError: The folder cannot be created.
    """
    target = pathlib.Path(path)
    make_parent(target)
    if is_a_place_of_its_own(target):
        target = target / target.absolute().name
    remove_leftovers(target)
    with writing(pathlib.Path(path)):
        while True:
            name = f"{prefix_of(target)}{uuid.uuid4().hex[:8]}{suffix}"
            folder = target.with_name(name)
            folder.mkdir()
            try:
                lock = _locked(folder)
                break
            except (BlockingIOError, FileNotFoundError):
                continue  # another process is just removing it as a leftover
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def make_parent(path: pathlib.Path) -> None:
    """Creates the folder of `path`.

    Raises:
        InputError: A part of its path is a file, or it cannot be created.
    """
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"{path} cannot be written: a part of its path is a file, not a folder "
                f"({error.filename}). Name another one."
            ) from error


def free_space(path: Path) -> str:
    """How much of the disk of `path`, which may be absent, is free."""
    free, total = _free_and_total(path)
    return f"{free / 1e6:,.1f} MB of {total / 1e6:,.1f} MB are free"


def is_full(path: Path) -> bool:
    """Whether the disk of `path`, which may be absent, has no room for a file."""
    return _free_and_total(path)[0] < 1 << 16


def _free_and_total(path: Path) -> tuple[int, int]:
    absolute = pathlib.Path(path).absolute()
    there = next(one for one in (absolute, *absolute.parents) if one.exists())
    disk = shutil.disk_usage(there)
    return disk.free, disk.total


@contextlib.contextmanager
def room_for(target: pathlib.Path) -> Iterator[None]:
    """Turns a full disk into an `InputError` that names the output."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise InputError(
            f"{target} cannot be written: {error.strerror} ({free_space(target)}). "
            "Make room and run the same command again; nothing was left behind."
        ) from error


@contextlib.contextmanager
def writing(target: pathlib.Path) -> Iterator[None]:
    """Turns every error of the system into an `InputError` that names the output."""
    try:
        with room_for(target):
            yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{target} cannot be written: {reason}. Name another output, or make this "
            "one writable; nothing was changed."
        ) from error


def prefix_of(target: pathlib.Path) -> str:
    """How names of temporary folders begin; a long name is cut, because names end."""
    name = target.absolute().name.encode()[:200].decode(errors="ignore")
    return f".{name}."


def is_a_place_of_its_own(target: pathlib.Path) -> bool:
    """Whether nothing can be renamed to this folder, but files can be put into it."""
    return target.is_dir() and (
        os.path.ismount(target)
        or os.path.samefile(target, os.curdir)
        or not os.access(target.absolute().parent, os.W_OK)
    )


def _locked(path: Path) -> int:
    """The descriptor of a file or folder that is locked; -1 where locks do not exist.

    Raises:
        BlockingIOError: Another process locks it.
        FileNotFoundError: It was removed before it was locked.
    """
    lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        raise
    except OSError:
        os.close(lock)
        return -1
    return lock


def remove_leftovers(target: pathlib.Path) -> None:
    """Removes what killed processes left beside `target`."""
    prefix = prefix_of(target)
    with contextlib.suppress(OSError):
        for path in list(target.parent.iterdir()):
            if not (path.name.startswith(prefix) and WORK.fullmatch(path.name)):
                continue
            with contextlib.suppress(OSError):
                lock = _locked(path)
                if lock >= 0:
                    if path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()
                    os.close(lock)
