"""Orbax folders of T5X's newer checkpoints and of our own runs.

    T5X     checkpoint_1000/state/    {"target": ..., "state": {"step", "param_states"}}
    ours    1000/state/               {"params": ..., "opt_state": ..., "step"}

Both have one zarr array per leaf, in one OCDBT database or, if older, in one folder per
leaf. Our `opt_state/0/mu` is T5X's `param_states/0/mu`.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.traverse_util import unflatten_dict

from specialize.checkpoints import names, step_folder
from specialize.checkpoints.formats import adapters, enclosure, t5x, zarr_arrays
from specialize.checkpoints.lazy_tensors import CHUNK_BYTES, LazyTensor, from_array
from specialize.checkpoints.source import Source, check, opened
from specialize.errors import InputError
from specialize.paths.store import explain

_METADATA = "_METADATA"
# The field of the optimizer's state that holds an average of the weights
# (`training.optimization.averaging`).
_EMA = "ema"

# Opens the weights that adapters name.
OpenBase = Callable[[str], Source]


def is_folder(path: epath.Path) -> bool:
    """Whether `path` is one step, or the state inside it."""
    return (path / _METADATA).exists() or (
        path / step_folder.STATE / _METADATA
    ).exists()


def open_folder(
    path: epath.Path,
    *,
    open_base: OpenBase,
    activation: str | None = None,
    settings: Any = None,
) -> Source:
    """Opens one step of T5X or of a run and reads only the metadata of its arrays.

    A run of adapters is opened with their base, as one whole checkpoint.

    Args:
        path: the step's folder, or the `state` inside it; local or in a bucket.
        open_base: opens the base of adapters by its name.
        activation: activation of the feed-forward block, if no config.json has it.
        settings: the network in a config.json beside the checkpoint, or None.

    Returns:
        The opened checkpoint, of format "orbax" (T5X) or "specialize" (ours).

    Raises:
        InputError: the checkpoint is damaged or of another kind, or tensors are
            missing, unexpected or have wrong shapes (all are named).
    """
    inside = not (path / step_folder.STATE / _METADATA).exists()
    folder = path if inside else path / step_folder.STATE
    where = str(path)
    leaves = _leaves(folder, where)
    if any(name.startswith("target/") for name in leaves):
        return t5x.source_of(
            "orbax", where, leaves, activation=activation, settings=settings
        )
    return _source_of_run(folder.parent, where, leaves, activation, settings, open_base)


def averaged(source: Source) -> Source:
    """The moving average of the weights that a checkpoint has beside its last ones.

    Raises:
        InputError: it has none.
    """
    found: dict[str, LazyTensor] = {}
    prefix = ""
    for name, tensor in source.optimizer.items():
        before, mark, parameter = name.rpartition(f"/{_EMA}/")
        if mark and tensor is not None and parameter in source.stored:
            prefix, found[parameter] = f"{before}{mark}", tensor
    if not found:
        raise InputError(
            f"{source.path} has no average of the weights: its run had no EMA_DECAY. "
            f"Name it without #{_EMA}."
        )
    changes: dict[str, Any] = {
        "optimizer": {},
        "stored": found,
        "saved_under": "opt_state/" + prefix.removeprefix("param_states/"),
        "notes": (*source.notes, "the moving average of the weights"),
    }
    if (own := source.adapters) is not None and own.record is not None:
        averages = adapters.of_run(found, own.record, own.base, source.path)
        again = adapters.merged(averages, path=source.path, format=source.format)
        return dataclasses.replace(again, step=source.step, **changes)
    tables = source.config.relpos_per_layer
    tensors = names.unrolled(found, source.path, table_per_layer=tables)
    check(tensors, source.config, source.path)
    return dataclasses.replace(source, tensors=tensors, **changes)


def write_folder(
    folder: pathlib.Path,
    tensors: Mapping[str, LazyTensor],
    *,
    step: int,
    optimizer: Mapping[str, LazyTensor | None],
) -> None:
    """Writes one step as newer T5X does, one tensor in memory at a time.

    Args:
        folder: the `checkpoint_<step>` folder to write into.
        tensors: parameters by T5X name, in the layout to write.
        step: number of training steps.
        optimizer: `param_states/...` in the same layout; None for an empty state.
    """
    leaves: dict[tuple[str, ...], Any] = {
        ("target", *name.split("/")): tensor for name, tensor in tensors.items()
    }
    for name, tensor in optimizer.items():
        leaves[("state", *name.split("/"))] = {} if tensor is None else tensor
    # Lazy too: Orbax writes other types in the background, perhaps still after a
    # failure has removed the folder.
    leaves[("state", "step")] = from_array(np.asarray(step, np.int32))
    if not optimizer:
        leaves[("state", "param_states")] = {}
    registry = ocp.type_handlers.create_type_handler_registry(
        (LazyTensor, _OneByOne()),
        # Never used; without it Orbax warns that it keeps no array metadata.
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    # Orbax takes absolute paths only.
    target = epath.Path(folder.absolute()) / step_folder.STATE
    target.mkdir(parents=True, exist_ok=True)
    handler.save(
        target, args=ocp.args.PyTreeSave(t5x.with_gaps(unflatten_dict(leaves)))
    )
    handler.finalize(target)


class _OneByOne(ocp.type_handlers.NumpyHandler):
    """Orbax's handler of numpy arrays for lazy tensors, which are read one by one."""

    def __init__(self) -> None:
        # The arrays do not change while they are written: no copy is needed.
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Any = None
    ) -> Sequence[ocp.Future]:
        """Writes the tensors one after the other; returns when all are written."""
        args = args or [ocp.SaveArgs()] * len(values)
        for value, info, arg in zip(values, infos, args, strict=True):
            # Each chunk is compressed in memory: a stack of layers in one chunk would
            # need three times its size.
            small = dataclasses.replace(arg, chunk_byte_size=CHUNK_BYTES)
            for written in await super().serialize([value.read()], [info], [small]):
                written.result()
        return []


