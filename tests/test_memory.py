"""malloc's settings, each in a process of its own: they can't be taken back."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="mallopt is glibc's"
)

# The block is 64 huge pages, or 32,768 ordinary ones.
NEW_PAGES = 32

# A block far above the threshold at which glibc maps by default, written and freed in
# a second thread, as XLA does; the second time its pages should already be there.
FAULTS = """
import concurrent.futures, resource, sys
from specialize import memory
kept = memory.keep_freed()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 128 << 20
def use():
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pool.submit(use).result()
    {again}
    before = faults()
    pool.submit(use).result()
    print(kept, faults() - before)
"""


def faults(again="pass", **environment):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    code = FAULTS.format(again=again)
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, number = found.stdout.split()
    return kept == "True", int(number)


def test_a_freed_block_is_used_again_without_new_pages():
    kept, number = faults()
    assert kept
    assert number < NEW_PAGES


def test_what_is_free_goes_back_to_the_system_when_asked():
    kept, number = faults(again="assert memory.return_freed()")
    assert kept
    assert number >= NEW_PAGES


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_PLATFORMS": "cuda,cpu"},
        {"JAX_PLATFORMS": "tpu"},
        {"MALLOC_ARENA_MAX": "4"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"},
    ],
    ids=lambda environment: " ".join("=".join(pair) for pair in environment.items()),
)
def test_an_accelerators_run_and_a_users_own_settings_are_left_alone(environment):
    kept, number = faults(**environment)
    assert not kept
    assert number >= NEW_PAGES


def test_without_a_named_platform_the_machines_devices_decide(monkeypatch):
    from specialize import memory

    monkeypatch.setenv("JAX_PLATFORMS", "")
    present = []
    monkeypatch.setattr(memory.glob, "glob", lambda pattern: present)
    assert memory._on_cpu()
    present.append("/dev/nvidia0")
    assert not memory._on_cpu()
