"""Weighted means of checkpoints, computed while they are written.

A mean of a specialist and its start keeps part of both abilities (Wortsman et al.,
"Robust fine-tuning of zero-shot models", CVPR 2022). A mean of a run's last
checkpoints, or of runs with other seeds, often generalises better than each of them
(Wortsman et al., "Model soups", ICML 2022).
"""

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from specialize import checks, outputs, paths, sharding, typed_json, versions
from specialize.checkpoints import names, vocabulary_rows, weighing
from specialize.checkpoints.convert import (
    KIND,
    MERGED,
    ConversionSummary,
    Export,
    check_target,
    write,
)
from specialize.checkpoints.formats import adapters, tokenizer_files
from specialize.checkpoints.lazy_tensors import LazyTensor, weighted_mean
from specialize.checkpoints.loading import load_opened, on_all_processes
from specialize.checkpoints.opening import (
    open_checkpoint,
    verify_run,
    vocabulary_of_run,
)
from specialize.checkpoints.source import Source
from specialize.digests import vocabulary_digest
from specialize.errors import InputError
from specialize.paths import store

# Fields of a network that do not change what its weights compute in evaluation.
_FREE = {
    *("dtype", "dropout_rate", "scan_layers", "remat_policy", "vocab_size"),
    *("attention", "attention_block", "embedding_lookup"),
}
# What the name of each folder of several merges begins with.
_OF_SERIES = "alpha_"


@dataclasses.dataclass(frozen=True)
class _Record:
    """The content of `merge.json`: what was asked for, and the fingerprint."""

    version: int
    request: typed_json.Object
    fingerprint: str


def merge(
    sources: Sequence[str],
    target: str | None,
    *,
    weights: Sequence[float] | None = None,
    to: str = "hf",
    dtype: str | None = None,
    layers: names.Layers = "unrolled",
    vocabulary: str | None = None,
    activation: str | None = None,
    max_shard_bytes: int = 5 * 10**9,
    quantized_base: bool = False,
    keep_finished: bool = False,
) -> ConversionSummary:
    """Writes the weighted mean of checkpoints, one tensor in memory at a time.

    Each tensor is `sum_i w_i * tensor_i`, summed in float64 and rounded once. A weight
    of 1 gives that checkpoint bit for bit.

    Args:
        sources: two or more, each anything that `convert` reads.
        target: a new or empty folder; None only reads the sources.
        weights: one number for each source; their sum is 1. None: the plain mean.
        to: "hf", "t5x" (msgpack and zarr) or "orbax" (newer T5X).
        dtype: "float32" or "bfloat16" (default: the sources', or float32 if they have
            several).
        layers: layout of a T5X target.
        vocabulary: a SentencePiece model, or "byt5", if no source has a tokenizer.
        activation: "relu", "gelu" or "silu", if the sources do not contain it.
        max_shard_bytes: maximum size of a safetensors file.
        quantized_base: whether adapters that were trained on a quantised base are added
            to what its codes mean, as in training, instead of to the base itself.
        keep_finished: whether a target that holds this very merge is kept, as when a
            series of merges was killed.

    Raises:
        InputError: a source cannot be read, the sources do not fit each other, the
            weights do not fit the sources, a mean is too large for its type, or the
            target cannot be written. No part of the target is left.

    Example:
        >>> done = specialize.merge(["runs/student", "runs/student"], "runs/mean")
        >>> done.parameters > 0
        True
    """
    shares = _checked(sources, weights)
    export = Export(to, dtype, layers, None, vocabulary, max_shard_bytes)
    request = {
        "sources": list(sources),
        "weights": list(shares),
        "options": {**dataclasses.asdict(export), "quantized_base": quantized_base},
    }
    finished = target if keep_finished and target and _is_merge(target) else None
    if target is not None and finished is None:
        check_target(target)
    opened = [_opened(source, activation) for source in sources]
    mean = merged(_for_export(opened, quantized_base), shares, dtype)
    if vocabulary is None and mean.companions is None:
        found = next(filter(None, map(_vocabulary, opened)), None)
        export = dataclasses.replace(export, vocabulary=found)
    if finished is not None:
        return _kept(finished, request, write(mean, None, export))

    def record(folder: pathlib.Path, fingerprint: str) -> None:
        content = _Record(versions.MERGE.writes, request, fingerprint)
        outputs.write_json(folder / versions.MERGE.file, dataclasses.asdict(content))

    return write(mean, target, export, record=record)


def _is_merge(target: str) -> bool:
    """Whether a folder has a finished merge; a killed one may have a record."""
    return paths.exists(_record_of(target)) and outputs.kind_of(target) == KIND


def _record_of(target: str) -> str:
    return paths.joined(target, versions.MERGE.file)


