"""Hugging Face folders: safetensors, config.json, tokenizer files, a model card.

Which head a folder means is decided from its tensors, not from its flags, because
transformers 5 writes `tie_word_embeddings: true` into every T5 configuration:

    lm_head differs from shared      a head of its own; hidden states are not scaled
    equal or absent, scaling on      T5 1.0: the embedding, hidden states times D^-0.5
    equal or absent, scaling off     a head of its own that equals the embedding
"""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from specialize.checkpoints import names
from specialize.checkpoints.lazy import LazyTensor
from specialize.checkpoints.source import Source, check
from specialize.errors import InputError
from specialize.outputs import write_json
from specialize.student.network.architecture import T5Config

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_OTHER_WEIGHTS = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")

# Copies of `shared.weight` under other names; and a matrix that published T5 1.0 files
# hold and no implementation uses.
_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype(np.float64),
}
_ACTIVATIONS = {"gelu_new": "gelu", "swish": "silu"}


def is_folder(path: pathlib.Path) -> bool:
    """Whether `path` holds weights as Hugging Face stores them."""
    return (path / INDEX).is_file() or any(path.glob("*.safetensors"))


def refuse_other_weights(path: pathlib.Path) -> None:
    """Refuses folders that hold only weights this program does not read.

    Raises:
        InputError: with the command that makes safetensors of them.
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
    """Opens a Hugging Face folder; no tensor is read except to compare two heads.

    Args:
        path: a folder with safetensors, sharded or not, and config.json.

    Returns:
        The opened checkpoint.

    Raises:
        InputError: another architecture; files missing, truncated or inconsistent;
            tensors missing, unexpected or mis-shaped (all are named).
    """
    settings = read_config(path / "config.json")
    stored = dict(_stored(path))
    notes: list[str] = []
    tensors: dict[str, LazyTensor] = {}
    unknown: dict[str, LazyTensor] = {}
    stored.pop(_UNUSED, None)
    copies = [stored.pop(name) for name in _ALIASES if name in stored]
    if "shared.weight" not in stored and copies:
        stored["shared.weight"] = copies[0]
    if "shared.weight" not in stored and "lm_head.weight" in stored:
        stored["shared.weight"] = stored["lm_head.weight"]
    for name, tensor in stored.items():
        known = names.from_hf(name)
        if known is None:
            unknown[name] = tensor
        else:
            ours, flip = known
            flip = flip and len(tensor.shape) == 2
            tensors[ours] = tensor.transposed() if flip else tensor
    tied = _decide_head(tensors, settings, notes)
    config = network(settings, path)
    rows = tensors[names.EMBEDDING].shape[0] if names.EMBEDDING in tensors else None
    if rows is not None and rows != config.vocab_size:
        notes.append(
            f"config.json says {config.vocab_size} vocabulary rows, the tensors have "
            f"{rows}; the tensors are believed"
        )
        config = dataclasses.replace(config, vocab_size=rows)
    config = dataclasses.replace(config, logits_via_embedding=tied)
    check({**tensors, **unknown}, config, str(path))
    return Source("hf", str(path), tensors, config, companions=path, notes=notes)


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads config.json and refuses another architecture.

    Raises:
        InputError: missing, not JSON, or not of a T5.
    """
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} has no config.json; it says which network the tensors are."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}). Fetch it again.") from error
    kind = settings.get("model_type") if isinstance(settings, dict) else None
    if kind != "t5":
        raise InputError(
            f"{path} describes a {kind!r} model; only 't5' (T5, Flan-T5, UL2) can be "
            "read. Name another checkpoint."
        )
    return settings


