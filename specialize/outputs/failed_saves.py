"""What made the save of a checkpoint fail, found in the errors that Orbax raises."""

import traceback

from specialize.outputs import DISK_FULL

FULL = "disk is full"


def is_removal(error: BaseException | None) -> bool:
    """Whether Orbax has failed to remove a step that is no longer kept."""
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if any(frame.filename.endswith("path/deleter.py") for frame in frames):
            return True
        error = error.__cause__ or error.__context__
    return False


def reason_of(error: BaseException | None) -> str | None:
    """The storage failure that caused `error`, in a few words, or None."""
    signs = {
        FULL: ("no space left", "disk quota exceeded", "file too large"),
        "permission denied": ("permission denied", "read-only file system"),
    }
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error).lower()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return FULL
        for reason, words in signs.items():
            if any(word in text for word in words):
                return reason
        error = error.__cause__ or error.__context__
    return None
