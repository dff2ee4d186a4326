"""The floating-point operations of a step, and the peak rate of the machine."""

import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from specialize import chips
from specialize.student.adapters.spec import projections


def training_flops(
    network: Any, rows: int, input_length: int, target_length: int
) -> float:
    """Model FLOPs of one training step (Chowdhery et al., 2022, appendix B).

    Counts matrix products, forward once and backward twice, padding included and
    rematerialisation excluded, of a batch of B `rows` with the lengths S and L. Frozen
    weights have no gradient: with adapters their products are counted backward once,
    and the adapters' own products, of all projections that have one, are added.
    `network` is the `T5Config`.
    """
    weights, scores, own = _products(network, input_length, target_length)
    if network.adapters is None or not network.adapters.rank:
        return 6.0 * rows * (weights + scores)
    return 2.0 * rows * (2 * weights + 3 * (scores + own))


def forward_flops(
    network: Any, rows: int, input_length: int, target_length: int
) -> float:
    """Model FLOPs of a forward pass, or of decoding with a cache.

    Arguments are those of `training_flops`.
    """
    return 2.0 * rows * sum(_products(network, input_length, target_length))


def _products(network: Any, s: int, t: int) -> tuple[float, float, float]:
    """Multiplications of a sequence: with weights, of scores, and with adapters."""
    joined_kv = network.num_heads * network.head_dim
    attention = 4 * network.emb_dim * joined_kv
    mlp = (len(network.mlp_activations) + 1) * network.emb_dim * network.mlp_dim
    # Cross-attention: queries and outputs on targets, keys and values on inputs.
    encoder = s * (attention + mlp)
    decoder = t * (attention + mlp) + (t + s) * attention / 2
    layers = network.num_encoder_layers * encoder + network.num_decoder_layers * decoder
    weights = layers + t * network.emb_dim * network.vocab_size
    scores = (
        1.0
        * joined_kv
        * (
            network.num_encoder_layers * 2 * s * s
            + network.num_decoder_layers * (2 * t * t + 2 * s * t)
        )
    )
    if network.adapters is None or not network.adapters.rank:
        return weights, scores, 0.0
    return weights, scores, _adapter_products(network, s, t)


def _adapter_products(network: Any, s: int, t: int) -> float:
    """Multiplications of a sequence's tokens with the adapters' matrices."""
    width, joined_kv = network.emb_dim, network.num_heads * network.head_dim
    total = 0.0
    for name in filter(network.adapters.adapts, projections(network)):
        stack, block, *_ = name.split("/")
        last = name.rpartition("/")[2]
        sizes = width + (network.mlp_dim if block == "mlp" else joined_kv)
        layers, tokens = network.num_decoder_layers, t
        if stack == "encoder":
            layers, tokens = network.num_encoder_layers, s
        elif block == "encoder_decoder_attention" and last in ("key", "value"):
            tokens = s
        elif block == last:  # the head
            layers, sizes = 1, width + network.vocab_size
        total += layers * tokens * sizes * network.adapters.rank
    return total


def peak_flops(devices: int) -> tuple[float, str]:
    """Peak FLOP/s of all devices together, and the source of the figure.

    For known accelerators it is the maker's dense bfloat16 figure. For other devices a
    2048 x 2048 float32 product under jit is measured, once for all simulated devices.
    """
    peak = published_peak()
    if peak is not None:
        return peak * devices, f"{_kind()}, dense bfloat16"
    return measured_matmul(), f"{_kind()}, measured 2048 x 2048 float32"


def published_peak() -> float | None:
    """Peak FLOP/s of one device of this machine; None if `chips` has no figure."""
    chip = chips.of_kind(_kind())
    return None if chip is None or math.isnan(chip.peak_flops) else chip.peak_flops


def _kind() -> str:
    return jax.devices()[0].device_kind.lower()


def measured_matmul(size: int = 2048, repetitions: int = 3) -> float:
    """FLOP/s of a square float32 product under jit on one device, in the best run."""
    matrix = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    product(matrix).block_until_ready()
    best = float("inf")
    for _ in range(repetitions):
        begin = time.perf_counter()
        product(matrix).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * size**3 / best
