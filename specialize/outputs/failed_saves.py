"""What made the save of a checkpoint fail, found in the errors that Orbax raises."""

import traceback

from specialize.outputs import DISK_FULL
from specialize.paths import failures

FULL = "disk is full"


def is_removal(error: BaseException | None) -> bool:
    """Whether Orbax has failed to remove a step that is no longer kept."""
    return any(
        frame.filename.endswith("path/deleter.py")
        for one in failures.causes(error)
        for frame in traceback.extract_tb(one.__traceback__)
    )


def reason_of(error: BaseException | None) -> str | None:
    """The storage failure that caused `error`, in a few words, or None."""
    signs = {
        FULL: ("no space left", "disk quota exceeded", "file too large"),
        "permission denied": ("permission denied", "read-only file system"),
    }
    for one in failures.causes(error):
        text = str(one).lower()
        if isinstance(one, OSError) and one.errno in DISK_FULL:
            return FULL
        for reason, words in signs.items():
            if any(word in text for word in words):
                return reason
    return None
