"""Eight simulated devices, strict shapes, and where the real data lie."""

import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import threading

import filelock
import hypothesis
import pytest

# Before any test module can import jax. setdefault: a GPU run may say otherwise.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
# Threads enough for eight devices to meet in a collective (specialize/sharding.py).
os.environ.setdefault("PJRT_NPROC", "32")
# A small program runs for less time than LLVM takes to optimise it. libtpu ends the
# process if it does not know a flag.
FLAGS = ["--xla_backend_optimization_level=0"]
if importlib.util.find_spec("libtpu") is None:
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A process that a test starts finds the byte code that an earlier one compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# What one worker, or a process that a test starts, compiled is compiled once.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
CACHE = "JAX_COMPILATION_CACHE_DIR"

# The same commit gives the same result.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

ROOT = pathlib.Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Makes a compilation cache for this run; the workers inherit its name."""
    if CACHE not in os.environ:
        folder = tempfile.mkdtemp(prefix="specialize-tests-")
        os.environ[CACHE] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    """What a test gave to gin does not reach the next one."""
    yield
    if config := sys.modules.get("specialize.config"):
        config.forget()


@pytest.fixture(scope="session")
def once(tmp_path_factory, worker_id):
    """Computes a JSON value once for all workers of a run: `once(name, function)`."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == "master" else folder.parent

    def value(name, function):
        path = folder / f"{name}.json"
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_text(json.dumps(function()), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    return value


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The owners' benchmark files, the real vocabulary, real Codex samples."""
    path = pathlib.Path(
        os.environ.get("SPECIALIZE_TEST_DATA", ROOT.parent / "shared" / "data")
    )
    if not path.is_dir():
        pytest.skip(f"needs the benchmark files at {path} (SPECIALIZE_TEST_DATA)")
    return path


@pytest.fixture
def of_0_1(tmp_path) -> pathlib.Path:
    """A copy of the files that version 0.1 wrote, with its run unpacked."""
    folder = shutil.copytree(ROOT / "tests" / "golden" / "v0_1", tmp_path / "v0_1")
    with tarfile.open(folder / "run.tar.gz") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def recorded() -> dict:
    """What version 0.1 read from those files."""
    path = ROOT / "tests" / "golden" / "v0_1" / "recorded.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def refused():
    """Asserts that a file of another version is refused by one complete message."""

    def check(read, format, path, found):
        from specialize import __version__
        from specialize.errors import InputError

        with pytest.raises(InputError) as caught:
            read()
        assert type(caught.value) is InputError  # it is not called damaged
        known = ", ".join(map(str, format.reads))
        assert str(caught.value) == (
            f"{path} is a {format.name} of version {found!r}; specialize {__version__} "
            f"reads version {known}. Use the version that wrote it, or {format.remedy}."
        )

    return check


@pytest.fixture
def restate():
    """Changes fields of a JSON object in a file: a line of it, or the whole."""

    def change(path, *, line=None, **fields):
        text = path.read_text(encoding="utf-8")
        lines = [text] if line is None else text.splitlines(keepends=True)
        value = json.loads(lines[line or 0])
        lines[line or 0] = json.dumps(value | fields) + "\n"
        path.write_text("".join(lines), encoding="utf-8")

    return change


@pytest.fixture
def other_process(monkeypatch):
    """Adds a process with other inputs of a kind: a function changes those of ours."""
    from specialize.processes import agreement

    def add(kind, change):
        def judged(own, judge):
            if not (isinstance(own, list) and isinstance(own[1], dict)):
                return judge([own])
            other = change(dict(own[1])) if own[0] == kind else own[1]
            return judge([own, [own[0], other]])

        monkeypatch.setattr(agreement, "judged", judged)

    return add


class Service:
    """JAX's coordination service, as far as it is used."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self.changed:
            assert key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, 5):
                raise RuntimeError("nothing came")
            return self.values[key]

    def key_value_delete(self, key):
        with self.changed:
            for one in [one for one in self.values if one.startswith(f"{key}/")]:
                del self.values[one]


class Here(threading.local):
    """What differs between processes."""

    process_id = 0

    def __init__(self):
        self.rounds = itertools.count()


@pytest.fixture
def together(monkeypatch):
    """Calls a function, of the number of its process, in threads as processes."""
    from jax._src import distributed

    from specialize.errors import InputError
    from specialize.processes import agreement

    here, service = Here(), Service()

    class State:
        client, num_processes = service, 0
        process_id = property(lambda self: here.process_id)

    class Rounds:
        def __next__(self):
            return next(here.rounds)

    state = State()
    monkeypatch.setattr(distributed, "global_state", state)
    monkeypatch.setattr(agreement, "_rounds", Rounds())

    def together(call, count):
        said, state.num_processes = [None] * count, count
        service.values.clear()

        def one(number):
            here.process_id = number
            try:
                said[number] = call(number)
            except InputError as error:
                said[number] = str(error)

        threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        return said

    together.service = service
    return together
