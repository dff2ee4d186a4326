"""Topologies (a kind, number and shape of chips), and devices to compile for.

A topology is written KIND:SHAPE. TPU slices are described by their chips along each
axis of the torus ("v5e:16x4", "v5p:4x4x4"), GPUs and CPUs by their number ("h200:8",
"cpu:8"). libtpu compiles for a slice without having it; a GPU compiler needs the GPU's
plug-in, so GPU rows are modelled and labelled so.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

from specialize.checks import shown
from specialize.chips import PLANNED, Chip
from specialize.errors import InputError

# No slice or machine is larger; JAX simulates every device of a CPU.
MOST_CHIPS, MOST_CPUS = 2**15, 512


@dataclasses.dataclass(frozen=True)
class Topology:
    """Some chips of one kind.

    Attributes:
        text: the topology as written.
        chip: the kind of chip.
        shape: number of chips along each axis.
    """

    text: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def compiler(self) -> str:
        """The compiler that reports the memory: "tpu", "cpu", or "modelled"."""
        if self.chip.axes:
            return "tpu"
        return "cpu" if self.chip.name == "cpu" else "modelled"


def parse(text: str) -> Topology:
    """Reads a topology such as "v5e:16x4", "v5p:4x4x4", "v4:2x2x1" or "h200:8".

    Raises:
        InputError: the chip is unknown, or it does not have such shapes.
    """
    kind, _, shape = text.strip().lower().partition(":")
    if kind not in PLANNED:
        raise InputError(
            f"topology {shown(text)}: the chip must be one of {', '.join(PLANNED)}. "
            "Write for example v5e:16x4, v5p:4x4x4, h200:8 or cpu:8."
        )
    chip = PLANNED[kind]
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8}){0,8}", shape):
        raise InputError(
            f"topology {shown(text)}: {shown(shape)} is not a shape. Write for example "
            f"{kind}:{'x'.join('4' * max(chip.axes, 1))}."
        )
    sizes = tuple(int(size) for size in shape.split("x"))
    if len(sizes) != max(chip.axes, 1):
        raise InputError(
            f"topology {text!r}: a {kind} slice is described by "
            f"{max(chip.axes, 1)} number(s), as in {kind}:"
            f"{'x'.join('4' * max(chip.axes, 1))}."
        )
    topology = Topology(text, chip, sizes)
    most = MOST_CPUS if kind == "cpu" else MOST_CHIPS
    if topology.chips > most:
        raise InputError(
            f"topology {text!r} has {topology.chips:,} chips; a plan is made for at "
            f"most {most:,}. Write for example {kind}:"
            f"{'x'.join('4' * max(chip.axes, 1))}."
        )
    return topology


# Numbers of chips, from the smallest slice, with the shapes that clouds rent out.
_SHAPES = {
    0: "1 2 4 8 16 32 64 128 256",
    2: "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16",
    3: "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8",
}


def slices(kind: str) -> list[Topology]:
    """Topologies of one kind of chip, from the smallest to the largest.

    Raises:
        InputError: the chip is unknown, or it is a CPU, whose memory has no size.
    """
    chip = PLANNED.get(kind.strip().lower())
    if chip is None or math.isinf(chip.hbm_bytes):
        known = [name for name, one in PLANNED.items() if one.hbm_bytes < math.inf]
        raise InputError(
            f"--smallest {shown(kind)}: the chip must be one of {', '.join(known)}."
        )
    return [parse(f"{chip.name}:{shape}") for shape in _SHAPES[chip.axes].split()]


def stand_in(topology: Topology) -> Topology:
    """The topology to compile for: v5p chips in the place of GPUs.

    A v5p has as much memory as one GPU of today, and its compiler shards, fuses and
    plans buffers for the same mesh; for a GPU its result is a model.

    Raises:
        InputError: no v5p slice has this number of chips.
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
    """Prepares the process for planning; call it before anything uses a device.

    Planning never uses an accelerator of this machine: only the host runs, and libtpu
    must not look for a TPU or ask a metadata server about one.

    Raises:
        InputError: JAX was initialised with fewer CPU devices than needed.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Otherwise libtpu asks the machine for its TPU, and complains that it has none.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Its log is for its developers; errors are raised as exceptions.
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
    """Devices to compile for, one per chip.

    Raises:
        InputError: libtpu is not installed or does not support the slice, or the
            topology has GPUs, for which there is no compiler here.
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

    options: dict[str, Any] = {}
    if topology.chip.name == "v4":
        # The two cores of a chip are one device, as in production.
        options["chip_config_name"] = "megacore"
    shape = (*topology.shape, 1, 1)[:3]
    # libtpu's default host has 2 x 2 chips; a slice of one chip has a host of one.
    options["chips_per_host_bounds"] = [min(2, n) for n in shape[:2]] + [1]
    try:
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{topology.chip.name}:{'x'.join(map(str, topology.shape))}",
            **options,
        )
    except Exception as error:  # libtpu raises many types
        raise InputError(
            f"libtpu has no slice {topology.text!r}: {str(error).splitlines()[0]}"
        ) from error
    found = list(described.devices)
    if len(found) != topology.chips:
        raise InputError(
            f"{topology.text} has {topology.chips} chips but libtpu has {len(found)} "
            "devices for it. Plan for another shape."
        )
    return found
