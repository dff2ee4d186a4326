"""Mesh, sharding rules, NamedShardings: one device or many, one process or many.

The network names the axes of its parameters and activations ("embed", "mlp",
"batch", ...); the rules of this module map them to the axes of the device mesh: `data`
(the batch), `fsdp` (the batch too, and the parameters, sharded as in ZeRO-3) and
`model` (heads, feed-forward units and vocabulary).
"""

import argparse
import contextlib
import json
import math
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from specialize import checks, memory, processes, typed_json
from specialize.errors import InputError
from specialize.mesh import MeshSpec
from specialize.paths import programs

# Bytes that one process sends to all at once; several devices hold copies of them.
_SENT_AT_ONCE = 1 << 28


def _widen_thread_pool() -> None:
    """Gives simulated CPU devices enough threads for collectives.

    XLA's CPU client has one thread per core, and at least one per device. Two programs
    that run at once can each hold some of them and wait forever for the other devices
    of a reduction. XLA reads the variable when JAX initialises its devices.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    found = re.search(r"xla_force_host_platform_device_count=(\d+)", flags)
    devices = os.environ.get("JAX_NUM_CPU_DEVICES") or (found and found[1]) or "1"
    if devices.isdigit() and int(devices) > 1:
        os.environ.setdefault("PJRT_NPROC", str(4 * int(devices)))


_widen_thread_pool()

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

# The batch is over fsdp first: over (data, fsdp), on a mesh with three axes, XLA
# (jaxlib 0.10.2) multiplies a device's rows by the embedding of others.
BATCH_AXES = ("fsdp", "data")
# In order of precedence: "batch" takes its mesh axes before "embed", so that the
# embedding axis of a parameter is sharded over fsdp and that of an activation between
# layers over model. Activations kept for the backward pass are then stored once, and
# not `model` times.
DEFAULT_RULES: Rules = (
    ("batch", BATCH_AXES),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("embed", "fsdp"),
    ("embed", "model"),
    ("kv", None),
    ("length", None),
    ("relpos_buckets", None),
    ("lora_rank", None),
    ("layers", None),
    ("stack", None),
    ("mlp_activations", None),
)


def read_mesh(value: Any = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a device mesh.

    Args:
        value: A mesh, which is returned, or any spelling that `MeshSpec.read` takes.
        devices: The devices. None: all of them. If fixed sizes need fewer devices, the
            mesh has the first ones (only with one process).

    Returns:
        The mesh. Its axes are of type Auto, because flax's logical constraints reject
        the Explicit type, the default of `jax.make_mesh`.

    Raises:
        InputError: The value does not describe a mesh, or it does not fit the devices.
    """
    if isinstance(value, Mesh):
        return value
    found = list(jax.devices() if devices is None else devices)
    spec = MeshSpec.read(value).fit(len(found), exact=jax.process_count() > 1)
    sizes = spec.sizes
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=found[: math.prod(sizes.values())],
    )


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    model: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """`read_mesh` of these sizes; -1 uses the devices that the others leave."""
    return read_mesh({"data": data, "fsdp": fsdp, "model": model}, devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis of an array over `BATCH_AXES`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def simulated(mesh: Mesh) -> bool:
    """Whether this process simulates several devices of the mesh on its CPU."""
    local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    return len(local) > 1 and local[0].platform == "cpu"


def gathered(tree: Any) -> Any:
    """Replicates global arrays on every device, so that each process can read them."""

    def gather(array: Any) -> jax.Array:
        place = replicated(array.sharding.mesh)
        return jax.jit(lambda x: x, out_shardings=place)(array)

    return jax.tree.map(gather, tree)


def batch_shards(mesh: Mesh) -> int:
    """Number of parts of a batch."""
    return _parts(mesh, BATCH_AXES)


def fit_rules(
    mesh: Mesh,
    abstract_params: Any,
    params_axes: Any,
    rules: Rules = DEFAULT_RULES,
) -> Rules:
    """The rules that divide every parameter of this model evenly on this mesh.

    A tiny student may have two heads on a mesh with four model devices. Its heads are
    then replicated: the rule of a logical axis is dropped as a whole, so that
    parameters and activations agree.

    Args:
        mesh: The device mesh.
        abstract_params: Parameters or their `jax.ShapeDtypeStruct`s.
        params_axes: Flax's "params_axes" collection of the same model.
        rules: Logical to mesh axes, in order of precedence.
    """
    sizes: dict[str, set[int]] = {}
    axes = _flat_axes(params_axes)
    leaves: dict[Any, Any] = flatten_dict(unfreeze(abstract_params))
    for name, leaf in leaves.items():
        for logical, size in zip(axes[name], leaf.shape, strict=True):
            sizes.setdefault(logical, set()).add(size)
    # Attention kernels merge the heads axis with kv; only the relative position bias
    # shows it. If the heads do not divide, the merged axis must not be cut inside a
    # head either.
    sizes.setdefault("joined_kv", set()).update(sizes.get("heads", set()))

    def divides(logical: str, mesh_axes: str | tuple[str, ...] | None) -> bool:
        names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
        parts = int(np.prod([mesh.shape[name] for name in names], dtype=np.int64))
        return all(size % parts == 0 for size in sizes.get(logical, ()))

    return tuple(rule for rule in rules if rule[0] == "batch" or divides(*rule))


def param_shardings(
    mesh: Mesh,
    abstract_params: Any,
    params_axes: Any,
    rules: Rules = DEFAULT_RULES,
    *,
    fit: bool = True,
) -> Any:
    """The tree of `abstract_params` with one NamedSharding per parameter.

    The arguments are those of `fit_rules`, which drops the rules that do not divide;
    with `fit=False` all rules are taken as they are.
    """
    fitting = rules
    if fit:
        fitting = fit_rules(mesh, abstract_params, params_axes, rules)
    axes = _flat_axes(params_axes)
    flat = {
        name: NamedSharding(
            mesh,
            nn.spmd.logical_to_mesh_axes(axes[name], fitting) or PartitionSpec(),
        )
        for name in flatten_dict(unfreeze(abstract_params))
    }
    return unflatten_dict(flat)


def number_of_shards(place: NamedSharding, axis: int) -> int:
    """Into how many parts a sharding divides an axis of an array."""
    return _parts(place.mesh, (*place.spec, *(None,) * (axis + 1))[axis])


def state_shardings(
    mesh: Mesh,
    abstract_params: Any,
    params_axes: Any,
    rules: Rules = DEFAULT_RULES,
    *,
    abstract_state: Any = None,
) -> Any:
    """Shardings of the parameters, or of a state such as that of an optimizer.

    Args:
        mesh: As in `param_shardings`.
        abstract_params: As in `param_shardings`.
        params_axes: As in `param_shardings`.
        rules: As in `param_shardings`.
        abstract_state: A tree. A leaf whose path ends with the path of a parameter and
            that has its shape is sharded as that parameter. If it has as many axes, it
            is sharded along those that the mesh divides too (scales of blocks). Every
            other leaf is replicated. None: the parameters themselves.
    """
    shardings = param_shardings(mesh, abstract_params, params_axes, rules)
    if abstract_state is None:
        return shardings
    flat_shardings: dict[Any, Any] = flatten_dict(shardings)
    leaves: dict[Any, Any] = flatten_dict(unfreeze(abstract_params))
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    whole = replicated(mesh)

    def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = tuple(getattr(part, "key", None) for part in path)
        for start in range(len(keys)):
            name = keys[start:]
            if name in shapes:
                return _of_shape(flat_shardings[name], shapes[name], leaf.shape)
        return whole

    return jax.tree_util.tree_map_with_path(choose, abstract_state)


@contextlib.contextmanager
def activate(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Iterator[None]:
    """Applies flax's logical constraints in a traced function to this mesh."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def initialize_distributed(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> bool:
    """Joins the processes of one run; call it before JAX initialises its devices.

    Without arguments, a cluster (TPU pod, Slurm, MPI, Kubernetes) tells JAX the three
    values, if `SPECIALIZE_CLUSTER=1` is set; otherwise there is one process.

    Args:
        coordinator: "host:port" of process 0.
        num_processes: Number of processes.
        process_id: Number of this process, from 0.

    Returns:
        Whether several processes are now joined.

    Raises:
        InputError: Only some of the three are given, or they contradict each other; the
            coordinator has no port; or no cluster is found.
        LostError: The others have not joined in time.
    """
    given = [coordinator is not None, num_processes is not None, process_id is not None]
    if not any(given):
        if os.environ.get("SPECIALIZE_CLUSTER") == "1":
            try:
                return processes.join(jax.distributed.initialize) > 1
            except (ValueError, KeyError) as error:
                raise InputError(
                    "No cluster (Slurm, MPI, TPU pod) tells this process its part of "
                    f"the run ({error}). Leave --multiprocess_gpu and "
                    "SPECIALIZE_CLUSTER out for one process, or give "
                    "--coordinator_address, --process_count and --process_index."
                ) from error
        return False
    if not all(given):
        options = ("--coordinator_address", "--process_count", "--process_index")
        named = [name for name, one in zip(options, given, strict=True) if one]
        others = " and ".join(name for name in options if name not in named)
        verb = "need" if named[1:] else "needs"
        raise InputError(f"{' and '.join(named)} {verb} {others}. Give all or none.")
    assert num_processes is not None and process_id is not None
    assert coordinator is not None
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
        raise InputError(
            f"--coordinator_address is {checks.shown(coordinator)}; it must be "
            "HOST:PORT of process 0, such as 10.0.0.1:8476."
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_index is {process_id} and --process_count {num_processes}; the "
            "processes of a run are numbered from 0 to one less than their count."
        )
    count = processes.join(
        jax.distributed.initialize,
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id,
    )
    return count > 1


def join(flags: argparse.Namespace) -> None:
    """`initialize_distributed`, as a command's flags say; keeps memory and programs.

    Args:
        flags: The flags. If they have `saves_at_sigterm`, the command asks JAX for the
            step after which all processes end. Otherwise SIGTERM ends this one as if it
            were the only one.
    """
    memory.keep_freed()  # before JAX starts threads
    if flags.multiprocess_gpu:
        os.environ["SPECIALIZE_CLUSTER"] = "1"
    given = (flags.coordinator, flags.num_processes, flags.process_id)
    saves = getattr(flags, "saves_at_sigterm", False)
    if initialize_distributed(*given) and not saves:
        # JAX has taken it for its own service.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    programs.keep()


def barrier(what: str) -> None:
    """Waits until every process of the run has called it."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def from_leader(value: Any) -> Any:
    """The JSON value that process 0 has; that of the others is not used."""
    if jax.process_count() == 1:
        return value
    text = bytes_from_leader(json.dumps(value).encode())
    return typed_json.decode(text, object, "what process 0 sent", infinities=True)


def bytes_from_leader(data: bytes) -> bytes:
    """The bytes that process 0 has, however many; those of the others are not used."""
    if jax.process_count() == 1:
        return data
    from jax.experimental.multihost_utils import broadcast_one_to_all

    leader = jax.process_index() == 0
    # Without x64, JAX has no integer for 2 GiB and more.
    high, low = broadcast_one_to_all(np.array(divmod(len(data), 2**31), np.int32))
    size = int(high) * 2**31 + int(low)
    parts = []
    for start in range(0, size, _SENT_AT_ONCE):
        count = min(_SENT_AT_ONCE, size - start)
        if leader:
            broadcast_one_to_all(np.frombuffer(data, np.uint8, count, start))
        else:
            part = broadcast_one_to_all(np.zeros(count, np.uint8))
            parts.append(np.asarray(part).tobytes())
    return data if leader else b"".join(parts)


def by_leader(make: Callable[[], Any]) -> Any:
    """The JSON value that `make` returns in process 0, which alone calls it.

    Raises:
        InputError: `make` raised one; it is raised in every process.
    """
    found: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            found = {"value": make()}
        except InputError as error:
            if jax.process_count() == 1:
                raise
            found = {"refused": str(error)}
    found = from_leader(found)
    if "refused" in found:
        raise InputError(found["refused"])
    return found["value"]


def all_agree(good: bool) -> bool:
    """Whether something is true in every process of the run."""
    if jax.process_count() == 1:
        return good
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.asarray(good))))


