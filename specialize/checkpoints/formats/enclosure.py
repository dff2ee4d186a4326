"""Keeps what a checkpoint's files name inside the checkpoint's folder.

A checkpoint may come from a stranger. A name in one of its files that leads elsewhere
(`../x`, `/x`, a link) would read a file that the user did not name, and an export would
publish it. The links of the Hugging Face cache, from `snapshots/` to `blobs/` beside
it, are the only ones that may leave the folder.
"""

import os
import pathlib

from specialize.errors import InputError
from specialize.outputs import LONGEST_NAME

_REMEDY = "Fetch the checkpoint again from its authors, or put the file in its place."


def inside(folder: pathlib.Path, name: str, where: object) -> pathlib.Path:
    """The path of `name`, which a file of `folder` contains.

    Args:
        folder: the folder that the name is relative to.
        name: a relative name without `..`; the file may be absent.
        where: the file that contains the name, for messages.

    Raises:
        InputError: the name leads out of the folder.
    """
    if not is_beneath(name):
        raise InputError(
            f"{where} names {_short(name)}, which is not a relative name of a file "
            f"beneath {folder}. {_REMEDY}"
        )
    check_link(folder, folder / name)
    return folder / name


def is_beneath(name: str) -> bool:
    """Whether a name is relative, not empty, and without `..`, NUL or backslash."""
    parts = name.rstrip("/").split("/")
    strange = "\0" in name or "\\" in name or len(os.fsencode(name)) > 1000
    return not strange and all(
        part not in ("", ".", "..") and len(os.fsencode(part)) <= LONGEST_NAME
        for part in parts
    )


def check_link(folder: pathlib.Path, path: pathlib.Path) -> None:
    """Refuses `path` if it, or a folder between, is a link that leaves `folder`.

    Raises:
        InputError: it is such a link, or its links form a circle.
    """
    try:
        root, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). {_REMEDY}") from error
    if real.is_relative_to(root):
        return
    cached = root.parent.name == "snapshots" and real.is_relative_to(
        root.parent.parent / "blobs"
    )
    if not cached:
        raise InputError(
            f"{path} is a link to a file outside {folder}, which is not read. If the "
            "file belongs to the checkpoint, copy it there instead of the link."
        )


def check_links(folder: pathlib.Path) -> None:
    """Refuses a folder in which any link, at any depth, leaves the folder.

    Raises:
        InputError: there is such a link.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            if os.path.islink(path):
                check_link(folder, pathlib.Path(path))


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:79]}…")
