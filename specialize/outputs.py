"""Files and folders that are either complete or absent.

Every command writes through this module, so that a killed run never leaves a partial
output that looks complete, and no other folder is overwritten by mistake. Modes follow
the umask, also those of files that a library creates for their owner only.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import Any

from specialize import versions
from specialize.errors import InputError

MARKER = "specialize.json"
_VERSION = {"version": versions.FOLDER.writes}
# The system's errors for a full disk, an exceeded quota and a file that is too large.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def staged_file(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling that replaces `path` when the block succeeds.

    The folder of `path` is created. If the block raises, the sibling is removed and
    `path` keeps its content.

    Raises:
        InputError: `path` is a folder or in a file, or the disk is full.
    """
    target = pathlib.Path(path)
    if target.is_dir():
        raise InputError(f"{target} is a folder, expected the name of a file to write.")
    make_parent(target)
    staged = _sibling(target)
    staged.touch(exist_ok=False)
    mode = staged.stat().st_mode
    try:
        with _room_for(target):
            yield staged
            staged.chmod(stat.S_IMODE(mode))
            with open(staged, "rb") as written:
                os.fsync(written.fileno())
            os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)


def refuse_url(path: str | os.PathLike[str], name: str = "The output") -> None:
    """Raises an `InputError` for a bucket, which would become a local folder `gs:`.

    Args:
        path: Path of an output.
        name: What the path is of, for the message.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", os.fspath(path)):
        raise InputError(
            f"{name} is {os.fspath(path)!r}, a URL. Outputs are written to a local or "
            "mounted folder; name one, and copy it afterwards. Nothing was written."
        )


def make_parent(path: pathlib.Path) -> None:
    """Creates the folder of `path`.

    Raises:
        InputError: A part of its path is a file, or it is a URL.
    """
    refuse_url(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{path} cannot be written: a part of its path is a file, not a folder "
            f"({error.filename}). Name another one."
        ) from error


@contextlib.contextmanager
def _room_for(target: pathlib.Path) -> Iterator[None]:
    """Turns a full disk into an `InputError` that names the output."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise InputError(
            f"{target} cannot be written: {error.strerror}. Make room and run the same "
            "command again; nothing was left behind."
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` atomically (UTF-8)."""
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_writable(path: str | os.PathLike[str], kind: str) -> bool:
    """Checks that `path` may become, or already is, our folder of this kind.

    Args:
        path: A folder, which may be absent.
        kind: Content of the folder, for example "corpus" or "run".

    Returns:
        True if the folder is already ours and of this kind.

    Raises:
        InputError: `path` is a file, or contains something we did not write.
    """
    refuse_url(path)
    folder = pathlib.Path(path)
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise InputError(
            f"{folder} is a file; the output must be a folder. Name another --out."
        )
    found = kind_of(folder)
    if found == kind:
        return True
    if found is not None:
        raise InputError(
            f"{folder} holds a {found!r} of specialize, not a {kind!r} "
            f"({folder / MARKER}). Name another output folder."
        )
    if any(folder.iterdir()):
        raise InputError(
            f"{folder} is not empty and was not written by specialize (no {MARKER}). "
            "Name an empty or new output folder; nothing was changed."
        )
    return False


def claim(path: str | os.PathLike[str], kind: str) -> pathlib.Path:
    """Marks `path`, a new or empty folder, as our folder of this kind.

    Args:
        path: The folder; it may already be marked with the same kind.
        kind: Content of the folder.

    Raises:
        InputError: As for `check_writable`.
    """
    folder = pathlib.Path(path)
    if not check_writable(folder, kind):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MARKER, {"kind": kind} | _VERSION)
    return folder


@contextlib.contextmanager
def staged_directory(
    path: str | os.PathLike[str], kind: str, *, replace: bool = False
) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling folder that becomes `path` when the block succeeds.

    If the block raises, the sibling is removed and `path` keeps its content.

    Args:
        path: The final folder: absent, empty, or ours if `replace`.
        kind: Content of the folder, which is written into its marker.
        replace: Whether an earlier folder of the same kind may be replaced.

    Raises:
        InputError: As for `check_writable`; `path` is ours but not `replace`; or the
            disk is full.
    """
    target = pathlib.Path(path)
    if check_writable(target, kind) and not replace:
        raise InputError(
            f"{target} already holds a {kind!r}. Name another output folder, or "
            "remove it if it is no longer needed."
        )
    make_parent(target)
    staged = _sibling(target)
    staged.mkdir()
    try:
        with _room_for(target):
            yield staged
            write_json(staged / MARKER, {"kind": kind} | _VERSION)
            _open_to_all(staged)
            if target.exists():
                retired = target.with_name(f".{target.name}.retired")
                shutil.rmtree(retired, ignore_errors=True)
                os.replace(target, retired)
                os.replace(staged, target)
                shutil.rmtree(retired)
            else:
                os.replace(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _sibling(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")


def _open_to_all(folder: pathlib.Path) -> None:
    """Gives everything in a new folder the permissions of the folder itself.

    Safetensors, for example, creates files that only their owner can read.
    """
    allowed = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            old = stat.S_IMODE(path.stat().st_mode)
            new = old & ~0o777 | (allowed if path.is_dir() else allowed & 0o666)
            if new != old:
                path.chmod(new)


def kind_of(folder: pathlib.Path) -> str | None:
    """The kind of our folder, from its marker; None for a folder without a marker."""
    marker = folder / MARKER
    if not marker.exists():
        return None
    try:
        value = json.loads(marker.read_text(encoding="utf-8"))
        kind = str(value["kind"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{marker} is not a marker of specialize ({error}). "
            "Name another output folder."
        ) from error
    versions.FOLDER.check(value.get("version", 1), marker)
    return kind
