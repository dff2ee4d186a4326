"""Outputs that are FIFOs or devices: they receive bytes and are never replaced."""

import errno
import os
import pathlib
import re
import shutil
import stat
import time

from specialize.errors import InputError

Path = str | os.PathLike[str]

# Files of this process that are open already, whatever they are.
_OPEN = re.compile(r"/dev/(?:fd/(\d+)|std(out|err))")
# Seconds that the reader of a FIFO has to open it.
_READER_OPENS = 5.0


def is_stream(path: Path) -> bool:
    """Whether a path is a FIFO or device, which is written to but never replaced."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    if _OPEN.fullmatch(os.fspath(path)):
        return True
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def pour(staged: pathlib.Path, target: pathlib.Path) -> None:
    """Writes a file into a FIFO or device."""
    end = time.monotonic() + _READER_OPENS
    known = _OPEN.fullmatch(os.fspath(target))
    while True:
        try:
            if known:  # a copy has the same position in a file
                stream = os.dup(int(known[1] or 1 + (known[2] == "err")))
            else:
                stream = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise InputError(
                    f"nothing reads from {target}. Start its reader first."
                ) from error
            time.sleep(0.05)
    os.set_blocking(stream, True)
    with open(staged, "rb") as source, open(stream, "wb") as sink:
        shutil.copyfileobj(source, sink)
