"""A checkpoint that has been opened: canonical names, lazy tensors, the network."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from specialize.checkpoints import names
from specialize.checkpoints.lazy_tensors import LazyTensor
from specialize.errors import InputError
from specialize.student.network.architecture import T5Config

# The published models differ only in the activation; nothing in a T5X tree tells it.
_UL2 = {"emb_dim": 4096, "num_heads": 16, "head_dim": 256, "mlp_dim": 16384}


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened checkpoint.

    Attributes:
        format: "hf", "t5x", "orbax" (T5X's newer layout) or "specialize".
        path: what was opened, for messages.
        tensors: parameters by canonical name (`names`), as stored.
        config: the network they belong to.
        layers: how the source lays out its layers.
        stored: the parameters in the source's own layout, by T5X's names.
        step: training steps behind them, where the source says.
        optimizer: the rest of the training state, by T5X's names
            (`param_states/0/mu/encoder/...`), in the source's layout; None marks an
            empty state. Empty if the source has none.
        companions: folder with config.json and tokenizer files, if there is one.
        notes: one line each: what was decided on the way, to be shown to the user.
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
    notes: Sequence[str] = ()


def config_of(
    tensors: Mapping[str, LazyTensor],
    where: str,
    *,
    activation: str | None = None,
    notes: list[str] | None = None,
) -> T5Config:
    """Infers the network from the shapes of its tensors.

    Args:
        tensors: by canonical name.
        where: what to call the checkpoint in an error.
        activation: "relu", "gelu" or "silu", which no shape tells; by default what
            the published models of that shape use.
        notes: where a line is added if the activation was assumed.

    Returns:
        The network; dropout and compute type are T5X's defaults.

    Raises:
        InputError: the tensors from which the sizes are read are missing.
    """
    attention = "encoder/layers_0/attention/query/kernel"
    relpos = f"encoder/{names.RELPOS}"
    needed = [names.EMBEDDING, attention, relpos, "encoder/layers_0/mlp/wo/kernel"]
    missing = [name for name in needed if name not in tensors]
    if missing:
        some = ", ".join(list(tensors)[:5]) or "none"
        raise InputError(
            f"{where} is not a T5: missing {', '.join(missing)} (found "
            f"{len(tensors)} tensors: {some}, ...). Name a checkpoint of T5 1.0, "
            "T5 1.1, Flan-T5 or UL2."
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
    }
    gated = "encoder/layers_0/mlp/wi/kernel" not in tensors
    if activation is None and gated:
        ul2 = all(sizes[key] == value for key, value in _UL2.items())
        activation = "silu" if ul2 else "gelu"
        if notes is not None:
            notes.append(
                f"no config.json beside the weights: the gate is taken to be "
                f"{activation}, as in {'UL2' if ul2 else 'T5 1.1'} (--activation "
                "says otherwise)"
            )
    first = activation or "relu"
    return T5Config(
        **sizes,
        mlp_activations=(first, "linear") if gated else (first,),
        logits_via_embedding=names.HEAD not in tensors,
    )


def check(tensors: Mapping[str, LazyTensor], config: T5Config, where: str) -> None:
    """Refuses tensors that are not exactly those of `config`, naming all of them.

    Raises:
        InputError: tensors are missing, unexpected or of another shape.
    """
    found = {name: tensor.shape for name, tensor in tensors.items()}
    lines = names.differences(found, names.shapes(config))
    if lines:
        raise InputError(
            "\n".join(
                [f"{where}: {len(lines)} tensors are not those of its network:", *lines]
                + ["Names are T5X's. Fetch or write the checkpoint again."]
            )
        )
