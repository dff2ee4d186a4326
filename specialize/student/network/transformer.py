"""T5 1.0, T5 1.1 / Flan-T5, UL2 and umT5 as one Flax Linen module.

    T5 1.0    mlp_activations=("relu",)           logits_via_embedding=True
    T5 1.1    mlp_activations=("gelu", "linear")  logits_via_embedding=False
    UL2       mlp_activations=("silu", "linear")  logits_via_embedding=True
    umT5      as T5 1.1, with relpos_per_layer=True

ByT5, mT5 and MADLAD-400 are T5 1.1 with other sizes and another vocabulary. Raffel et
al. 2020 (arXiv 1910.10683), Shazeer 2020 (2002.05202), Tay et al. 2022 (2205.05131),
Chung et al. 2023 (2304.09151). Parameter paths
(`encoder/layers_0/attention/query/kernel`) and logical axes (collection `params_axes`)
are T5X's. With `scan_layers` all layers of a stack are one module, with an additional
axis 1, "layers" (`layout.unroll_params` removes it).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from specialize.student import layers
from specialize.student.adapters.trees import LORA_A, LORA_B
from specialize.student.attention import cache
from specialize.student.attention.attention import attention_mask
from specialize.student.network.architecture import T5Config
from specialize.student.network.stack_layers import (
    DecoderLayer,
    EncoderLayer,
    ScanDecoderLayer,
    ScanEncoderLayer,
    dropout,
    norm,
    relpos,
    remat,
    scanned,
)


class Encoder(nn.Module):
    """The embedding and a stack of layers, which share their bias (except in umT5)."""

    config: T5Config
    shared_embedding: nn.Module

    def setup(self):
        """Declares the stack: `layers_0`, ... or, scanned, one `encoder`."""
        cfg = self.config
        if not cfg.relpos_per_layer:
            self.relpos_bias = relpos(cfg, bidirectional=True)
        if cfg.scan_layers:
            self.encoder = scanned(
                self, cfg, ScanEncoderLayer, depth=cfg.num_encoder_layers, broadcast=3
            )
        else:
            layer = remat(EncoderLayer, cfg, static=4)
            self.layers = [layer(cfg) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = norm(cfg)
        self.input_dropout = dropout(cfg, 0)
        # The only dropout that T5X draws for every position separately.
        self.final_dropout = nn.Dropout(cfg.dropout_rate, name="Dropout_1")

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        mask: Bool[Array, "B 1 S S"],
        deterministic: bool,
    ) -> Float[Array, "B S D"]:
        """Returns the normalised hidden states."""
        x = self.input_dropout(self.shared_embedding(tokens), deterministic)
        length, bias = tokens.shape[1], None
        if not self.config.relpos_per_layer:
            bias = self.relpos_bias(length, length, self.config.attention_block)
        if self.config.scan_layers:
            x, _ = self.encoder(x, bias, mask, deterministic)
        else:
            for layer in self.layers:
                x = layer(x, bias, mask, deterministic)
        return self.final_dropout(self.encoder_norm(x), deterministic)


class Decoder(nn.Module):
    """The decoder's stack, its final norm and the output head."""

    config: T5Config
    shared_embedding: nn.Module

    def setup(self):
        """Declares the stack, scanned or not, and the head unless it is tied."""
        cfg = self.config
        if not cfg.relpos_per_layer:
            self.relpos_bias = relpos(cfg, bidirectional=False)
        if cfg.scan_layers:
            self.decoder = scanned(
                self, cfg, ScanDecoderLayer, depth=cfg.num_decoder_layers, broadcast=5
            )
        else:
            layer = remat(DecoderLayer, cfg, static=6)
            self.layers = [layer(cfg) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = norm(cfg)
        self.input_dropout = dropout(cfg, 0)
        self.final_dropout = dropout(cfg, 1)
        if not cfg.logits_via_embedding:
            self.logits_dense = layers.Dense(
                cfg.vocab_size,
                ("embed", "vocab"),
                dtype=cfg.dtype,
                out_dtype=jnp.float32,
                adapters=cfg.adapters,
            )

    def __call__(
        self,
        encoded: Float[Array, "B S D"],
        tokens: Int[Array, "B L"],
        mask: Bool[Array, "B 1 L L"],
        cross_mask: Bool[Array, "B 1 L S"],
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        """Returns the hidden states that the output head takes."""
        y = self.input_dropout(self.shared_embedding(tokens), deterministic)
        length, bias = tokens.shape[1], None
        if not self.config.relpos_per_layer:
            bias = self.relpos_bias(length, length, self.config.attention_block)
        if self.config.scan_layers:
            y, _ = self.decoder(y, encoded, bias, mask, cross_mask, deterministic)
        else:
            for layer in self.layers:
                y = layer(y, encoded, bias, mask, cross_mask, deterministic)
        return self.finish(y, deterministic)

    def finish(
        self, y: Float[Array, "B L D"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        """Applies norm, dropout and, before a tied head, the scale D^-0.5."""
        y = self.final_dropout(self.decoder_norm(y), deterministic)
        if self.config.logits_via_embedding:
            y = y * jnp.asarray(self.config.emb_dim**-0.5, y.dtype)
        return y

    def step(
        self,
        tokens: Int[Array, "B N"],
        pasts: Sequence[cache.KeysValues],
        sources: Sequence[cache.KeysValues],
        views: Sequence[cache.View],
    ) -> tuple[Float[Array, "B N D"], list[cache.KeysValues]]:
        """Applies `DecoderLayer.step` of every layer, then the final norm."""
        y = self.shared_embedding(tokens)
        grown = []
        each = zip(self.layers, pasts, sources, views, strict=True)
        for layer, past, source, view in each:
            y, past = layer.step(y, past, source, view)
            grown.append(past)
        return self.finish(y, deterministic=True), grown

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Applies the output head; the logits are always float32."""
        if self.config.logits_via_embedding:
            logits = self.shared_embedding.attend(hidden)
        else:
            logits = self.logits_dense(hidden)
        return layers.constrain(logits, "batch", "length", "vocab")


class Transformer(nn.Module):
    """The encoder-decoder, with the call signature of T5X's network.

    Token id 0 is padding at any position: other positions never see it, and what the
    network computes there is unspecified (but finite).
    """

    config: T5Config

    def setup(self):
        """Declares embedding, encoder and decoder."""
        cfg = self.config
        self.token_embedder = layers.Embed(
            cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype, lookup=cfg.embedding_lookup
        )
        self.encoder = Encoder(cfg, self.token_embedder)
        self.decoder = Decoder(cfg, self.token_embedder)

    def encode(
        self,
        encoder_input_tokens: Int[Array, "B S"],
        encoder_segment_ids: Int[Array, "B S"] | None = None,
        enable_dropout: bool = True,
    ) -> Float[Array, "B S D"]:
        """Returns the encoder's normalised hidden states."""
        real = encoder_input_tokens > 0
        mask = attention_mask(real, real, encoder_segment_ids, encoder_segment_ids)
        return self.encoder(encoder_input_tokens, mask, not enable_dropout)

    def decode(
        self,
        encoded: Float[Array, "B S D"],
        encoder_input_tokens: Int[Array, "B S"],
        decoder_input_tokens: Int[Array, "B L"],
        decoder_target_tokens: Int[Array, "B L"],
        encoder_segment_ids: Int[Array, "B S"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        decoder_positions: Int[Array, "B L"] | None = None,
        enable_dropout: bool = True,
        return_hidden: bool = False,
    ) -> Float[Array, "B L D"] | Float[Array, "B L V"]:
        """Returns logits [B L V] of whole targets, or the head's input [B L D].

        Args:
            encoded: the result of `encode`.
            encoder_input_tokens: show where the encoder's padding is.
            decoder_input_tokens: targets shifted right, 0 first.
            decoder_target_tokens: show where the decoder's padding is.
            encoder_segment_ids: number of each position's example, in packed sequences.
            decoder_segment_ids: the same for the targets.
            decoder_positions: ignored; relative positions need none.
            enable_dropout: whether to drop out (needs the random key "dropout").
            return_hidden: whether to return the final normalised states (scaled by
                D^-0.5 if the head is tied): logits = hidden @ head_kernel(params,
                config).
        """
        del decoder_positions
        queries = decoder_target_tokens > 0
        mask = attention_mask(
            queries, queries, decoder_segment_ids, decoder_segment_ids, causal=True
        )
        cross_mask = attention_mask(
            queries, encoder_input_tokens > 0, decoder_segment_ids, encoder_segment_ids
        )
        hidden = self.decoder(
            encoded, decoder_input_tokens, mask, cross_mask, not enable_dropout
        )
        return hidden if return_hidden else self.decoder.logits(hidden)

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "B S"],
        decoder_input_tokens: Int[Array, "B L"],
        decoder_target_tokens: Int[Array, "B L"],
        encoder_segment_ids: Int[Array, "B S"] | None = None,
        decoder_segment_ids: Int[Array, "B L"] | None = None,
        encoder_positions: Int[Array, "B S"] | None = None,
        decoder_positions: Int[Array, "B L"] | None = None,
        *,
        enable_dropout: bool = True,
        return_hidden: bool = False,
    ) -> Float[Array, "B L D"] | Float[Array, "B L V"]:
        """Returns logits [B L V], or with `return_hidden` the head's input [B L D]."""
        del encoder_positions
        encoded = self.encode(encoder_input_tokens, encoder_segment_ids, enable_dropout)
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            decoder_positions,
            enable_dropout,
            return_hidden,
        )

    def remember(self, encoded: Float[Array, "B S D"]) -> list[cache.KeysValues]:
        """Returns the encoder's keys and values for every decoder layer."""
        return [layer.remember(encoded) for layer in self.decoder.layers]

    def position_biases(self, length: int) -> list[Float[Array, "H L"]]:
        """Returns the self-attention bias of the distances 1 - length, ..., -1, 0.

        There is one per decoder layer; layers that share a bias share the array.
        """
        decoder = self.decoder
        if self.config.relpos_per_layer:
            owners = [layer.relpos_bias for layer in decoder.layers]
            return [owner.by_distance(1 - length, 0) for owner in owners]
        shared = decoder.relpos_bias.by_distance(1 - length, 0)
        return [shared] * len(decoder.layers)

    def step(
        self,
        tokens: Int[Array, "B N"],
        pasts: Sequence[cache.KeysValues],
        sources: Sequence[cache.KeysValues],
        views: Sequence[cache.View],
    ) -> tuple[Float[Array, "B N V"], list[cache.KeysValues]]:
        """Decodes one position of N continuations of each prompt.

        Needs the unrolled layout: a scan would copy the whole cache at every step.

        Returns:
            (logits of the next token, keys and values with this position).
        """
        hidden, pasts = self.decoder.step(tokens, pasts, sources, views)
        return self.decoder.logits(hidden), pasts


def head_kernel(params: Mapping[str, Any], config: T5Config) -> Float[Array, "D V"]:
    """Returns the output head of a network with this configuration.

    A tied head is a view of the embedding; an adapter of the head is added to it.
    """
    head = params["decoder"].get("logits_dense")
    if head is None:
        return params["token_embedder"]["embedding"].T
    if LORA_A not in head or config.adapters is None:
        return head["kernel"]
    change = jnp.matmul(head[LORA_A] * config.adapters.scale, head[LORA_B])
    return head["kernel"] + change
