"""Files and folders that are either complete or absent.

Every command writes through this module, so that a killed run never leaves a partial
output that looks complete, and nothing that others wrote is overwritten. An output that
is a link is written where the link points; a FIFO or device receives the bytes. Modes
follow the umask, also those of files that a library creates for their owner only.

Work in progress is in hidden folders beside the output, which their process locks. A
folder without a lock is what a killed process left, and the next command removes it.
A folder in which a command writes until it ends is locked too (`one_writer`).

A path may be a URL of a bucket (`in_buckets`).
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from specialize import paths, typed_json, versions
from specialize.errors import InputError, stands_for
from specialize.outputs import in_buckets
from specialize.outputs.hidden_folders import (
    DISK_FULL,
    LONGEST_NAME,
    WORK,
    free_space,
    is_a_place_of_its_own,
    is_full,
    make_parent,
    room_for,
    scratch,
    writing,
)
from specialize.outputs.in_buckets import Working
from specialize.outputs.one_writer import only_writer_in, only_writer_of
from specialize.outputs.replacing import contents, fill, flush, put, recover
from specialize.outputs.shared import check_shared
from specialize.outputs.streams import is_stream, pour
from specialize.paths import MARKER, scheme_of

__all__ = [
    "DISK_FULL",
    "LONGEST_NAME",
    "MARKER",
    "Working",
    "check_file",
    "check_shared",
    "check_writable",
    "claim",
    "claimed",
    "free_space",
    "is_full",
    "is_stream",
    "kind_of",
    "make_parent",
    "only_writer_of",
    "place_of_work",
    "recover",
    "refuse_url",
    "scheme_of",
    "scratch",
    "spool",
    "staged_directory",
    "staged_file",
    "working_folder",
    "write_json",
    "write_text",
]

Path = str | os.PathLike[str]

_VERSION = {"version": versions.FOLDER.writes}


def refuse_url(path: Path, name: str = "The output") -> None:
    """Raises an `InputError` for a bucket, which would become a local folder `gs:`.

    Args:
        path: Path of an output.
        name: What the path is of, for the message.
    """
    if scheme_of(path):
        raise InputError(
            f"{name} is {paths.shown(path)!r}, a URL. It is written to a local or "
            "mounted folder; name one, and copy it afterwards. Nothing was written."
        )


@contextlib.contextmanager
def staged_file(path: Path) -> Iterator[pathlib.Path]:
    """Yields a temporary file that replaces `path` when the block succeeds.

    The folder of `path` is created. If the block raises, the temporary file is removed
    and `path` keeps its content. If `path` is a FIFO or a device, it receives the bytes
    instead of being replaced.

    Raises:
        InputError: `path` is a folder or in a file, cannot be written, or the disk is
            full.
    """
    if paths.in_bucket(path):
        with in_buckets.staged_file(os.fspath(path)) as staged:
            yield staged
        return
    target = _resolved(path)
    with writing(target):
        folder = target.is_dir()
        stream = is_stream(target)
    if folder:
        raise InputError(f"{target} is a folder, expected the name of a file to write.")
    place = tempfile.TemporaryDirectory() if stream else scratch(target)
    with place as work:
        staged = pathlib.Path(work) / target.name
        staged.touch(exist_ok=False)
        mode = staged.stat().st_mode
        with room_for(target):
            yield staged
            staged.chmod(stat.S_IMODE(mode))
            with open(staged, "rb") as written:
                os.fsync(written.fileno())
        with writing(target):
            if stream:
                pour(staged, target)
            else:
                os.replace(staged, target)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` atomically (UTF-8)."""
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_file(path: Path, name: str) -> None:
    """Checks that a file can be written at `path`, before the work for it.

    Args:
        path: A file, which may be absent.
        name: What the path is of, for the message.

    Raises:
        InputError: `path` is a folder; or, in a bucket, in a file.
    """
    if paths.in_bucket(path):
        in_buckets.check_file(os.fspath(path), name)
    elif os.path.isdir(path):
        raise InputError(
            f"{name}: {os.fspath(path)} is a folder, expected the name of a file to "
            "write."
        )


