"""The sizes of a device mesh, in every spelling of a recipe; jax is not imported."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from specialize import checks
from specialize.errors import InputError, did_you_mean

AXES = ("data", "fsdp", "model")
_PLAIN = {1: AXES[:1], 2: (AXES[0], AXES[2]), 3: AXES}


@dataclasses.dataclass(frozen=True)
class MeshSpec:
    """Number of devices along each axis of a device mesh.

    At most one size is -1: it uses all devices that the other axes leave.

    Attributes:
        data: Number of devices that split the batch.
        fsdp: Number of devices that split the batch and the parameters.
        model: Number of devices that split heads, feed-forward units and vocabulary.

    Raises:
        InputError: A size is not a positive integer or -1, or several are -1.

    Example:
        >>> specialize.MeshSpec.read("2x4")
        MeshSpec(data=2, fsdp=1, model=4)
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        _check("mesh", self.sizes)

    @classmethod
    def read(cls, value: Any) -> "MeshSpec":
        """Reads every spelling of a mesh.

        Args:
            value: A `MeshSpec`; sizes by axis, as {"data": 2, "model": 4}; text, as "8"
                (data), "2x4" (data x model), "2x2x2" (data x fsdp x model) or
                "data=2,model=4"; or None (every device along data).

        Raises:
            InputError: The value does not describe a mesh, or a size is invalid.
        """
        if isinstance(value, cls):
            return value
        given = {} if value is None else value
        if isinstance(value, str):
            given = _parsed(value.strip())
        unknown = set(given) - set(AXES) if isinstance(given, Mapping) else None
        if unknown or not isinstance(given, Mapping):
            axes = [axis for axis in unknown or () if isinstance(axis, str)]
            hint = "".join(did_you_mean(axis, AXES) for axis in axes)
            raise InputError(
                f"MESH is {checks.shown(value)}; it gives {', '.join(AXES)} a number "
                "of devices: {'data': 2, 'model': 4}, 'data=2,model=4' or '2x4'."
                f"{hint}"
            )
        _check(f"MESH is {checks.shown(value)}: mesh", {"data": -1, **given})
        return cls(**given)

    @property
    def sizes(self) -> dict[str, int]:
        """{axis: size} in the order of `AXES`."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def batch_shards(self) -> int:
        """Number of parts of a batch; an axis of unknown size (-1) counts as 1."""
        return max(self.data, 1) * max(self.fsdp, 1)

    def fit(self, devices: int, *, exact: bool) -> "MeshSpec":
        """Replaces -1 by the number of devices that the other sizes leave.

        Args:
            devices: Number of devices.
            exact: Whether the mesh must use all of them.

        Raises:
            InputError: The sizes do not fit the number of devices.
        """
        sizes = self.sizes
        known = math.prod(size for size in sizes.values() if size != -1)
        free = -1 in sizes.values()
        if devices % known if free else known > devices or (exact and known != devices):
            raise InputError(
                f"mesh {self} needs {'a multiple of ' * free}{known} devices; there "
                f"are {devices}. Change the sizes, or on CPU set JAX_NUM_CPU_DEVICES."
            )
        rest = devices // known
        return MeshSpec(**{a: rest if n == -1 else n for a, n in sizes.items()})

    def __str__(self) -> str:
        return _shown(self.sizes)


def _shown(sizes: Mapping[str, Any]) -> str:
    return " x ".join(f"{axis} {checks.shown(size)}" for axis, size in sizes.items())


def _check(what: str, sizes: Mapping[str, Any]) -> None:
    found = list(sizes.values())
    whole = all(type(size) is int and (size > 0 or size == -1) for size in found)
    if not whole or found.count(-1) > 1:
        raise InputError(
            f"{what} {_shown(sizes)}: sizes are positive, and one at most is -1 (what "
            "the others leave)."
        )


def _parsed(text: str) -> dict[str, int] | None:
    """Sizes by axis, or None if the text does not describe a mesh."""
    if re.fullmatch(r"-?\d{1,9}(x-?\d{1,9}){0,2}", text):
        numbers = [int(number) for number in text.split("x")]
        return dict(zip(_PLAIN[len(numbers)], numbers, strict=True))
    words = filter(None, re.split(r"[,\s]+", text))
    parts = [word.partition("=") for word in words]
    names = [name for name, _, _ in parts]
    written = all(re.fullmatch(r"-?\d{1,9}", size) for _, _, size in parts)
    once = len(set(names)) == len(names)
    return {n: int(size) for n, _, size in parts} if written and once else None


def check_batch(
    batch_size: int, shards: int, microbatches: int = 1, *, name: str = "batch_size"
) -> None:
    """Checks that the sequences of a batch divide over microbatches and devices.

    Args:
        batch_size: Number of sequences in the global batch.
        shards: Number of devices along data and fsdp, which split the batch.
        microbatches: Number of parts of the batch that are processed in turn.
        name: Name of the batch size, for the message.

    Raises:
        InputError: The batch does not divide evenly.
    """
    if batch_size % (shards * microbatches):
        parts = f"{microbatches} microbatches and " if microbatches > 1 else ""
        raise InputError(
            f"{name} = {batch_size} does not divide over {parts}{shards} devices along "
            f"data x fsdp. Use a multiple of {shards * microbatches}."
        )
