"""Names of the files in a run's folder, and the values of its saved configuration.

MODEL_DIR/
checkpoints/<step>/     weights and optimizer
metrics.jsonl           metrics of training and of evaluations
config.gin              the configuration, as gin writes it
config.json             every value, with the file and line that set it
operative_config.gin    the values that were used, with defaults
examples/               prepared examples
rollouts/               texts that the student wrote for the next steps
evaluation/             predictions and results of suites
tensorboard/ profile/   for TensorBoard
"""

import dataclasses
import os
import pathlib
from typing import Any

from specialize import paths, typed_json, versions
from specialize.errors import InputError
from specialize.paths import store

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
CONFIG_GIN = "config.gin"
CONFIG = "config.json"
OPERATIVE_CONFIG = "operative_config.gin"
EXAMPLES = "examples"
ROLLOUTS = "rollouts"
RESPONSES = "responses.sqlite"
EVALUATION = "evaluation"
RESULTS = "results.json"
TENSORBOARD = "tensorboard"
PROFILE = "profile"

# What the name of a run or checkpoint ends with if its averaged weights are meant.
AVERAGE = "#ema"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A value of a saved configuration."""

    name: str
    value: Any


@dataclasses.dataclass(frozen=True)
class _Saved:
    values: list[Saved]


def read_json(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The object in a JSON file, or None if it cannot be read."""
    try:
        return typed_json.read(path, typed_json.Object)
    except InputError:
        return None


def saved_values(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Name -> value of the configuration that a run saved in its folder.

    {} if there is none; config.json of a Hugging Face model has another form.

    Raises:
        InputError: The configuration is damaged or has an unknown version.
    """
    remedy = "Remove the file, or restore it."
    if paths.in_bucket(folder):
        path: Any = paths.joined(folder, CONFIG)
        data = store.read_bytes(path)
    else:
        path = pathlib.Path(folder) / CONFIG
        data = typed_json.read_bytes(path, remedy=remedy) if path.is_file() else None
    if data is None:
        return {}
    content = typed_json.decode(data, typed_json.Object, path, remedy=remedy)
    if "values" not in content:
        return {}
    versions.CONFIGURATION.check(content.get("version", 1), path)
    saved = typed_json.convert(content, _Saved, path, remedy=remedy)
    return {row.name: row.value for row in saved.values}
