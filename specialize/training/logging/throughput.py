"""What a step costs in floating-point operations, and what the machine could do."""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from specialize import chips


class Shape(NamedTuple):
    """The numbers of a T5 that decide its operations.

    Attributes:
        emb_dim: D.
        joined_kv: heads times their size.
        mlp_dim: units of a feed-forward layer.
        gates: matrices into the feed-forward units (2 where gated).
        encoder_layers: of the encoder.
        decoder_layers: of the decoder.
        vocab_size: V, rows of the head.
    """

    emb_dim: int
    joined_kv: int
    mlp_dim: int
    gates: int
    encoder_layers: int
    decoder_layers: int
    vocab_size: int

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """From a `T5Config`."""
        return cls(
            emb_dim=config.emb_dim,
            joined_kv=config.num_heads * config.head_dim,
            mlp_dim=config.mlp_dim,
            gates=len(config.mlp_activations),
            encoder_layers=config.num_encoder_layers,
            decoder_layers=config.num_decoder_layers,
            vocab_size=config.vocab_size,
        )


def training_flops(
    shape: Shape, rows: int, input_length: int, target_length: int
) -> float:
    """Model FLOPs of one training step (Chowdhery et al., 2022, appendix B).

    Matrix products only, forward once and backward twice; what rematerialisation
    repeats does not count, padding does.

    Args:
        shape: of the network.
        rows: B.
        input_length: S.
        target_length: L.
    """
    s, t = input_length, target_length
    attention = 4 * shape.emb_dim * shape.joined_kv
    mlp = (shape.gates + 1) * shape.emb_dim * shape.mlp_dim
    encoder = s * (attention + mlp) + 2 * s * s * shape.joined_kv
    # Cross-attention: queries and outputs on targets, keys and values on inputs.
    cross = (t + s) * attention / 2 + 2 * s * t * shape.joined_kv
    decoder = t * (attention + mlp) + 2 * t * t * shape.joined_kv + cross
    head = t * shape.emb_dim * shape.vocab_size
    multiplications = (
        shape.encoder_layers * encoder + shape.decoder_layers * decoder + head
    )
    return 6.0 * rows * multiplications


def peak_flops(devices: int) -> tuple[float, str]:
    """FLOP/s all devices could do together, and where the figure comes from.

    Known accelerators have their maker's dense bfloat16 figure. Of anything else, a
    2048 x 2048 float32 product under jit is measured; simulated devices of one CPU
    share it.
    """
    peak = published_peak()
    if peak is not None:
        return peak * devices, f"{_kind()}, dense bfloat16"
    return measured_matmul(), f"{_kind()}, measured 2048 x 2048 float32"


def published_peak() -> float | None:
    """FLOP/s of one device of this machine; None where `chips` has no figure."""
    chip = chips.of_kind(_kind())
    return None if chip is None or math.isnan(chip.peak_flops) else chip.peak_flops


def _kind() -> str:
    return jax.devices()[0].device_kind.lower()


def measured_matmul(size: int = 2048, repetitions: int = 3) -> float:
    """FLOP/s of a square float32 product under jit on one device: the best run."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    best = float("inf")
    for _ in range(repetitions):
        begin = time.perf_counter()
        product(matrix).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best