def check_writable(path: Path, kind: str) -> bool:
    """Checks that `path` may become, or already is, our folder of this kind.

    Args:
        path: A folder, which may be absent.
        kind: Content of the folder, for example "corpus" or "run".

    Returns:
        True if the folder is already ours and of this kind.

    Raises:
        InputError: `path` is a file, or contains something we did not write.
    """
    folder: Any
    if paths.in_bucket(path):
        folder = paths.checked(path, "The output")
        in_buckets.check_folder(folder)
        found = kind_of(folder)
        others = in_buckets.others(folder)
    else:
        folder = _resolved(path)
        recover(folder)
        with writing(folder):
            if not folder.exists():
                return False
            if not folder.is_dir():
                raise InputError(
                    f"{folder} is a file; the output must be a folder. Name another "
                    "folder."
                )
            found = kind_of(folder)
            inside = (one.name for one in folder.iterdir())
            others = [name for name in inside if not WORK.fullmatch(name)]
    if found == kind:
        return True
    if found is not None:
        raise InputError(
            f"{folder} holds {_in_words(found)} of specialize, not {_in_words(kind)} "
            f"({folder}/{MARKER}). Name another output folder."
        )
    if others:
        raise InputError(
            f"{folder} is not empty and was not written by specialize (no {MARKER}). "
            "Name an empty or new output folder; nothing was changed."
        )
    return False


def claim(path: Path, kind: str) -> pathlib.Path:
    """Marks `path`, a new or empty folder, as our folder of this kind.

    Args:
        path: The folder; it may already be marked with the same kind.
        kind: Content of the folder.

    Raises:
        InputError: As for `check_writable`.
    """
    folder = _resolved(path)
    if not check_writable(folder, kind):
        with writing(folder):
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
        try:
            write_json(folder / MARKER, {"kind": kind} | _VERSION)
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise
    return folder


@contextlib.contextmanager
def claimed(path: Path, kind: str) -> Iterator[pathlib.Path]:
    """`claim`, in which no other command writes while the block runs.

    It is taken back if the block raises before it has written a file; empty folders in
    it, and folders that were made for it, are removed too.

    Raises:
        InputError: As for `check_writable`; or another command writes in the folder.
    """
    folder = _resolved(path)
    check_writable(folder, kind)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    with only_writer_in(folder) as lock:
        ours = check_writable(folder, kind)
        try:
            claim(folder, kind)
            yield folder
        except BaseException:
            inside = sorted(folder.rglob("*"), reverse=True)
            files = {one for one in inside if not one.is_dir()}
            if not ours and files <= {folder / MARKER, lock}:
                with contextlib.suppress(OSError):
                    (folder / MARKER).unlink(missing_ok=True)
                    lock.unlink(missing_ok=True)
                    for one in (*filter(pathlib.Path.is_dir, inside), *made):
                        one.rmdir()
            raise


@contextlib.contextmanager
def staged_directory(
    path: Path, kind: str, *, replace: bool = False
) -> Iterator[pathlib.Path]:
    """Yields a temporary sibling folder that becomes `path` when the block succeeds.

    If the block raises, the sibling is removed and `path` keeps its content. Files that
    arrive in `path` in the meantime are kept.

    Args:
        path: The final folder: absent, empty, or ours if `replace`.
        kind: Content of the folder, which is written into its marker.
        replace: Whether an earlier folder of the same kind may be replaced. There is
            a complete folder at `path` at every moment.

    Raises:
        InputError: As for `check_writable`; `path` is ours but not `replace`, or was
            written by another command in the meantime; or the disk is full.
    """
    target: Any = path if paths.in_bucket(path) else _resolved(path)
    ours = check_writable(target, kind)
    if ours and not replace:
        raise InputError(
            f"{target} already holds {_in_words(kind)}. Name another output folder, or "
            "remove it if it is no longer needed."
        )
    if paths.in_bucket(path):
        url, content = paths.checked(path), {"kind": kind} | _VERSION
        with in_buckets.staged_directory(url, MARKER, content) as staged:
            yield staged
        return
    inside = is_a_place_of_its_own(target)
    if ours and inside:
        raise InputError(
            f"{target} is a mount point or in a folder that cannot be written, so what "
            "it holds cannot be replaced in one step. Name a folder in it as output, "
            "or empty it."
        )
    before = contents(target)
    with scratch(target) as staged:
        with room_for(target):
            yield staged
            write_json(staged / MARKER, {"kind": kind} | _VERSION)
            _open_to_all(staged)
            flush(staged)
        with writing(target):
            if inside:
                fill(target, staged, last=MARKER)
            else:
                put(target, staged, before)


