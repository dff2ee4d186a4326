"""The moment between JAX's decision to abort this process and its end.

If process 0 is killed, its coordination service is gone. JAX then aborts every other
process from a thread of its own, before Python learns of it. (It has a callback for
this, `missed_heartbeat_callback`, but a callback in Python ends with std::bad_cast in
jaxlib 0.10.) So aborts are delayed: the handler of SIGABRT is the function `sleep` of
libc, whose seconds are then the number of the signal, 6. Meanwhile other threads can
say why this process ends. Unlike a handler in Python, it never waits for a lock.
"""

import contextlib
import ctypes
import pathlib
import re
import signal
import sys

# Seconds by which an abort is delayed.
DELAY = float(signal.SIGABRT)


def delay_aborts() -> None:
    """Delays, from now on, the aborts of this process; on Linux only."""
    taken = signal.getsignal(signal.SIGABRT) != signal.SIG_DFL
    if sys.platform != "linux" or taken:
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))


def is_aborting() -> bool:
    """Whether a thread of this process is in the delay of an abort."""
    for file in pathlib.Path("/proc/self/task").glob("*/status"):
        with contextlib.suppress(OSError):
            found = re.search(r"^SigBlk:\s*(\w+)", file.read_text(), re.MULTILINE)
            blocked = int(found[1], 16) if found else 0
            # In its handler, a signal is blocked; some threads block them all.
            if _has(blocked, signal.SIGABRT) and not _has(blocked, signal.SIGTERM):
                return True
    return False


def _has(mask: int, number: int) -> bool:
    return bool(mask >> (number - 1) & 1)
