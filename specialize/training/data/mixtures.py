"""SeqIO's mixtures, as examples in memory with the rates of their tasks."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from specialize.config import neutral
from specialize.corpus.vocabulary import check_rows
from specialize.errors import InputError
from specialize.training.data.examples import Examples, load_tasks, report


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The examples of tasks, and how often each task is drawn.

    Attributes:
        name: name of the SeqIO mixture or task.
        tasks: the examples of each task.
        rates: relative rate of each task, in examples.
    """

    name: str
    tasks: Sequence[Examples]
    rates: Sequence[float]

    @property
    def digest(self) -> str:
        """Digest of all examples and rates."""
        parts = [
            f"{t.digest}:{r!r}" for t, r in zip(self.tasks, self.rates, strict=True)
        ]
        return "-".join(parts)


def load_mixture(
    name: str | Mapping[str, Any],
    split: str,
    feature_lengths: Mapping[str, int],
    cache_dir: str | os.PathLike[str],
    *,
    reuse: bool = True,
    tasks: Sequence[str | os.PathLike[str]] = (),
    rows: int | None = None,
    exchange: str | os.PathLike[str] | None = None,
) -> Mixture:
    """Loads all tasks of a registered SeqIO mixture or task.

    Args:
        name: registered name, whose module must be imported; or shares of corpora.
        split: split of the data; tasks without it are skipped.
        feature_lengths: greatest length of each task feature.
        cache_dir: folder of the prepared examples.
        reuse: whether examples that were prepared earlier may be used.
        tasks: task files, whose names the mixture may have.
        rows: embedding rows of the network. None: any number.
        exchange: as for `load_tasks`.

    Raises:
        InputError: the name is unknown, no task has this split or a positive rate, the
            vocabulary has more ids than `rows`, or as for `load_tasks`.
    """
    import seqio

    name = neutral.mixture_name(name, tasks)
    try:
        provider = seqio.get_mixture_or_task(name)
    except ValueError as error:
        raise InputError(unknown_task(name)) from error
    found = seqio.get_subtasks(provider)
    with_split = [task for task in found if split in task.splits]
    if not with_split:
        raise InputError(
            f"{name!r} has no task with split {split!r}; its splits are "
            f"{sorted({s for task in found for s in task.splits})}. Distillation tasks "
            "have a split 'validation' if gin sets "
            "specialize_tasks.distill.held_out.fraction."
        )
    if isinstance(provider, seqio.Mixture):
        rates = [float(provider.get_rate(task)) for task in with_split]
    else:
        rates = [1.0]
    asked = [(t, r) for t, r in zip(with_split, rates, strict=True) if r > 0]
    if not asked:
        raise InputError(
            f"mixture {name!r}: no task has a positive rate ({rates}). Set the rates."
        )
    if rows is not None:
        _check_rows([task for task, _ in asked], rows)
    lengths = {
        key: int(value)
        for key, value in feature_lengths.items()
        if key in asked[0][0].output_features
    }
    loaded = load_tasks(
        [task for task, _ in asked],
        *(split, lengths, cache_dir),
        reuse=reuse,
        exchange=exchange,
    )
    for examples in loaded:
        report(examples)
    return Mixture(name, loaded, [rate for _, rate in asked])


def _check_rows(tasks: Sequence[Any], rows: int) -> None:
    for task in tasks:
        for key in {"inputs", "targets"} & task.output_features.keys():
            words = task.output_features[key].vocabulary
            check_rows(
                f"of task {task.name!r}", words.vocab_size - words.extra_ids, rows
            )


def unknown_task(name: str) -> str:
    """The error message for a name that is not registered."""
    import difflib
    import sys

    import seqio

    names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    near = difflib.get_close_matches(name, names, n=3)
    module = sys.modules.get("specialize_tasks")
    where = (
        f"'specialize_tasks' was imported from {module.__file__}"
        if module
        else "no gin file has the line 'import specialize_tasks'"
    )
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"no SeqIO task or mixture is called {name!r}; {where}.{hint}"
