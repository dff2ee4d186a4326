"""From records to features: teacher rows beside tokens, cut to the lengths of the run.

Examples that are too long are cut in this order:

1. An in-context input loses whole demonstrations from the front until it fits. The
   question, its last part, is never cut. If it is not clear where demonstrations end,
   because a question has the text between two of them, the example is left out.
2. An example is left out if its question alone does not fit.
3. A target loses tokens from its end, with their teacher rows; EOS and its row stay.

The field "cuts" of an example counts [demonstrations dropped, input tokens cut, target
tokens cut]. The embedded engine shows the sums.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from specialize.corpus.wording import PAPER
from specialize.student.loss.spec import PART
from specialize.training.data.foreign_tasks import SIDES, check_tokens

# Text after a demonstration, and before the question of the next one, in the paper's
# wording (corpus/wording.py).
BOUNDARY = PAPER.boundary("in_context_cot")
TEACHER_FEATURES = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")

Example = dict[str, tf.Tensor]


@seqio.map_over_dataset
def name_records(example: Example) -> Example:
    """{"line": 3, ...} -> {"record_id": "3", ...}."""
    rest = {key: value for key, value in example.items() if key != "line"}
    return {**rest, "record_id": tf.strings.as_string(example["line"])}


def name_part(dataset: tf.data.Dataset, part: int) -> tf.data.Dataset:
    """Adds the part of the mixture, from 1, to the format ids of every example."""

    def name(example: Example) -> Example:
        return {**example, "format_id": example["format_id"] + PART * part}

    if not part:
        return dataset
    return dataset.map(name, num_parallel_calls=tf.data.AUTOTUNE)


def token_ids(
    dataset: tf.data.Dataset, task: str, more: Sequence[str] = ()
) -> tf.data.Dataset:
    """Keeps what is trained on, refuses what is no sequence of ids, and makes it int32.

    Args:
        dataset: Elements with "inputs" and "targets" of any type of integers. What
            int32 cannot hold becomes its largest, an id that no vocabulary has.
        task: Name of the task that others wrote, for the message.
        more: Other fields that are kept. A field of another name means what its author
            pleases, also if we have one of that name.

    Raises:
        InputError: "inputs" or "targets" is missing, or no vector of integers.
    """
    elements: Any = dataset.element_spec
    check_tokens(task, elements)
    kept = [name for name in more if name in elements]

    def cast(example: Example) -> Example:
        ids = {side: tf.saturate_cast(example[side], tf.int32) for side in SIDES}
        return {**ids, **{name: example[name] for name in kept}}

    return dataset.map(cast, num_parallel_calls=tf.data.AUTOTUNE)


def certain(dataset: tf.data.Dataset, k: int) -> tf.data.Dataset:
    """Adds teacher rows [L k] that are certain of the target, and format 0."""

    def add(example: Example) -> Example:
        targets = example["targets"]
        rows = tf.pad(targets[:, tf.newaxis], [[0, 0], [0, k - 1]])
        one_hot = tf.one_hot(tf.zeros_like(targets), k)
        return {
            **example,
            "teacher_ids": tf.ensure_shape(rows, [None, k]),
            "teacher_probs": tf.ensure_shape(one_hot, [None, k]),
            "teacher_tail": tf.zeros(tf.shape(targets), tf.float32),
            "format_id": tf.zeros_like(targets),
        }

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def fit_text(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Cuts plain inputs and targets at their ends, as SeqIO does, and appends EOS."""

    def fit(example: Example) -> Example:
        out = dict(example)
        cuts = [tf.constant(0, tf.int32)]
        for name in ("inputs", "targets"):
            out[name], cut = _cut(
                example[name], output_features[name], (sequence_length or {}).get(name)
            )
            cuts.append(cut)
        out["cuts"] = tf.stack(cuts)
        return out

    return dataset.map(fit, num_parallel_calls=tf.data.AUTOTUNE)


