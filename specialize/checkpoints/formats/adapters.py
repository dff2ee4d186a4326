"""The whole weights that low-rank adapters make with their base: W + scale · A B.

If the base was quantised in training, W is what its codes mean, as in training, unless
the weights are written for others (`for_export`). They are computed in float64 when
a tensor is read, one block of rows at a time, so that whoever reads a checkpoint reads
adapters as he reads whole weights.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from specialize import typed_json
from specialize.checkpoints import fingerprint, names
from specialize.checkpoints.lazy_tensors import CHUNK_BYTES, Index, LazyTensor
from specialize.checkpoints.source import AdapterPair, AdapterRecord, Adapters, Source
from specialize.errors import InputError
from specialize.student.adapters.quantization import dequantize, quantize
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.adapters.trees import LORA_A, LORA_B, MATRICES

_FETCH = "Fetch or write the checkpoint again."


def record_in(metadata: Mapping[str, Any], where: str) -> AdapterRecord | None:
    """What the metadata of a checkpoint say about its adapters; None if it has none.

    Raises:
        InputError: they are malformed.
    """
    if (found := metadata.get("adapters")) is None:
        return None
    record = typed_json.convert(found, AdapterRecord, f"{where}: its adapters")
    if record.rank < 1:
        raise InputError(f"{where}: its adapters have the rank {record.rank}. {_FETCH}")
    return record


def are_in(stored: Mapping[str, Any]) -> bool:
    """Whether parameters by T5X's names are those of adapters."""
    return any(name.rpartition("/")[2] in MATRICES for name in stored)


def of_run(
    stored: Mapping[str, LazyTensor], record: AdapterRecord, base: Source, where: str
) -> Adapters:
    """The adapters of a run of ours.

    Args:
        stored: their matrices by T5X's names, in the run's layout.
        record: what the checkpoint says about them.
        base: the weights that they adapt.
        where: path of the checkpoint, for messages.

    Raises:
        InputError: a matrix is missing or belongs to no adapter.
    """
    matrices = names.unrolled(stored, where)
    pairs: dict[str, AdapterPair] = {}
    scale = record.alpha / record.rank
    for name, tensor in matrices.items():
        place, _, kind = name.rpartition("/")
        other = matrices.get(f"{place}/{LORA_B if kind == LORA_A else LORA_A}")
        if kind not in MATRICES or other is None:
            raise InputError(
                f"{where}: {name} is not one of two matrices of an adapter. {_FETCH}"
            )
        if kind == LORA_A:
            pairs[f"{place}/kernel"] = AdapterPair(tensor, other, scale)
    return Adapters(pairs, base, record.base, record)


def merged(adapters: Adapters, **fields: Any) -> Source:
    """A checkpoint whose tensors are those of a base with its adapters added.

    All tensors are float32 (float64 if the base is), so that no change is rounded away.

    Args:
        adapters: the adapters and their base.
        **fields: fields of the `Source` that are not the base's; "path" at least.

    Raises:
        InputError: an adapter does not fit the base (all are named).
    """
    base, where = adapters.base, fields["path"]
    record = adapters.record
    lines = _misfits(adapters)
    if lines:
        raise InputError(
            "\n".join(
                [f"{where}: {len(lines)} adapters do not fit {base.path}:", *lines]
                + ["Name the weights that they were trained on."]
            )
        )
    types = {tensor.dtype for tensor in base.tensors.values()}
    wide = np.dtype(np.float64)
    dtype = wide if wide in types else np.dtype(np.float32)
    stored = dict(base.tensors)
    if adapters.stored_as() and adapters.as_trained and record is not None:
        stored = _as_stored(stored, record.spec())
    tensors = {
        name: _changed(tensor, adapters.pairs[name], dtype)
        if name in adapters.pairs
        else tensor.cast(dtype)
        for name, tensor in stored.items()
    }
    notes = [*base.notes, f"adapters of {len(adapters.pairs)} projections are added"]
    notes[-1] += f" to {adapters.name}"
    if (how := adapters.stored_as()) is not None:
        notes[-1] += f", which was {how} in training: " + (
            "these are the weights that were trained"
            if adapters.as_trained
            else "these are its original weights with the adapters, another function "
            "than in training (--quantized_base writes that of training)"
        )
    if types != {dtype}:
        notes.append(f"the weights are {dtype.name}: the base's type could round them")
    return dataclasses.replace(
        base,
        tensors=tensors,
        **{
            "layers": "unrolled",
            "stored": {},
            "step": None,
            "optimizer": {},
            "saved_under": "params/",
            "adapters": adapters,
            "notes": notes,
            **fields,
        },
    )