def network(settings: Mapping[str, Any], where: pathlib.Path) -> T5Config:
    """The network that a config.json describes.

    Raises:
        InputError: a field is missing or holds something T5 does not have.
    """
    needed = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
    missing = [name for name in needed if not isinstance(settings.get(name), int)]
    if missing:
        raise InputError(f"{where}: config.json lacks {', '.join(missing)}.")
    projection = str(settings.get("feed_forward_proj", "relu"))
    gated = projection.startswith("gated-")
    activation = projection.removeprefix("gated-")
    activation = _ACTIVATIONS.get(activation, activation)
    return T5Config(
        vocab_size=settings["vocab_size"],
        emb_dim=settings["d_model"],
        num_heads=settings["num_heads"],
        num_encoder_layers=settings["num_layers"],
        num_decoder_layers=settings.get("num_decoder_layers") or settings["num_layers"],
        head_dim=settings["d_kv"],
        mlp_dim=settings["d_ff"],
        mlp_activations=(activation, "linear") if gated else (activation,),
        dropout_rate=float(settings.get("dropout_rate", 0.1)),
        logits_via_embedding=True,
        relpos_num_buckets=settings.get("relative_attention_num_buckets", 32),
        relpos_max_distance=settings.get("relative_attention_max_distance", 128),
        norm_epsilon=float(settings.get("layer_norm_epsilon", 1e-6)),
    )


def settings_of(config: T5Config, dtype: str) -> dict[str, Any]:
    """The config.json of a network: the inverse of `network`.

    Args:
        config: the network.
        dtype: type of the stored tensors.
    """
    import transformers

    activation = config.mlp_activations[0]
    gated = len(config.mlp_activations) == 2
    if (
        len(config.mlp_activations) > 2
        or gated
        and config.mlp_activations[1] != ("linear")
    ):
        raise InputError(
            f"mlp_activations {config.mlp_activations}: transformers has no T5 with "
            "them. Only one activation, or one and 'linear', can be exported."
        )
    written = transformers.T5Config(
        vocab_size=config.vocab_size,
        d_model=config.emb_dim,
        d_kv=config.head_dim,
        d_ff=config.mlp_dim,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.relpos_num_buckets,
        relative_attention_max_distance=config.relpos_max_distance,
        dropout_rate=config.dropout_rate,
        layer_norm_epsilon=config.norm_epsilon,
        feed_forward_proj=f"gated-{activation}" if gated else activation,
    ).to_dict()
    # transformers sets both whatever it is given; see the head of this module.
    tied = config.logits_via_embedding
    written |= {
        "architectures": ["T5ForConditionalGeneration"],
        "tie_word_embeddings": tied,
        "scale_decoder_outputs": tied,
        "decoder_start_token_id": 0,
        "dtype": dtype,
    }
    for noise in ("_name_or_path", "id2label", "label2id"):
        written.pop(noise, None)
    return written


def write_weights(
    folder: pathlib.Path,
    tensors: Mapping[str, LazyTensor],
    *,
    max_shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes canonical tensors as safetensors, one tensor in memory at a time.

    A shard is first laid out in a file that is mapped into memory, so that the
    library can write it without the shard being held.

    Args:
        folder: where to write.
        tensors: by canonical name.
        max_shard_bytes: size of a shard; one tensor may exceed it.
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
        _write_shard(folder / file, {name: tensors[name] for name in shard})
        weight_map |= {_hf_name(name): file for name in shard}
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": weight_map},
        )


def copy_companions(source: pathlib.Path | None, target: pathlib.Path) -> list[str]:
    """Copies tokenizer files; returns the names of those found."""
    found = []
    for name in TOKENIZER_FILES:
        if source is not None and (source / name).is_file():
            shutil.copyfile(source / name, target / name)
            found.append(name)
    return found


def write_tokenizer(vocabulary: pathlib.Path, target: pathlib.Path) -> None:
    """Writes the tokenizer files for a SentencePiece vocabulary.

    Args:
        vocabulary: a SentencePiece model, as `spiece.model`.
        target: the folder.

    Raises:
        InputError: it cannot be read as one.
    """
    import transformers

    try:
        shutil.copyfile(vocabulary, target / "spiece.model")
        tokenizer = transformers.T5Tokenizer.from_pretrained(target, legacy=False)
        tokenizer.save_pretrained(target)
    except Exception as error:
        raise InputError(
            f"{vocabulary} is not a SentencePiece model ({type(error).__name__}: "
            f"{error}). Name the model's spiece.model."
        ) from error


