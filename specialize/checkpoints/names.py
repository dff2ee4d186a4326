"""One table of names, Hugging Face <-> T5X, for the whole T5 family.

    T5 1.0           one inner matrix `wi`, head tied to the embedding
    T5 1.1           gated, `wi_0` and `wi_1`, and a head `logits_dense`
    UL2              gated, head tied to the embedding
    umT5             T5 1.1 with a relative-position table in every layer

The canonical form of all conversions is T5X's tree with one subtree per layer:
`decoder/layers_3/mlp/wi_0/kernel`. T5X stores kernels as (inputs, outputs), with the
heads of an attention joined in one axis; torch stores (outputs, inputs). So every
kernel is transposed.

Scanned trees have all layers of a stack in one tensor with an extra axis 1:
`decoder/decoder/mlp/wi_0/kernel` of shape (D, layers, M). T5X's `scalable_t5` stores
the heads of an attention in a separate axis: `query` (D, H, size), `out` (H, size, D).
It also stores a relative-position table per layer, of every model; umT5's differ.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from specialize.checkpoints.lazy_tensors import LazyTensor, cached, stacked
from specialize.errors import InputError
from specialize.student.network.architecture import SCAN_AXIS, STACKS, T5Config

EMBEDDING = "token_embedder/embedding"
HEAD = "decoder/logits_dense/kernel"
RELPOS = "relpos_bias/rel_embedding"

# No T5 is deeper; such a number is damage.
MOST_LAYERS = 10_000

Layers = Literal["unrolled", "scanned", "scalable"]
"""unrolled: `layers_0`, ...; scanned: as the student with `scan_layers`; scalable: as
T5X's scalable_t5 network with `scan_layers`."""

# (name in T5X, name in Hugging Face, whether the matrix is transposed)
_ONCE = [
    (EMBEDDING, "shared.weight", False),
    (HEAD, "lm_head.weight", True),
] + [
    row
    for stack in STACKS
    for row in (
        (
            f"{stack}/relpos_bias/rel_embedding",
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            True,
        ),
        (f"{stack}/{stack}_norm/scale", f"{stack}.final_layer_norm.weight", False),
    )
]


def _attention(t5x: str, hf: str) -> list[tuple[str, str, bool]]:
    return [
        (f"{t5x}/{ours}/kernel", f"{hf}.{theirs}.weight", True)
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
    ]


def _feed_forward(hf: str) -> list[tuple[str, str, bool]]:
    return [
        (f"mlp/{name}/kernel", f"{hf}.DenseReluDense.{name}.weight", True)
        for name in ("wi", "wi_0", "wi_1", "wo")
    ]


# The table of a layer that has its own.
_TABLE = (RELPOS, "layer.0.SelfAttention.relative_attention_bias.weight", True)

# The same for one layer, below `encoder/layers_0` and `encoder.block.0`.
_LAYER = {
    "encoder": [
        _TABLE,
        ("pre_attention_layer_norm/scale", "layer.0.layer_norm.weight", False),
        *_attention("attention", "layer.0.SelfAttention"),
        ("pre_mlp_layer_norm/scale", "layer.1.layer_norm.weight", False),
        *_feed_forward("layer.1"),
    ],
    "decoder": [
        _TABLE,
        ("pre_self_attention_layer_norm/scale", "layer.0.layer_norm.weight", False),
        *_attention("self_attention", "layer.0.SelfAttention"),
        ("pre_cross_attention_layer_norm/scale", "layer.1.layer_norm.weight", False),
        *_attention("encoder_decoder_attention", "layer.1.EncDecAttention"),
        ("pre_mlp_layer_norm/scale", "layer.2.layer_norm.weight", False),
        *_feed_forward("layer.2"),
    ],
}

_TO_HF = {t5x: (hf, flip) for t5x, hf, flip in _ONCE}
_TO_T5X = {hf: (t5x, flip) for t5x, hf, flip in _ONCE}
_LAYER_TO_HF = {
    stack: {t5x: (hf, flip) for t5x, hf, flip in rows} for stack, rows in _LAYER.items()
}
_LAYER_TO_T5X = {
    stack: {hf: (t5x, flip) for t5x, hf, flip in rows} for stack, rows in _LAYER.items()
}

# The axis of the heads in an attention's kernel.
_HEADS = {"query": 1, "key": 1, "value": 1, "out": 0}
_KERNEL = re.compile(r".*attention/(query|key|value|out)/kernel")

_T5X_LAYER = re.compile(r"(encoder|decoder)/layers_([0-9]{1,6})/(.+)")
_HF_LAYER = re.compile(r"(encoder|decoder)\.block\.([0-9]{1,6})\.(.+)")
_SCANNED = re.compile(r"(encoder|decoder)/\1/(.+)")


