"""Text-to-text files for pre-training and baselines, without a teacher.

`specialize_text_to_text` reads JSON lines {"inputs": ..., "targets": ...} from the file
that gin (`specialize_tasks.text.text_files.train`) or SPECIALIZE_TEXT_PATH names; a
second file (`.validation`, SPECIALIZE_TEXT_VALIDATION_PATH) is its split "validation".
The loop of the distillation tasks trains on it with cross-entropy.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import gin
import seqio
import tensorflow as tf

from specialize import typed_json
from specialize.errors import InputError

from . import locations, preprocessors

VARIABLES = {
    "train": "SPECIALIZE_TEXT_PATH",
    "validation": "SPECIALIZE_TEXT_VALIDATION_PATH",
}


@gin.configurable(module=__name__)
def text_files(
    train: str | None = None, validation: str | None = None
) -> dict[str, str]:
    """The file of each split, from gin or else from the environment."""
    named = {"train": train, "validation": validation}
    found = {
        split: os.path.expanduser(path or os.environ.get(VARIABLES[split], ""))
        for split, path in named.items()
    }
    return {split: path for split, path in found.items() if path}


class JsonLinesSource(seqio.DataSource):
    """JSON lines with the string fields "inputs" and "targets".

    Args:
        path: The file; None: the files of `text_files`.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__(splits=tuple(VARIABLES) if path is None else ("train",))
        self._given = path

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Whether the number of shards is free: lines are distributed one by one."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """The one file of a split."""
        return [os.fspath(self._path(split))]

    def num_input_examples(self, split: str) -> int | None:
        """None: the number is unknown before the file is read."""
        del split
        return None

    def get_dataset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
    ) -> tf.data.Dataset:
        """Reads a split.

        Raises:
            InputError: No file is named, it is missing, or a line is malformed.
        """
        inputs, targets, numbers = _read(self._path(split))
        count = len(inputs)
        dataset = tf.data.Dataset.from_tensor_slices(
            {"inputs": inputs, "targets": targets, "line": numbers}
        )
        if shard_info is not None:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        if shuffle:
            dataset = dataset.shuffle(count, seed=seed)
        return dataset

    def _path(self, split: str) -> pathlib.Path:
        files = text_files() if self._given is None else {"train": self._given}
        if split not in files:
            raise InputError(
                f"No text file is named for split {split!r}. Bind "
                f"specialize_tasks.text.text_files.{split} in gin, or set "
                f"{VARIABLES[split]}."
            )
        path = pathlib.Path(files[split]).expanduser()
        if not path.is_file():
            raise InputError(f"The text file {path} (split {split!r}) does not exist.")
        return path


@dataclasses.dataclass(frozen=True)
class _Pair:
    inputs: str
    targets: str


def _read(path: pathlib.Path) -> tuple[list[str], list[str], list[int]]:
    inputs: list[str] = []
    targets: list[str] = []
    numbers: list[int] = []
    remedy = "Correct or remove the line."
    for where, pair in typed_json.read_lines(path, _Pair, remedy=remedy):
        if not (pair.inputs.strip() and pair.targets.strip()):
            raise InputError(f"{where}: 'inputs' or 'targets' is empty. {remedy}")
        inputs.append(pair.inputs)
        targets.append(pair.targets)
        numbers.append(int(where.rpartition(":")[2]))
    if not inputs:
        raise InputError(f"{path} has no line of JSON.")
    return inputs, targets, numbers


seqio.TaskRegistry.add(
    "specialize_text_to_text",
    source=JsonLinesSource(),
    preprocessors=[
        preprocessors.name_records,
        seqio.preprocessors.tokenize,
        preprocessors.fit_text,
    ],
    output_features={
        name: seqio.Feature(locations.VOCABULARY, add_eos=True)
        for name in ("inputs", "targets")
    },
    metric_fns=[],
)
