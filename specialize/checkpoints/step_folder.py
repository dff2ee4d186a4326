"""The folder of one step: whether it is finished, its arrays, and their metadata.

The sealed metadata are shape, type and checksum of every array, the caller's own
values, and the SHA-256 of all of it.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from specialize import outputs, paths, processes, typed_json, versions
from specialize.checkpoints import names
from specialize.errors import InputError
from specialize.paths import store
from specialize.paths.arrays import COMMIT

STATE = "state"
METADATA = "metadata"
# How Orbax names the folder of a step.
_STEP = re.compile(r"0|[1-9][0-9]*")


@dataclasses.dataclass(frozen=True)
class _Content:
    """The sealed content of `metadata/`."""

    step: typed_json.Count
    metadata: typed_json.Object
    leaves: dict[str, tuple[tuple[typed_json.Count, ...], str, str | None]]
    version: Any = 1


class DamagedCheckpointError(InputError):
    """A checkpoint that cannot be read as it was saved."""


@dataclasses.dataclass(frozen=True)
class SavedArray:
    """The metadata of one array of the state."""

    shape: tuple[int, ...]
    dtype: str
    sums: str | None = None


class Names:
    """Orbax's protocol of the names of steps; it finds those that all processes see.

    Orbax itself lists the folder in every process.

    Attributes:
        steps: what is found.
    """

    def __init__(self) -> None:
        self._standard = ocp.path.step.standard_name_format()
        self.steps: list[int] = []

    def build_name(self, step: int) -> str:
        """The name of the folder of a step."""
        return self._standard.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[ocp.path.step.Metadata]:
        """`steps`, in the folder of the steps."""
        for step in self.steps:
            yield ocp.path.step.Metadata(
                step=step, path=epath.Path(base_path) / str(step)
            )

    def find_step(self, base_path: Any, step: int) -> ocp.path.step.Metadata:
        """One step, which is finished."""
        return self._standard.find_step(base_path, step)


def finished_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps in a folder whose save has ended, oldest first.

    Every reader of a run asks here which checkpoints it has.

    Args:
        directory: `<model_dir>/checkpoints`, local or in a bucket; it may be absent.

    Raises:
        InputError: the store cannot be read.
    """
    return [
        step
        for step in begun_steps(directory)
        if is_finished(paths.joined(directory, str(step)))
    ]


def steps_of_all(directory: str | os.PathLike[str]) -> list[int]:
    """As `finished_steps`, but the same steps in every process, which all call it.

    A step that the listing of one process lacks is found by its name.

    Raises:
        InputError: the store cannot be read, or some processes do not find a step that
            others find.
    """

    def sees(step: int) -> bool:
        folder = paths.joined(directory, str(step))
        if paths.in_bucket(directory):
            return is_finished(folder)
        return os.path.isdir(folder)

    return processes.seen_by_all(finished_steps(directory), sees, directory)


def begun_steps(directory: str | os.PathLike[str]) -> list[int]:
    """As `finished_steps`, with those whose save has not ended."""
    if paths.in_bucket(directory):
        inside = store.names(directory)
    elif os.path.isdir(directory):
        # `isdir` is false for a link in a circle, such as one beside the steps.
        names = filter(is_step, os.listdir(directory))
        inside = [one for one in names if os.path.isdir(os.path.join(directory, one))]
    else:
        inside = []
    return sorted(int(name) for name in inside if is_step(name))