def fit_tokens(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Cuts inputs and targets at their ends, with their rows; an EOS that ends stays.

    Unlike `fit_text`, it leaves open whether there is an EOS, as the preprocessors of
    others append it or not.
    """
    elements: Any = dataset.element_spec
    rows = [name for name in TEACHER_FEATURES if name in elements]

    def fit(example: Example) -> Example:
        out = dict(example)
        cuts = [tf.constant(0, tf.int32)]
        for side, names in (("inputs", []), ("targets", rows)):
            ids = example[side]
            length = tf.shape(ids)[0]
            limit = int((sequence_length or {}).get(side) or 0)
            cuts.append(tf.maximum(length - limit, 0) if limit else tf.constant(0))
            if not limit:
                continue
            places = tf.range(tf.minimum(length, limit))
            ends = tf.reduce_any(ids[-1:] == output_features[side].vocabulary.eos_id)
            last = tf.where(ends, length - 1, limit - 1)
            places = tf.where(places == limit - 1, last, places)
            for name in (side, *names):
                out[name] = tf.gather(example[name], places)
        return {**out, "cuts": tf.stack(cuts)}

    return dataset.map(fit, num_parallel_calls=tf.data.AUTOTUNE)


def distillation_features(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Parsed records -> features with EOS and teacher rows.

    Args:
        dataset: Elements with the fields of `corpus.storage.shards.parse_example`:
            "input_ids" [S], "target_ids" [L] (EOS last), "teacher_ids" and
            "teacher_probs" [L K], "teacher_tail" [L], "format_id", "inputs", "targets",
            "id", "boundary" [2] and "demonstrations".
        output_features: Features of the task.

    Returns:
        Elements with "inputs" [S+1] int32 (EOS last), "targets" [L] int32,
        "teacher_ids" [L K] int32, "teacher_probs" [L K] float32, "teacher_tail" [L]
        float32, "format_id" [L] int32, and on the host "record_id",
        "inputs_pretokenized", "targets_pretokenized".
    """
    eos = output_features["inputs"].vocabulary.eos_id

    def convert(record: Example) -> Example:
        targets = record["target_ids"]
        return {
            "inputs": tf.concat([record["input_ids"], [eos]], 0),
            "targets": targets,
            "teacher_ids": record["teacher_ids"],
            "teacher_probs": record["teacher_probs"],
            "teacher_tail": record["teacher_tail"],
            "format_id": tf.fill(tf.shape(targets), record["format_id"]),
            "record_id": record["id"],
            "inputs_pretokenized": record["inputs"],
            "targets_pretokenized": record["targets"],
            "boundary": record["boundary"],
            "demonstrations": record["demonstrations"],
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def fit_records(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Cuts inputs and targets as the docstring of this module describes."""
    limits = dict(sequence_length or {})
    vocabulary = output_features["inputs"].vocabulary

    def fit(example: Example) -> Example:
        out = dict(example)
        boundary, count = out.pop("boundary"), out.pop("demonstrations")
        dropped = tf.constant(0, tf.int32)
        if limits.get("inputs"):
            out["inputs"], dropped = _drop_demonstrations(
                example["inputs"],
                example["inputs_pretokenized"],
                boundary,
                count,
                vocabulary,
                int(limits["inputs"]),
            )
        cut = tf.constant(0, tf.int32)
        if limits.get("targets"):
            limit = int(limits["targets"])
            cut = tf.maximum(tf.shape(example["targets"])[0] - limit, 0)
            for name in ("targets", *TEACHER_FEATURES):
                out[name] = _keep_last(example[name], limit)
        out["cuts"] = tf.stack([dropped, tf.constant(0, tf.int32), cut])
        return out

    dataset = dataset.map(fit, num_parallel_calls=tf.data.AUTOTUNE)
    if limits.get("inputs"):
        limit = int(limits["inputs"])
        dataset = dataset.filter(
            lambda example: tf.shape(example["inputs"])[0] <= limit
        )
    return dataset


def _drop_demonstrations(
    ids: tf.Tensor,
    text: tf.Tensor,
    boundary: tf.Tensor,
    count: tf.Tensor,
    vocabulary: Any,
    limit: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Drops whole demonstrations from the front until `ids` has `limit` tokens.

    SentencePiece pieces never cross white space, with which a boundary begins, so the
    rest of the text has the same ids as before.
    """
    separator = tf.strings.reduce_join(boundary)

    def shorten() -> tuple[tf.Tensor, tf.Tensor]:
        parts = tf.strings.split(text, separator)
        last = tf.shape(parts)[0] - 1
        last = tf.where(last > count, 0, last)  # a question has the separator

        def encoded(dropped: tf.Tensor) -> tf.Tensor:
            rest = tf.strings.reduce_join(tf.strings.join([separator, parts[dropped:]]))
            # It begins as an input does, with what follows a demonstration cut off.
            first = tf.strings.length(boundary[0])
            rest = tf.strings.substr(rest, first, tf.strings.length(rest))
            tokens = tf.cast(vocabulary.encode_tf(rest), tf.int32)
            return tf.concat([tokens, [vocabulary.eos_id]], 0)

        def too_long(dropped: tf.Tensor, tokens: tf.Tensor) -> tf.Tensor:
            return (tf.shape(tokens)[0] > limit) & (dropped < last)

        def one_more(
            dropped: tf.Tensor, tokens: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            del tokens
            return dropped + 1, encoded(dropped + 1)

        dropped, tokens = tf.while_loop(
            too_long,
            one_more,
            (tf.constant(0, tf.int32), ids),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
        )
        return tokens, dropped

    fits = tf.shape(ids)[0] <= limit
    return tf.cond(fits, lambda: (ids, tf.constant(0, tf.int32)), shorten)


def _keep_last(values: tf.Tensor, limit: int) -> tf.Tensor:
    """The first `limit` rows, the last of them replaced by the last of all (EOS)."""
    shape = values.shape
    values = tf.cond(
        tf.shape(values)[0] <= limit,
        lambda: values,
        lambda: tf.concat([values[: limit - 1], values[-1:]], 0),
    )
    return tf.ensure_shape(values, [None, *shape[1:]])


def _cut(
    tokens: tf.Tensor, feature: seqio.Feature, limit: int | None
) -> tuple[tf.Tensor, tf.Tensor]:
    eos = [feature.vocabulary.eos_id]
    length = tf.shape(tokens)[0]
    if limit is None:
        return tf.concat([tokens, eos], 0), tf.constant(0, tf.int32)
    cut = tf.maximum(length - (int(limit) - 1), 0)
    return tf.concat([tokens[: int(limit) - 1], eos], 0), cut
