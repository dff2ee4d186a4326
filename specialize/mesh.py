"""The sizes of a device mesh, read from whatever a recipe says; nothing here needs jax.

`MESH` is sizes by axis ({"data": 2, "model": 4}), text ("8" along data, "2x4" data x
model, "2x2x2" data x fsdp x model, "data=2,model=4"), or None (every device along
data). An absent axis has size 1, an absent "data" takes the devices that the others
leave, as -1 does.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from specialize.errors import InputError, did_you_mean

AXES = ("data", "fsdp", "model")
_PLAIN = {1: AXES[:1], 2: (AXES[0], AXES[2]), 3: AXES}


def read_sizes(value: Any) -> dict[str, int]:
    """The size of every axis.

    Args:
        value: any spelling of a mesh, as above.

    Returns:
        {axis: size} in the order of `AXES`; at most one size is -1 (the rest).

    Raises:
        InputError: it is no mesh, or its sizes are not possible.
    """
    given = {} if value is None else value
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"-?\d+(x-?\d+){0,2}", text):
            numbers = [int(number) for number in text.split("x")]
            given = dict(zip(_PLAIN[len(numbers)], numbers, strict=True))
        else:
            words = filter(None, re.split(r"[,\s]+", text))
            parts = [word.partition("=") for word in words]
            names = [name for name, _, _ in parts]
            written = all(re.fullmatch(r"-?\d+", size) for _, _, size in parts)
            once = len(set(names)) == len(names)
            given = {n: int(size) for n, _, size in parts} if written and once else None
    unknown = set(given) - set(AXES) if isinstance(given, Mapping) else None
    if unknown or not isinstance(given, Mapping):
        hint = "".join(did_you_mean(str(axis), AXES) for axis in unknown or ())
        raise InputError(
            f"MESH is {value!r}; it gives {', '.join(AXES)} a number of devices: "
            f"{{'data': 2, 'model': 4}}, 'data=2,model=4' or '2x4'.{hint}"
        )
    sizes = {axis: given.get(axis, -1 if axis == "data" else 1) for axis in AXES}
    whole = all(
        type(size) is int and (size > 0 or size == -1) for size in sizes.values()
    )
    if not whole or list(sizes.values()).count(-1) > 1:
        raise InputError(
            f"MESH is {value!r}: {_shown(sizes)}; sizes are positive, and one at most "
            "is -1 (what the others leave)."
        )
    return sizes


def fit(sizes: Mapping[str, int], devices: int, *, exact: bool) -> dict[str, int]:
    """The sizes on so many devices.

    Args:
        sizes: as `read_sizes` returns them.
        devices: how many there are.
        exact: whether all of them must be used.

    Returns:
        The sizes with -1 replaced by what the others leave.

    Raises:
        InputError: they do not fit.
    """
    known = math.prod(size for size in sizes.values() if size != -1)
    free = -1 in sizes.values()
    if devices % known if free else known > devices or (exact and known != devices):
        raise InputError(
            f"mesh {_shown(sizes)} needs {'a multiple of ' * free}{known} devices; "
            f"there are {devices}. Change the sizes, or on CPU set JAX_NUM_CPU_DEVICES."
        )
    return {axis: devices // known if n == -1 else n for axis, n in sizes.items()}


def _shown(sizes: Mapping[str, Any]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items())
