"""What all processes of a command find in a folder that they share.

The listing of a network file system may lag on one machine, and a run that is still
training changes its folder between the listings of two processes. If each chose "the
newest" for itself, they would work together on parts of different checkpoints, which
no collective notices.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from specialize.errors import InputError
from specialize.processes.agreement import in_words, judged, state_of_several

# Seconds for which processes look for what another one sees: network file systems keep
# what they know of a folder for up to about this time.
LOOKED = 30.0
_PAUSE = 0.5
_REMEDY = (
    "Name one folder for all processes, on a disk that all machines share, or in a "
    "bucket, and start again when every machine sees what is in it."
)

Name = TypeVar("Name", int, str)


def of_all(devices: Iterable[Any]) -> bool:
    """Whether devices belong to all processes of a command, of which it has several.

    Args:
        devices: Devices of JAX, such as those of a mesh.
    """
    import jax

    count = jax.process_count()
    return count > 1 and len({one.process_index for one in devices}) == count


def seen_by_all(
    own: Sequence[Name], sees: Callable[[Name], bool], place: str | os.PathLike[str]
) -> list[Name]:
    """The names that every process finds in a folder, in order.

    Every process calls it, and all get the same or all raise. What only some have
    listed, the others look for by its name, and wait for a moment.

    Args:
        own: The names that this process has listed.
        sees: Whether this process finds a name in the folder.
        place: The folder, for messages.

    Raises:
        InputError: Some processes find a name and others do not.
    """
    if state_of_several() is None:
        return list(own)
    names = judged(list(own), lambda sent: sorted({n for one in sent for n in one}))
    return _seen(names, sees, os.fspath(place))


def chosen_by_first(
    choose: Callable[[], str | None],
    sees: Callable[[str], bool],
    place: str | os.PathLike[str],
) -> str | None:
    """What `choose` returns in process 0, which alone calls it.

    Every process calls this, and all get the same or all raise.

    Args:
        choose: Returns a name in a folder, or None.
        sees: As for `seen_by_all`.
        place: The folder, for messages.

    Raises:
        InputError: `choose` raised one, or not every process finds the name.
    """
    state = state_of_several()
    if state is None:
        return choose()
    found: dict[str, Any] = {}
    if state.process_id == 0:
        try:
            found = {"name": choose()}
        except InputError as error:
            found = {"refused": str(error)}
    found = judged(found, lambda sent: sent[0])
    if "refused" in found:
        raise InputError(found["refused"])
    name = found["name"]
    if name is not None and not _seen([name], sees, os.fspath(place)):
        raise InputError(
            f"{os.path.join(place, name)} was removed after process 0 had chosen it. "
            "Start again, or name a checkpoint that is kept."
        )
    return name


def _seen(names: list[Name], sees: Callable[[Name], bool], place: str) -> list[Name]:
    end = time.monotonic() + LOOKED

    def verdict(sent: Sequence[Sequence[Name]]) -> dict[str, Any]:
        there = {
            name: [n for n, one in enumerate(sent) if name in one] for name in names
        }
        some = [name for name in names if 0 < len(there[name]) < len(sent)]
        if not some:
            # What nobody finds any more was removed after it had been listed.
            return {"seen": [name for name in names if there[name]]}
        if time.monotonic() < end:
            return {}
        having = there[some[-1]]
        others = [n for n in range(len(sent)) if n not in having]
        return {
            "refused": f"{os.path.join(place, str(some[-1]))} is seen by "
            f"{in_words(having)} of {len(sent)}, but not by {in_words(others)}, after "
            f"{LOOKED:g} s. {_REMEDY}"
        }

    while True:
        found = judged([name for name in names if sees(name)], verdict)
        if "refused" in found:
            raise InputError(found["refused"])
        if "seen" in found:
            return found["seen"]
        time.sleep(_PAUSE)