def is_step(name: str) -> bool:
    """Whether a folder of this name is a step of a run of ours."""
    return bool(_STEP.fullmatch(name))


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Whether the save into the folder of a step has ended.

    On a disk, the folder gets its name when it has. In a bucket, which cannot rename,
    it gets one more object.

    Raises:
        InputError: the store cannot be read.
    """
    if not paths.in_bucket(folder):
        return True
    return store.stat(paths.joined(folder, COMMIT)) is not None


def refuse_unfinished(folder: str | os.PathLike[str]) -> None:
    """Refuses the folder of a step whose save has not ended.

    Raises:
        InputError: it has not, or the store cannot be read.
    """
    if not is_finished(folder):
        raise InputError(
            f"{folder} is not finished (it has no {COMMIT}): its run is saving it, or "
            "was killed while it did. Name an older checkpoint, or wait. If you have "
            f"copied it from a disk, where it needs none, add an empty {COMMIT}."
        )


def sealed(
    step: int,
    metadata: Mapping[str, Any],
    leaves: Mapping[str, Any],
    sums: Mapping[str, str],
) -> dict[str, Any]:
    """The content of `metadata/`, which `read_metadata` reads.

    Args:
        step: number of the step.
        metadata: JSON values of the caller.
        leaves: arrays by name, from `named_leaves`.
        sums: their checksums by name.
    """
    table = {
        name: [list(leaf.shape), _dtype_name(leaf.dtype), sums[name]]
        for name, leaf in leaves.items()
    }
    content = {"step": step, "metadata": dict(metadata), "leaves": table}
    return _seal({"version": versions.CHECKPOINT.writes, **content})


def read_metadata(folder: epath.Path) -> tuple[dict[str, Any], dict[str, SavedArray]]:
    """Reads the sealed metadata of one step folder.

    Args:
        folder: `<model_dir>/checkpoints/<step>`.

    Returns:
        The metadata given to `CheckpointStore.save` with its "step", and the metadata
        of every array.

    Raises:
        DamagedCheckpointError: the metadata are missing, unreadable or changed.
        InputError: they have another version.
    """
    _, content = _read_sealed(folder)
    table = {name: SavedArray(*array) for name, array in content.leaves.items()}
    return {**content.metadata, "step": content.step}, table


def amend_metadata(
    folder: epath.Path, metrics: Mapping[str, float], others: Mapping[str, Any]
) -> None:
    """Changes the caller's metadata of one step folder, completely or not at all.

    Args:
        folder: `<model_dir>/checkpoints/<step>`.
        metrics: what is added to the metrics in the metadata.
        others: other JSON values, which replace those of the same name.

    Raises:
        DamagedCheckpointError: as `read_metadata`.
        InputError: the metadata cannot be written.
    """
    raw, content = _read_sealed(folder)
    metrics = {**content.metadata.get("metrics", {}), **metrics}
    metadata = {**content.metadata, **others, "metrics": metrics}
    text = json.dumps(_seal({**raw, "metadata": metadata}))
    # Orbax's handler gives the file the name of its folder.
    outputs.write_text(paths.joined(folder, METADATA, METADATA), text)


def _read_sealed(folder: epath.Path) -> tuple[dict[str, Any], _Content]:
    """The sealed content of `metadata/`, as it is there and as its type."""
    try:
        sealed = ocp.JsonCheckpointHandler().restore(folder / METADATA)
        if sealed != _seal(sealed["content"]):
            raise DamagedCheckpointError(f"{METADATA} differs from what was written")
        version = sealed["content"].get("version", 1)
        versions.CHECKPOINT.check(version, folder / METADATA)
        return sealed["content"], msgspec.convert(sealed["content"], _Content)
    except InputError:
        raise
    except Exception as error:
        store.explain(folder / METADATA, "read", error)  # which is no damage
        raise DamagedCheckpointError(
            f"{METADATA} cannot be read: {_one_line(error)}"
        ) from error


def read_state(
    folder: epath.Path, abstract_state: Any, *, partial: bool = False
) -> Any:
    """Reads the arrays of one step folder, without verifying their checksums.

    Args:
        folder: `<model_dir>/checkpoints/<step>`.
        abstract_state: as in `CheckpointStore.restore`.
        partial: read only the arrays of `abstract_state`; the folder may have more.

    Returns:
        The state on the shardings of `abstract_state`.

    Raises:
        DamagedCheckpointError: an array is missing or unreadable.
    """
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract_state)
    drop_late_callbacks()
    try:
        return state_handler().restore(
            folder / STATE,
            args=ocp.args.PyTreeRestore(
                item=abstract_state, restore_args=restore_args, partial_restore=partial
            ),
        )
    except Exception as error:  # Orbax and TensorStore raise many types.
        store.explain(folder / STATE, "read", error)  # which is no damage
        raise DamagedCheckpointError(
            f"{STATE} cannot be read: {_one_line(error)}"
        ) from error


def state_handler() -> ocp.PyTreeCheckpointHandler:
    """The handler that writes and reads `state/`."""
    # Random fp32 mantissas hardly compress (7 %), and zstd would compete with the
    # input pipeline for the host's cores.
    return ocp.PyTreeCheckpointHandler(use_compression=False)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by their slash-separated paths, such as `params/encoder/...`."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))
            for key in path
        ): leaf
        for path, leaf in paths
    }


def mismatch(
    folder: epath.Path, saved: Mapping[str, SavedArray], wanted: Mapping[str, Any]
) -> str | None:
    """One message naming every array in which two states differ, or None."""
    shapes = {name: tuple(leaf.shape) for name, leaf in wanted.items()}
    found = {name: array.shape for name, array in saved.items()}
    lines = names.differences(found, shapes)
    for name, leaf in wanted.items():
        expected = _dtype_name(leaf.dtype)
        if found.get(name) == shapes[name] and saved[name].dtype != expected:
            lines.append(
                f"  dtype       {name} {saved[name].dtype}, expected {expected}"
            )
    if not lines:
        return None
    return "\n".join(
        [
            f"{folder} holds another state than this run ({len(lines)} arrays differ):",
            *lines,
            "Use the model and optimizer it was trained with, or start from its "
            "weights alone with INITIAL_CHECKPOINT_PATH and a new model directory.",
        ]
    )


def _dtype_name(dtype: Any) -> str:
    extended = jnp.issubdtype(dtype, jax.dtypes.extended)
    return str(dtype) if extended else np.dtype(dtype).name


def _seal(content: Any) -> dict[str, Any]:
    """The content with the SHA-256 of its JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=True)
    # Through JSON, so that tuples and int keys compare equal when read back.
    return {
        "content": typed_json.decode(text, object, METADATA, infinities=True),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


@functools.cache
def drop_late_callbacks() -> None:
    """Prevents that one failure prints a traceback for every other array or thread.

    When one read or write fails, Orbax closes its event loop while TensorStore's
    threads still deliver the other arrays to it; each then prints a traceback ("Event
    loop is closed", or its own failure to read). Orbax's threads also print the failure
    that they pass on to their caller. Only these tracebacks are dropped.
    """
    previous = sys.unraisablehook
    late = ("Event loop is closed", "Encountered error while reading array index")

    def hook(unraisable: Any) -> None:
        if not str(unraisable.exc_value).startswith(late):
            previous(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    threads = ("future.py", "async_checkpointer.py", "checkpoint_manager.py")
    again = "Attempted to create temporary directory"  # a second try of the same save

    def is_news(record: logging.LogRecord) -> bool:
        passed_on = record.exc_info and record.filename in threads
        return "orbax" not in record.pathname or not (
            passed_on or record.getMessage().startswith(again)
        )

    logging.getLogger("absl").addFilter(is_news)


def _one_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
