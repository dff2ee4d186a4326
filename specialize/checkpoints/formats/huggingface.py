"""The weights of a Hugging Face folder: safetensors in one file or several.

The tensors of a folder, not its flags, decide about the head, because transformers 5
writes `tie_word_embeddings: true` into every T5 configuration:

    lm_head differs from shared      separate head; hidden states are not scaled
    equal or absent, scaling on      T5 1.0: the embedding, hidden states times D^-0.5
    equal or absent, scaling off     separate head that equals the embedding

The outputs of an mT5 are never scaled, whatever its configuration says.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import safetensors

from specialize import typed_json
from specialize.checkpoints import names, vocabulary_rows
from specialize.checkpoints.formats import enclosure
from specialize.checkpoints.formats import huggingface_companions as companions
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.checkpoints.source import Source, check
from specialize.errors import InputError
from specialize.outputs import write_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_OTHER_WEIGHTS = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")

# Copies of `shared.weight` under other names, and a matrix in the published T5 1.0
# files that no implementation uses.
_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
}


@dataclasses.dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


def is_folder(path: pathlib.Path) -> bool:
    """Whether `path` has weights in safetensors files."""
    return (path / INDEX).is_file() or any(path.glob("*.safetensors"))


def refuse_other_weights(path: pathlib.Path) -> None:
    """Refuses folders with weights only in formats that are not read here.

    Raises:
        InputError: there are such weights; gives the command that converts them.
    """
    found = [name for name in _OTHER_WEIGHTS if (path / name).exists()]
    found += sorted(p.name for p in path.glob("pytorch_model-*.bin"))
    if found:
        raise InputError(
            f"{path} holds {', '.join(found[:3])} but no safetensors. A .bin is a "
            "pickle that may run code when it is opened, and is not read here. In an "
            'environment with torch: python -c "from transformers import '
            "AutoModelForSeq2SeqLM as M; M.from_pretrained('"
            f"{path}').save_pretrained('{path}-safetensors')\""
        )


def open_folder(path: pathlib.Path) -> Source:
    """Opens a folder with safetensors, in one file or several, and config.json.

    No tensor is read, except to compare the head with the embedding.

    Raises:
        InputError: the architecture is not T5's; files are missing, truncated or
            inconsistent; tensors are missing, unexpected or have wrong shapes (all are
            named).
    """
    settings = companions.read_config(path / "config.json")
    special = companions.special_ids(path, settings)
    stored = dict(_stored(path))
    notes: list[str] = []
    tensors: dict[str, LazyTensor] = {}
    unknown: dict[str, LazyTensor] = {}
    if stored.pop(_UNUSED, None) is not None:
        notes.append(f"{_UNUSED} is left out: no implementation of T5 uses it")
    _share_embedding(stored, settings, path)
    for name, tensor in stored.items():
        known = names.from_hf(name, table_per_layer=settings.model_type == "umt5")
        if known is None:
            unknown[name] = tensor
        else:
            ours, flip = known
            flip = flip and len(tensor.shape) == 2
            tensors[ours] = tensor.transposed() if flip else tensor
    tied = _decide_head(tensors, settings, notes)
    config = companions.network(settings, path)
    embedding = tensors.get(names.EMBEDDING)
    rows = embedding.shape[0] if embedding and embedding.shape else None
    if rows is not None and rows != config.vocab_size:
        if not vocabulary_rows.same_tokens(rows, config.vocab_size):
            raise InputError(
                f"{path / 'config.json'}: vocab_size is {config.vocab_size}, but the "
                f"embedding has {rows} rows. Correct it, or fetch the weights again."
            )
        notes.append(
            f"config.json says {config.vocab_size} vocabulary rows, the tensors have "
            f"{rows}; the number of the tensors is used"
        )
        config = dataclasses.replace(config, vocab_size=rows)
    config = dataclasses.replace(config, logits_via_embedding=tied)
    check({**tensors, **unknown}, config, str(path))
    return Source(
        "hf",
        str(path),
        tensors,
        config,
        companions=path,
        kind=settings.model_type,
        special=special,
        notes=notes,
    )


def _share_embedding(
    stored: dict[str, LazyTensor], settings: companions.Settings, path: pathlib.Path
) -> None:
    """Leaves one embedding, `shared.weight`, of its equal copies.

    Raises:
        InputError: encoder and decoder have embeddings that differ, or there is only a
            head, which is not the embedding.
    """
    found = {n: stored.pop(n) for n in ("shared.weight", *_ALIASES) if n in stored}
    first = next(iter(found), "")
    different = [n for n in found if n != first and not _equal(found[n], found[first])]
    if different:
        raise InputError(
            f"{path}: {', '.join(different)} differs from {first}. T5 has one "
            "embedding for encoder and decoder; this network cannot hold the weights."
        )
    if first:
        stored["shared.weight"] = found[first]
    elif "lm_head.weight" in stored and settings.tie_word_embeddings is not False:
        stored["shared.weight"] = stored["lm_head.weight"]


def write_weights(
    folder: pathlib.Path,
    tensors: Mapping[str, LazyTensor],
    *,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes canonical tensors as safetensors, one tensor in memory at a time.

    A file shard is first written to a file that is mapped into memory, so that the
    library can write it without the whole shard in memory.

    Args:
        folder: the folder to write into.
        tensors: tensors by canonical name.
        max_shard_bytes: maximum size of a file shard; a single tensor may exceed it.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        theirs: dict[str, LazyTensor] = {}
        for name in shard:
            known, flip = hf_name(name)
            theirs[known] = tensors[name].transposed() if flip else tensors[name]
        write_file(folder / file, theirs)
        weight_map |= {hf_name(name)[0]: file for name in shard}
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )


def _stored(path: pathlib.Path) -> Iterator[tuple[str, LazyTensor]]:
    """Yields all tensors of the folder's safetensors with their Hugging Face names."""
    index = path / INDEX
    if index.is_file():
        enclosure.check_link(path, index)
        remedy = "Fetch the index again."
        weight_map = typed_json.read(index, _Index, remedy=remedy).weight_map
        files = sorted(set(weight_map.values()))
        absent = [n for n in files if not enclosure.inside(path, n, index).is_file()]
        if absent:
            raise InputError(
                f"{path}: {len(absent)} of {len(files)} shards are missing: "
                f"{', '.join(absent)}. Fetch them again."
            )
    else:
        weight_map = None
        files = [SINGLE] if (path / SINGLE).is_file() else []
        files = files or sorted(file.name for file in path.glob("*.safetensors"))
        for name in files:
            enclosure.check_link(path, path / name)
    seen: set[str] = set()
    for name in files:
        for tensor_name, tensor in open_file(path / name):
            if weight_map is None or weight_map.get(tensor_name) == name:
                seen.add(tensor_name)
                yield tensor_name, tensor
    lost = sorted(set(weight_map or ()) - seen)
    if lost:
        raise InputError(
            f"{path}: the index names {len(lost)} tensors that its shards do not hold: "
            f"{', '.join(lost)}. Fetch the shards again."
        )


