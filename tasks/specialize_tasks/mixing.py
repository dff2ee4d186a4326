"""Several corpora and text files as one mixture, with a share of each.

    MIXTURE_OR_TASK_NAME = {'corpora/tickets': 9, 'corpora/trips': 1, 'more.jsonl': 0.5}

The shares are relative numbers of examples. "corpora/tickets:zero_shot" takes one
mixture of formats of a corpus, or one format; within it, a format's part of the share
is its part of the records. A text file has JSON lines {"inputs", "targets"}; its
targets get one-hot rows, so that KL and cross-entropy are the same for them.
"""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from specialize import checks
from specialize.config import neutral
from specialize.corpus.choices import FORMATS
from specialize.corpus.storage.manifest import Manifest
from specialize.digests import file_digest
from specialize.errors import InputError

from . import distill, locations, preprocessors, text

ALL = "four_formats"
_FORMATS = {**distill.MIXTURES, **{name: (name,) for name in FORMATS}}
_REMEDY = (
    "Write {'CORPUS': 9, 'TEXT.jsonl': 1}: folders of 'specialize corpus build' and "
    "files of JSON lines, each with its share of the examples."
)


def mixture(shares: Mapping[str, float]) -> str:
    """Registers a mixture, and gives its SeqIO name.

    Args:
        shares: Folder of a corpus, perhaps with ":<formats>", or file of JSON lines ->
            its share.

    Raises:
        InputError: A path is neither, a share is no positive number, or the corpora
            differ in vocabulary or K.
    """
    corpora: dict[str, Manifest] = {}
    parts: list[tuple[str, str, float]] = []  # path, formats, share
    for given, share in shares.items():
        checks.real(f"the share of {given!r} in the mixture", share, above=0.0)
        path, formats = neutral.part_of_mixture(given)
        path = locations.copied(path, "A part of the mixture")
        if os.path.isdir(path):
            corpora[path] = Manifest.load(path)
            checks.one_of(f"the part of {path} after ':'", formats or ALL, _FORMATS)
        elif not os.path.isfile(path):
            raise InputError(f"{given!r} of the mixture does not exist. {_REMEDY}")
        parts.append((path, formats or ALL, float(share)))
    if not parts:
        raise InputError(f"the mixture is empty. {_REMEDY}")
    k = _common_k(corpora)
    rates: dict[str, float] = {}
    for path, formats, share in parts:
        found = (
            _corpus(path, corpora[path], share, _FORMATS[formats])
            if path in corpora
            else {_text(path, k): share}
        )
        twice = sorted(found.keys() & rates)
        if twice:
            raise InputError(
                f"{path} is in the mixture twice, or a copy of it is ({twice[0]}). "
                "Give it one share."
            )
        rates |= found
    name = f"specialize_mixture_{_digest(repr(sorted(rates.items())))}"
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, list(rates.items()))
    return name


def _common_k(corpora: Mapping[str, Manifest]) -> int:
    """Entries per teacher row, of every corpus; 1 if there is none."""
    if not corpora:
        return 1
    (first, manifest), *others = corpora.items()
    for path, other in others:
        for name in ("vocabulary_sha256", "vocabulary_rows", "k", "spelling"):
            one = getattr(manifest.fingerprint, name)
            two = getattr(other.fingerprint, name)
            if one != two:
                raise InputError(
                    f"the corpora {first} and {path} cannot be mixed: {name} is "
                    f"{one!r} and {two!r}. Build them with the same settings."
                )
    return manifest.fingerprint.k


def _corpus(
    path: str, manifest: Manifest, share: float, formats: tuple[str, ...]
) -> dict[str, float]:
    """Registers the tasks of a corpus; SeqIO name -> rate."""
    counts = {name: manifest.counts().get(name, 0) for name in formats}
    total = sum(counts.values())
    if not total:
        raise InputError(
            f"the corpus {path} has no records of {', '.join(formats)}. Choose other "
            "formats, or leave it out."
        )
    prefix = _prefix(path, "".join(shard.sha256 for shard in manifest.shards))
    if f"{prefix}_{FORMATS[0]}" not in seqio.TaskRegistry.names():
        distill.register(prefix, path)
    return {
        f"{prefix}_{name}": share * count / total
        for name, count in counts.items()
        if count
    }


def _text(path: str, k: int) -> str:
    """Registers a text file with one-hot teacher rows; gives its SeqIO name."""
    name = f"{_prefix(path, file_digest(path))}_k{k}"
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            name,
            source=text.JsonLinesSource(path),
            preprocessors=[
                preprocessors.name_records,
                seqio.preprocessors.tokenize,
                preprocessors.fit_text,
                functools.partial(_one_hot, k=k),
            ],
            output_features=distill.output_features(),
            metric_fns=[],
        )
    return name


def _one_hot(dataset: tf.data.Dataset, k: int) -> tf.data.Dataset:
    """Adds teacher rows that are certain of the target, and format 0."""

    def add(example: dict[str, Any]) -> dict[str, Any]:
        targets = example["targets"]
        rows = tf.pad(targets[:, tf.newaxis], [[0, 0], [0, k - 1]])
        certain = tf.one_hot(tf.zeros_like(targets), k)
        return {
            **example,
            "teacher_ids": tf.ensure_shape(rows, [None, k]),
            "teacher_probs": tf.ensure_shape(certain, [None, k]),
            "teacher_tail": tf.zeros(tf.shape(targets), tf.float32),
            "format_id": tf.zeros_like(targets),
        }

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def _prefix(path: str, content: str) -> str:
    """A name that follows from the name and the content of a folder or file."""
    stem = re.sub(r"\W", "_", pathlib.Path(path).name.partition(".")[0]) or "data"
    return f"{stem}_{_digest(content)[:8]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
