"""The store: what is kept, what is restored, and what damage does to it."""

import contextlib
import pathlib
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint._src.checkpointers import async_checkpointer
from ports import free_port

from specialize.checkpoints import step_folder
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError


def mesh_of(data: int, model: int) -> Mesh:
    devices = np.asarray(jax.devices()[: data * model]).reshape(data, model)
    return Mesh(devices, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def placed(mesh: Mesh, value, *spec):
    return jax.device_put(value, NamedSharding(mesh, PartitionSpec(*spec)))


def some_state(mesh: Mesh | None = None, seed: int = 0):
    mesh = mesh or mesh_of(2, 4)
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {
        "encoder": {
            "kernel": placed(mesh, jax.random.normal(keys[0], (8, 64)), "data", "model")
        },
        "scale": placed(mesh, jax.random.normal(keys[1], (16,)).astype(jnp.bfloat16)),
    }
    return {
        "params": params,
        "opt_state": jax.jit(optax.adamw(1e-3).init)(params),
        "step": placed(mesh, jnp.int32(seed)),
        "rng": placed(mesh, jax.random.key(seed + 7)),
        "done": placed(mesh, jnp.asarray(True)),
    }


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def raw(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def same(first, second) -> bool:
    return jax.tree.structure(first) == jax.tree.structure(second) and all(
        raw(a) == raw(b)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


@pytest.fixture
def two_steps(tmp_path: pathlib.Path) -> pathlib.Path:
    with CheckpointStore(tmp_path / "checkpoints") as store:
        store.save(1, some_state(seed=1), {"note": "first"})
        store.save(2, some_state(seed=2), {"note": "second"})
    return tmp_path / "checkpoints"


def test_a_state_comes_back_bit_for_bit_with_its_metadata(two_steps):
    state = some_state(seed=2)
    with CheckpointStore(two_steps) as store:
        restored, metadata = store.restore(None, abstract(state))
    assert same(state, restored)
    assert metadata == {"note": "second", "step": 2}


def test_a_state_comes_back_onto_another_mesh(two_steps):
    small = some_state(mesh_of(1, 2), seed=2)
    with CheckpointStore(two_steps) as store:
        restored, _ = store.restore(2, abstract(small))
    assert same(small, restored)
    kernel = restored["params"]["encoder"]["kernel"]
    assert kernel.sharding == small["params"]["encoder"]["kernel"].sharding


def test_the_latest_and_the_best_are_kept(tmp_path):
    state = some_state()
    values = {10: 0.1, 20: 0.9, 30: 0.2, 40: float("nan"), 50: 0.3}
    with CheckpointStore(tmp_path, keep=2, best_metric="acc") as store:
        for step, value in values.items():
            store.save(step, state, {"metrics": {"acc": value}})
        store.wait()
        assert store.steps() == [20, 40, 50]
        assert (store.latest(), store.best()) == (50, 20)
    with CheckpointStore(tmp_path, keep=1, best_metric="acc", best_mode="min") as store:
        assert store.best() == 20 or store.best() == 50
        store.save(60, state, {"metrics": {"acc": 0.05}})
        store.wait()
        assert store.steps() == [60]


def test_a_save_is_not_disturbed_by_donating_the_state(tmp_path):
    state = some_state(seed=3)
    expected = jax.tree.map(raw, state)
    overwrite = jax.jit(
        lambda s: jax.tree.map(
            lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x + x, s
        ),
        donate_argnums=0,
    )
    with CheckpointStore(tmp_path) as store:
        shapes = abstract(state)
        store.save(1, state, {})
        state = overwrite(state)
        restored, _ = store.restore(1, shapes) if store.wait() is None else (None, None)
    assert jax.tree.map(raw, restored) == expected


def test_a_state_of_another_shape_is_refused_naming_every_array(two_steps):
    state = abstract(some_state(seed=2))
    state["params"]["scale"] = jax.ShapeDtypeStruct((17,), jnp.bfloat16)
    state["params"]["encoder"]["bias"] = jax.ShapeDtypeStruct((3,), jnp.float32)
    state["step"] = jax.ShapeDtypeStruct((), jnp.float32)
    del state["rng"]
    with (
        CheckpointStore(two_steps) as store,
        pytest.raises(InputError, match="4 arrays differ") as refusal,
    ):
        store.restore(None, state)
    text = str(refusal.value)
    assert "missing     params/encoder/bias" in text
    assert "unexpected  rng" in text
    assert "shape       params/scale (16,), expected (17,)" in text
    assert "dtype       step int32, expected float32" in text
    assert not isinstance(refusal.value, DamagedCheckpointError)


def flip_bit(path: pathlib.Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(bytes(content))


def test_a_flipped_bit_anywhere_never_changes_what_is_restored(two_steps):
    first, second = some_state(seed=1), some_state(seed=2)
    shapes = abstract(second)
    rng = random.Random(0)
    outcomes: set[int] = set()
    for path in sorted(p for p in (two_steps / "2").rglob("*") if p.is_file()):
        intact = path.read_bytes()
        for _ in range(3):
            flip_bit(path, rng.randrange(8 * len(intact)))
            with CheckpointStore(two_steps, read_only=True) as store:
                restored, metadata = store.restore(None, shapes)
            outcomes.add(metadata["step"])
            assert same(restored, {1: first, 2: second}[metadata["step"]]), path
            path.write_bytes(intact)
    assert outcomes == {1, 2}


def test_every_flipped_bit_of_an_array_changes_its_sums():
    from specialize.checkpoints.integrity import checksums

    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    intact = checksums({"x": jnp.asarray(values)})["x"]
    for position in range(values.nbytes * 8):
        damaged = bytearray(values.tobytes())
        damaged[position // 8] ^= 1 << position % 8
        array = np.frombuffer(bytes(damaged), np.float32).reshape(3, 4)
        assert checksums({"x": jnp.asarray(array)})["x"] != intact
    swapped = values[::-1].copy()
    assert checksums({"x": jnp.asarray(swapped)})["x"] != intact


def test_the_sums_do_not_depend_on_the_sharding():
    from specialize.checkpoints.integrity import checksums

    values = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    alone = checksums({"x": jnp.asarray(values)})
    for spec in ((), ("data",), ("data", "model"), (None, ("data", "model"))):
        assert checksums({"x": placed(mesh_of(2, 4), values, *spec)}) == alone


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def test_a_damaged_newest_step_is_reported_in_one_line_and_saved_again(
    two_steps, capsys
):
    state = some_state(seed=2)
    (two_steps / "2" / "metadata" / "metadata").write_text("{}")
    with CheckpointStore(two_steps) as store:
        capsys.readouterr()
        restored, metadata = store.restore(None, abstract(state))
        said = capsys.readouterr().err
        assert metadata["step"] == 1 and same(restored, some_state(seed=1))
        assert said.count("\n") == 1
        assert "2 is damaged" in said and "going back to step 1" in said
        assert store.steps() == [1]
        store.save(2, state, {"note": "again"})
        store.wait()
        assert store.restore(2, abstract(state))[1]["note"] == "again"
    assert (two_steps / "2.damaged").is_dir()


def test_a_damaged_step_that_was_asked_for_alone_is_refused(two_steps):
    flip = largest_file(two_steps / "2" / "metadata")
    flip_bit(flip, 400)
    shapes = abstract(some_state())
    with CheckpointStore(two_steps) as store, pytest.raises(DamagedCheckpointError):
        store.restore(2, shapes, or_older=False)


def test_nothing_left_to_go_back_to_is_an_error(two_steps):
    for step in (1, 2):
        (two_steps / str(step) / "metadata" / "metadata").write_text("")
    shapes = abstract(some_state())
    with CheckpointStore(two_steps) as store, pytest.raises(DamagedCheckpointError):
        store.restore(None, shapes)
    with (
        CheckpointStore(two_steps / "nothing") as store,
        pytest.raises(InputError, match="no checkpoint"),
    ):
        store.restore(None, shapes)


def test_a_full_disk_is_one_clear_error_and_leaves_the_last_good_step(two_steps):
    """A limit on the size of files stands for the disk."""
    state = some_state(seed=2)
    big = {"params": {"w": jnp.zeros((512, 512))}}
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    store = CheckpointStore(two_steps)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(
            InputError, match=r"disk is full \(.* MB are free\)\. Earlier"
        ):
            store.save(3, big, {})
            store.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    with CheckpointStore(two_steps) as again:
        assert again.steps() == [1, 2]
        assert same(again.restore(None, abstract(state))[0], state)
        again.save(3, state, {})
        again.wait()
        assert again.steps() == [1, 2, 3]


@pytest.fixture
def disk(tmp_path):
    """Gives a folder that is a disk of its own, of some KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        words = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("may not mount a small disk")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True)


# How many saves a disk holds depends on when temporary files are removed, so each
# size has the fewest and the most steps that may be kept.
@pytest.mark.parametrize(
    ("size", "fewest", "most"),
    [(8, 0, 0), (100, 0, 0), (350, 0, 1), (450, 0, 1), (800, 1, 3), (1300, 2, 4)],
)
def test_a_save_at_any_moment_of_a_full_disk_is_one_message_and_no_half_step(
    disk, size, fewest, most, capfd
):
    folder = disk(size) / "checkpoints"
    arrays = {f"w{i}": jnp.full((64, 64), i, jnp.float32) for i in range(20)}
    state = {"params": arrays}
    store = CheckpointStore(folder)
    with pytest.raises(InputError, match=r"checkpoints: disk is full \(.* are free\)"):
        with store:
            for step in range(5):
                store.save(step, state, {})
            store.wait()
    assert "".join(capfd.readouterr()).strip() == ""
    kept = sorted(int(path.name) for path in folder.iterdir())
    assert kept == list(range(len(kept))) and fewest <= len(kept) <= most
    last = kept[-1] if kept else None
    subprocess.run(["mount", "-o", "remount,size=9m", folder.parent], check=True)
    with CheckpointStore(folder) as again:
        assert again.latest() == last
        if last is not None:
            assert same(again.restore(None, abstract(state))[0], state)
        again.save(9, state, {})
        again.wait()
        assert again.latest() == 9


@pytest.mark.parametrize("name", ["7", "notes"])
def test_what_is_no_folder_is_no_step(tmp_path, name):
    """A link in a circle was an error of the system."""
    (tmp_path / "3").mkdir()
    (tmp_path / "4").touch()
    (tmp_path / "5.tmp").mkdir()
    (tmp_path / name).symlink_to(tmp_path / name)
    assert step_folder.begun_steps(tmp_path) == [3]
    assert step_folder.begun_steps(tmp_path / "3") == []
    assert step_folder.begun_steps(tmp_path / name) == []


def test_a_thread_that_still_writes_leaves_no_unfinished_step(tmp_path):
    unfinished = tmp_path / "checkpoints/0.orbax-checkpoint-tmp"
    until = time.monotonic() + 0.6

    def write():
        number = 0
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                (unfinished / "d").mkdir(parents=True, exist_ok=True)
                (unfinished / "d" / str(number)).write_bytes(b"x")
            number += 1
            time.sleep(0.001)

    store = CheckpointStore(tmp_path / "checkpoints")
    store._failed = True
    writer = threading.Thread(target=write)
    writer.start()
    store._remove_unfinished()
    writer.join()
    assert not unfinished.exists()


KILLED = """
    import sys
    import jax, jax.numpy as jnp
    from specialize.checkpoints.store import CheckpointStore

    store = CheckpointStore(sys.argv[1], keep=2)
    for step in range(int(sys.argv[2]), 1000):
        store.save(step, {"params": {"w": jnp.full((512, 512), step, jnp.float32)}}, {})
        print(step, flush=True)
"""


def kill_while_saving(folder: pathlib.Path, first: int, saves: int, pause: float):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder), str(first)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    for _ in range(saves):
        process.stdout.readline()
    import time

    time.sleep(pause)
    process.kill()
    process.wait()


def check_survivor(folder: pathlib.Path, at_least: int) -> int:
    shape = jax.ShapeDtypeStruct((512, 512), jnp.float32)
    shape = jax.ShapeDtypeStruct(
        shape.shape, shape.dtype, sharding=placed(mesh_of(2, 4), 0.0).sharding
    )
    with CheckpointStore(folder, keep=2) as store:
        state, metadata = store.restore(None, {"params": {"w": shape}})
    assert np.all(np.asarray(state["params"]["w"]) == metadata["step"])
    assert metadata["step"] >= at_least
    return metadata["step"]


def test_kill_9_while_saving_leaves_the_last_good_step(tmp_path):
    kill_while_saving(tmp_path, 0, saves=4, pause=0.0)
    # The third save began after the second was finished.
    check_survivor(tmp_path, at_least=2)


@pytest.mark.slow
def test_kill_9_at_many_moments_leaves_the_last_good_step(tmp_path):
    first = 0
    for pause in (0.0, 0.003, 0.01, 0.02, 0.04, 0.08):
        kill_while_saving(tmp_path, first, saves=3, pause=pause)
        first = 1 + check_survivor(tmp_path, at_least=first + 1)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_may_resume_from_a_step_until_the_save_that_replaces_it_has_ended(
    tmp_path, monkeypatch, keep
):
    """The step whose save is under way is another."""
    commit, ends = async_checkpointer._on_commit_callback, threading.Event()
    monkeypatch.setattr(
        async_checkpointer,
        "_on_commit_callback",
        lambda *given, **more: ends.wait(60) and commit(*given, **more),
    )
    state = {"params": {"w": placed(mesh_of(2, 4), jnp.ones((8, 8)))}}
    before = []
    with CheckpointStore(tmp_path, keep=keep) as store:
        for step in (1, 3, 4):
            store.save(step, state, {})
            finished = step_folder.finished_steps(tmp_path)
            assert finished[-1:] == before
            assert store.after_a_kill() == [*before, step]
            ends.set()
            store.wait()
            ends.clear()
            before = [step]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"keep": 0}, "keep = 0"), ({"best_mode": "most"}, "'most'")],
)
def test_senseless_options_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        CheckpointStore(tmp_path, **options)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        CheckpointStore(tmp_path / "file")


TWO_PROCESSES = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
    from specialize.checkpoints.store import CheckpointStore

    folder, port, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    mesh = Mesh(np.asarray(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    values = np.arange(64, dtype=np.float32).reshape(8, 8)

    def state(step):
        make = lambda index: (values + step)[index]
        return {"params": {"w": jax.make_array_from_callback((8, 8), rows, make)}}

    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0)
    )
    with CheckpointStore(folder) as store:
        store.save(1, state(1), {})
        store.save(2, state(2), {})
        store.wait()
    with CheckpointStore(folder) as store:
        if rank == 1:
            # Only this process finds the newest step unreadable.
            import specialize.checkpoints.step_folder as module
            real = module.read_state
            def read(folder, *args, **kwargs):
                if folder.name == "2":
                    raise module.DamagedCheckpointError("unreadable here")
                return real(folder, *args, **kwargs)
            module.read_state = read
        restored, metadata = store.restore(None, shapes)
        assert metadata["step"] == 1
        for shard in restored["params"]["w"].addressable_shards:
            assert (np.asarray(shard.data) == (values + 1)[shard.index]).all()
        store.save(2, state(2), {})
        store.wait()
        assert store.steps() == [1, 2]
    print("good")
"""


@pytest.mark.slow
def test_two_processes_save_restore_and_agree_on_what_is_damaged(tmp_path):
    port = free_port()
    environment = {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    import os

    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                textwrap.dedent(TWO_PROCESSES),
                str(tmp_path / "checkpoints"),
                str(port),
                str(rank),
            ],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and "good" in out, err[-3000:]


@pytest.mark.parametrize("read_only", [False, True])
def test_the_steps_are_those_that_all_processes_see(two_steps, monkeypatch, read_only):
    """Not those that one lists; another one may know that step 2 is no more."""
    state = some_state(seed=3)
    for common in ([1, 2], [1]):
        monkeypatch.setattr(step_folder, "steps_of_all", lambda _, all=common: all)
        with CheckpointStore(two_steps, read_only=read_only) as store:
            assert (store.steps(), store.latest()) == (common, common[-1])
            assert store.restore(None, abstract(state))[1]["step"] == common[-1]


@pytest.mark.parametrize("seed", range(4))
def test_metrics_that_were_measured_after_a_save_decide_which_step_is_kept(
    tmp_path, seed
):
    random, state = np.random.default_rng(seed), some_state()
    values = dict(enumerate(random.permutation(6) / 10, 1))
    late = set(random.choice(6, 3, replace=False) + 1)
    for step, value in values.items():
        metrics = {"mine": float(value)}
        with CheckpointStore(tmp_path, keep=1, best_metric="mine") as store:
            first = {"loss": 1.0} | ({} if step in late else metrics)
            store.save(step, state, {"metrics": first, "due": step in late, "a": [1]})
        if step in late:
            with CheckpointStore(tmp_path, keep=1, best_metric="mine") as store:
                store.amend(step, metrics, due=False)
        best = max(range(1, step + 1), key=lambda one: values[one])
        with CheckpointStore(tmp_path, best_metric="mine", read_only=True) as store:
            assert store.best() == best
            # What was the best one before is removed at the next save.
            assert step in late or store.steps() == sorted({best, step})
            said = {"metrics": {"loss": 1.0, **metrics}, "due": False, "a": [1]}
            assert store.metadata(step) == {**said, "step": step}
    with CheckpointStore(tmp_path, read_only=True) as store:
        assert same(state, store.restore(None, abstract(state))[0])


def test_process_0_alone_writes_metrics_that_all_know(two_steps, monkeypatch):
    with CheckpointStore(two_steps, best_metric="mine") as store:
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        store.amend(1, {"mine": 1.0})
        assert store.best() == 1 and store.metadata(1) == {"note": "first", "step": 1}
        monkeypatch.undo()
