"""Eight simulated devices, strict shapes, and where the real data lie."""

import os
import pathlib
import shutil
import tempfile

import pytest

# Before any test module can import jax. setdefault: a GPU run may say otherwise.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Threads enough for eight devices to meet in a collective (specialize/sharding.py).
os.environ.setdefault("PJRT_NPROC", "32")
# Half the time of a small program on a CPU is LLVM's; what it computes is the same.
os.environ.setdefault("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# What one worker, or a process that a test starts, compiled is compiled once.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
CACHE = "JAX_COMPILATION_CACHE_DIR"

ROOT = pathlib.Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Makes a compilation cache for this run; the workers inherit its name."""
    if CACHE not in os.environ:
        folder = tempfile.mkdtemp(prefix="specialize-tests-")
        os.environ[CACHE] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The owners' benchmark files, the real vocabulary, real Codex samples."""
    path = pathlib.Path(
        os.environ.get("SPECIALIZE_TEST_DATA", ROOT.parent / "shared" / "data")
    )
    if not path.is_dir():
        pytest.skip(f"needs the benchmark files at {path} (SPECIALIZE_TEST_DATA)")
    return path
