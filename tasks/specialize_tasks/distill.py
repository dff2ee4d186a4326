"""A corpus as four tasks, one per format, and mixtures of them.

| name | what |
|---|---|
| `specialize_corpus_<format>` | one of the four formats of `corpus.choices.FORMATS` |
| `specialize_base_answers` | the texts of `specialize label` in `BASE_ANSWERS_DIR` |
| `specialize_corpus_four_formats` | all four |
| `specialize_corpus_in_context`, `..._zero_shot` | the paper's ablations |
| `specialize_gsm8k_...` | the same, by the names of version 0.1 |
| `<task>_...` | the same, if the corpus is of this task of your own (`own`) |

All of them read the corpus of `CORPUS_DIR`, of whatever task it is. `mixing` mixes
several corpora.

Rates are relative numbers of examples per task. By default they are the numbers of
records in the corpus, so that all records are seen equally often; gin can set them
(`specialize_tasks.distill.rate.<format>`). Importing this module reads no data.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import gin
import seqio
import tensorflow as tf

from specialize.corpus.choices import FORMATS, RECORD_FORMATS, TEXT
from specialize.corpus.storage import shards
from specialize.corpus.storage.manifest import Manifest
from specialize.errors import InputError

from . import locations, preprocessors

# Number of buckets of the hash that decides which problems are held out.
BUCKETS = 10_000


@gin.configurable(module=__name__)
def held_out(fraction: float = 0.0) -> float:
    """Share of the problems that are in the split "validation" and not in "train".

    Whole problems are held out, by a hash of their ids: no sample or format of them is
    trained on. In-context inputs may still show them as demonstrations.

    Raises:
        InputError: The share is not in [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise InputError(
            f"specialize_tasks.distill.held_out.fraction={fraction} must be at least 0 "
            "and below 1."
        )
    return fraction


@gin.configurable(module=__name__)
def rate(
    task: Any,
    in_context_cot: float | None = None,
    in_context_answer_only: float | None = None,
    zero_shot_cot: float | None = None,
    zero_shot_answer_only: float | None = None,
) -> float:
    """The rate of a task in the mixtures.

    Args:
        task: The SeqIO task.
        in_context_cot: Rate of this format. None: its number of records.
        in_context_answer_only: As above.
        zero_shot_cot: As above.
        zero_shot_answer_only: As above.

    Raises:
        InputError: A rate is negative, or there is no corpus to count.
    """
    rates = {
        "in_context_cot": in_context_cot,
        "in_context_answer_only": in_context_answer_only,
        "zero_shot_cot": zero_shot_cot,
        "zero_shot_answer_only": zero_shot_answer_only,
    }
    name = task.source.format
    chosen = rates[name]
    if chosen is None:
        return float(Manifest.load(task.source.folder()).counts().get(name, 0))
    if chosen < 0:
        raise InputError(
            f"specialize_tasks.distill.rate.{name}={chosen} must not be negative."
        )
    return float(chosen)


class Block(seqio.ShardInfo):
    """One of several blocks of the records, which follow each other in their order."""


class CorpusSource(seqio.DataSource):
    """The records of one of the `FORMATS` in a corpus folder.

    Args:
        format: The format.
        path: The folder; None: that of `locations.corpus_folder()`, or of
            `locations.base_answers_folder()` if the format is plain text.
        task: The task that the corpus must be of; None: any.
    """

    def __init__(
        self, format: str, path: str | None = None, task: str | None = None
    ) -> None:
        super().__init__(splits=("train", "validation"))
        self.format = format
        self._path = path
        self._task = task

    def folder(self) -> str:
        """The corpus folder.

        Raises:
            InputError: No folder is named, or it is missing or of another task.
        """
        folder = self._path
        if folder is None:
            of_texts = self.format == TEXT
            located = (
                locations.base_answers_folder if of_texts else locations.corpus_folder
            )
            folder = located()
        if self._task is not None:
            found = Manifest.load(folder).fingerprint.task.rpartition("-")[0]
            if found != self._task:
                raise InputError(
                    f"the corpus {folder} is of the task {found or 'unknown'!r}, but "
                    f"{self._task}_{self.format} was asked for. Set CORPUS_DIR to a "
                    f"corpus of {self._task}, or the mixture to specialize_corpus_"
                    f"{self.format}."
                )
        return folder

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits; "validation" exists only if gin holds problems out."""
        return ("train", "validation") if held_out() else ("train",)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """Whether the number of shards is free: records are distributed one by one."""
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        """The files of this format, after the checks of `get_dataset`."""
        del split
        return self._paths()

    def num_input_examples(self, split: str) -> int | None:
        """Number of records of a split; None if problems are held out."""
        if held_out():
            return None
        return self.records() if split == "train" else 0

    def records(self) -> int:
        """Number of records in the files."""
        return Manifest.load(self.folder()).counts().get(self.format, 0)

    def block(self, index: int, blocks: int) -> seqio.ShardInfo:
        """What `get_dataset` takes to read a block of the records without shuffling."""
        return Block(index, blocks)

    def get_dataset(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
    ) -> tf.data.Dataset:
        """Reads and parses the records of a split.

        Raises:
            InputError: The corpus is missing or incomplete, has another vocabulary or
                not this format, or nothing is held out for "validation".
        """
        paths = self._paths()
        fingerprint = Manifest.load(self.folder()).fingerprint
        k, demonstrations = fingerprint.k, fingerprint.demonstrations
        fraction = held_out()
        if split == "validation" and not fraction:
            raise InputError(
                f"{self.format}: no records are held out. Set "
                "specialize_tasks.distill.held_out.fraction, for example to 0.02, or "
                "measure no held-out loss."
            )
        files = tf.data.Dataset.from_tensor_slices(list(paths))
        if shuffle:
            files = files.shuffle(len(paths), seed=seed)
        dataset = files.interleave(
            lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP"),
            cycle_length=len(paths),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if isinstance(shard_info, Block):
            count, (index, blocks) = self.records(), dataclasses.astuple(shard_info)
            first, last = count * index // blocks, count * (index + 1) // blocks
            dataset = dataset.skip(first).take(last - first)
        elif shard_info is not None:
            dataset = dataset.shard(shard_info.num_shards, shard_info.index)
        dataset = dataset.map(
            functools.partial(shards.parse_example, k=k),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        if fraction:
            wanted = split == "validation"
            limit = round(fraction * BUCKETS)

            def in_split(record: dict[str, tf.Tensor]) -> tf.Tensor:
                problem = tf.strings.regex_replace(record["id"], "/.*", "")
                bucket = tf.strings.to_hash_bucket_fast(problem, BUCKETS)
                return tf.equal(bucket < limit, wanted)

            dataset = dataset.filter(in_split)
        boundaries = demonstrations.get("boundaries", {})
        boundary = boundaries.get(self.format, preprocessors.BOUNDARY)
        count = int(demonstrations.get("count") or 0)
        count = count if self.format.startswith("in_context") else 0

        def with_boundary(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {
                **record,
                "boundary": tf.constant(boundary, tf.string),
                "demonstrations": tf.constant(count, tf.int32),
            }

        return dataset.map(with_boundary, num_parallel_calls=tf.data.AUTOTUNE)

    def settings(self) -> dict[str, Any]:
        """The settings that decide the records, besides the files."""
        return {"held_out": held_out()}

    def _paths(self) -> list[str]:
        digest = locations.vocabulary_digest()
        return shards.shard_paths(self.folder(), self.format, vocabulary_sha256=digest)


class StudentIds(seqio.PassThroughVocabulary):
    """Ids of the student's vocabulary that SeqIO must not tokenize."""

    def __init__(self) -> None:
        super().__init__(size=1 << 16)

    @property
    def vocab_size(self) -> int:
        """At least 2^16; more if the ids of the student's vocabulary need it."""
        return max(self.size, locations.VOCABULARY.vocab_size)


def output_features() -> dict[str, seqio.Feature]:
    """Features of a distillation task; those of the teacher align with "targets"."""
    text = {
        name: seqio.Feature(locations.VOCABULARY, add_eos=True)
        for name in ("inputs", "targets")
    }
    ids = StudentIds()

    def teacher(rank: int, dtype: tf.DType) -> seqio.Feature:
        return seqio.Feature(ids, add_eos=False, rank=rank, dtype=dtype)

    return {
        **text,
        "teacher_ids": teacher(2, tf.int32),
        "teacher_probs": teacher(2, tf.float32),
        "teacher_tail": teacher(1, tf.float32),
        "format_id": teacher(1, tf.int32),
    }


# Mixtures of the formats of one corpus.
MIXTURES = {
    "four_formats": FORMATS,
    "in_context": tuple(name for name in FORMATS if name.startswith("in_context")),
    "zero_shot": tuple(name for name in FORMATS if name.startswith("zero_shot")),
}


def _register(name: str, source: CorpusSource, part: int = 0) -> None:
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            preprocessors.distillation_features,
            # Lengths are cut after it, so one cache serves every length.
            seqio.CacheDatasetPlaceholder(),
            preprocessors.fit_records,
            functools.partial(preprocessors.name_part, part=part),
        ],
        output_features=output_features(),
        metric_fns=[],
        shuffle_buffer_size=10_000,
    )


def register(
    prefix: str, path: str | None = None, task: str | None = None, part: int = 0
) -> None:
    """Registers the tasks `<prefix>_<format>` of a corpus, and its mixtures.

    Args:
        prefix: What the names begin with.
        path: The corpus folder; None: that of `locations.corpus_folder()`.
        task: The task that the corpus must be of; None: any.
        part: The part of a mixture that the corpus is, from 1; 0: there is one part.
    """
    for format in RECORD_FORMATS if path is not None else FORMATS:
        _register(f"{prefix}_{format}", CorpusSource(format, path, task), part)
    for mixture, formats in MIXTURES.items():
        seqio.MixtureRegistry.add(
            f"{prefix}_{mixture}",
            [f"{prefix}_{name}" for name in formats],
            default_rate=rate,
        )


# The names of version 0.1, and the same without a task's name.
for _prefix in ("specialize_gsm8k", "specialize_corpus"):
    register(_prefix)
_register("specialize_base_answers", CorpusSource(TEXT))
