"""Every fact about an accelerator that this package uses, stated once.

Sources: the pages of TPU versions (cloud.google.com/tpu/docs/v2 to v6e) and NVIDIA's
data sheets of H200, H100, A100 and L4. Peaks are dense, in bfloat16. JAX counts the two
cores of a TPU v2 or v3 as two devices, so their figures are those of one core.
"""

import dataclasses
import math

_GB = 1e9
_GIB = float(2**30)


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of device.

    Attributes:
        name: as people write it, and as `specialize plan --topology` takes it.
        kinds: prefixes, in lower case, of JAX's `device_kind` for it.
        peak_flops: dense bfloat16 FLOP/s; NaN if there is no published figure.
        hbm_bytes: size of its memory; NaN where no plan needs it.
        bandwidth: bytes/s between memory and cores; NaN likewise.
        axes: how many numbers describe the shape of a TPU slice; 0 for other devices.
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
# NaN > 0 is false: those that `specialize plan` answers for.
PLANNED = {name: chip for name, chip in CHIPS.items() if chip.hbm_bytes > 0}


def of_kind(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None if the table does not list it.

    Args:
        device_kind: as `jax.Device.device_kind`, for example "NVIDIA H100 80GB HBM3".
    """
    known = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}
    fitting = [kind for kind in known if device_kind.lower().startswith(kind)]
    return known[max(fitting, key=len)] if fitting else None
