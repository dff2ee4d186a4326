"""Puts a finished folder in the place of another, in one step and losing no file."""

import concurrent.futures
import contextlib
import ctypes
import errno
import os
import pathlib
import shutil
import stat
import uuid
from typing import TypeAlias

from specialize.errors import InputError
from specialize.outputs.hidden_folders import WORK, prefix_of

# Path in a folder -> what changes when the file is written or replaced.
Contents: TypeAlias = dict[pathlib.Path, tuple[int, int, int]]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def recover(folder: pathlib.Path) -> None:
    """Puts back a folder whose replacement was killed between two renames.

    That happens only where the system cannot exchange two folders in one step.
    """
    retired = _retired(folder)
    with contextlib.suppress(OSError):
        if not os.path.lexists(folder) and retired.is_dir():
            os.rename(retired, folder)


def flush(folder: pathlib.Path) -> None:
    """Waits until everything in a folder is on the disk.

    Otherwise a machine that loses its power after a rename may have the name of a
    complete folder, and files without their content. At once, because a file system
    then writes its journal once for many files.
    """
    found = [folder, *(one for one in folder.rglob("*") if not one.is_symlink())]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        list(threads.map(_flush_one, found))


def _flush_one(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems cannot do it for folders
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def put(target: pathlib.Path, staged: pathlib.Path, before: Contents) -> None:
    """Makes `staged` the folder `target`; `before` is what is to be replaced there."""
    if not os.path.lexists(target):
        os.rename(staged, target)
        return
    before = before | _keep(target, staged, before)
    old = staged
    if not _exchange(staged, target):
        old = _retired(target)
        for _ in range(100):
            shutil.rmtree(old, ignore_errors=True)
            os.rename(target, old)
            try:
                os.rename(staged, target)
                break
            except OSError:
                continue  # a reader has just recovered the old one
    for name, state in contents(old).items():  # arrived in the last moment
        if before.get(name) != state and not (old / name).is_dir():
            place = target / name
            if os.path.lexists(place):
                place = place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}")
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(old / name, place)
    shutil.rmtree(old, ignore_errors=True)


def contents(folder: pathlib.Path) -> Contents:
    """What a folder holds, except work in progress; {} if it does not exist."""
    found: Contents = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        if not WORK.fullmatch(path.relative_to(folder).parts[0]):
            state = path.lstat()
            is_folder = stat.S_ISDIR(state.st_mode)
            # The time of a folder changes with what is in it.
            time, size = (0, 0) if is_folder else (state.st_mtime_ns, state.st_size)
            found[path.relative_to(folder)] = (state.st_ino, time, size)
    return found


def _keep(target: pathlib.Path, staged: pathlib.Path, before: Contents) -> Contents:
    """Links what arrived in `target` since `before` into `staged`, and returns it."""
    now = contents(target)
    arrived = {name: now[name] for name in sorted(now) if now[name] != before.get(name)}
    for name in arrived:
        source, place = target / name, staged / name
        if source.is_dir() and not source.is_symlink():
            place.mkdir(exist_ok=True)
        elif os.path.lexists(place):
            raise InputError(
                f"{target / name} was written by another command while this one ran. "
                "Nothing was changed; run this one again when the other is finished."
            )
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, place, follow_symlinks=False)
            except OSError:
                shutil.copy2(source, place, follow_symlinks=False)
    return arrived


def fill(target: pathlib.Path, staged: pathlib.Path, *, last: str) -> None:
    """Moves everything from `staged` into `target`; the file `last` comes last."""
    names = sorted(os.listdir(staged), key=lambda name: (name == last, name))
    for name in names:
        if os.path.lexists(target / name):
            raise InputError(
                f"{target / name} was written by another command while this one ran. "
                "Nothing was changed; name another output."
            )
    for name in names:
        os.rename(staged / name, target / name)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Exchanges two folders in one step; False where the system cannot do that."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), os.fspath(other))


def _retired(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f"{prefix_of(target)}retired")
