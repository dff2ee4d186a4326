import numpy as np
import pytest
import seqio
import tensorflow as tf
from test_packing import seqio_rows

from specialize.errors import InputError
from specialize.training.data import converter, packing

LENGTHS = {"inputs": 24, "targets": 12}
K = 3


def random_examples(seed, count, teacher=True):
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        size, length = rng.integers(2, 14), rng.integers(1, 9)
        probs = rng.dirichlet(np.ones(K + 1), length).astype(np.float32)
        example = {
            "inputs": rng.integers(1, 99, size).astype(np.int32),
            "targets": rng.integers(1, 99, length).astype(np.int32),
        }
        if teacher:
            example |= {
                "teacher_ids": rng.integers(0, 99, (length, K)).astype(np.int32),
                "teacher_probs": probs[:, :K],
                "teacher_tail": probs[:, K],
                "format_id": np.full(length, rng.integers(1, 5), np.int32),
            }
        examples.append(example)
    return examples


def as_dataset(examples):
    spec = {
        name: tf.TensorSpec([None, *values.shape[1:]], values.dtype)
        for name, values in examples[0].items()
    }
    return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=spec)


def teacher_lengths():
    return {
        **LENGTHS,
        **{name: LENGTHS["targets"] for name in packing.TEACHER_FEATURES},
    }


def split_segments(row):
    """(inputs, targets) of every example in a packed row, in order."""
    for segment in range(1, row["decoder_segment_ids"].max() + 1):
        source = row["encoder_input_tokens"][row["encoder_segment_ids"] == segment]
        mine = row["decoder_segment_ids"] == segment
        yield source, row["decoder_target_tokens"][mine], mine


def test_rows_are_bit_equal_to_seqios_for_the_same_examples_in_a_row():
    examples = random_examples(0, 60, teacher=False)
    ours = list(
        converter.SpecializeFeatureConverter(pack=True)(
            as_dataset(examples), LENGTHS
        ).as_numpy_iterator()
    )
    fullest = sorted(ours, key=lambda row: -row["decoder_segment_ids"].max())
    # Building SeqIO's graph takes seconds a row.
    for row in [*fullest[:3], fullest[-1]]:
        alone = [
            {"inputs": source, "targets": target}
            for source, target, _ in split_segments(row)
        ]
        (theirs,) = seqio.EncDecFeatureConverter(pack=True)(
            as_dataset(alone), LENGTHS
        ).as_numpy_iterator()
        assert theirs.keys() == row.keys()
        for name, values in theirs.items():
            assert values.dtype == row[name].dtype, name
            np.testing.assert_array_equal(values, row[name], err_msg=name)


def test_packing_leaves_every_teacher_row_beside_its_token():
    examples = random_examples(1, 80)
    rows = converter.SpecializeFeatureConverter(pack=True)(
        as_dataset(examples), teacher_lengths()
    ).as_numpy_iterator()
    left = {e["inputs"].tobytes() + e["targets"].tobytes(): e for e in examples}
    assert len(left) == len(examples)
    for row in rows:
        padding = row["decoder_segment_ids"] == 0
        for key in packing.TEACHER_FEATURES.values():
            assert not row[key][padding].any()
        for source, target, mine in split_segments(row):
            example = left.pop(source.tobytes() + target.tobytes())
            for name, key in packing.TEACHER_FEATURES.items():
                np.testing.assert_array_equal(row[key][mine], example[name])
    assert not left


def test_fewer_rows_are_needed_than_seqio_needs():
    examples = random_examples(2, 300, teacher=False)
    counts = [
        sum(1 for _ in kind(pack=True)(as_dataset(examples), LENGTHS))
        for kind in (converter.SpecializeFeatureConverter, seqio.EncDecFeatureConverter)
    ]
    table = np.asarray([[len(e["inputs"]), len(e["targets"])] for e in examples])
    # SeqIO packs so many examples at a time; the length of its longest row.
    size = LENGTHS["inputs"]
    batches = [table[i : i + size] for i in range(0, len(table), size)]
    assert counts[1] == sum(seqio_rows(b, tuple(LENGTHS.values())) for b in batches)
    tokens = sum(len(e["targets"]) for e in examples)
    assert counts[0] < 0.9 * counts[1]
    assert counts[0] >= tokens / LENGTHS["targets"]


def test_short_examples_are_packed_into_rows_of_the_whole_window():
    """Half of them are short, and a long one fills a row."""
    examples = random_examples(7, 600)
    for number, example in enumerate(examples):
        size = 4 if number % 2 else LENGTHS["inputs"]
        example["inputs"] = np.full(size, 7, np.int32)
    rows = converter.SpecializeFeatureConverter(pack=True)(
        as_dataset(examples), teacher_lengths()
    ).as_numpy_iterator()
    several = [row["encoder_segment_ids"].max() > 1 for row in rows]
    quarter = len(several) // 4
    for first in range(0, 4 * quarter, quarter):
        share = sum(several[first : first + quarter]) / sum(several)
        assert 0.1 < share < 0.4, first


def test_without_packing_each_example_is_padded_alone():
    examples = random_examples(3, 5)
    rows = list(
        converter.SpecializeFeatureConverter(pack=False, use_custom_packing_ops=False)(
            as_dataset(examples), teacher_lengths()
        ).as_numpy_iterator()
    )
    assert len(rows) == 5
    for row, example in zip(rows, examples, strict=True):
        assert "decoder_segment_ids" not in row
        assert row["decoder_teacher_probs"].shape == (LENGTHS["targets"], K)
        length = len(example["targets"])
        np.testing.assert_array_equal(
            row["decoder_teacher_probs"][:length], example["teacher_probs"]
        )
        assert not row["decoder_teacher_probs"][length:].any()


@pytest.mark.parametrize("pack", [True, False])
def test_a_task_without_teacher_features_gets_the_plain_conversion(pack):
    examples = random_examples(4, 7, teacher=False)
    rows = converter.SpecializeFeatureConverter(pack=pack)(
        as_dataset(examples), teacher_lengths()
    )
    plain = seqio.EncDecFeatureConverter(pack=pack)(as_dataset(examples), LENGTHS)
    assert rows.element_spec == plain.element_spec


def test_the_lengths_that_t5x_asks_for_are_those_of_every_model_feature():
    found = converter.SpecializeFeatureConverter(pack=False)
    lengths = found.get_model_feature_lengths(teacher_lengths())
    assert set(lengths) == set(found.MODEL_FEATURES)
    assert lengths["decoder_teacher_ids"] == LENGTHS["targets"]


def test_half_a_teacher_is_refused_by_name():
    examples = random_examples(5, 3)
    for example in examples:
        del example["teacher_tail"]
    with pytest.raises(InputError, match="teacher_tail"):
        converter.SpecializeFeatureConverter(pack=True)(
            as_dataset(examples), teacher_lengths()
        )


def test_a_teacher_shorter_than_its_targets_is_refused():
    with pytest.raises(InputError, match="must equal 'targets'"):
        converter.SpecializeFeatureConverter(pack=True)(
            as_dataset(random_examples(6, 3)), {**teacher_lengths(), "teacher_ids": 8}
        )
