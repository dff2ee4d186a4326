"""Networks of the families, and Hugging Face folders of them."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from weight_cases import FAMILIES, lazily, random_weights

from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.student.network.architecture import T5Config


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
        huggingface_companions.write_settings(folder, config, "float32")
        return folder

    return write