@contextlib.contextmanager
def one_after_another() -> Iterator[None]:
    """Runs the block in process 0 first; the others then use its files."""
    if jax.process_index() != 0:
        barrier("prepared by process 0")
    yield
    if jax.process_index() == 0:
        barrier("prepared by process 0")


def _of_shape(
    sharding: NamedSharding, shape: tuple[int, ...], other: tuple[int, ...]
) -> NamedSharding:
    """The sharding of a parameter's shape, for state that has another shape."""
    if other == shape:
        return sharding
    if len(other) != len(shape):
        return NamedSharding(sharding.mesh, PartitionSpec())
    spec = (*sharding.spec, *[None] * len(shape))[: len(shape)]
    kept = (
        axes if size % _parts(sharding.mesh, axes) == 0 else None
        for size, axes in zip(other, spec, strict=True)
    )
    return NamedSharding(sharding.mesh, PartitionSpec(*kept))


def _parts(mesh: Any, axes: Any) -> int:
    """Into how many parts one or several axes of a mesh, or None, divide."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _flat_axes(params_axes: Any) -> dict[tuple[str, ...], tuple[str, ...]]:
    """{path: logical names} from flax's "<name>_axes" metadata or plain tuples."""
    flat: dict[Any, Any] = flatten_dict(unfreeze(params_axes))
    axes: dict[tuple[str, ...], tuple[str, ...]] = {}
    for path, meta in flat.items():
        name = (*path[:-1], path[-1].removesuffix("_axes"))
        axes[name] = tuple(getattr(meta, "names", meta))
    return axes