def to_hf(name: str) -> tuple[str, bool] | None:
    """Hugging Face's name of a canonical tensor, and whether it is transposed."""
    if match := _T5X_LAYER.fullmatch(name):
        stack, number, rest = match.groups()
        if rest in _LAYER_TO_HF[stack]:
            theirs, flip = _LAYER_TO_HF[stack][rest]
            return f"{stack}.block.{number}.{theirs}", flip
        return None
    return _TO_HF.get(name)


def from_hf(name: str, *, table_per_layer: bool = False) -> tuple[str, bool] | None:
    """The canonical name of a Hugging Face tensor, and whether it is transposed.

    `table_per_layer` says whether the table in layer 0 is that of layer 0 (umT5) or
    that of all layers.
    """
    match = _HF_LAYER.fullmatch(name)
    is_table = match is not None and match[3] == _TABLE[1]
    if name in _TO_T5X and not (is_table and table_per_layer):
        return _TO_T5X[name]
    if match and (table_per_layer or not is_table):
        stack, number, rest = match.groups()
        if rest in _LAYER_TO_T5X[stack]:
            ours, flip = _LAYER_TO_T5X[stack][rest]
            return f"{stack}/layers_{number}/{ours}", flip
    return None


def unrolled(
    tensors: Mapping[str, LazyTensor],
    where: str,
    *,
    table_per_layer: bool | None = None,
) -> dict[str, LazyTensor]:
    """The canonical form of a T5X tree, scanned or not.

    Args:
        tensors: tensors by T5X name.
        where: name of the checkpoint in errors.
        table_per_layer: whether the network has a relative-position table in every
            layer. None: the tensors decide; equal tables of `scalable_t5` are one
            shared table.

    Returns:
        Tensors by canonical name, with the heads of attentions joined. The layers of a
        stacked tensor follow each other, so that its file is read once.

    Raises:
        InputError: the relative-position tables of layers differ, and the network has
            one table per stack.
    """
    result: dict[str, LazyTensor] = {}
    tables: dict[str, dict[int, LazyTensor]] = {}
    embedding = tensors.get(EMBEDDING)
    width = embedding.shape[-1] if embedding and embedding.shape else None
    slot: dict[int, np.ndarray] = {}
    for name, tensor in tensors.items():
        if match := _SCANNED.fullmatch(name):
            stack, rest = match.groups()
            axis = _stack_axis(tensors, stack, width)
            if len(tensor.shape) <= axis:
                raise InputError(
                    f"{where}: {name} has shape {tensor.shape}; a scanned stack of "
                    f"layers needs an axis {axis}."
                )
            if tensor.shape[axis] > MOST_LAYERS:
                raise InputError(
                    f"{where}: {name} has shape {tensor.shape}, more than "
                    f"{MOST_LAYERS} layers. Fetch or write the checkpoint again."
                )
            whole = cached(tensor, slot)
            layers = [whole.layer(i, axis) for i in range(tensor.shape[axis])]
            if rest == RELPOS:
                tables[stack] = dict(enumerate(layers))
            else:
                for number, layer in enumerate(layers):
                    result[f"{stack}/layers_{number}/{rest}"] = layer
        elif (match := _T5X_LAYER.fullmatch(name)) and match[3] == RELPOS:
            tables.setdefault(match[1], {})[int(match[2])] = tensor
        else:
            result[name] = tensor
    different = {stack: _unlike_first(layers) for stack, layers in tables.items()}
    if table_per_layer is None:
        # Only scalable_t5 repeats a shared table.
        table_per_layer = any(different.values()) or not has_split_heads(tensors)
    for stack, layers in tables.items():
        if table_per_layer:
            for number, layer in layers.items():
                result[f"{stack}/layers_{number}/{RELPOS}"] = layer
        elif different[stack]:
            raise InputError(
                f"{where}: each layer of the {stack} has its own relative-position "
                f"table (layers {', '.join(different[stack])} differ from layer 0), as "
                "in umT5, but its network has one table for all. Name umT5's model "
                "file, or correct the config.json beside the weights."
            )
        else:
            result[f"{stack}/{RELPOS}"] = layers[min(layers)]
    for name, tensor in result.items():
        kernel = _KERNEL.fullmatch(name)
        if kernel and len(tensor.shape) == 3:
            result[name] = tensor.joined(_HEADS[kernel[1]])
    return result


