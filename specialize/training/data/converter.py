"""SeqIO's feature converter with teacher rows, for T5X.

Our engine makes batches from prepared examples (`batches`); T5X needs a SeqIO converter
that makes them from a stream. Both use `packing`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from specialize.errors import InputError
from specialize.training.data import packing
from specialize.training.data.order import hashed, shuffled

Spec = seqio.FeatureConverter.FeatureSpec

# Number of examples packed together. A window has as many sequences as it needs, so no
# example is left out; its last sequences have more padding than the others.
WINDOW_EXAMPLES = 2048


class _WindowPacking(seqio.EncDecFeatureConverter):
    """SeqIO's encoder-decoder conversion with our packing."""

    def __init__(self, pack: bool = True, **options: Any) -> None:
        # Neither of SeqIO's two packers is used.
        options.pop("use_custom_packing_ops", None)
        super().__init__(pack=pack, use_custom_packing_ops=True, **options)

    def _pack_or_pad(
        self, ds: tf.data.Dataset, packed_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        if not self.pack:
            return super()._pack_or_pad(ds, packed_lengths)
        return pack_windows(ds, packed_lengths)


class SpecializeFeatureConverter(_WindowPacking):
    """Encoder-decoder features with a teacher row per target position.

    {"inputs": [7, 8, 1], "targets": [3, 1], "teacher_ids": [[3, 5], [1, 0]],
     "teacher_probs": [[.6, .3], [1, 0]], "teacher_tail": [.1, 0], "format_id": [1, 1]}

    becomes, packed with others or padded, the keys of `seqio.EncDecFeatureConverter`
    and `decoder_teacher_ids` [L K], `decoder_teacher_probs` [L K],
    `decoder_teacher_tail` [L] and `decoder_format_ids` [L]. For a task without teacher
    features (evaluation, plain text) the conversion is SeqIO's, so that one converter
    serves all tasks of a run.
    """

    TASK_FEATURES = {
        **seqio.EncDecFeatureConverter.TASK_FEATURES,
        "teacher_ids": Spec(dtype=tf.int32, rank=2),
        "teacher_probs": Spec(dtype=tf.float32, rank=2),
        "teacher_tail": Spec(dtype=tf.float32),
        "format_id": Spec(dtype=tf.int32),
    }
    MODEL_FEATURES = {
        **seqio.EncDecFeatureConverter.MODEL_FEATURES,
        "decoder_teacher_ids": Spec(dtype=tf.int32, rank=2),
        "decoder_teacher_probs": Spec(dtype=tf.float32, rank=2),
        "decoder_teacher_tail": Spec(dtype=tf.float32),
        "decoder_format_ids": Spec(dtype=tf.int32),
    }

    def __init__(self, pack: bool = True, **options: Any) -> None:
        super().__init__(pack=pack, **options)
        self._plain = _WindowPacking(pack=pack, **options)

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        """Converts a dataset of task features.

        Args:
            ds: examples with "inputs" and "targets", with or without a teacher.
            task_feature_lengths: length of every feature in `TASK_FEATURES`. Those of
                the teacher must equal that of "targets"; a task without a teacher does
                not need them.

        Raises:
            InputError: the lengths differ, or some teacher features are missing.
        """
        given: Any = ds.element_spec
        teacher = [name for name in packing.TEACHER_FEATURES if name in given]
        if not teacher:
            lengths = {
                name: task_feature_lengths[name] for name in ("inputs", "targets")
            }
            return self._plain(ds, lengths)
        if len(teacher) < len(packing.TEACHER_FEATURES):
            missing = sorted(packing.TEACHER_FEATURES.keys() - set(teacher))
            raise InputError(
                f"the dataset has {teacher} but lacks {missing}; a teacher row needs "
                "all four. Use a task of specialize_tasks.distill, or remove them."
            )
        differing = {
            name: task_feature_lengths.get(name)
            for name in packing.TEACHER_FEATURES
            if task_feature_lengths.get(name) != task_feature_lengths["targets"]
        }
        if differing:
            raise InputError(
                f"TASK_FEATURE_LENGTHS: {differing} must equal 'targets' "
                f"({task_feature_lengths['targets']}): every target has a teacher row."
            )
        return super().__call__(ds, task_feature_lengths)

    def _convert_example(
        self, features: Mapping[str, tf.Tensor]
    ) -> Mapping[str, tf.Tensor]:
        converted = dict(super()._convert_example(features))
        for name, key in packing.TEACHER_FEATURES.items():
            converted[key] = features[name]
        return converted

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Returns the lengths of the model's features.

        T5X may pass only the lengths of "inputs" and "targets".
        """
        lengths = dict(super().get_model_feature_lengths(task_feature_lengths))
        for key in packing.TEACHER_FEATURES.values():
            lengths[key] = task_feature_lengths["targets"]
        return lengths


def pack_windows(
    ds: tf.data.Dataset,
    lengths: Mapping[str, int],
    *,
    window_examples: int = WINDOW_EXAMPLES,
    seed: int = 0,
) -> tf.data.Dataset:
    """Packs a stream window by window, in place of `seqio.utils.trim_and_pack_dataset`.

    Args:
        ds: examples; features that are not in `lengths` are dropped, others trimmed.
        lengths: length of a sequence in every feature.
        window_examples: number of examples packed together.
        seed: seed of the packing.

    Returns:
        Sequences in random order, with every feature, "<inputs|targets>_segment_ids"
        and "_positions". The layout of a sequence is SeqIO's.
    """
    names = list(lengths)
    given: Any = ds.element_spec
    spec = {name: given[name] for name in names}

    def trim(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: example[name][: lengths[name]] for name in names}

    def pack(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        flat = [example[name].flat_values for name in names]
        sizes = [tf.cast(example[p].row_lengths(), tf.int64) for p in PARTS]
        outputs = _output_spec(spec, lengths)
        packed = tf.numpy_function(
            functools.partial(_pack, names, dict(lengths), seed),
            [*sizes, *flat],
            [signature.dtype for signature in outputs.values()],
        )
        rows = dict(zip(outputs, packed, strict=True))
        return {
            name: tf.ensure_shape(rows[name], outputs[name].shape) for name in outputs
        }

    ds = ds.map(trim, num_parallel_calls=tf.data.AUTOTUNE)
    return ds.ragged_batch(window_examples).map(pack).unbatch()


PARTS = ("inputs", "targets")


def _output_spec(
    spec: Mapping[str, tf.TensorSpec], lengths: Mapping[str, int]
) -> dict[str, tf.TensorSpec]:
    outputs: dict[str, tf.TensorSpec] = {}
    for name, feature in spec.items():
        rest = feature.shape[1:]
        outputs[name] = tf.TensorSpec([None, lengths[name], *rest], feature.dtype)
    for part in PARTS:
        for suffix in ("segment_ids", "positions"):
            outputs[f"{part}_{suffix}"] = tf.TensorSpec([None, lengths[part]], tf.int32)
    return outputs


def _pack(
    names: list[str],
    lengths: dict[str, int],
    seed: int,
    input_sizes: np.ndarray,
    target_sizes: np.ndarray,
    *flat: np.ndarray,
) -> list[np.ndarray]:
    """Packs the flat values of a window; the order is that of `_output_spec`."""
    features = dict(zip(names, flat, strict=True))
    sizes = {"inputs": input_sizes, "targets": target_sizes}
    table = np.stack([input_sizes, target_sizes], axis=1)
    key = int(hashed(1, seed, len(table), int(table.sum()))[0] >> np.uint64(1))
    rows = packing.assign_rows(table, [lengths[part] for part in PARTS], None, seed=key)
    count = int(rows.max()) + 1
    # Packing begins with the longest examples; kinds of examples would share batches.
    rows = shuffled(count, key)[rows]
    order = np.argsort(rows, kind="stable")
    starts = {part: (np.cumsum(size) - size)[order] for part, size in sizes.items()}
    ordered = {part: size[order] for part, size in sizes.items()}
    batch = packing.pack(features, starts, ordered, rows[order], count, lengths)
    keys = {
        "inputs": "encoder_input_tokens",
        "targets": "decoder_target_tokens",
        **packing.TEACHER_FEATURES,
    }
    packed = [batch[keys[name]].astype(features[name].dtype) for name in names]
    for side in ("encoder", "decoder"):
        packed += [batch[f"{side}_segment_ids"], batch[f"{side}_positions"]]
    return packed
