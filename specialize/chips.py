"""The one table of facts about accelerators.

Sources: the pages of TPU versions (cloud.google.com/tpu/docs/v2 to v6e) and NVIDIA's
data sheets of H200, H100, A100 and L4. JAX counts the two cores of a TPU v2 or v3 as
two devices, so their rows describe one core.
"""

import dataclasses
import math

_GB = 1e9
_GIB = float(2**30)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
        name: Name in `specialize plan --topology`.
        kinds: Prefixes of JAX's `device_kind`, in lower case.
        peak_flops: Dense bfloat16 FLOP/s; NaN if no number is published.
        hbm_bytes: Size of the memory; NaN if no plan needs it.
        bandwidth: Bytes/s between memory and cores; NaN if no plan needs it.
        axes: Number of axes of a TPU slice; 0 for other devices.
    """

    name: str
    kinds: tuple[str, ...]
    peak_flops: float
    hbm_bytes: float = math.nan
    bandwidth: float = math.nan
    axes: int = 0


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", ("tpu v4",), 275e12, 32 * _GIB, 1228 * _GB, 3),
        Chip("v5e", ("tpu v5 lite", "tpu v5e"), 197e12, 16 * _GIB, 819 * _GB, 2),
        Chip("v5p", ("tpu v5p", "tpu v5"), 459e12, 95 * _GIB, 2765 * _GB, 3),
        Chip("v6e", ("tpu v6 lite", "tpu v6e"), 918e12, 32 * _GIB, 1640 * _GB, 2),
        Chip("h100", ("nvidia h100",), 989e12, 80 * _GB, 3350 * _GB),
        Chip("h200", ("nvidia h200",), 989e12, 141 * _GB, 4800 * _GB),
        Chip("cpu", ("cpu",), math.nan, math.inf, math.nan),
        Chip("h100-pcie", ("nvidia h100 pcie",), 756e12),
        Chip("a100", ("nvidia a100",), 312e12),
        Chip("l4", ("nvidia l4",), 121e12),
        Chip("v3", ("tpu v3",), 61.5e12),
        Chip("v2", ("tpu v2",), 23e12),
    )
}
# The chips that `specialize plan` knows; NaN > 0 is false.
PLANNED = {name: chip for name, chip in CHIPS.items() if chip.hbm_bytes > 0}


def of_kind(device_kind: str) -> Chip | None:
    """The chip of a JAX device kind, such as "NVIDIA H100 80GB HBM3", or None."""
    known = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}
    fitting = [kind for kind in known if device_kind.lower().startswith(kind)]
    return known[max(fitting, key=len)] if fitting else None
