"""The configuration of a T5: sizes, activations, and how its layers are compiled."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from specialize.errors import InputError
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.attention import fused_attention
from specialize.student.network import spec

# The two stacks of layers, and the axis of a parameter along which layers are scanned.
STACKS = ("encoder", "decoder")
SCAN_AXIS = 1

# What a layer stores for the backward pass; the rest is computed again. From most
# memory to least: everything | every matrix product | projections and attention weights
# | projections | the inner MLP activations | only the layer's input.
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
    """The network; the names of the fields are T5X's.

    Attributes:
        vocab_size: number V of embedding rows (32128 for the published models).
        dtype: type of activations and matrix products; parameters are float32.
        emb_dim: size D of the model.
        num_heads: number H of heads.
        num_encoder_layers: number of layers of the encoder.
        num_decoder_layers: number of layers of the decoder.
        head_dim: size of a head; num_heads · head_dim may differ from D.
        mlp_dim: inner size of the MLP.
        mlp_activations: one activation per inner matrix; two make a gated MLP.
        dropout_rate: dropout rate, in all places where T5X has dropout.
        logits_via_embedding: whether the output head is the embedding (T5 1.0); hidden
            states are then scaled by D^-0.5.
        scan_layers: whether one layer per stack is compiled, for any number of layers.
        remat_policy: a key of `REMAT_POLICIES`.
        attention_block: largest number of queries that attend at a time
            (`attention.Attention`). 0: all.
        attention: "auto", "fused" or "plain" (`attention.Attention`).
        embedding_lookup: "auto", "gather" or "one_hot" (`layers.Embed`).
        relpos_num_buckets: number of buckets of relative positions.
        relpos_max_distance: distance at which the last bucket begins.
        relpos_per_layer: whether every layer has a relative position bias of its own
            (umT5); else the layers of a stack share one.
        norm_epsilon: epsilon of the RMS norms.
        adapters: low-rank adapters of its projections. None: it has none.

    Raises:
        InputError: a value is unknown or outside its range.
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
    relpos_per_layer: bool = False
    norm_epsilon: float = 1e-6
    adapters: AdapterSpec | None = None

    def identity(self) -> dict[str, Any]:
        """What the network computes with given weights, dropout aside, as JSON values.

        Fields that change the rounding only, such as `attention`, are part of it.
        """
        found = dataclasses.asdict(self)
        for name in ("dropout_rate", "remat_policy"):  # training alone uses them
            del found[name]
        found["dtype"] = np.dtype(self.dtype).name
        if self.adapters is not None:
            del found["adapters"]["dropout"]
        return found

    def __post_init__(self):
        # A list from gin would make the configuration unhashable.
        if isinstance(self.mlp_activations, list):
            object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        spec.check(**vars(self))
        if self.adapters is not None:
            self.adapters.check(self)
        if self.attention == "fused" and not fused_attention.takes(self.head_dim):
            raise InputError(
                f"T5Config.attention = 'fused' with head_dim = {self.head_dim}; its "
                "kernels need heads of 16, 32, 64 or 128. Use 'auto' or 'plain'."
            )
