"""Topologies, numbers of chips in a shape, and how to compile for them.

A topology is written KIND:SHAPE. TPU slices are described by their chips along each
axis of the torus ("v5e:16x4", "v5p:4x4x4"), GPUs and CPUs by their number
("h200:8", "cpu:8"). libtpu compiles for a slice without one; a GPU compiler needs the
GPU's plug-in, so GPU rows are modelled, and say so.
"""

import dataclasses
import importlib.util
import os
import re
from typing import Any

from specialize.chips import PLANNED, Chip
from specialize.errors import InputError


@dataclasses.dataclass(frozen=True)
class Topology:
    """Some chips of one kind.

    Attributes:
        text: as given.
        chip: their kind.
        shape: along each axis.
    """

    text: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many there are."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def compiler(self) -> str:
        """Who says what a program needs: "tpu", "cpu", or "modelled"."""
        if self.chip.axes:
            return "tpu"
        return "cpu" if self.chip.name == "cpu" else "modelled"


def parse(text: str) -> Topology:
    """Reads a topology.

    Args:
        text: "v5e:16x4", "v5p:4x4x4", "v4:2x2x1", "h200:8", "cpu:8".

    Raises:
        InputError: unknown chip, or a shape it cannot have.
    """
    kind, _, shape = text.strip().lower().partition(":")
    if kind not in PLANNED:
        raise InputError(
            f"topology {text!r}: the chip is none of {', '.join(PLANNED)}. Write for "
            "example v5e:16x4, v5p:4x4x4, h200:8 or cpu:8."
        )
    chip = PLANNED[kind]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise InputError(
            f"topology {text!r}: {shape!r} is no shape. Write for example {kind}:"
            f"{'x'.join('4' * max(chip.axes, 1))}."
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    if len(sizes) != max(chip.axes, 1):
        raise InputError(
            f"topology {text!r}: a {kind} slice is described by "
            f"{max(chip.axes, 1)} number(s), as in {kind}:"
            f"{'x'.join('4' * max(chip.axes, 1))}."
        )
    return Topology(text, chip, sizes)


def stand_in(topology: Topology) -> Topology:
    """Chips whose compiler is asked where a topology has none here.

    A v5p has the memory to hold what one GPU of today holds, and its compiler shards,
    fuses and plans buffers for the same mesh; what it says of a GPU is a model.

    Raises:
        InputError: a number of GPUs that no v5p slice has.
    """
    if topology.compiler != "modelled":
        return topology
    shapes = {1: "1x1x1", 2: "2x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4"}
    shapes |= {32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"}
    if topology.chips not in shapes:
        raise InputError(
            f"{topology.text}: plan for {', '.join(map(str, shapes))} GPUs."
        )
    return parse(f"v5p:{shapes[topology.chips]}")


def prepare(topology: Topology) -> None:
    """Sets the process up for planning; call it before anything touches a device.

    Planning never uses an accelerator that happens to be here: the host alone runs,
    and libtpu must not look for a TPU or ask a metadata server about one.

    Raises:
        InputError: JAX has been initialised with fewer CPU devices than asked for.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Otherwise it asks the machine which TPU it has, and complains that it has none.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Its log is for its authors; its errors come as exceptions.
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "4")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "4")
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        if topology.compiler == "cpu":
            jax.config.update("jax_num_cpu_devices", topology.chips)
    except RuntimeError as error:
        if len(jax.devices("cpu")) < topology.chips:
            raise InputError(
                f"{topology.text}: JAX already runs with {len(jax.devices('cpu'))} CPU "
                f"devices. Set JAX_NUM_CPU_DEVICES={topology.chips}."
            ) from error


def devices(topology: Topology) -> list[Any]:
    """Devices to compile for, one a chip.

    Raises:
        InputError: libtpu is not installed, or knows no such slice; or a GPU, for
            which there is no compiler here.
    """
    import jax

    if topology.compiler == "cpu":
        found = jax.devices("cpu")
        if len(found) < topology.chips:
            raise InputError(
                f"{topology.text}: JAX has {len(found)} CPU devices. Set "
                f"JAX_NUM_CPU_DEVICES={topology.chips}."
            )
        return found[: topology.chips]
    if topology.compiler == "modelled":
        raise InputError(f"{topology.text}: there is no compiler for it here.")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "Planning for a TPU needs the libtpu wheel, which is not installed. "
            "Install the extra: pip install 'specialize[plan]'."
        )
    from jax.experimental import topologies

    # A v4 chip has two cores; as "megacore" they are one device, as in production.
    options: dict[str, Any] = (
        {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    )
    shape = (*topology.shape, 1, 1)[:3]
    # libtpu's default host has 2 x 2 chips; a slice of one chip has a host of one.
    options["chips_per_host_bounds"] = [min(2, n) for n in shape[:2]] + [1]
    try:
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}",
            **options,
        )
    except Exception as error:  # libtpu raises whatever its C++ threw
        raise InputError(
            f"libtpu knows no slice {topology.text!r}: {str(error).splitlines()[0]}"
        ) from error
    found = list(described.devices)
    if len(found) != topology.chips:
        raise InputError(
            f"{topology.text} has {topology.chips} chips but libtpu shows {len(found)} "
            "devices; plan for another shape."
        )
    return found
