"""The optimizer state of a checkpoint in another layout, where a format has a place."""

from collections.abc import Mapping

from specialize.checkpoints import names
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.checkpoints.source import Source


def kept(
    opened: Source, to: str, layers: names.Layers, rows: int | None, notes: list[str]
) -> Mapping[str, LazyTensor | None]:
    """The optimizer state that is written with converted weights.

    Args:
        opened: the source.
        to: format of the target.
        layers: layout of the target.
        rows: embedding rows that were asked for (None: the source's).
        notes: list that gets a line about whether it is kept or dropped.

    Returns:
        The state by T5X's names; empty if there is none, or the target cannot have it.
    """
    arrays = [tensor for tensor in opened.optimizer.values() if tensor is not None]
    if not arrays:
        return {}
    found: Mapping[str, LazyTensor | None] | None = None
    reason = "a Hugging Face folder has no place for it"
    if opened.adapters is not None:
        reason = "it is that of the adapters"
    elif to != "hf" and any(one.shape and one.dtype.kind in "iu" for one in arrays):
        reason = "T5X has no AdamW with moments in 8 bits"
    elif to != "hf":
        reason = "the number of vocabulary rows changes"
        if rows is None or rows == opened.config.vocab_size:
            reason = "its arrays do not have the layout of the parameters"
            same = opened.layers == layers
            found = opened.optimizer if same else _relaid(opened, layers)
    if found is None:
        notes.append(f"optimizer state ({len(arrays)} arrays) dropped: {reason}")
        return {}
    notes.append(f"optimizer state kept ({len(arrays)} arrays)")
    return found


def _relaid(
    opened: Source, layers: names.Layers
) -> dict[str, LazyTensor | None] | None:
    """Moments in another layout; None if an array is not shaped like its parameter."""
    result: dict[str, LazyTensor | None] = {}
    groups: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in opened.optimizer.items():
        parameter = next(
            (other for other in opened.stored if name.endswith(f"/{other}")), None
        )
        if parameter is None or tensor is None:
            if tensor is not None and tensor.shape:
                return None
            result[name] = tensor
        elif tensor.shape != opened.stored[parameter].shape:
            return None
        else:
            prefix = name.removesuffix(parameter)
            groups.setdefault(prefix, {})[parameter] = tensor
    for prefix, moments in groups.items():
        if set(moments) != set(opened.stored):
            return None
        # Moments of a shared table that was stored per layer differ, and cannot merge.
        own = opened.config.relpos_per_layer
        stored_per_layer = names.has_tables_per_layer(opened.stored)
        if not own and (layers == "scalable" or stored_per_layer):
            return None
        canonical = names.unrolled(moments, opened.path, table_per_layer=own)
        for name, tensor in names.laid_out(canonical, layers).items():
            result[prefix + name] = tensor
    return result
