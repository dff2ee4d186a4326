"""An opened checkpoint: canonical names, lazy tensors, the network."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from specialize.checkpoints import names
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.corpus.vocabulary import SpecialIds
from specialize.errors import InputError
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.network.architecture import T5Config

# The published models differ only in the activation, which no T5X tree contains.
_UL2 = {"emb_dim": 4096, "num_heads": 16, "head_dim": 256, "mlp_dim": 16384}


@dataclasses.dataclass(frozen=True)
class AdapterRecord:
    """What a checkpoint of adapters says about them.

    Attributes:
        base: the weights that they adapt: a path, or a name on the hub.
        fingerprint: the fingerprint of these weights (`fingerprint`).
        rank: size between the two matrices of an adapter.
        alpha: the adapters' result is multiplied by alpha / rank.
        targets: the projections that have adapters (`AdapterSpec`).
        quantize_base: how the base was stored in training (`AdapterSpec`).
        quantize_block: number of inputs that shared a scale then.
    """

    base: str
    fingerprint: str
    rank: int
    alpha: float
    targets: Sequence[str]
    quantize_base: str = "none"
    quantize_block: int = 64

    def spec(self) -> AdapterSpec:
        """The adapters that were trained, but for their dropout."""
        fields = {field.name for field in dataclasses.fields(AdapterSpec)}
        own = dataclasses.asdict(self)
        return AdapterSpec(**{name: own[name] for name in own if name in fields})


@dataclasses.dataclass(frozen=True)
class AdapterPair:
    """The two matrices of a projection's adapter: W changes by scale · A B.

    Attributes:
        inward: A, [in, rank].
        outward: B, [rank, out].
        scale: the factor.
    """

    inward: LazyTensor
    outward: LazyTensor
    scale: float


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters and the weights that they adapt.

    Attributes:
        pairs: the matrices by the canonical name of the kernel.
        base: the weights.
        name: path or hub name of the weights, as the adapters name them.
        record: what a run of ours saved about them; None if they are not of a run.
        as_trained: whether they are added to the base as it was stored in training, if
            that was quantised; else to the base itself.
    """

    pairs: Mapping[str, AdapterPair]
    base: "Source"
    name: str
    record: AdapterRecord | None = None
    as_trained: bool = True

    def stored_as(self) -> str | None:
        """How the base was quantised in training, in words; None if it was not."""
        if self.record is None or self.record.quantize_base == "none":
            return None
        return f"{self.record.quantize_base} in blocks of {self.record.quantize_block}"


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        format: "hf", "t5x", "orbax" (T5X's newer layout), "specialize" or "peft".
        path: path of the checkpoint, for messages.
        tensors: parameters by canonical name (`names`), as stored.
        config: the network of the parameters.
        layers: layout of the layers in the source.
        stored: the parameters in the source's own layout, by T5X's names; of adapters,
            their matrices.
        step: number of training steps, if the source contains it.
        optimizer: the rest of the training state, by T5X's names
            (`param_states/0/mu/encoder/...`), in the source's layout; None marks an
            empty state. Empty if the source has no such state.
        companions: folder with config.json and tokenizer files, or None.
        kind: the `model_type` of that config.json, or None.
        special: ids of padding and EOS of that folder, or None.
        notes: lines for the user about what was decided.
        saved_under: where a checkpoint of ours has these parameters in its state.
        adapters: the adapters that `tensors` contains, or None if the source has none.
    """

    format: str
    path: str
    tensors: Mapping[str, LazyTensor]
    config: T5Config
    layers: names.Layers = "unrolled"
    stored: Mapping[str, LazyTensor] = dataclasses.field(default_factory=dict)
    step: int | None = None
    optimizer: Mapping[str, LazyTensor | None] = dataclasses.field(default_factory=dict)
    companions: pathlib.Path | None = None
    kind: str | None = None
    special: SpecialIds | None = None
    notes: Sequence[str] = ()
    saved_under: str = "params/"
    adapters: Adapters | None = None


def opened(
    format: str,
    where: str,
    stored: Mapping[str, LazyTensor],
    *,
    activation: str | None,
    settings: T5Config | None,
    step: int | None,
    optimizer: Mapping[str, LazyTensor | None],
) -> Source:
    """Makes a `Source` from `stored` parameters and checks them.

    `settings` is the network; None infers it with `config_of`.

    Raises:
        InputError: as `config_of`, `names.unrolled` and `check`.
    """
    tables = settings.relpos_per_layer if settings else None
    tensors = names.unrolled(stored, where, table_per_layer=tables)
    notes: list[str] = []
    config = settings or config_of(tensors, where, activation=activation, notes=notes)
    check(tensors, config, where)
    return Source(
        format,
        where,
        tensors,
        config,
        layers=names.layout_of(stored),
        stored=stored,
        step=step,
        optimizer=optimizer,
        notes=notes,
    )


def config_of(
    tensors: Mapping[str, LazyTensor],
    where: str,
    *,
    activation: str | None = None,
    notes: list[str] | None = None,
) -> T5Config:
    """Infers the network from the shapes of its tensors.

    Args:
        tensors: tensors by canonical name.
        where: name of the checkpoint in errors.
        activation: "relu", "gelu" or "silu", which no shape determines (default: that
            of the published models of this shape).
        notes: list that gets a line if the activation was assumed.

    Returns:
        The network; dropout and compute type are T5X's defaults.

    Raises:
        InputError: the tensors from which the sizes are read are missing.
    """
    attention = "encoder/layers_0/attention/query/kernel"
    relpos = own = f"encoder/layers_0/{names.RELPOS}"
    if own not in tensors:
        relpos = f"encoder/{names.RELPOS}"
    needed = [names.EMBEDDING, attention, relpos, "encoder/layers_0/mlp/wo/kernel"]
    missing = [name for name in needed if name not in tensors]
    if missing:
        some = ", ".join(list(tensors)[:5]) or "none"
        raise InputError(
            f"{where} is not a T5: missing {', '.join(missing)} (found "
            f"{len(tensors)} tensors: {some}, ...). Name a checkpoint of T5 1.0, "
            "T5 1.1 (Flan-T5, ByT5, mT5, MADLAD-400), umT5 or UL2."
        )
    wrong = [f"{n} {tensors[n].shape}" for n in needed if not _is_matrix(tensors[n])]
    if wrong:
        raise InputError(
            f"{where} is not a T5: {', '.join(wrong)}, expected a matrix. Fetch or "
            "write the checkpoint again."
        )
    rows, width = tensors[names.EMBEDDING].shape
    heads, buckets = tensors[relpos].shape
    joined = tensors[attention].shape[-1]
    sizes: dict[str, Any] = {
        "vocab_size": rows,
        "emb_dim": width,
        "num_heads": heads,
        "head_dim": max(1, joined // heads),
        "mlp_dim": tensors["encoder/layers_0/mlp/wo/kernel"].shape[0],
        "num_encoder_layers": names.depth(tensors, "encoder"),
        "num_decoder_layers": max(1, names.depth(tensors, "decoder")),
        "relpos_num_buckets": buckets,
        "relpos_per_layer": own in tensors,
    }
    gated = "encoder/layers_0/mlp/wi/kernel" not in tensors
    if activation is None and gated:
        ul2 = all(sizes[key] == value for key, value in _UL2.items())
        activation = "silu" if ul2 else "gelu"
        if notes is not None:
            notes.append(
                f"no config.json beside the weights: the gate is assumed to be "
                f"{activation}, as in {'UL2' if ul2 else 'T5 1.1'} (--activation "
                "changes it)"
            )
    first = activation or "relu"
    return T5Config(
        **sizes,
        mlp_activations=(first, "linear") if gated else (first,),
        logits_via_embedding=names.HEAD not in tensors,
    )


def check(tensors: Mapping[str, LazyTensor], config: T5Config, where: str) -> None:
    """Refuses tensors that are not exactly those of `config`.

    Raises:
        InputError: tensors are missing, unexpected, or have other shapes or another
            type than a floating point number (all are named).
    """
    deepest = max(config.num_encoder_layers, config.num_decoder_layers)
    if deepest > len(tensors):
        raise InputError(
            f"{where}: the network has {deepest} layers, but there are only "
            f"{len(tensors)} tensors. Fetch or write the checkpoint again."
        )
    found = {name: tensor.shape for name, tensor in tensors.items()}
    lines = names.differences(found, names.shapes(config))
    lines += [
        f"  type        {name} {tensor.dtype.name}, expected floating point numbers"
        for name, tensor in tensors.items()
        if not jnp.issubdtype(tensor.dtype, jnp.floating)
    ]
    if lines:
        raise InputError(
            "\n".join(
                [f"{where}: {len(lines)} tensors are not those of its network:", *lines]
                + ["Names are T5X's. Fetch or write the checkpoint again."]
            )
        )


def _is_matrix(tensor: LazyTensor) -> bool:
    return len(tensor.shape) == 2 and tensor.size > 0
