"""A CPU run keeps the memory that a step frees, for the next step.

XLA takes a step's temporary arrays from malloc and frees them at its end. By default
glibc maps blocks so large from the system and unmaps them again, so every step gets
hundreds of MiB of new pages, each of which the kernel must fault in and clear. Kept in
one heap they are reused, and no second heap holds on to others.

Sources: mallopt(3), malloc_trim(3). An accelerator's arrays lie elsewhere, and threads
that feed one do better with a heap each, so only a CPU run is changed; and not where
the user has set glibc's malloc himself (`MALLOC_ARENA_MAX=...`, `GLIBC_TUNABLES`).
"""

import ctypes
import glob
import os
import sys
from typing import Any

# Of <malloc.h>: the parameters of mallopt.
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_ARENA_MAX = -8
_LARGEST = 2**31 - 1
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/accel*", "/dev/vfio/[0-9]*")


def keep_freed() -> bool:
    """From now on malloc keeps what is freed; call it before threads start.

    Returns:
        Whether anything was changed: not where an accelerator will compute, where the
        environment sets malloc, or where the C library is not glibc.
    """
    glibc = _glibc()
    if glibc is None or _set_by_user() or not _on_cpu():
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST, _ARENA_MAX: 1}
    return all([glibc.mallopt(name, value) == 1 for name, value in settings.items()])


def return_freed() -> bool:
    """Gives the system what is free at this moment, as after building and compiling.

    Returns:
        Whether there was anything to give, and a C library that can.
    """
    glibc = _glibc()
    return glibc is not None and glibc.malloc_trim(0) == 1


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
    """Whether JAX will compute on the CPU; JAX itself must not be asked yet."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0].strip() == "cpu"
    return not any(glob.glob(pattern) for pattern in _ACCELERATORS)