def _leaves(folder: epath.Path, where: str) -> dict[str, Any]:
    """All arrays of an Orbax folder by slash-separated name; None for empty states."""
    step_folder.drop_late_callbacks()
    zarr_arrays.check_links(folder)
    try:
        metadata = ocp.PyTreeCheckpointHandler().metadata(folder)
        tree = metadata.tree
        zarr3 = bool(getattr(metadata, "use_zarr3", False))
    except Exception as error:  # Orbax raises a dozen kinds.
        explain(where, "read", error)
        raise InputError(
            f"{where} cannot be opened as an Orbax checkpoint ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}). Write or fetch it again."
        ) from error
    base = zarr_arrays.kvstore(str(folder))
    ocdbt = (folder / "manifest.ocdbt").exists()
    specs: dict[str, Any] = {}
    empty: dict[str, None] = {}
    for name, leaf in _flat(tree, ()):
        if leaf is None:
            empty["/".join(name)] = None
            continue
        if not all(enclosure.is_beneath(part) and "/" not in part for part in name):
            raise InputError(
                f"{folder / _METADATA} names an array {name!r:.80}, which could lie "
                "outside the checkpoint. Write or fetch it again."
            )
        path = ".".join(name) + "/"
        store = {**base, "path": base["path"] + path}
        if ocdbt:
            store = {"driver": "ocdbt", "base": base, "path": path}
        driver = "zarr3" if zarr3 else "zarr"
        specs["/".join(name)] = {"driver": driver, "kvstore": store}
    return {**zarr_arrays.open_all(specs, where), **empty}


def _flat(tree: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Leaves by key; None for an empty node (an optimizer's empty state)."""
    if isinstance(tree, list | tuple):
        tree = {str(number): value for number, value in enumerate(tree)}
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from _flat(value, (*key, str(name)))
    else:
        yield key, tree or None


def _source_of_run(
    folder: epath.Path,
    where: str,
    leaves: Mapping[str, Any],
    activation: str | None,
    settings: Any,
    open_base: OpenBase,
) -> Source:
    """Makes a `Source` from one step of a run of ours.

    Raises:
        DamagedCheckpointError: it has adapters, but no metadata that name their base.
    """
    stored = {
        name.removeprefix("params/"): tensor
        for name, tensor in leaves.items()
        if name.startswith("params/")
    }
    if not stored:
        raise InputError(
            f"{where} has parameters neither under 'target' (T5X) nor under 'params' "
            f"(ours); found: {', '.join(list(leaves)[:5]) or 'nothing'}."
        )
    optimizer = {
        "param_states/" + name.removeprefix("opt_state/"): tensor
        for name, tensor in leaves.items()
        if name.startswith("opt_state/")
    }
    metadata: Mapping[str, Any] = {}
    try:
        metadata, _ = step_folder.read_metadata(folder)
        step = metadata["step"]
    except step_folder.DamagedCheckpointError as damage:
        step = t5x.step_in(leaves.get("step"), where)
        if adapters.are_in(stored):
            raise step_folder.DamagedCheckpointError(
                f"{where} has adapters, but what says of which weights is damaged: "
                f"{damage}. Name an older checkpoint."
            ) from damage
    if record := adapters.record_in(metadata, where):
        base = open_base(record.base)
        return adapters.merged(
            adapters.of_run(stored, record, base, where),
            format="specialize",
            path=where,
            stored=stored,
            step=step,
            optimizer=optimizer,
        )
    return opened(
        "specialize",
        where,
        stored,
        activation=activation,
        settings=settings,
        step=step,
        optimizer=optimizer,
    )
