"""Whether the processes of a command share the folder in which they all write."""

import contextlib
import os
import pathlib
import time
import uuid

from specialize import paths, processes
from specialize.errors import InputError
from specialize.outputs.hidden_folders import writing

# Seconds for which a process looks for what process 0 wrote: network file systems know
# of another machine's new files only after a while.
LOOKED = 10.0
_PAUSE = 0.2
_REMEDY = (
    "Name one folder for all processes, on a disk that all machines share, or in a "
    "bucket (gs://..., s3://...)."
)


def check_shared(path: str | os.PathLike[str], name: str) -> None:
    """Checks that every process finds in a folder what process 0 writes there.

    Every process calls it, and either all or none raise.

    Args:
        path: The folder; a local one is made if it does not exist.
        name: What the folder is, for messages.

    Raises:
        InputError: The processes have folders of their own, or named several URLs.
    """
    url = os.fspath(path) if paths.in_bucket(path) else None
    place = {name: url or "a local folder"}
    processes.agree(place, what="output folders", remedy=_REMEDY)
    if url is None:
        _check_local(pathlib.Path(path), name)


def _check_local(folder: pathlib.Path, name: str) -> None:
    here = str(folder.absolute())
    hidden = f".shared.{uuid.uuid4().hex[:8]}.partial"
    # The token of process 0 is the first of all.
    first, told, count = processes.judged(
        [hidden, here], lambda sent: [*sent[0], len(sent)]
    )
    if count == 1:
        return
    file = folder / first
    if mine := first == hidden:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file.touch()
    try:
        # Nobody looks before it is there.
        processes.judged(None, lambda sent: len(sent))
        found = mine or _appears(file)
        without = processes.judged(
            found, lambda sent: [n for n, one in enumerate(sent) if not one]
        )
    finally:
        if mine:
            with contextlib.suppress(OSError):
                file.unlink()
    if without:
        who = processes.in_words(without)
        raise InputError(
            f"{name} is not shared by the processes: process 0 writes in {told}, but "
            f"{who} of {count} found nothing of it there. {_REMEDY}"
        )


def _appears(file: pathlib.Path) -> bool:
    end = time.monotonic() + LOOKED
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
        # Lists the folders again, whose old content a network file system may keep.
        for folder in (file.parent, file.parent.parent):
            with contextlib.suppress(OSError):
                os.listdir(folder)
    return True