def laid_out(
    tensors: Mapping[str, LazyTensor], layers: Layers
) -> dict[str, LazyTensor]:
    """A canonical tree in the layout `layers`: the inverse of `unrolled`."""
    if layers == "unrolled":
        return dict(tensors)
    stacks: dict[str, list[LazyTensor]] = {}
    result: dict[str, LazyTensor] = {}
    for name, tensor in sorted(tensors.items(), key=lambda item: _order(item[0])):
        if match := _T5X_LAYER.fullmatch(name):
            kernel = _KERNEL.fullmatch(name)
            if layers == "scalable" and kernel:
                tables = (f"{match[1]}/{RELPOS}", f"{match[1]}/layers_0/{RELPOS}")
                heads = next(tensors[n] for n in tables if n in tensors).shape[0]
                tensor = tensor.split(_HEADS[kernel[1]], heads)
            stacks.setdefault(f"{match[1]}/{match[1]}/{match[3]}", []).append(tensor)
        elif layers == "scalable" and name.endswith(RELPOS):
            stack = name.split("/")[0]
            result[f"{stack}/{stack}/{RELPOS}"] = stacked(
                [tensor] * depth(tensors, stack), SCAN_AXIS
            )
        else:
            result[name] = tensor
    for name, parts in stacks.items():
        result[name] = stacked(parts, SCAN_AXIS)
    return result


def layout_of(tensors: Mapping[str, Any]) -> Layers:
    """The layout of a T5X tree by its names and shapes."""
    if not any(map(_SCANNED.fullmatch, tensors)):
        return "unrolled"
    return "scalable" if has_split_heads(tensors) else "scanned"


def has_split_heads(tensors: Mapping[str, Any]) -> bool:
    """Whether the heads of attentions have an axis of their own, as in scalable_t5."""
    return any(
        len(tensor.shape) == (4 if _SCANNED.fullmatch(name) else 3)
        for name, tensor in tensors.items()
        if _KERNEL.fullmatch(name)
    )


def has_tables_per_layer(names: Iterable[str]) -> bool:
    """Whether a T5X tree has relative-position tables inside its layers."""
    return any(name.endswith(f"/{RELPOS}") and name.count("/") > 2 for name in names)


def depth(names: Iterable[str], stack: str) -> int:
    """Number of layers of "encoder" or "decoder" in a canonical tree."""
    numbers = [
        int(match[2])
        for name in names
        if (match := _T5X_LAYER.fullmatch(name)) and match[1] == stack
    ]
    return max(numbers, default=-1) + 1


def shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors of a network, by canonical name."""
    width, joined = config.emb_dim, config.num_heads * config.head_dim
    depths = (config.num_encoder_layers, config.num_decoder_layers)
    inner = [f"mlp/wi_{i}/kernel" for i in range(len(config.mlp_activations))]
    inner = inner if len(inner) > 1 else ["mlp/wi/kernel"]
    result: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocab_size, width)}
    table = (config.num_heads, config.relpos_num_buckets)
    for stack, layers in zip(STACKS, depths, strict=True):
        if not config.relpos_per_layer:
            result[f"{stack}/{RELPOS}"] = table
        for number in range(layers):
            for name, _, _ in _LAYER[stack]:
                if name == RELPOS:
                    if not config.relpos_per_layer:
                        continue
                    shape = table
                elif name.startswith("mlp/wi"):
                    if name not in inner:
                        continue
                    shape = (width, config.mlp_dim)
                elif name == "mlp/wo/kernel":
                    shape = (config.mlp_dim, width)
                elif name.endswith("out/kernel"):
                    shape = (joined, width)
                elif name.endswith("kernel"):
                    shape = (width, joined)
                else:
                    shape = (width,)
                result[f"{stack}/layers_{number}/{name}"] = shape
        result[f"{stack}/{stack}_norm/scale"] = (width,)
    if not config.logits_via_embedding:
        result[HEAD] = (width, config.vocab_size)
    return result


def differences(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """One line for every tensor that is missing, unexpected or has another shape."""
    lines = [
        f"  missing     {name} {shape}"
        for name, shape in expected.items()
        if name not in found
    ]
    lines += [
        f"  unexpected  {name} {shape}"
        for name, shape in found.items()
        if name not in expected
    ]
    lines += [
        f"  shape       {name} {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return lines


def _unlike_first(layers: Mapping[int, LazyTensor]) -> list[str]:
    """The numbers of the layers whose table is not that of the first layer."""
    first = layers[min(layers)].read()
    return [
        str(number)
        for number in sorted(layers)
        if not np.array_equal(layers[number].read(), first)
    ]


def _stack_axis(
    tensors: Mapping[str, LazyTensor], stack: str, width: int | None
) -> int:
    """The axis of the layers: T5X's default, 1, unless a norm's shape shows axis 0."""
    for name, tensor in tensors.items():
        if name.startswith(f"{stack}/{stack}/pre_") and len(tensor.shape) == 2:
            rows, columns = tensor.shape
            return 0 if columns == width != rows else SCAN_AXIS
    return SCAN_AXIS


def _order(name: str) -> tuple[str, int]:
    match = _T5X_LAYER.fullmatch(name)
    return (f"{match[1]}/{match[3]}", int(match[2])) if match else (name, -1)
