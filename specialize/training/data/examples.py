"""The prepared examples of a task, as arrays on disk.

SeqIO reads and preprocesses a task once, in order, without shuffling. The result is
stored in one folder of raw arrays that are mapped into memory. Batches then need no
Python per example, and any process can read any example. The folder's name depends on
everything from which it was made: a changed corpus, length or preprocessor makes a new
folder.
"""

import contextlib
import functools
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Int

from specialize import outputs, paths, run_folder, sharding, typed_json
from specialize.errors import InputError
from specialize.progress import console, say, track
from specialize.training.data import foreign_tasks, sharing
from specialize.training.data.example_keys import key_of
from specialize.training.data.stored_examples import (
    CUTS,
    META,
    Examples,
    Meta,
    Stored,
    describe,
    none_left,
    open_examples,
    read_meta,
)

if TYPE_CHECKING:
    import seqio

RECORD_ID = foreign_tasks.RECORD_ID
# The file that names the run whose processes alone may use prepared examples.
_RUN = "run"
READ_BATCH = 512
# The feature whose vocabulary other ids are of.
_IDS_OF = {"teacher_ids": "targets"}


def load_tasks(
    tasks: Sequence["seqio.Task"],
    split: str,
    feature_lengths: Mapping[str, int],
    cache_dir: str | os.PathLike[str],
    *,
    reuse: bool = True,
    exchange: str | os.PathLike[str] | None = None,
) -> list[Examples]:
    """Reads the prepared examples of tasks, after preparing them if necessary.

    All processes of a run call it together.

    Args:
        tasks: SeqIO tasks.
        split: split of the tasks.
        feature_lengths: greatest length of each feature. A task's preprocessors cut
            longer examples, or SeqIO at the right end.
        cache_dir: folder of the prepared examples, local to the machine or shared.
        reuse: whether examples that were prepared earlier may be used.
        exchange: folder in which the processes of a run share what they prepare; local
            or in a bucket. None: each machine prepares all.

    Returns:
        The examples of each task, mapped into memory.

    Raises:
        InputError: a task has no such split or no examples, lacks "inputs" or
            "targets", or has an example without input or target tokens; or the
            processes have other files.
    """
    folders: dict[str, pathlib.Path] = {}
    shared: dict[str, sharing.Work] = {}
    # Those of others first: what is wrong with them is said before ours take minutes.
    tasks_in_turn = sorted(tasks, key=foreign_tasks.is_ours)
    if exchange is not None:
        sharing.check_sizes(tasks_in_turn, split)
    for task in tasks_in_turn:
        with foreign_tasks.named_errors(task, split):
            splits = sorted(task.splits)
            key = key_of(task, split, feature_lengths)
        if split not in splits:
            raise InputError(
                f"task {task.name!r} has no split {split!r}; it has "
                f"{', '.join(splits) or 'none'}."
            )
        repeatable = key.repeatable
        if exchange is not None:
            repeatable = sharding.all_agree(repeatable)
        if reuse and key.unknown and jax.process_index() == 0:
            _say_unknown(task.name, split, key.unknown)
        name = f"{task.name}-{split}-{key.digest}"
        folders[task.name] = folder = pathlib.Path(cache_dir) / name
        ready = reuse and repeatable and (folder / META).exists()
        parts = sharing.number_of_parts(task) if reuse and repeatable else 1
        if exchange is None or parts == 1:
            _fill(task, split, feature_lengths, folder, reuse and repeatable, exchange)
        elif not sharding.all_agree(ready):
            place = os.path.join(exchange, f"{sharding.from_leader(name)}.parts")
            prepare = functools.partial(_prepare, task, split, feature_lengths)
            shared[task.name] = sharing.Work(place, folder, parts, prepare)
    if exchange is not None and shared:
        sharing.check_contents([t for t in tasks if t.name in shared], split)
        outputs.check_shared(exchange, "the folder of prepared examples")
    sharing.prepare_together([*shared.values()])
    return [open_examples(folders[task.name], task.name) for task in tasks]


def _fill(
    task: "seqio.Task",
    split: str,
    feature_lengths: Mapping[str, int],
    folder: pathlib.Path,
    reuse: bool,
    exchange: str | os.PathLike[str] | None,
) -> None:
    """Prepares a task in one piece, unless its folder is there and may be used.

    What is not reused is prepared once by each run that shares a disk.
    """
    turn: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if exchange is not None and not paths.in_bucket(exchange):
        # Machines without a common disk prepare at the same time, each for itself.
        turn = sharding.one_after_another()
    run = None
    if exchange is not None and not reuse:
        run = sharding.from_leader(uuid.uuid4().hex)
    with turn, contextlib.nullcontext() if exchange is None else paths.locked(folder):
        ours = run is not None and _made_by(folder) == run
        if (folder / META).exists() and (reuse or ours):
            return
        _fill_alone(task, split, feature_lengths, folder, run)
        _remove_copies_of_0_1(folder)


