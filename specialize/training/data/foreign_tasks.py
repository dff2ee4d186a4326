"""SeqIO tasks whose source or preprocessors others wrote: what may be wrong with them.

An error in such code is an invalid input, not a defect: it becomes one message that
names the task, and where its code raised it.
"""

import contextlib
import functools
import os
import pathlib
import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, Shaped

from specialize.checkpoints.vocabulary_rows import rounded_up
from specialize.errors import InputError

if TYPE_CHECKING:
    import seqio

SIDES = ("inputs", "targets")
# Preprocessors of SeqIO in our tasks.
_PLAIN = ("seqio.preprocessors.tokenize", "seqio.preprocessors.append_eos")
_OURS = "specialize_tasks"
# Fields of our preprocessors, which give an example its name and count what was cut.
RECORD_ID, CUTS = "record_id", "cuts"
_GIVE = {
    RECORD_ID: ("name_records", "distillation_features"),
    CUTS: ("fit_text", "fit_records", "fit_tokens"),
}


def is_plain(task: "seqio.Task") -> bool:
    """Whether no preprocessor needs AutoGraph, which takes seconds to rewrite them.

    It makes TensorFlow's operations of Python's `if` and `for` over tensors, which
    others may write. Ours have none.
    """
    return all(
        name.partition(".")[0] == _OURS or name in _PLAIN for name in _steps(task)
    )


def _steps(task: "seqio.Task") -> Iterator[str]:
    """The names of its preprocessors, with their modules."""
    import seqio

    for step in task.preprocessors:
        while isinstance(step, functools.partial):
            step = step.func
        if not isinstance(step, seqio.CacheDatasetPlaceholder):
            home = getattr(step, "__module__", None) or ""
            yield f"{home}.{getattr(step, '__qualname__', '')}"


def trusted(task: "seqio.Task") -> list[str]:
    """The fields of its examples that our own preprocessors have made.

    Others may use the same names for something else.
    """
    steps = [*_steps(task)]
    return [
        field
        for field, names in _GIVE.items()
        if any(f"{_OURS}.preprocessors.{name}" in steps for name in names)
    ]


def is_ours(task: "seqio.Task") -> bool:
    """Whether the source and all preprocessors of a task are ours."""
    return type(task.source).__module__.partition(".")[0] == _OURS and is_plain(task)


def check_tokens(task: str, elements: Any) -> None:
    """Refuses elements of a dataset without sequences of token ids.

    Args:
        task: name of the task.
        elements: the `element_spec` of the dataset.

    Raises:
        InputError: "inputs" or "targets" is missing, or no vector of integers.
    """
    for side in SIDES:
        spec = elements.get(side) if isinstance(elements, Mapping) else None
        if spec is None:
            raise InputError(
                f"the preprocessors of the SeqIO task {task!r} give no {side!r}. "
                "Training needs 'inputs' and 'targets': let them keep both."
            )
        if spec.dtype.is_integer and spec.shape.rank == 1:
            continue
        remedy = "Let them give one vector of ids for each example."
        if spec.dtype.name == "string":
            remedy = "Add seqio.preprocessors.tokenize to them."
        raise InputError(
            f"the preprocessors of the SeqIO task {task!r} give {side!r} of type "
            f"{spec.dtype.name} and rank {spec.shape.rank}; token ids are integers of "
            f"rank 1. {remedy}"
        )


def check_ids(
    task: str,
    name: str,
    ids: Shaped[np.ndarray, "N ..."],
    sizes: Int[np.ndarray, " B"],
    first: int,
    size: int,
) -> None:
    """Refuses ids that a network of this vocabulary does not have.

    Its rows are rounded up, and a student that knows little samples the rows that only
    fill up, so the answers of a second teacher may have their ids.

    Args:
        task: the task, in words.
        name: name of the feature.
        ids: those of several examples, one after the other.
        sizes: number of tokens of each example.
        first: number of the first example.
        size: number of ids of the vocabulary.

    Raises:
        InputError: an id is negative or too large.
    """
    limit = rounded_up(size)
    if not ids.size or (ids.min() >= 0 and ids.max() < limit):
        return
    outside = (ids < 0) | (ids >= limit)
    token = int(outside.reshape(len(ids), -1).any(1).argmax())
    example = first + int(np.searchsorted(np.cumsum(sizes), token, side="right"))
    raise InputError(
        f"{task}, example {example}: {name} has the id {ids[outside][0]}, but the "
        f"vocabulary has {size:,} ids, from 0 to {size - 1:,}. Tokenize with the "
        "student's vocabulary, or correct the preprocessor that changes its ids."
    )


@contextlib.contextmanager
def named_errors(task: "seqio.Task", split: str) -> Iterator[None]:
    """Turns an error of reading a task into one that names the file or the code.

    Errors of our own code are defects and stay as they are.
    """
    import tensorflow as tf

    damages = [tf.errors.DataLossError]
    if ours := is_ours(task):
        damages.append(tf.errors.InvalidArgumentError)
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, tuple(damages)):
            raise _damage(task, split, error) from error
        if ours:
            raise
        raise InputError(
            f"the source or a preprocessor of the SeqIO task {task.name!r} ({split}) "
            f"raised {_words(error)}{_place(error)}. Correct the task."
        ) from error


def _damage(task: "seqio.Task", split: str, error: Any) -> InputError:
    damaged = next(filter(_is_damaged, map(str, task.source.list_shards(split))), "")
    what = f"{damaged} is damaged" if damaged else "its records cannot be read"
    reason = str(error.message).partition("\n")[0].rpartition("}} ")[2][:200]
    return InputError(
        f"task {task.name!r} ({split}): {what} ({reason}). Build the corpus again, "
        "or copy it again from where it is intact."
    )


def _is_damaged(shard: str) -> bool:
    """Whether a shard is not a file of records, or one of its checksums is wrong."""
    import tensorflow as tf

    kind = "GZIP" if shard.endswith(".gz") else ""
    try:
        for _ in tf.data.TFRecordDataset(shard, compression_type=kind):
            pass
    except tf.errors.OpError:
        return True
    return False


def _words(error: Any) -> str:
    """The type and text of an error, without what TensorFlow adds to them.

    AutoGraph writes the lines of code into the text, and the error itself last; a graph
    writes the node that failed first, and where it was made in further lines.
    """
    import tensorflow as tf

    if isinstance(error, tf.errors.OpError):
        first = str(error.message).strip().partition("\n")[0]
        return f"{type(error).__name__}: {first.rpartition('}} ')[2][:300]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0] == "in user code:":
        return lines[-1][:300]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _place(error: Exception) -> str:
    """The innermost line of the user's code in a traceback, or ""."""
    import tensorflow as tf

    lines = traceback.extract_tb(error.__traceback__)
    # AutoGraph runs a translation, and tells of the lines that it translated.
    if translated := getattr(error, "ag_error_metadata", None):
        lines = [*lines, *reversed(translated.translated_stack)]
    others = [
        str(pathlib.Path(tf.__file__).parents[1]),
        os.path.dirname(os.__file__),
        str(pathlib.Path(__file__).parents[2]),
    ]
    own = [
        line
        for line in lines
        if os.path.isfile(line.filename)
        and "__autograph_generated" not in line.filename
        and not any(line.filename.startswith(f"{one}{os.sep}") for one in others)
    ]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