@contextlib.contextmanager
def working_folder(
    path: Path, kind: str, *, leader: bool = True, but: Sequence[str] = ()
) -> Iterator[Working]:
    """`claimed`, also for a folder in a bucket.

    A process that is not the leader claims and locks nothing; if the folder is in a
    bucket, it gets an empty one of its own, which is removed in the end.

    Args:
        path: The folder.
        kind: Content of the folder.
        leader: Whether this is the process that writes.
        but: Patterns of names that are not copied from a bucket.

    Raises:
        InputError: As for `check_writable`; or another command writes in the folder.
    """
    if not paths.in_bucket(path):
        with claimed(path, kind) if leader else contextlib.nullcontext():
            yield Working(pathlib.Path(path))
    elif not leader:
        with tempfile.TemporaryDirectory() as folder:
            stands_for(folder, path)
            yield Working(pathlib.Path(folder))
    else:
        check_writable(path, kind)
        url, content = paths.checked(path), {"kind": kind} | _VERSION
        with in_buckets.working_copy(url, MARKER, content, but=but) as (folder, todo):
            yield Working(folder, todo)


def place_of_work(path: Path) -> pathlib.Path:
    """The local path beside which a command keeps its temporary files of an output."""
    if paths.in_bucket(path):
        return in_buckets.place_of_work(os.fspath(path))
    return pathlib.Path(path).resolve()


@contextlib.contextmanager
def spool(path: Path) -> Iterator[pathlib.Path]:
    """Yields a folder for what a command puts aside until it writes its output.

    Args:
        path: Path of the output, beside which the folder is.

    Raises:
        InputError: The folder cannot be created, or the disk is full.
    """
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder, room_for(pathlib.Path(folder)):
            yield pathlib.Path(folder)
        return
    place = place_of_work(path)
    with scratch(place, ".spool") as folder, room_for(place):
        yield folder


def _resolved(path: Path) -> pathlib.Path:
    """The path, or what it points to if it is a link; URLs are refused."""
    refuse_url(path)
    target = pathlib.Path(path)
    with writing(target):
        if target.name in ("", ".."):  # "." has no name
            return pathlib.Path(os.path.realpath(target))
        if not target.is_symlink() or is_stream(target):
            return target
        real = pathlib.Path(os.path.realpath(target))
        if real.is_symlink():
            raise InputError(f"{target} is a loop of links. Name another output.")
        return real


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


def _in_words(kind: str) -> str:
    """A kind of folder as a sentence names it, such as "an evaluation"."""
    if kind in ("weights", "examples"):  # of several things
        return {"examples": "prepared examples"}.get(kind, kind)
    return f"{'an' if kind[:1] in tuple('aeiou') else 'a'} {kind}"


def kind_of(folder: Path) -> str | None:
    """The kind of our folder, from its marker; None for a folder without a marker."""
    if paths.in_bucket(folder):
        return in_buckets.kind_of(os.fspath(folder), MARKER, _Marker)
    marker = pathlib.Path(folder) / MARKER
    if not marker.exists():
        return None
    remedy = "Name another output folder."
    value = typed_json.read(marker, _Marker, remedy=remedy)
    versions.FOLDER.check(value.version, marker)
    return value.kind


@dataclasses.dataclass(frozen=True)
class _Marker:
    kind: str
    version: Any = 1
