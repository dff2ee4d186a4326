"""Which projections have low-rank adapters, and of what size; light, for the lint."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from specialize import checks
from specialize.errors import InputError, did_you_mean

_ATTENTIONS = {
    "encoder": ("attention",),
    "decoder": ("self_attention", "encoder_decoder_attention"),
}
_PROJECTIONS = ("query", "key", "value", "out")
_INNER = ("wi", "wi_0", "wi_1")
_HEAD = "decoder/logits_dense"
# How the kernels beside which adapters are trained may be stored (`quantization`).
QUANTIZATIONS = ("none", "int8", "int4", "nf4")
# What a target may say: a stack, a block of its layers, a projection, or the head.
_WORDS = (
    *("encoder", "decoder", "attention", "self_attention"),
    *("encoder_decoder_attention", "mlp", *_PROJECTIONS, *_INNER, "wo"),
    "logits_dense",
)


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """LoRA (Hu et al., 2021, arXiv 2106.09685): y = x W + (alpha / rank) x A B.

    A [in, rank] begins with random values and B [rank, out] with zeros, so that
    training begins from the function of the weights W, which never change.

    Attributes:
        rank: r, the size between the two matrices. 0: no adapters; all weights are
            trained.
        alpha: the adapters' result is multiplied by alpha / rank.
        dropout: dropout rate of the adapters' inputs, one mask for all positions of a
            sequence. The head's adapter has none: its input is dropped out already.
        targets: the projections. A target is a projection by its name in T5X ("query",
            "key", "value", "out", "wi", "wi_0", "wi_1", "wo", "logits_dense"), a block
            ("attention" for all attentions, "self_attention",
            "encoder_decoder_attention", "mlp"), a stack ("encoder", "decoder"), or
            several of them from the outside in ("decoder/attention/value"). "wi" is
            each of the inner matrices of an MLP.
        quantize_base: how the frozen kernels of all attentions and MLPs are stored:
            "none" (in the type of the activations), "int8", "int4" or "nf4" (QLoRA,
            `quantization`). The head, the embedding, norms and relative biases are
            never quantised: they are few, and their errors reach every logit.
        quantize_block: number of inputs of a kernel that share a scale; a kernel with
            fewer inputs is one block.

    Raises:
        InputError: a field has another type or is outside its range.

    Example:
        >>> spec = specialize.AdapterSpec(rank=8, targets=("query", "decoder/mlp"))
        >>> spec.adapts("encoder/attention/query"), spec.adapts("encoder/mlp/wo")
        (True, False)
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: Sequence[str] = ("attention", "mlp")
    quantize_base: str = "none"
    quantize_block: int = 64

    def __post_init__(self) -> None:
        checks.whole("rank", self.rank, 0, most=2**16)
        checks.real("alpha", self.alpha, above=0)
        checks.real("dropout", self.dropout, least=0)
        if self.dropout >= 1:
            raise InputError(f"dropout = {self.dropout}; it must be below 1.")
        if not isinstance(self.targets, tuple | list) or not self.targets:
            raise InputError(
                f"targets = {checks.shown(self.targets)}; it must be a tuple of "
                "projections, such as ('query', 'value') or ('attention', 'mlp')."
            )
        for target in self.targets:
            checks.text("targets", target or "")
            for word in str(target).split("/"):
                if word not in _WORDS:
                    raise InputError(
                        f"targets: {checks.shown(target)} is no projection; it has "
                        f"words of {', '.join(_WORDS)}, with / between them."
                        f"{did_you_mean(word, _WORDS)}"
                    )
        checks.one_of("quantize_base", self.quantize_base, QUANTIZATIONS)
        checks.whole("quantize_block", self.quantize_block, 2, most=2**16)
        if self.quantize_block % 2:
            raise InputError(
                f"quantize_block = {self.quantize_block}; it must be even, because two "
                "codes are one byte."
            )
        if self.quantized and not self.rank:
            raise InputError(
                f"quantize_base = {self.quantize_base!r} with rank = 0: all weights "
                "would be trained, and only frozen ones can be quantised. Train "
                "adapters (LORA_RANK), or set LORA_QUANTIZE_BASE = 'none'."
            )
        # A list from gin would make the configuration of the network unhashable.
        object.__setattr__(self, "targets", tuple(self.targets))

    @property
    def scale(self) -> float:
        """The factor of x A B."""
        return self.alpha / self.rank

    @property
    def quantized(self) -> bool:
        """Whether frozen kernels are quantised."""
        return self.quantize_base != "none"

    def quantizes(self, projection: str) -> bool:
        """Whether the kernel of a projection is quantised; paths as for `adapts`."""
        return self.quantized and not _matches("logits_dense", projection.split("/"))

    def block_of(self, inputs: int) -> int:
        """Size of the blocks of a quantised kernel with this number of inputs."""
        return min(self.quantize_block, inputs)

    def adapts(self, projection: str) -> bool:
        """Whether a projection has an adapter.

        Args:
            projection: its path in the tree of parameters, of one layer or without
                layers, such as "encoder/attention/query".
        """
        parts = projection.split("/")
        return self.rank > 0 and any(_matches(one, parts) for one in self.targets)

    def check(self, network: Any) -> None:
        """Checks the adapters of a network, a `T5Config`.

        Raises:
            InputError: as `check_targets` and `check_blocks`.
        """
        self.check_targets(network)
        self.check_blocks(network)

    def check_targets(self, network: Any) -> None:
        """Raises an `InputError` if a target names no projection of a `T5Config`."""
        known = projections(network)
        for target in self.targets:
            if not any(_matches(target, one.split("/")) for one in known):
                raise InputError(
                    f"targets: {target!r} names no projection of this network, which "
                    f"has {', '.join(known)}."
                )

    def check_blocks(self, network: Any) -> None:
        """Raises an `InputError` if blocks do not divide a `T5Config`'s kernels."""
        if not self.quantized:
            return
        inputs = {
            "emb_dim": network.emb_dim,
            "num_heads x head_dim": network.num_heads * network.head_dim,
            "mlp_dim": network.mlp_dim,
        }
        wrong = [
            f"{name} = {size}"
            for name, size in inputs.items()
            if size % self.block_of(size) or self.block_of(size) % 2
        ]
        if wrong:
            common = math.gcd(*inputs.values())
            fitting = [n for n in range(2, common + 1, 2) if common % n == 0]
            near = max((n for n in fitting if n <= 64), default=None)
            remedy = "Set LORA_QUANTIZE_BASE = 'none'."
            if near is not None:
                remedy = f"Set LORA_QUANTIZE_BLOCK = {near}."
            raise InputError(
                f"quantize_block = {self.quantize_block} does not divide the inputs of "
                f"kernels into blocks of an even size: {', '.join(wrong)}. {remedy}"
            )


def projections(network: Any) -> list[str]:
    """The projections of a `T5Config`, by their paths without the layer."""
    inner = [f"wi_{i}" for i in range(len(network.mlp_activations))]
    mlp = [*(inner if len(inner) > 1 else ["wi"]), "wo"]
    found = [
        f"{stack}/{block}/{name}"
        for stack, attentions in _ATTENTIONS.items()
        for block, names in [*((one, _PROJECTIONS) for one in attentions), ("mlp", mlp)]
        for name in names
    ]
    # A tied head is the embedding.
    return found if network.logits_via_embedding else [*found, _HEAD]


def _matches(target: str, parts: Sequence[str]) -> bool:
    """Whether the words of a target are among the parts of a path, in its order."""
    left = iter(parts)
    return all(any(_is(word, part) for part in left) for word in target.split("/"))


def _is(word: str, part: str) -> bool:
    return (
        word == part
        or (word == "attention" and part.endswith("_attention"))
        or (word == "wi" and part in _INNER)
    )
