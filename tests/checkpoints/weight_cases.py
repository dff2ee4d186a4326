"""Tiny networks of the families, and random weights for them."""

import dataclasses

import numpy as np

from specialize.checkpoints import names
from specialize.checkpoints.lazy_tensors import LazyTensor, from_array
from specialize.student.network.architecture import T5Config

FAMILIES = {
    "t5_1_0": T5Config(
        vocab_size=256,
        emb_dim=24,
        num_heads=3,
        num_encoder_layers=2,
        num_decoder_layers=3,
        head_dim=4,
        mlp_dim=40,
        mlp_activations=("relu",),
        logits_via_embedding=True,
    ),
    "t5_1_1": T5Config(
        vocab_size=256,
        emb_dim=24,
        num_heads=3,
        num_encoder_layers=3,
        num_decoder_layers=2,
        head_dim=4,
        mlp_dim=40,
        mlp_activations=("gelu", "linear"),
    ),
    "ul2": T5Config(
        vocab_size=256,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=16,
        mlp_dim=32,
        mlp_activations=("silu", "linear"),
    ),
}
FAMILIES["umt5"] = dataclasses.replace(FAMILIES["t5_1_1"], relpos_per_layer=True)


def random_weights(config: T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights by canonical name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in names.shapes(config).items()
    }


def realistic(config: T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights at the scale of trained ones: kernels that keep the variance."""
    weights = random_weights(config, seed)
    rng = np.random.default_rng(seed + 1)
    for name, array in weights.items():
        if name.endswith("scale"):
            array[:] = rng.uniform(0.5, 1.5, array.shape)
        elif name.endswith("kernel") and "logits" not in name:
            array *= array.shape[0] ** -0.5
        elif "rel_embedding" in name:
            array *= 0.5
        elif "logits" in name:
            array *= 3 * array.shape[0] ** -0.5
    return weights


def lazily(weights: dict[str, np.ndarray]) -> dict[str, LazyTensor]:
    """The same weights as lazy tensors."""
    return {name: from_array(array) for name, array in weights.items()}
