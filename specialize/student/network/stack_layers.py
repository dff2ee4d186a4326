"""One layer of the encoder and of the decoder, and how a stack of them is compiled.

Parameter names and logical axes are T5X's. A stack is unrolled (one module per layer)
or scanned (one module whose parameters have an additional axis, `SCAN_AXIS`).
"""

from typing import Any, cast

import flax.typing
import jax
from flax import linen as nn
from flax.linen import partitioning
from jaxtyping import Array, Bool, Float

from specialize.student import layers
from specialize.student.attention import cache
from specialize.student.attention.attention import Attention
from specialize.student.attention.relative_bias import RelativeBias
from specialize.student.network.architecture import REMAT_POLICIES, SCAN_AXIS, T5Config


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each with a norm before it and a residual connection."""

    config: T5Config

    def setup(self):
        """Declares the parts under T5X's names."""
        cfg = self.config
        if cfg.relpos_per_layer:
            self.relpos_bias = relpos(cfg, bidirectional=True)
        self.pre_attention_layer_norm = norm(cfg)
        self.attention = _attention(cfg)
        self.pre_mlp_layer_norm = norm(cfg)
        self.mlp = _mlp(cfg)
        self.attention_dropout = dropout(cfg, 0)
        self.mlp_dropout = dropout(cfg, 1)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        bias: Float[Array, "1 H S S"] | Float[Array, "H R"] | None,
        mask: Bool[Array, "B 1 S S"],
        deterministic: bool,
    ) -> Float[Array, "B S D"]:
        """Returns the layer's output; `bias` is None if the layer has its own."""
        if bias is None:
            bias = self.relpos_bias(x.shape[1], x.shape[1], self.config.attention_block)
        y = self.pre_attention_layer_norm(x)
        y = self.attention(y, y, bias, mask, deterministic)
        x = _add(x, self.attention_dropout(y, deterministic))
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return _add(x, self.mlp_dropout(y, deterministic))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, MLP."""

    config: T5Config

    def setup(self):
        """Declares the parts under T5X's names."""
        cfg = self.config
        if cfg.relpos_per_layer:
            self.relpos_bias = relpos(cfg, bidirectional=False)
        self.pre_self_attention_layer_norm = norm(cfg)
        self.self_attention = _attention(cfg)
        self.pre_cross_attention_layer_norm = norm(cfg)
        self.encoder_decoder_attention = _attention(cfg)
        self.pre_mlp_layer_norm = norm(cfg)
        self.mlp = _mlp(cfg)
        self.self_attention_dropout = dropout(cfg, 0)
        self.cross_attention_dropout = dropout(cfg, 1)
        self.mlp_dropout = dropout(cfg, 2)

    def __call__(
        self,
        y: Float[Array, "B L D"],
        encoded: Float[Array, "B S D"],
        bias: Float[Array, "1 H L L"] | Float[Array, "H R"] | None,
        mask: Bool[Array, "B 1 L L"],
        cross_mask: Bool[Array, "B 1 L S"],
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        """Returns the output for whole targets; `bias` as in the encoder's layer."""
        if bias is None:
            bias = self.relpos_bias(y.shape[1], y.shape[1], self.config.attention_block)
        x = self.pre_self_attention_layer_norm(y)
        x = self.self_attention(x, x, bias, mask, deterministic)
        y = _add(y, self.self_attention_dropout(x, deterministic))
        x = self.pre_cross_attention_layer_norm(y)
        x = self.encoder_decoder_attention(x, encoded, None, cross_mask, deterministic)
        y = _add(y, self.cross_attention_dropout(x, deterministic))
        x = self.mlp(self.pre_mlp_layer_norm(y), deterministic)
        return _add(y, self.mlp_dropout(x, deterministic))

    def remember(self, encoded: Float[Array, "B S D"]) -> cache.KeysValues:
        """Returns keys and values of the encoder's states, once for all steps."""
        keys, values = self.encoder_decoder_attention.keys_values(encoded)
        return cache.arrange(keys, values)

    def step(
        self,
        y: Float[Array, "B N D"],
        past: cache.KeysValues,
        source: cache.KeysValues,
        view: cache.View,
    ) -> tuple[Float[Array, "B N D"], cache.KeysValues]:
        """Processes one position of N continuations of each prompt, without dropout.

        Args:
            y: the embedded tokens of this position.
            past: keys and values of the earlier positions.
            source: the result of `remember`.
            view: the position, and what it sees.

        Returns:
            (the layer's output, `past` with this position).
        """
        attention = self.self_attention
        x = self.pre_self_attention_layer_norm(y)
        queries = attention.split_heads(attention.query(x))
        past = cache.append(past, *attention.keys_values(x), view.position)
        mixed = cache.attend_own(queries, past, view)
        y = y + attention.out(attention.join_heads(mixed))

        attention = self.encoder_decoder_attention
        x = self.pre_cross_attention_layer_norm(y)
        queries = attention.split_heads(attention.query(x))
        mixed = cache.attend_shared(queries, source, view.source)
        y = y + attention.out(attention.join_heads(mixed))
        return y + self.mlp(self.pre_mlp_layer_norm(y)), past


class ScanEncoderLayer(EncoderLayer):
    """An encoder layer as `nn.scan` needs it: (carry, ...) -> (carry, None)."""

    def __call__(self, *args: Any) -> tuple[Float[Array, "B S D"], None]:
        """Returns the layer's output as carry."""
        return EncoderLayer.__call__(self, *args), None


class ScanDecoderLayer(DecoderLayer):
    """A decoder layer as `nn.scan` needs it: (carry, ...) -> (carry, None)."""

    def __call__(self, *args: Any) -> tuple[Float[Array, "B L D"], None]:
        """Returns the layer's output as carry."""
        return DecoderLayer.__call__(self, *args), None


def relpos(cfg: T5Config, *, bidirectional: bool) -> RelativeBias:
    """The relative position bias of a stack, or of one of its layers."""
    return RelativeBias(
        cfg.num_heads, bidirectional, cfg.relpos_num_buckets, cfg.relpos_max_distance
    )


def norm(cfg: T5Config) -> layers.RMSNorm:
    """The RMS norm of this network."""
    return layers.RMSNorm(dtype=cfg.dtype, epsilon=cfg.norm_epsilon)


def _attention(cfg: T5Config) -> Attention:
    return Attention(
        cfg.num_heads,
        cfg.head_dim,
        cfg.emb_dim,
        dtype=cfg.dtype,
        dropout_rate=cfg.dropout_rate,
        block=cfg.attention_block,
        kind=cfg.attention,
        adapters=cfg.adapters,
    )


def _mlp(cfg: T5Config) -> layers.MLP:
    return layers.MLP(
        cfg.mlp_dim,
        cfg.mlp_activations,
        dtype=cfg.dtype,
        dropout_rate=cfg.dropout_rate,
        adapters=cfg.adapters,
    )


def dropout(cfg: T5Config, index: int) -> nn.Dropout:
    """Dropout with one mask for all positions of a sequence.

    Its module names are T5X's, so the same random key drops the same units.
    """
    return nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,), name=f"Dropout_{index}")


