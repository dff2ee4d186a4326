"""Tiny networks of the three families with random weights, in every format."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from specialize.checkpoints import huggingface, names
from specialize.checkpoints.lazy import LazyTensor, from_array
from specialize.student.architecture import T5Config

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


def random_weights(config: T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 weights by canonical name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in names.shapes(config).items()
    }


def lazily(weights: dict[str, np.ndarray]) -> dict[str, LazyTensor]:
    """The same weights as lazy tensors."""
    return {name: from_array(array) for name, array in weights.items()}


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> T5Config:
    return FAMILIES[request.param]


@pytest.fixture
def hf_folder(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes a Hugging Face folder of a network; returns it."""

    def write(
        config: T5Config,
        weights: dict[str, np.ndarray] | None = None,
        *,
        name: str = "hf",
        max_shard_bytes: int = 10**9,
    ) -> pathlib.Path:
        folder = tmp_path / name
        folder.mkdir()
        weights = random_weights(config) if weights is None else weights
        huggingface.write_weights(
            folder, lazily(weights), max_shard_bytes=max_shard_bytes
        )
        huggingface.write_settings(folder, config, "float32")
        return folder

    return write