def _made_by(folder: pathlib.Path) -> str | None:
    """The run that prepared examples which no other may use."""
    file = folder / _RUN
    return file.read_text() if file.is_file() else None


def _fill_alone(
    task: "seqio.Task",
    split: str,
    feature_lengths: Mapping[str, int],
    folder: pathlib.Path,
    run: str | None,
) -> None:
    try:
        with outputs.staged_directory(folder, "examples", replace=True) as staged:
            _prepare(task, split, feature_lengths, staged, (0, 1))
            if read_meta(staged).examples == 0:
                raise none_left(read_meta(staged))
            if run is not None:
                (staged / _RUN).write_text(run)
    except OSError:
        # Another process of this run has made the same folder meanwhile.
        if not (folder / META).exists():
            raise


def _prepare(
    task: "seqio.Task",
    split: str,
    feature_lengths: Mapping[str, int],
    folder: pathlib.Path,
    part: tuple[int, int],
) -> None:
    """Writes the examples of one of several parts of a task's records."""
    with foreign_tasks.named_errors(task, split):
        dataset, names = _dataset(task, split, feature_lengths, part)
        known = task.source.num_input_examples(split)
    if known is not None:
        first, last = (known * n // part[1] for n in (part[0], part[0] + 1))
        known = last - first
    batches = None if known is None else -(-known // READ_BATCH)
    words = f"prepare {task.name} ({split}), x{READ_BATCH}"
    read = _read(track(dataset, words, total=batches), task, split)
    _write(read, folder, task, split, names, known)


def _dataset(
    task: "seqio.Task",
    split: str,
    feature_lengths: Mapping[str, int],
    part: tuple[int, int],
) -> tuple[Any, list[str]]:
    """Batches of ragged features of a part of a task, and the features' names."""
    import tensorflow as tf

    source: Any = task.source
    as_written = tf.autograph.experimental.do_not_convert
    plain = foreign_tasks.is_plain(task)
    read = as_written(task.get_dataset) if plain else task.get_dataset
    dataset = read(
        dict(feature_lengths),
        split,
        shuffle=False,
        seed=0,
        try_in_mem_cache=False,
        trim_output_features=False,  # below, where it is counted
        shard_info=source.block(*part) if part[1] > 1 else None,
    )
    spec = dataset.element_spec
    names = [n for n in task.output_features if n in feature_lengths and n in spec]
    missing = {*foreign_tasks.SIDES} - set(names)
    if missing:
        raise InputError(
            f"task {task.name!r} has no feature {sorted(missing)}. Training needs "
            "'inputs' and 'targets', each with a length in feature_lengths."
        )
    foreign_tasks.check_tokens(task.name, spec)
    kept = [n for n in (*names, *foreign_tasks.trusted(task)) if n in spec]

    @as_written
    def keep(example: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {name: example[name] for name in kept}
        # As SeqIO does, and T5X with it; our own preprocessors leave nothing to cut.
        long = [name for name in names if spec[name].shape.rank]
        beyond = {n: tf.shape(example[n])[0] - feature_lengths[n] for n in long}
        chosen |= {n: example[n][: feature_lengths[n]] for n in long}
        cut = [tf.constant(0), *(tf.maximum(beyond[n], 0) for n in foreign_tasks.SIDES)]
        found = tf.ensure_shape(chosen.get("cuts", [0] * len(CUTS)), [len(CUTS)])
        return {**chosen, "cuts": found + tf.stack(cut)}

    dataset = dataset.map(keep)
    dataset = dataset.ragged_batch(READ_BATCH)

    ragged_tensor: Any = tf.RaggedTensor

    @as_written
    def ragged(batch: Mapping[str, Any]) -> dict[str, Any]:
        # Examples of a shape that is known come as plain tensors.
        return {
            name: ragged_tensor.from_tensor(value)
            if name in names and isinstance(value, tf.Tensor)
            else value
            for name, value in batch.items()
        }

    return dataset.map(ragged), names


def _read(batches: Iterator[Any], task: "seqio.Task", split: str) -> Iterator[Any]:
    with foreign_tasks.named_errors(task, split):
        yield from batches


def _write(
    batches: Iterator[Any],
    folder: pathlib.Path,
    task: "seqio.Task",
    split: str,
    names: list[str],
    known: int | None,
) -> None:
    kinds = {name: _kind(task.output_features[name]) for name in names}
    vocabularies = {
        name: task.output_features[_IDS_OF.get(name, name)].vocabulary.vocab_size
        for name in names
        if kinds[name] != "<f4"
    }
    files = {name: open(folder / f"{name}.bin", "wb") for name in names}
    shapes: dict[str, tuple[int, ...]] = {}
    lengths: list[np.ndarray] = []
    ids: list[bytes] = []
    cuts = np.zeros(len(CUTS), np.int64)
    cut_examples = count = 0
    try:
        for batch in batches:
            sizes = np.stack([_sizes(batch[n]) for n in ("inputs", "targets")], axis=1)
            if not sizes.all():
                index = count + int((sizes == 0).any(1).argmax())
                raise InputError(
                    f"task {task.name!r} ({split}), example {index}: inputs or targets "
                    "are empty. Drop such records, or append EOS in the task."
                )
            for name in names:
                side = 0 if name == "inputs" else 1
                _check_aligned(task.name, name, batch[name], sizes[:, side], count)
                found = batch[name].flat_values.numpy()
                if name in vocabularies:
                    foreign_tasks.check_ids(
                        f"task {task.name!r} ({split})",
                        *(name, found, sizes[:, side], count, vocabularies[name]),
                    )
                values = np.ascontiguousarray(found, kinds[name])
                shapes[name] = values.shape[1:]
                files[name].write(values.tobytes())
            lengths.append(sizes)
            if RECORD_ID in batch:
                ids += batch[RECORD_ID].numpy().tolist()
            else:
                ids += [
                    f"{task.name}/{split}/{count + i}".encode()
                    for i in range(len(sizes))
                ]
            found = batch["cuts"].numpy()
            cuts += (found > 0).sum(0)
            cut_examples += int((found > 0).any(1).sum())
            count += len(sizes)
    finally:
        for file in files.values():
            file.close()
    table = np.concatenate([np.zeros((0, 2), np.int32), *lengths]).astype(np.int32)
    ends = np.cumsum([len(value) for value in ids], dtype=np.int64)
    (folder / "lengths.bin").write_bytes(table.tobytes())
    (folder / "ids.bin").write_bytes(b"".join(ids))
    (folder / "id_ends.bin").write_bytes(ends.tobytes())
    features = {
        name: Stored(kinds[name], list(shapes[name]))
        for name in names
        if name in shapes
    }
    counts = {
        **({} if known is None else {"read": known}),
        "cut": cut_examples,
        **{name: int(value) for name, value in zip(CUTS, cuts, strict=True)},
    }
    describe(folder, task.name, split, features, counts)


def _say_unknown(task: str, split: str, unknown: Sequence[str]) -> None:
    say(
        f"{task} ({split}): its examples are prepared again at every start, because a "
        f"change of its code would not be noticed: {unknown[0]}."
    )


def report(examples: Examples) -> None:
    """Prints how many examples were cut or left out, if any."""
    counts = examples.counts
    if not counts["cut"] and not counts["left_out"]:
        return
    kinds = ", ".join(f"{name} {counts[name]}" for name in CUTS if counts[name])
    console.print(
        f"{examples.task}: of {counts['read']} examples {counts['cut']} were cut "
        f"({kinds or '-'}) and {counts['left_out']} left out: longer than the feature "
        "lengths.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _kind(feature: Any) -> Any:
    """The type of a stored feature: ids have 16 bits if the vocabulary allows it."""
    kind = np.dtype(feature.dtype.as_numpy_dtype)
    if kind.kind == "f":
        return "<f4"
    return "<u2" if feature.vocabulary.vocab_size <= 1 << 16 else "<i4"


def _sizes(value: Any) -> Int[np.ndarray, " B"]:
    return np.asarray(value.row_lengths().numpy(), np.int64)


def _check_aligned(
    task: str, name: str, value: Any, sizes: Int[np.ndarray, " B"], first: int
) -> None:
    found = _sizes(value)
    if (found != sizes).any():
        index = int((found != sizes).argmax())
        raise InputError(
            f"task {task!r}, example {first + index}: {name} has {found[index]} rows "
            f"for {sizes[index]} tokens. Append EOS before attaching teacher rows."
        )


def _remove_copies_of_0_1(folder: pathlib.Path) -> None:
    """Removes the copies of the same examples that version 0.1 made at every start."""
    digests = typed_json.read(folder / META, Meta).digests
    for file in folder.parent.glob(f"*/{META}"):
        meta = run_folder.read_json(file)
        if meta and "version" not in meta and meta.get("digests") == digests:
            shutil.rmtree(file.parent, ignore_errors=True)
