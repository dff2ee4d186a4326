"""What a T5 looks like: sizes, activations, and how its layers are compiled."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from specialize.errors import InputError
from specialize.student import layers
from specialize.student.attention import fused_attention

# The two stacks of layers, and the axis of a parameter along which scanned layers lie.
STACKS = ("encoder", "decoder")
SCAN_AXIS = 1

# What a layer keeps for the backward pass; the rest is computed again. From most memory
# to least: everything | every matrix product | projections and attention weights |
# projections | the inner MLP activations | only the layer's input.
REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "save_dots": jax.checkpoint_policies.checkpoint_dots,
    "minimal_attention": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
        jax.checkpoint_policies.save_only_these_names("attention_weights"),
    ),
    "minimal": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "save_mlp": jax.checkpoint_policies.save_only_these_names("mlp_inner"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@struct.dataclass
class T5Config:
    """The network and nothing else; field names are T5X's.

    Attributes:
        vocab_size: V, rows of the embedding (32128 for the published models).
        dtype: type of activations and matrix products; parameters are float32.
        emb_dim: D, the model's size.
        num_heads: H.
        num_encoder_layers: depth of the encoder.
        num_decoder_layers: depth of the decoder, which may differ.
        head_dim: size of one head; heads · head_dim may differ from D.
        mlp_dim: inner size of the MLP.
        mlp_activations: one activation per inner matrix; two make it gated.
        dropout_rate: everywhere T5X drops out.
        logits_via_embedding: the output head is the embedding, and hidden states are
            scaled by D^-0.5 before it (T5 1.0).
        scan_layers: one compiled layer per stack, however deep.
        remat_policy: a key of `REMAT_POLICIES`.
        attention_block: at most this many queries attend at a time; 0 for all
            (`attention.Attention`).
        attention: "auto", "fused" or "plain" (`attention.Attention`).
        embedding_lookup: "auto", "gather" or "one_hot" (`layers.Embed`).
        relpos_num_buckets: size of the relative-position table.
        relpos_max_distance: where its last bucket begins.
        norm_epsilon: of the RMS norms.
    """

    vocab_size: int
    dtype: Any = jnp.float32
    emb_dim: int = 512
    num_heads: int = 8
    num_encoder_layers: int = 6
    num_decoder_layers: int = 6
    head_dim: int = 64
    mlp_dim: int = 2048
    mlp_activations: Sequence[str] = ("relu",)
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    scan_layers: bool = False
    remat_policy: str = "none"
    attention_block: int = 0
    attention: str = "auto"
    embedding_lookup: str = "auto"
    relpos_num_buckets: int = 32
    relpos_max_distance: int = 128
    norm_epsilon: float = 1e-6

    def __post_init__(self):
        """Refuses what would only fail, or silently differ, inside the compiler."""
        # A list from gin would make the configuration unhashable.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for name in (
            "vocab_size",
            "emb_dim",
            "num_heads",
            "num_encoder_layers",
            "num_decoder_layers",
            "head_dim",
            "mlp_dim",
        ):
            if getattr(self, name) < 1:
                raise InputError(
                    f"T5Config.{name} = {getattr(self, name)}; it must be at least 1."
                )
        _check_choice("remat_policy", self.remat_policy, REMAT_POLICIES)
        _check_choice("attention", self.attention, ("auto", "fused", "plain"))
        if self.attention == "fused" and not fused_attention.takes(self.head_dim):
            raise InputError(
                f"T5Config.attention = 'fused' with head_dim = {self.head_dim}; its "
                "tiles take heads of 16, 32, 64 or 128. Use 'auto' or 'plain'."
            )
        _check_choice(
            "embedding_lookup", self.embedding_lookup, ("auto", "gather", "one_hot")
        )
        if not self.mlp_activations:
            raise InputError(
                "T5Config.mlp_activations is empty; name at least one of "
                f"{', '.join(layers.ACTIVATIONS)}."
            )
        for activation in self.mlp_activations:
            _check_choice("mlp_activations", activation, layers.ACTIVATIONS)
        if not 0.0 <= self.dropout_rate < 1.0:
            raise InputError(
                f"T5Config.dropout_rate = {self.dropout_rate}; it must lie in [0, 1)."
            )
        try:
            dtype = jnp.dtype(self.dtype)
        except TypeError as error:
            raise InputError(
                f"T5Config.dtype = {self.dtype!r} is no type; use 'bfloat16' or "
                "'float32'."
            ) from error
        if dtype == jnp.float16:
            raise InputError(
                "T5Config.dtype = 'float16': T5's activations overflow float16. Use "
                "'bfloat16' or 'float32'."
            )


def _check_choice(name: str, value: Any, known: Collection[str]) -> None:
    if value not in known:
        raise InputError(
            f"T5Config.{name} = {value!r} is unknown; it can be {', '.join(known)}."
        )
