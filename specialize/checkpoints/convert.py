"""Converts T5 weights between all formats, with one tensor in memory at a time."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable

from specialize import paths
from specialize.checkpoints import names, vocabulary_rows
from specialize.checkpoints.fingerprint import WeightFingerprint
from specialize.checkpoints.formats import (
    adapters,
    cards,
    exact_tokenizer,
    huggingface,
    huggingface_companions,
    optimizer_states,
    orbax_folders,
    peft,
    t5x,
    tokenizer_files,
)
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.checkpoints.opening import (
    check_eos,
    open_checkpoint,
    verify_run,
    vocabulary_of_run,
)
from specialize.checkpoints.source import Source
from specialize.corpus.vocabulary import SpecialIds
from specialize.digests import is_vocabulary
from specialize.errors import InputError
from specialize.outputs import (
    LONGEST_NAME,
    check_writable,
    staged_directory,
)
from specialize.progress import track
from specialize.student.network.architecture import T5Config

FORMATS = ("hf", "t5x", "orbax", "peft")
DTYPES = ("float32", "bfloat16")
KIND = "weights"
MERGED = "merge"  # the format of a `Source` that `merging` computes from others

_NO_TOKENIZER = (
    "no tokenizer files: the source has none. Text needs them: name the vocabulary "
    "with --vocabulary spiece.model"
)


@dataclasses.dataclass(frozen=True)
class ConversionSummary:
    """The result of a conversion.

    Attributes:
        source: path of the source.
        source_format: "hf", "t5x", "orbax", "specialize" or "peft".
        target: the folder that was written, or None if the source was only read.
        target_format: "hf", "t5x", "orbax" or "peft", or None.
        tensors: number of parameter tensors.
        parameters: number of parameters.
        nbytes: bytes of the parameters in the target's type.
        dtype: type of the parameters in the target.
        fingerprint: weight fingerprint of the target (`fingerprint`).
        step: number of training steps of the weights, or None.
        seconds: duration of the conversion.
        notes: lines about what was decided, padded or left out.
    """

    source: str
    source_format: str
    target: str | None
    target_format: str | None
    tensors: int
    parameters: int
    nbytes: int
    dtype: str
    fingerprint: str
    step: int | None
    seconds: float
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Export:
    """How weights are written.

    Attributes:
        to: "hf", "t5x" (msgpack and zarr), "orbax" (newer T5X) or "peft" (adapters
            alone). None: "t5x" from Hugging Face, and "hf" from everything else.
        dtype: "float32" or "bfloat16" (None: the source's).
        layers: layout of a T5X target.
        rows: embedding rows of the target (None: the source's).
        vocabulary: a SentencePiece model, or "byt5", if the source has no tokenizer.
        max_shard_bytes: maximum size of a safetensors file.

    Raises:
        InputError: the vocabulary does not exist.
    """

    to: str | None = None
    dtype: str | None = None
    layers: names.Layers = "unrolled"
    rows: int | None = None
    vocabulary: str | None = None
    max_shard_bytes: int = 5 * 10**9

    def __post_init__(self) -> None:
        if self.vocabulary is not None and not is_vocabulary(self.vocabulary):
            raise InputError(
                f"{self.vocabulary} does not exist; --vocabulary names a spiece.model, "
                "or 'byt5' for the bytes of ByT5."
            )


def convert(
    source: str,
    target: str | None,
    *,
    to: str | None = None,
    dtype: str | None = None,
    layers: names.Layers = "unrolled",
    rows: int | None = None,
    vocabulary: str | None = None,
    activation: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    base: str | None = None,
    quantized_base: bool = False,
) -> ConversionSummary:
    """Converts a checkpoint; adapters are merged into the weights that they adapt.

    Args:
        source: anything that `opening.open_checkpoint` reads.
        target: a new or empty folder; None only reads the source.
        to: "hf", "t5x" (msgpack and zarr), "orbax" (newer T5X), or "peft" for the
            adapters of the source alone. Default: "t5x" from Hugging Face, and "hf"
            from everything else.
        dtype: "float32" or "bfloat16" (default: the source's).
        layers: layout of a T5X target.
        rows: embedding rows of the target (default: the source's).
        vocabulary: a SentencePiece model, or "byt5", if the source has no tokenizer.
        activation: "relu", "gelu" or "silu", if the source does not contain it.
        max_shard_bytes: maximum size of a safetensors file.
        base: the weights that the source's adapters adapt, if they are not where the
            adapters say.
        quantized_base: whether adapters that were trained on a quantised base are added
            to what its codes mean, as in training, instead of to the base itself.

    Raises:
        InputError: the source cannot be read, the target cannot be written, or they do
            not fit each other. No part of the target is left.

    Example:
        >>> done = specialize.convert("runs/student", "runs/hf", to="hf")
        >>> done.parameters > 0
        True
    """
    if target is not None:
        check_target(target)
    export = Export(to, dtype, layers, rows, vocabulary, max_shard_bytes)
    opened = open_checkpoint(source, activation=activation, base=base)
    if base is not None and opened.adapters is None:
        raise InputError(
            f"--base {base}: {opened.path} has no adapters, and needs no base. Leave "
            "--base out."
        )
    if opened.format == "specialize":
        verify_run(opened)
    opened = adapters.for_export(opened, quantized_base=quantized_base)
    if to == "peft":
        return _write_peft(opened, target, export, base)
    return write(opened, target, export, base=_base(source))


def _write_peft(
    opened: Source, target: str | None, export: Export, base: str | None
) -> ConversionSummary:
    """Writes the adapters of a checkpoint as a folder of PEFT.

    Raises:
        InputError: it has none, or an option is for whole weights only.
    """
    started = time.monotonic()
    if (found := opened.adapters) is None:
        raise InputError(
            f"{opened.path} has no adapters; only a run that trained adapters "
            "(LORA_RANK) and a folder of PEFT have. Leave --to peft out."
        )
    if export.rows is not None or export.layers != "unrolled":
        raise InputError("--to peft writes no whole weights: no --rows, no --layers.")
    name, notes = base or found.name, []
    if found.base.format != "hf":
        notes.append(
            f"PEFT needs the base as a Hugging Face folder, which {name} is not: "
            "convert it, and name the folder in base_model_name_or_path (--base)"
        )
    if (stored := found.stored_as()) is not None:
        notes.append(f"they were trained beside a base that was {stored}")
    matrices = peft.matrices_of(found)
    if export.dtype is not None:
        matrices = {n: tensor.cast(export.dtype, n) for n, tensor in matrices.items()}
    fingerprint = WeightFingerprint()
    observed = {n: fingerprint.observed(n, tensor) for n, tensor in matrices.items()}
    if target is None:
        for tensor in observed.values():
            tensor.read()
    else:
        with staged_directory(target, KIND) as staged:
            peft.write_folder(staged, observed, found, name)
            text = cards.ADAPTERS.format(
                base=name,
                fingerprint=fingerprint.digits(),
                notes="".join(f"\nNote: {note}.\n" for note in notes),
            )
            huggingface_companions.write_card(
                staged, text, base=_base(name), library="peft"
            )
    return ConversionSummary(
        source=opened.path,
        source_format=opened.format,
        target=target,
        target_format=None if target is None else "peft",
        tensors=len(matrices),
        parameters=sum(tensor.size for tensor in matrices.values()),
        nbytes=sum(tensor.nbytes for tensor in matrices.values()),
        dtype=", ".join(sorted({one.dtype.name for one in matrices.values()})),
        fingerprint=fingerprint.digits(),
        step=opened.step,
        seconds=time.monotonic() - started,
        notes=(*notes, *fingerprint.notes()),
    )


def write(
    opened: Source,
    target: str | None,
    export: Export,
    *,
    base: str | None = None,
    record: Callable[[pathlib.Path, str], None] = lambda folder, fingerprint: None,
) -> ConversionSummary:
    """Writes an opened checkpoint, one tensor in memory at a time.

    Args:
        opened: the weights.
        target: a new or empty folder; None only reads them.
        export: how they are written.
        base: hub name of the source, for the model card.
        record: writes more into the folder of the target before it is in its place; it
            also gets the fingerprint of the weights.

    Raises:
        InputError: as `convert`.
    """
    started = time.monotonic()
    to = export.to or ("t5x" if opened.format == "hf" else "hf")
    layers = export.layers
    notes = list(opened.notes)
    tensors, config = _adapted(opened, export.rows, notes)
    if export.dtype is not None:
        tensors = {n: tensor.cast(export.dtype, n) for n, tensor in tensors.items()}
    if to == "hf" and config.num_decoder_layers > config.num_encoder_layers:
        notes.append(
            "the decoder is deeper than the encoder: transformers 5 generates from "
            "such a model only with use_cache=False"
        )
    types = sorted({tensor.dtype.name for tensor in tensors.values()})
    ticks = track(range(len(tensors)), f"convert {opened.format}", total=len(tensors))
    fingerprint = WeightFingerprint(on_tensor=lambda: next(ticks, None))
    observed = {
        name: fingerprint.observed(name, tensor) for name, tensor in tensors.items()
    }
    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    parameters = sum(tensor.size for tensor in tensors.values())
    if target is None:
        for tensor in observed.values():
            tensor.read()
    else:
        optimizer = optimizer_states.kept(opened, to, layers, export.rows, notes)
        with staged_directory(target, KIND) as staged:
            if to == "hf":
                huggingface.write_weights(
                    staged, observed, max_shard_bytes=export.max_shard_bytes
                )
            else:
                writer = t5x if to == "t5x" else orbax_folders
                writer.write_folder(
                    staged / f"{t5x.PREFIX}{opened.step or 0}",
                    names.laid_out(observed, layers),
                    step=opened.step or 0,
                    optimizer=optimizer,
                )
            rows = config.vocab_size
            special = _write_tokenizer(staged, opened, export.vocabulary, rows)
            if special is None and to == "hf":
                notes.append(_NO_TOKENIZER)
            huggingface_companions.write_settings(
                staged,
                config,
                types[0],
                kind=opened.kind,
                special=special or opened.special or SpecialIds(),
            )
            digits = fingerprint.digits()
            merged = opened.format == MERGED
            card = cards.whole(opened, config, parameters, digits, to, merged=merged)
            huggingface_companions.write_card(staged, card, base=base)
            record(staged, digits)
    for _ in ticks:
        pass
    return ConversionSummary(
        source=opened.path,
        source_format=opened.format,
        target=target,
        target_format=None if target is None else to,
        tensors=len(tensors),
        parameters=parameters,
        nbytes=nbytes,
        dtype=", ".join(types),
        fingerprint=fingerprint.digits(),
        step=opened.step,
        seconds=time.monotonic() - started,
        notes=(*notes, *fingerprint.notes()),
    )


def check_target(target: str) -> None:
    """Refuses a folder that cannot be written or that holds something.

    Raises:
        InputError: it is a URL of no bucket, no name of a folder, or not empty.
    """
    if paths.scheme_of(target):
        paths.checked(target, "--target")
    longest = max(len(os.fsencode(part)) for part in target.split("/"))
    # While it is written, the folder has a name that is 18 bytes longer.
    if longest > LONGEST_NAME - 18 or len(os.fsencode(target)) > 4000 or "\0" in target:
        raise InputError(
            f"--target {target[:40]!r}... cannot be the name of a folder: it has a NUL "
            "character or is too long. Name another folder."
        )
    if check_writable(target, KIND):
        raise InputError(
            f"{target} already holds weights. Name another folder, or remove it."
        )


def _adapted(
    opened: Source, rows: int | None, notes: list[str]
) -> tuple[dict[str, LazyTensor], T5Config]:
    """The source's tensors with the requested number of embedding rows."""
    config = opened.config
    if rows is None or rows == config.vocab_size:
        return dict(opened.tensors), config
    if rows < config.vocab_size:
        tokenizer_files.check_rows(opened.companions, rows)
    tensors, note = vocabulary_rows.adapted(opened.tensors, rows)
    if note is None:
        raise InputError(
            f"{opened.path} has {config.vocab_size} vocabulary rows; {rows} would be "
            f"another vocabulary (only the padding up to a multiple of "
            f"{vocabulary_rows.MULTIPLE} can change)."
        )
    notes.append(note)
    return tensors, dataclasses.replace(config, vocab_size=rows)


def _write_tokenizer(
    folder: pathlib.Path,
    opened: Source,
    vocabulary: str | None,
    rows: int,
) -> SpecialIds | None:
    """Writes tokenizer files from `vocabulary`, else from the source, if it has any.

    Returns:
        The ids of padding and EOS of these files; None if there are none.

    Raises:
        InputError: the vocabulary is not that of the weights, or cannot be written.
    """
    if vocabulary is None and tokenizer_files.copy(opened.companions, folder):
        return opened.special or SpecialIds()
    found = pathlib.Path(vocabulary) if vocabulary else None
    if found is None and opened.format != MERGED:  # its path is a formula
        found = vocabulary_of_run(opened.path)
    if found is None:
        return None
    special = exact_tokenizer.write(found, folder, rows=rows)
    check_eos(opened, found, special)
    return special


def _base(source: str) -> str | None:
    """The source if it is a hub name, else None."""
    on_hub = source.count("/") == 1 and not pathlib.Path(source).exists()
    return source if on_hub else None