def open_file(path: pathlib.Path) -> Iterator[tuple[str, LazyTensor]]:
    """Yields the tensors of a safetensors file by name; reads none of them.

    Raises:
        InputError: it is damaged, or has a type that is not read.
    """
    try:
        handle = safetensors.safe_open(path, framework="numpy")
        stored = list(handle.keys())
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is truncated or not a safetensors file ({error}). Fetch it again."
        ) from error
    for name in stored:
        part = handle.get_slice(name)
        dtype = _DTYPES.get(part.get_dtype())
        if dtype is None:
            raise InputError(
                f"{path}: {name} has type {part.get_dtype()}; only "
                f"{', '.join(_DTYPES)} can be read. Save the model in float32."
            )
        yield name, LazyTensor(tuple(part.get_shape()), dtype, part.__getitem__)


def _decide_head(
    tensors: dict[str, LazyTensor], settings: companions.Settings, notes: list[str]
) -> bool:
    """Adds or removes the separate head; returns whether the embedding is the head."""
    embedding, head = tensors.get(names.EMBEDDING), tensors.get(names.HEAD)
    scale, tie = settings.scale_decoder_outputs, settings.tie_word_embeddings
    if embedding is None or (head is None and tie is False and scale is None):
        # `check` names what is missing.
        return False
    if len(embedding.shape) != 2 or (head is not None and len(head.shape) != 2):
        # `check` names their shapes.
        return head is None
    scaled = bool(scale) if scale is not None else tie is not False
    if head is not None and not _equal(embedding, head.transposed()):
        if scale:
            notes.append(
                "config.json has scaled outputs with a separate head: the factor "
                "d_model^-0.5 is multiplied into the head"
            )
            tensors[names.HEAD] = head.scaled(1.0 / math.sqrt(embedding.shape[1]))
        elif scaled:
            notes.append(
                "config.json does not say tie_word_embeddings = false, but the head "
                "differs from the embedding: outputs are not scaled, as in T5 1.1"
            )
        return False
    if scaled:
        tensors.pop(names.HEAD, None)
        return True
    notes.append(
        "the head equals the embedding and outputs are not scaled: the head is kept "
        "as a separate matrix"
    )
    tensors[names.HEAD] = embedding.transposed()
    return False


def _equal(first: LazyTensor, second: LazyTensor, rows: int = 4096) -> bool:
    if first.shape != second.shape or len(first.shape) != 2:
        return False
    for start in range(0, first.shape[0], rows):
        part = (slice(start, start + rows), slice(None))
        if not np.array_equal(first.read(part), second.read(part)):
            return False
    return True


def hf_name(name: str) -> tuple[str, bool]:
    """Hugging Face's name of a canonical tensor, and whether it is transposed.

    Raises:
        InputError: transformers' T5 has no such tensor.
    """
    known = names.to_hf(name)
    if known is None:
        raise InputError(
            f"{name} has no counterpart in transformers' T5 and cannot be exported."
        )
    return known


def write_file(path: pathlib.Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes a safetensors file of tensors by its names, one in memory at a time."""
    spool = path.with_suffix(".spool")
    size = max(1, sum(tensor.nbytes for tensor in tensors.values()))
    mapped = np.memmap(spool, np.uint8, "w+", shape=(size,))
    try:
        specs: dict[str, safetensors.TensorSpec] = {}
        offset = 0
        for name, tensor in tensors.items():
            array = tensor.read()
            end = offset + array.nbytes
            mapped[offset:end] = array.reshape(-1).view(np.uint8)
            specs[name] = safetensors.TensorSpec(
                dtype=array.dtype.name,
                shape=list(array.shape),
                data_ptr=mapped.ctypes.data + offset,
                data_len=array.nbytes,
            )
            offset = end
            del array
        safetensors.serialize_file(specs, path, {"format": "pt"})
    finally:
        del mapped
        spool.unlink(missing_ok=True)