def write_settings(folder: pathlib.Path, config: T5Config, dtype: str) -> None:
    """Writes config.json and generation_config.json."""
    import transformers

    write_json(folder / "config.json", settings_of(config, dtype))
    transformers.GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
    ).save_pretrained(folder)


def write_card(folder: pathlib.Path, text: str, *, base: str | None) -> None:
    """Writes the model card README.md."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        tags=["t5", "specialize", "chain-of-thought", "distillation"],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")


def _stored(path: pathlib.Path) -> Iterator[tuple[str, LazyTensor]]:
    """Every tensor of the folder's safetensors by its Hugging Face name."""
    index = path / INDEX
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise InputError(f"{index} is not an index of safetensors: {error}.") from (
                error
            )
        files = sorted(set(weight_map.values()))
        absent = [name for name in files if not (path / name).is_file()]
        if absent:
            raise InputError(
                f"{path}: {len(absent)} of {len(files)} shards are missing: "
                f"{', '.join(absent)}. Fetch them again."
            )
    else:
        weight_map = None
        files = [SINGLE] if (path / SINGLE).is_file() else []
        files = files or sorted(file.name for file in path.glob("*.safetensors"))
    seen: set[str] = set()
    for name in files:
        for tensor_name, tensor in _open_file(path / name):
            if weight_map is None or weight_map.get(tensor_name) == name:
                seen.add(tensor_name)
                yield tensor_name, tensor
    lost = sorted(set(weight_map or ()) - seen)
    if lost:
        raise InputError(
            f"{path}: the index names {len(lost)} tensors that its shards do not hold: "
            f"{', '.join(lost)}. Fetch the shards again."
        )


def _open_file(path: pathlib.Path) -> Iterator[tuple[str, LazyTensor]]:
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
    tensors: dict[str, LazyTensor], settings: Mapping[str, Any], notes: list[str]
) -> bool:
    """Gives the network a head of its own or takes it away; returns whether tied."""
    embedding, head = tensors.get(names.EMBEDDING), tensors.get(names.HEAD)
    scale, tie = (
        settings.get("scale_decoder_outputs"),
        settings.get("tie_word_embeddings"),
    )
    if embedding is None or (head is None and tie is False and scale is None):
        # `check` names what is missing.
        return False
    scaled = bool(scale) if scale is not None else tie is not False
    if head is not None and not _equal(embedding, head.transposed()):
        if scale:
            notes.append(
                "config.json asks for scaled outputs with a head of its own: the "
                "factor d_model^-0.5 goes into the head"
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
        "as a matrix of its own"
    )
    tensors[names.HEAD] = embedding.transposed()
    return False


def _equal(first: LazyTensor, second: LazyTensor, rows: int = 4096) -> bool:
    if first.shape != second.shape:
        return False
    for start in range(0, first.shape[0], rows):
        part = (slice(start, start + rows), slice(None))
        if not np.array_equal(first.read(part), second.read(part)):
            return False
    return True


def _hf_name(name: str) -> str:
    known = names.to_hf(name)
    if known is None:
        raise InputError(
            f"{name} has no counterpart in transformers' T5 and cannot be exported."
        )
    return known[0]


def _write_shard(path: pathlib.Path, tensors: Mapping[str, LazyTensor]) -> None:
    spool = path.with_suffix(".spool")
    size = max(1, sum(tensor.nbytes for tensor in tensors.values()))
    mapped = np.memmap(spool, np.uint8, "w+", shape=(size,))
    try:
        specs: dict[str, safetensors.TensorSpec] = {}
        offset = 0
        for name, tensor in tensors.items():
            known = names.to_hf(name)
            assert known is not None
            theirs, flip = known
            array = (tensor.transposed() if flip else tensor).read()
            end = offset + array.nbytes
            mapped[offset:end] = array.reshape(-1).view(np.uint8)
            specs[theirs] = safetensors.TensorSpec(
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