def _add(x: jax.Array, y: jax.Array) -> jax.Array:
    return layers.constrain(x + y, "batch", "length", "embed")


def remat(layer: Any, cfg: T5Config, *, static: int, in_scan: bool = False) -> Any:
    """Returns a module class with the rematerialisation of `remat_policy`.

    `static` is the position of its argument `deterministic`; self is 0.
    """
    if cfg.remat_policy == "none":
        return layer
    return nn.remat(
        layer,
        # In a scan the compiler cannot merge forward pass and recomputation.
        prevent_cse=not in_scan,
        static_argnums=(static,),
        policy=REMAT_POLICIES[cfg.remat_policy],
    )


def scanned(
    parent: nn.Module, cfg: T5Config, layer: Any, *, depth: int, broadcast: int
) -> Any:
    """Makes one module for all layers of a stack.

    `layer` is a module class as `nn.scan` needs it; `broadcast` is the number of its
    arguments that are the same for all layers.
    """
    # Without `In`, applying the stack would return (and transpose) its parameters.
    axis: Any = SCAN_AXIS
    if not parent.is_mutable_collection("params"):
        axis = flax.typing.In(SCAN_AXIS)
    return partitioning.scan_with_axes(
        # `deterministic` is last, after self, the carry and the other broadcast ones.
        remat(layer, cfg, static=broadcast + 1, in_scan=True),
        variable_axes={"params": axis},
        split_rngs={"params": True, "dropout": True},
        in_axes=cast(Any, (nn.broadcast,) * broadcast),
        length=depth,
        axis_name="layers",
    )(cfg)