def _kept(
    target: str, request: Mapping[str, Any], wanted: ConversionSummary
) -> ConversionSummary:
    """The summary of a finished folder, which holds what is wanted now.

    Raises:
        InputError: the folder holds another merge.
    """
    file = paths.local(_record_of(target))
    found = typed_json.read(file, _Record, remedy="Remove the folder to merge again.")
    versions.MERGE.check(found.version, file)
    other = [name for name in request if found.request.get(name) != request[name]]
    if other or found.fingerprint != wanted.fingerprint:
        what = f"with other {', '.join(other)}" if other else "of other weights"
        raise InputError(
            f"{target} already holds a merge {what} ({versions.MERGE.file}). Name "
            "another folder, or remove it."
        )
    notes = (*wanted.notes, "kept: this merge was finished before")
    to = request["options"]["to"]
    return dataclasses.replace(wanted, target=target, target_format=to, notes=notes)


def requested(
    count: int, target: str, alpha: str | None, weights: str | None
) -> list[tuple[str, list[float] | None]]:
    """The folder and the weights of every merge that a command line asks for.

    Args:
        count: number of checkpoints.
        target: the folder that was named; with several alphas, that of their folders.
        alpha: "0.3", "0,0.5" or "0:1:0.1" (both ends count): shares of the second of
            two checkpoints.
        weights: "0.5,0.25,0.25".

    Raises:
        InputError: a text is no such list, there are not two checkpoints, a share is
            outside [0, 1], one of several folders cannot be written, or the one for
            them holds something else.
    """
    if weights is not None:
        return [
            (target, [*map(float, weighing.numbers("--weights", weights, "0.5,0.5"))])
        ]
    if alpha is None:
        return [(target, None)]
    if count != 2:
        raise InputError(
            f"--alpha is the share of the second of two checkpoints, but there are "
            f"{count}. Use --weights W,W,... for more."
        )
    asked = weighing.alphas("--alpha", alpha)
    several = len(asked) > 1
    if several and not _is_series(target):
        check_target(target)
    folders = [target]
    if several:
        folders = [f"{target}/{_OF_SERIES}{share:f}" for share in asked]
    for folder in folders:
        if not (several and _is_merge(folder)):  # `merge` compares it
            check_target(folder)
    return list(zip(folders, map(weighing.weights_of, asked), strict=True))


def _is_series(folder: str) -> bool:
    """Whether a folder was made for the folders of several merges."""
    if outputs.kind_of(folder) is not None:
        return False
    if paths.in_bucket(folder):
        inside = store.names(folder)
    else:
        inside = os.listdir(folder) if os.path.isdir(folder) else []
    return any(name.startswith(_OF_SERIES) for name in inside)


def _checked(
    sources: Sequence[str], weights: Sequence[float] | None
) -> tuple[float, ...]:
    """The weight of each source.

    Raises:
        InputError: there are fewer than two sources, or the weights do not fit them.
    """
    count = len(sources)
    if count < 2:
        raise InputError(
            f"a merge needs two or more checkpoints, not {count}. Name them one after "
            "another."
        )
    if weights is None:
        return (1 / count,) * count
    for weight in weights:
        checks.real("weight", weight, least=-10, most=10)
    total = math.fsum(weights)
    if len(weights) != count or abs(total - 1) > 1e-6:
        raise InputError(
            f"{len(weights)} weights ({', '.join(map(repr, weights))}; sum "
            f"{total!r}) for {count} checkpoints; give one for each, with the sum 1."
        )
    return tuple(map(float, weights))


def _opened(source: str, activation: str | None) -> Source:
    opened = open_checkpoint(source, activation=activation)
    if opened.format == "specialize":
        verify_run(opened)
    return opened


def _for_export(opened: Sequence[Source], quantized_base: bool) -> list[Source]:
    """The checkpoints with adapters added to the base itself, or as in training.

    Raises:
        InputError: `quantized_base` is asked for, but no base was quantised.
    """
    if not quantized_base:
        return [adapters.for_export(one) for one in opened]
    if not any(map(adapters.of_quantized_base, opened)):
        raise InputError(
            "--quantized_base: none of the checkpoints has adapters that were trained "
            "on a quantised base. Leave --quantized_base out."
        )
    return list(opened)


def load_mean(
    sources: Sequence[str],
    weights: Sequence[float],
    abstract_params: Mapping[str, Any],
    *,
    activation: str,
) -> Any:
    """The weighted mean of checkpoints on the shardings of a network.

    It is what `merge` writes, bit for bit in the type of the sources. Adapters of a
    quantised base are added as with its `quantized_base`.

    Args:
        sources: two or more, each anything that `convert` reads.
        weights: one number for each source; their sum is 1.
        abstract_params: as for `load_params`.
        activation: the network's, for sources that do not contain it.

    Raises:
        InputError: as `merge`.
    """
    together = on_all_processes(abstract_params)
    opened = [
        open_checkpoint(source, activation=activation, together=together)
        for source in sources
    ]
    for one in opened:
        if one.format == "specialize":
            sharding.by_leader(functools.partial(verify_run, one))
    return load_opened(
        merged(opened, _checked(sources, weights)), abstract_params, quiet=True
    )


