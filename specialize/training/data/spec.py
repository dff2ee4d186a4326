"""The data of a training. A light module, which gin and the lint read quickly."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from specialize import checks
from specialize.errors import InputError
from specialize.mesh import check_batch
from specialize.training.rollouts.spec import RolloutSpec

ORDERS = ("random", "same_question")


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The examples of a run, and how they are made into batches.

    Attributes:
        mixture: name of a registered SeqIO mixture or task; folders of corpora and text
            files with their shares (`specialize_tasks.mixing`); or a `mixtures.Mixture`
            of examples in memory. None: no data, which is enough for a plan.
        feature_lengths: greatest length of each task feature, in tokens; "inputs" and
            "targets" are the lengths of a sequence.
        batch_size: number of sequences of the global batch.
        split: split of the data.
        microbatches: number of parts in which a batch is processed, one after another;
            more parts need less memory and give the same result.
        pack: whether a sequence holds several examples.
        window_rows: number of sequences that are packed together. None: chosen by
            `batches.BatchSource`.
        order: "random", or "same_question" to keep the records of a question in one
            batch, or in neighbouring ones.
        seed: seed of order and packing, and of initial weights and dropout.
        examples_dir: folder of the prepared examples. None: in the run's folder.
        reuse_examples: whether examples that were prepared earlier may be used.
        tasks: task files; the names of a task's mixtures begin with its name, as in
            "tickets_four_formats" (`specialize_tasks.own`).
        rollouts: which targets the student writes itself.

    Raises:
        InputError: a field has another type or is outside its range.

    Example:
        >>> data = specialize.DataSpec("my_task", {"inputs": 1024, "targets": 256}, 32)
        >>> data.lengths
        {'inputs': 1024, 'targets': 256}
    """

    mixture: Any
    feature_lengths: Mapping[str, int]
    batch_size: int
    split: str = "train"
    microbatches: int = 1
    pack: bool = True
    window_rows: int | None = None
    order: str = "random"
    seed: int = 0
    examples_dir: str | os.PathLike[str] | None = None
    reuse_examples: bool = True
    tasks: Sequence[str | os.PathLike[str]] = ()
    rollouts: RolloutSpec = RolloutSpec()

    def __post_init__(self) -> None:
        if isinstance(self.mixture, Mapping):
            if not self.mixture:
                raise InputError("mixture = {}; it must have at least one share.")
            for path, share in self.mixture.items():
                checks.text("a path of mixture", path)
                checks.real(f"mixture[{path!r}]", share, above=0.0)
        elif self.mixture is not None and not hasattr(self.mixture, "tasks"):
            checks.text("mixture", self.mixture)
        if not isinstance(self.feature_lengths, Mapping) or not all(
            isinstance(name, str) for name in self.feature_lengths
        ):
            shown = checks.shown(self.feature_lengths)
            raise InputError(
                f"feature_lengths = {shown}; it must map each feature "
                "to its length in tokens, as {'inputs': 1024, 'targets': 256}."
            )
        for name in ("inputs", "targets"):
            if name not in self.feature_lengths:
                raise InputError(
                    f"feature_lengths lacks {name!r}. Add {name!r}: LENGTH."
                )
        for name, length in self.feature_lengths.items():
            checks.whole(f"feature_lengths[{name!r}]", length)
        checks.whole("batch_size", self.batch_size)
        checks.whole("microbatches", self.microbatches)
        checks.whole("window_rows", self.window_rows, optional=True)
        checks.task_files("tasks", self.tasks)
        checks.flag("pack", self.pack)
        checks.flag("reuse_examples", self.reuse_examples)
        checks.one_of("order", self.order, ORDERS)
        checks.whole("seed", self.seed, 0, most=2**32 - 1)

    @property
    def lengths(self) -> dict[str, int]:
        """The lengths of a sequence, "inputs" and "targets"."""
        return {part: self.feature_lengths[part] for part in ("inputs", "targets")}

    def check_batch(self, shards: int, *, name: str = "batch_size") -> None:
        """Checks that microbatches and devices divide the batch.

        Args:
            shards: number of devices over which the batch is split.
            name: name of the batch size in the message.

        Raises:
            InputError: they do not divide it.
        """
        check_batch(self.batch_size, shards, self.microbatches, name=name)
