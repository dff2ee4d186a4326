"""Encodes a record as a serialised `tf.train.Example`, and decodes it in two ways.

Arrays are little-endian bytes, so that the teacher takes 4K + 2 bytes per target piece
and nothing is widened to 64 bits:

    id, inputs, targets    UTF-8
    input_ids              uint16 [S]     target_ids        uint16 [L]
    teacher_ids            uint16 [L K]   teacher_logprobs  float16 [L K], -inf: unused
    teacher_tail           float16 [L]    origin            uint8 [L]
    format                 int64, `FORMAT_IDS`

The ids of an embedding with more than 65,536 rows (mT5, umT5, MADLAD-400) are int32.
The record itself says so: `target_ids` then has 4 bytes for each byte of `origin`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from specialize.corpus.alignment.targets import AlignedTarget, DistillRecord
from specialize.corpus.choices import RECORD_FORMATS
from specialize.corpus.records import FORMAT_IDS, ORIGINS, Fingerprint
from specialize.corpus.storage import tfrecord
from specialize.errors import InputError

_FORMATS: dict[Any, str] = {number: name for name, number in FORMAT_IDS.items()}
# Largest number of embedding rows whose ids are stored in 16 bits, and of all.
NARROW_ROWS, MAX_ROWS = 1 << 16, 1 << 31
# By how much the probabilities of a row, rounded to float16, may miss 1.
MASS_SLACK = 1e-3


def encode_record(record: DistillRecord, fingerprint: Fingerprint) -> bytes:
    """Serialises one record as a `tf.train.Example`.

    Raises:
        InputError: the shapes of the record's arrays, its ids or its probabilities
            are invalid.
    """
    target = record.target
    _check(record, fingerprint)
    kind = "<u2" if fingerprint.vocabulary_rows <= NARROW_ROWS else "<i4"
    return tfrecord.encode_example(
        {
            "id": record.id.encode(),
            "inputs": record.inputs.encode(),
            "targets": record.targets.encode(),
            "input_ids": record.input_ids.astype(kind).tobytes(),
            "target_ids": target.ids.astype(kind).tobytes(),
            "teacher_ids": target.teacher_ids.astype(kind).tobytes(),
            "teacher_logprobs": target.teacher_logprobs.astype("<f2").tobytes(),
            "teacher_tail": target.tail.astype("<f2").tobytes(),
            "origin": target.origin.astype("u1").tobytes(),
            "format": FORMAT_IDS[record.format],
        }
    )


def decode_record(data: bytes, k: int) -> DistillRecord:
    """Reads what `encode_record` wrote, with the stored precision.

    Args:
        data: the serialised Example.
        k: number of entries per teacher row, from the fingerprint.

    Raises:
        ValueError: the bytes are not such a record.
    """
    features = tfrecord.decode_example(data)
    try:
        pieces = len(_bytes(features, "origin"))
        wide = len(_bytes(features, "target_ids")) == 4 * pieces
        kind = "<i4" if wide else "<u2"
        rows = {
            "ids": _array(features, "target_ids", kind).astype(np.int32),
            "teacher_ids": _array(features, "teacher_ids", kind)
            .reshape(-1, k)
            .astype(np.int32),
            "teacher_logprobs": _array(features, "teacher_logprobs", "<f2")
            .reshape(-1, k)
            .astype(np.float32),
            "tail": _array(features, "teacher_tail", "<f2").astype(np.float32),
            "origin": _array(features, "origin", "u1").astype(np.int32),
        }
        if len({len(part) for part in rows.values()}) > 1:
            raise ValueError("the arrays of a record have different lengths")
        if rows["origin"].max(initial=0) >= len(ORIGINS):
            raise ValueError("an origin of a record is unknown")
        return DistillRecord(
            id=_text(features, "id"),
            format=_FORMATS[features["format"]],
            inputs=_text(features, "inputs"),
            targets=_text(features, "targets"),
            input_ids=_array(features, "input_ids", kind).astype(np.int32),
            target=AlignedTarget(**rows),
        )
    except KeyError as error:
        raise ValueError(f"a record lacks {error}") from error


def parse_example(serialized: Any, *, k: int) -> dict[str, Any]:
    """Parses one record within tf.data.

    Args:
        serialized: a scalar string, an element of `tf.data.TFRecordDataset(
            shard_paths(...), compression_type="GZIP")`.
        k: number of entries per teacher row, from the fingerprint.

    Returns:
        id, inputs, targets (strings); input_ids [S], target_ids [L], teacher_ids
        [L k] and origin [L] (int32); format_id (int32 scalar); teacher_probs [L k]
        and teacher_tail [L] (float32), normalised as by `normalise_rows`.
    """
    import tensorflow

    tf: Any = tensorflow  # tensorflow has incomplete types

    names = ("id", "inputs", "targets", "input_ids", "target_ids", "teacher_ids")
    names += ("teacher_logprobs", "teacher_tail", "origin")
    spec: dict[str, Any] = {
        name: tf.io.FixedLenFeature([], tf.string) for name in names
    }
    spec["format"] = tf.io.FixedLenFeature([], tf.int64)
    raw = tf.io.parse_single_example(serialized, spec)

    length = tf.strings.length
    wide = tf.equal(length(raw["target_ids"]), 4 * length(raw["origin"]))

    def decoded(name: str, dtype: Any) -> Any:
        return tf.cast(tf.io.decode_raw(raw[name], dtype), tf.int32)

    def ids(name: str) -> Any:
        return tf.cond(
            wide, lambda: decoded(name, tf.int32), lambda: decoded(name, tf.uint16)
        )

    def floats(name: str) -> Any:
        return tf.cast(tf.io.decode_raw(raw[name], tf.float16), tf.float32)

    probs = tf.exp(tf.reshape(floats("teacher_logprobs"), [-1, k]))
    tail = floats("teacher_tail")
    total = tf.reduce_sum(probs, axis=1) + tail
    return {
        "id": raw["id"],
        "inputs": raw["inputs"],
        "targets": raw["targets"],
        "input_ids": ids("input_ids"),
        "target_ids": ids("target_ids"),
        "teacher_ids": tf.reshape(ids("teacher_ids"), [-1, k]),
        "teacher_probs": probs / total[:, tf.newaxis],
        "teacher_tail": tail / total,
        "origin": decoded("origin", tf.uint8),
        "format_id": tf.cast(raw["format"], tf.int32),
    }


def normalise_rows(
    logprobs: Float[np.ndarray, "L K"], tail: Float[np.ndarray, " L"]
) -> tuple[Float[np.ndarray, "L K"], Float[np.ndarray, " L"]]:
    """Stored teacher rows as float32 probabilities (probs, tail) that sum to 1.

    Rounding to float16 misses 1 by up to 5e-4, which would make the KL of a matching
    row negative (design note "The loss, exactly").
    """
    probs = np.exp(logprobs.astype(np.float32))
    total = probs.sum(axis=1) + tail.astype(np.float32)
    return probs / total[:, None], tail.astype(np.float32) / total


def _check(record: DistillRecord, fingerprint: Fingerprint) -> None:
    target, k, rows = record.target, fingerprint.k, fingerprint.vocabulary_rows
    length = len(target.ids)
    fault = None
    if record.format not in FORMAT_IDS:
        fault = f"its format {record.format!r} is not one of {list(RECORD_FORMATS)}"
    elif target.teacher_ids.shape != (length, k):
        fault = f"teacher_ids has shape {target.teacher_ids.shape}, not {(length, k)}"
    elif target.teacher_logprobs.shape != (length, k):
        shape = target.teacher_logprobs.shape
        fault = f"teacher_logprobs has shape {shape}, not {(length, k)}"
    elif target.tail.shape != (length,) or target.origin.shape != (length,):
        fault = f"teacher_tail or origin does not have shape {(length,)}"
    elif not length:
        fault = "it has no target tokens"
    else:
        ids = (record.input_ids, target.ids, target.teacher_ids)
        top = max(int(part.max(initial=0)) for part in ids)
        low = min(int(part.min(initial=0)) for part in ids)
        mass = np.exp(target.teacher_logprobs).sum(axis=1) + target.tail
        if top >= rows or low < 0:
            fault = (
                f"ids reach from {low} to {top}, the vocabulary from 0 to {rows - 1}"
            )
        elif not np.all(np.abs(mass - 1) <= MASS_SLACK) or not np.all(target.tail >= 0):
            row = int(
                np.argmax(~(np.abs(mass - 1) <= MASS_SLACK) | ~(target.tail >= 0))
            )
            fault = f"probabilities and tail of position {row} sum to {mass[row]}"
        elif int(target.origin.max()) >= len(ORIGINS):
            fault = f"origin {int(target.origin.max())} is not one of {len(ORIGINS)}"
    if fault:
        raise InputError(f"record {record.id!r} cannot be stored: {fault}.")


def _array(features: Mapping[str, Any], name: str, dtype: str) -> np.ndarray:
    return np.frombuffer(_bytes(features, name), dtype=dtype)


def _text(features: Mapping[str, Any], name: str) -> str:
    return _bytes(features, name).decode("utf-8")


def _bytes(features: Mapping[str, Any], name: str) -> bytes:
    if not isinstance(features[name], bytes):
        raise ValueError(f"{name!r} of a record is a number, expected bytes")
    return features[name]
