"""Compiled programs are kept: a second run with the same shapes begins at once.

XLA compiles a training step for seconds on a CPU and for minutes on a pod. JAX can keep
the result on a local disk; here it does by default.

| variable | meaning | default |
|---|---|---|
| `JAX_COMPILATION_CACHE_DIR` | folder | `compiled/` in the cache (`cache`) |
| `JAX_COMPILATION_CACHE_MAX_SIZE` | most bytes; the oldest are removed | 2 GiB |
| `JAX_ENABLE_COMPILATION_CACHE` | `false` keeps nothing | `true` |
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import time
import warnings

from specialize.errors import InputError
from specialize.paths import cache

MOST_BYTES = 2 << 30
# Programs that compile faster are not worth a file.
LEAST_SECONDS = 0.5
# Seconds after which a program has been written, or never will be.
_WRITTEN_S = 60.0
_DEFAULTS = {
    "jax_compilation_cache_max_size": MOST_BYTES,
    "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
}


def keep() -> None:
    """Lets JAX keep what it compiles; call it before the first program is compiled.

    What the environment sets is left as it is. Without a folder that can be written,
    nothing is kept.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = cache.folder() / "compiled" / _processor()
        except InputError:
            return
        _sweep(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _DEFAULTS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # A cache that cannot be read or written costs time only.
    cannot = "Error (reading|writing) persistent compilation cache"
    warnings.filterwarnings("ignore", message=cannot)


def _sweep(folder: pathlib.Path) -> None:
    """Removes what killed processes have half written, which JAX would keep for ever.

    JAX writes a program to `KEY-cache`, then the time of its use to `KEY-atime`.
    """
    for written in folder.glob("*-cache"):
        used = written.with_name(f"{written.name.removesuffix('-cache')}-atime")
        with contextlib.suppress(OSError):
            if not used.exists() and written.stat().st_mtime < time.time() - _WRITTEN_S:
                written.unlink()


def _processor() -> str:
    """Which instructions the processor has: a program for others may not run here."""
    try:
        known = pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        known = platform.processor()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", known, re.MULTILINE)
    text = f"{platform.machine()} {flags[1] if flags else known}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]
