"""A small miniature world, made once, for everything that reads words."""

import dataclasses
import pathlib

import pytest

from specialize.quickstart import miniature


@dataclasses.dataclass(frozen=True)
class World:
    folder: pathlib.Path
    problems: pathlib.Path
    completions: pathlib.Path
    vocabulary: pathlib.Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A few problems, three samples of the exact teacher each, a vocabulary."""
    root = tmp_path_factory.mktemp("miniature")
    folder = miniature.write(
        root / "world", num_train=24, num_test=8, num_samples=3, num_pretraining=200
    )
    vocabulary = miniature.train_vocabulary(
        folder / "text.txt", root / "vocabulary.model", size=320
    )
    return World(
        folder,
        folder / "gsm8k" / "train.jsonl",
        folder / "completions.jsonl",
        vocabulary,
    )
