"""The memory of this process: CPU runs keep freed blocks; `bounded` sets a limit.

XLA takes a step's temporary arrays from malloc and frees them at its end. By default
glibc maps such large blocks from the system and unmaps them again, so every step gets
hundreds of MiB of new pages, each of which the kernel must fault in and clear. One heap
that keeps freed blocks reuses them.

Sources: mallopt(3), malloc_trim(3). An accelerator has its own memory, and the threads
that feed it are faster with one heap each, so only CPU runs are changed; and only if
the user has not set glibc's malloc (`MALLOC_ARENA_MAX=...`, `GLIBC_TUNABLES`).
"""

import contextlib
import ctypes
import glob
import os
import pathlib
import resource
import sys
from collections.abc import Iterator
from typing import Any

# Parameters of mallopt, from <malloc.h>.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8
_LARGEST = 2**31 - 1
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def keep_freed() -> bool:
    """Makes malloc keep freed memory; call it before threads start.

    Returns:
        Whether anything was changed: False if an accelerator will compute, if the
        environment sets malloc, or if the C library is not glibc.
    """
    glibc = _glibc()
    if glibc is None or _set_by_user() or not _on_cpu():
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST, _ARENA_MAX: 1}
    return all([glibc.mallopt(name, value) == 1 for name, value in settings.items()])


def return_freed() -> bool:
    """Returns free memory to the system; False if there was none or no glibc."""
    glibc = _glibc()
    return glibc is not None and glibc.malloc_trim(0) == 1


@contextlib.contextmanager
def bounded(size: int) -> Iterator[None]:
    """Makes a request for over `size` bytes more than now a MemoryError, on Linux.

    A few bytes of a file may ask for 100 GB, which would take the machine's memory.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # another system
        yield
        return
    most = pages * resource.getpagesize() + size
    limits = [one for one in (most, soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    names = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return library if all(hasattr(library, name) for name in names) else None


def _set_by_user() -> bool:
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return True
    return any(name.startswith("MALLOC_") for name in os.environ)


def _on_cpu() -> bool:
    """Whether JAX will compute on the CPU; asking JAX would initialise it."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0].strip() == "cpu"
    return not any(glob.glob(pattern) for pattern in _ACCELERATORS)