def for_export(opened: Source, *, quantized_base: bool = False) -> Source:
    """A checkpoint as it is written for others: adapters are added to the base itself.

    Users of PEFT train on a quantised base and merge into the original one, which is
    nearer to the weights that were pretrained, but not exactly what was trained.

    Args:
        opened: any checkpoint; without such adapters it is returned as it is.
        quantized_base: whether the adapters are added to the base as in training.

    Raises:
        InputError: `quantized_base` is asked for, but the base was not quantised.
    """
    own = opened.adapters
    if own is None or not of_quantized_base(opened):
        if quantized_base:
            raise InputError(
                f"--quantized_base: {opened.path} has no adapters that were trained on "
                "a quantised base. Leave --quantized_base out."
            )
        return opened
    if quantized_base:
        return opened
    again = merged(
        dataclasses.replace(own, as_trained=False),
        path=opened.path,
        format=opened.format,
    )
    return dataclasses.replace(
        opened, tensors=again.tensors, adapters=again.adapters, notes=again.notes
    )


def of_quantized_base(opened: Source) -> bool:
    """Whether a checkpoint has adapters that were trained on a quantised base."""
    return opened.adapters is not None and opened.adapters.stored_as() is not None


def _as_stored(
    tensors: Mapping[str, LazyTensor], spec: AdapterSpec
) -> dict[str, LazyTensor]:
    """The tensors of a base as they were in training, some of them quantised."""
    result = dict(tensors)
    for name, tensor in tensors.items():
        place, _, last = name.rpartition("/")
        if last == "kernel" and spec.quantizes(place):
            load = functools.partial(_load_quantized, tensor, spec)
            result[name] = LazyTensor(tensor.shape, np.dtype(np.float32), load)
    return result


def _load_quantized(tensor: LazyTensor, spec: AdapterSpec, index: Index) -> np.ndarray:
    """Quantises the blocks that have the wanted rows; returns what the codes mean."""
    rows, columns = index
    block = spec.block_of(tensor.shape[0])
    start, stop = rows.start // block * block, -(-rows.stop // block) * block
    part = tensor.read((slice(start, stop), columns))
    kind = spec.quantize_base
    meant = dequantize(*quantize(part, kind, block), kind)
    return meant[rows.start - start : rows.stop - start]


def check_base(opened: Source) -> None:
    """Reads the base of adapters once, and checks that they were trained on it.

    Raises:
        InputError: the base has another fingerprint.
    """
    own = opened.adapters
    if own is None or own.record is None:
        return  # PEFT's folders do not say
    found = fingerprint.of(own.base.tensors, own.base.path, own.base.saved_under)
    if found != own.record.fingerprint:
        raise InputError(
            f"{opened.path} has adapters of weights with the fingerprint "
            f"{own.record.fingerprint}, but {own.base.path} has {found}. "
            "Name the weights that they were trained on: specialize convert --base."
        )


def _misfits(adapters: Adapters) -> list[str]:
    """One line for each adapter that does not fit its kernel."""
    lines = []
    for name, pair in adapters.pairs.items():
        kernel = adapters.base.tensors.get(name)
        shapes = f"{pair.inward.shape} x {pair.outward.shape}"
        if kernel is None or not name.endswith("kernel"):
            lines.append(f"  unknown     {name} {shapes}")
        elif (
            len(pair.inward.shape) != 2
            or len(pair.outward.shape) != 2
            or pair.inward.shape[1] != pair.outward.shape[0]
            or (pair.inward.shape[0], pair.outward.shape[1]) != kernel.shape
        ):
            lines.append(f"  shape       {name} {shapes}, expected {kernel.shape}")
    return lines


def _changed(tensor: LazyTensor, pair: AdapterPair, dtype: np.dtype) -> LazyTensor:
    load = functools.partial(_load, tensor, pair, dtype)
    return LazyTensor(tensor.shape, dtype, load)


def _load(
    tensor: LazyTensor, pair: AdapterPair, dtype: np.dtype, index: Index
) -> np.ndarray:
    rows, columns = index
    result = tensor.load(index).astype(dtype)
    every = slice(0, pair.inward.shape[1])
    left = pair.scale * pair.inward.read((rows, every)).astype(np.float64)
    right = pair.outward.read((every, columns)).astype(np.float64)
    # In parts: their products in float64 are twice as large as the tensor itself.
    step = max(1, CHUNK_BYTES // (8 * max(1, result.shape[1])))
    for start in range(0, result.shape[0], step):
        part = slice(start, start + step)
        change = left[part] @ right
        # A change of 0 keeps every bit, also those of -0.
        result[part] = np.where(change == 0, result[part], result[part] + change)
    return result