def merged(
    opened: Sequence[Source], weights: Sequence[float], dtype: str | None = None
) -> Source:
    """The weighted mean of opened checkpoints, as one that can be written.

    Args:
        opened: the checkpoints.
        weights: one number for each; their sum is 1.
        dtype: "float32" or "bfloat16" (None: as in `merge`).

    Raises:
        InputError: they are of different networks or vocabularies, or a token of one
            has no row in another.
    """
    for other in opened[1:]:
        _check_network(opened[0], other)
    known = max(opened, key=_knowledge)
    for other in opened:
        _check_vocabulary(known, other)
    _check_rows(opened)
    used = [(w, s) for w, s in zip(weights, opened, strict=True) if w]
    first = used[0][1]  # alone, it is the result bit for bit
    notes = [f"{one.path}: {note}" for one in opened for note in one.notes]
    tensors = [_with_rows(source, first, notes) for _, source in used]
    shares = [weight for weight, _ in used]
    if any(source.optimizer for source in opened):
        notes.append("optimizer state dropped: a mean of weights has none")
    steps = {source.step for source in opened}
    special = next((one.special for one in opened if one.special), None)
    return Source(
        MERGED,
        " + ".join(f"{w:g} x {s.path}" for w, s in zip(weights, opened, strict=True)),
        {
            name: weighted_mean(shares, [one[name] for one in tensors], dtype, name)
            for name in tensors[0]
        },
        first.config,
        step=first.step if len(steps) == 1 else None,
        companions=known.companions,
        kind=next((one.kind for one in opened if one.kind), None),
        special=special,
        notes=notes,
    )


def _check_network(first: Source, other: Source) -> None:
    """Refuses two checkpoints whose tensors do not mean the same.

    Raises:
        InputError: their networks differ (every field is named).
    """
    one, two = (dataclasses.asdict(source.config) for source in (first, other))
    differences = [
        f"{name} {one[name]} and {two[name]}"
        for name in one
        if name not in _FREE and one[name] != two[name]
    ]
    rows = one["vocab_size"], two["vocab_size"]
    if not vocabulary_rows.same_tokens(*rows):
        differences.append(f"vocab_size {rows[0]} and {rows[1]}")
    if differences:
        raise InputError(
            f"{first.path} and {other.path} are of different networks: "
            f"{', '.join(differences)}. Merge checkpoints that began from the same "
            "weights."
        )


def _knowledge(source: Source) -> tuple[bool, bool, bool]:
    """What a checkpoint says of its tokens; more is greater."""
    beside = source.companions
    named = beside is not None and tokenizer_files.names_all(beside)
    return named, beside is not None, _vocabulary(source) is not None


def _check_vocabulary(first: Source, other: Source) -> None:
    """Refuses two checkpoints whose ids mean different tokens.

    Raises:
        InputError: what both know of their vocabularies differs.
    """
    remedy = "Merge checkpoints of one vocabulary."
    known = [(source.path, _vocabulary(source)) for source in (first, other)]
    if None not in (name for _, name in known):
        digests = [vocabulary_digest(str(name)) for _, name in known]
        if digests[0] != digests[1]:
            raise InputError(
                f"{first.path} and {other.path} have different vocabularies "
                f"({known[0][1]}: {digests[0][:12]}, {known[1][1]}: "
                f"{digests[1][:12]}), so their ids mean different pieces. {remedy}"
            )
    if first.companions is not None and other.companions is not None:
        found = tokenizer_files.other_tokens(first.companions, other.companions)
        if found:
            raise InputError(
                f"{first.path} and {other.path} have different tokens: {len(found)} "
                f"are in one of them only, such as {tokenizer_files.shown(found)} of "
                f"{found[0][2]}. Add them to both, with the same ids and a row each, "
                "or merge checkpoints of one vocabulary."
            )
    if first.special and other.special and first.special != other.special:
        raise InputError(
            f"{first.path} and {other.path} have other ids of padding and EOS: "
            f"{first.special} and {other.special}. {remedy}"
        )


def _check_rows(opened: Sequence[Source]) -> None:
    """Refuses a token for which a checkpoint has no row; padding is no token.

    Raises:
        InputError: a token of one is beyond the rows of another.
    """
    fewest = min(opened, key=lambda source: source.config.vocab_size)
    rows = fewest.config.vocab_size
    for one in opened:
        if one.config.vocab_size == rows:
            continue
        if lost := tokenizer_files.without_rows(one.companions, rows):
            raise InputError(
                f"{fewest.path} has {rows} embedding rows, which are too few for "
                f"{len(lost)} tokens of {one.path}, among them "
                f"{tokenizer_files.shown(lost)}. Add them to {fewest.path} with a row "
                "each, or merge checkpoints of one vocabulary."
            )


def _vocabulary(source: Source) -> str | None:
    """The vocabulary file that belongs to a checkpoint, or None."""
    if source.companions is not None:
        found = tokenizer_files.named_vocabulary(source.companions)
    else:
        found = vocabulary_of_run(source.path)
    return None if found is None else str(found)


def _with_rows(
    source: Source, first: Source, notes: list[str]
) -> Mapping[str, LazyTensor]:
    """The tensors of a source with another source's number of embedding rows."""
    tensors, note = vocabulary_rows.adapted(source.tensors, first.config.vocab_size)
    if note is not None:
        notes.append(f"{source.path}: {note}")
    return tensors
