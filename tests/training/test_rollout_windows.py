"""The batches of a run whose student writes a share of the targets."""

import collections
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.errors import InputError
from specialize.student.loss.spec import PART, LossConfig
from specialize.training.data.batches import BatchSource
from specialize.training.data.mixtures import Mixture
from specialize.training.data.spec import DataSpec
from specialize.training.data.stored_examples import Examples
from specialize.training.rollouts.spec import MOST_STEPS, RolloutSpec
from specialize.training.rollouts.windows import (
    RolloutSource,
    Rows,
    Written,
    loss_with_parts,
)
from specialize.training.rollouts.writing import lengths_of, of_texts

LOSS = loss_with_parts(LossConfig())


def source(share=0.5, mixture=None, loss=LOSS, data=None, **fields):
    spec = RolloutSpec(share, **{"teacher": "anything", "steps": 2, **fields})
    mixture = mixture or tiny_run.mixture()
    data = DataSpec(mixture, tiny_run.LENGTHS, 8, rollouts=spec, **(data or {}))
    return RolloutSource(mixture, data, loss)


def written(found, number, seed=0):
    """Random texts for a window."""
    rng = np.random.default_rng(seed)
    count = len(found.asked(number).inputs)
    lengths = rng.integers(1, tiny_run.LENGTHS["targets"] + 1, count)
    total = int(lengths.sum())
    probs = rng.dirichlet(np.ones(found.k + 1), total).astype(np.float32)
    return Written(
        lengths=lengths,
        ids=rng.integers(100, 200, total).astype(np.int32),
        rows=Rows(
            np.tile(np.arange(found.k, dtype=np.int32), (total, 1)),
            probs[:, :-1],
            probs[:, -1],
            lengths,
        ),
        ended=rng.random(count) < 0.5,
        right=np.where(rng.random(count) < 0.5, np.nan, 1.0),
        seconds=np.asarray([2.0, 4.0]),
    )


@given(st.floats(0.05, 1.0), st.integers(0, 5), st.integers(0, 3))
@settings(max_examples=15)
def test_every_written_text_is_whole_and_where_its_example_was(share, number, seed):
    found = source(share)
    asked, texts = found.asked(number), written(found, number, seed)
    found.put(number, texts)
    starts = np.cumsum(texts.lengths) - texts.lengths
    expected = {
        f"{record}/rollout-{number}.{i}": (
            inputs,
            texts.ids[starts[i] : starts[i] + texts.lengths[i]].tolist(),
            texts.rows.teacher_tail[starts[i] : starts[i] + texts.lengths[i]].tolist(),
        )
        for i, (inputs, record) in enumerate(
            zip(asked.inputs, asked.records, strict=True)
        )
    }
    seen = 0
    for step in range(2 * number, 2 * number + 2):
        batch, ids = found.batch(step), found.record_ids(step)
        for row, records in enumerate(ids):
            for segment, record in enumerate(records, start=1):
                mine = batch["decoder_segment_ids"][row] == segment
                formats = batch["decoder_format_ids"][row][mine]
                assert set(formats // PART) == {2 if "rollout" in record else 1}
                if record not in expected:
                    continue
                seen += 1
                theirs = batch["encoder_segment_ids"][row] == segment
                found_texts = (
                    batch["encoder_input_tokens"][row][theirs].tolist(),
                    batch["decoder_target_tokens"][row][mine].tolist(),
                    batch["decoder_teacher_tail"][row][mine].tolist(),
                )
                assert found_texts == expected[record]
        metrics = found.layout(step).metrics
        on, of = metrics["on_policy/share"]
        assert of == sum(map(len, ids))
        assert on == sum("rollout" in one for one in sum(ids, []))
        assert metrics["speed/writing_seconds"][0] == pytest.approx(of * 1.0)
    left_out = found.left_out(0, 0)
    assert len(expected) - left_out <= seen <= len(expected)


def test_the_share_is_drawn_at_random_and_the_rest_is_the_corpus():
    one, other = (
        source(0.5),
        BatchSource(
            tiny_run.mixture(),
            DataSpec(tiny_run.mixture(), tiny_run.LENGTHS, 8, window_rows=16),
        ),
    )
    assert one.window_examples == other.window_examples
    counts = [len(one.asked(n).inputs) for n in range(40)]
    share = np.mean(counts) / one.window_examples
    assert abs(share - 0.5) < 0.05
    assert len(source(1.0).asked(0).inputs) == one.window_examples
    one.put(0, written(one, 0))
    records = sum(one.record_ids(0), [])
    corpus = [record for record in records if "rollout" not in record]
    assert corpus and set(corpus) <= {
        *(f"a-{n}" for n in range(96)),
        *(f"b-{n}" for n in range(40)),
    }


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(
    ("share", "steps"), [(0.5, 4), (0.1, None), (1.0, 3), (0.2, 1)]
)
def test_all_records_of_a_question_are_in_one_batch_of_a_window(share, steps, pack):
    """Except those of the questions at the border of two batches."""
    kinds, asked = ("cot", "answer", "few"), 96
    tasks = []
    for seed, kind in enumerate(kinds):
        one = tiny_run.examples(kind, asked, seed)
        ids = [f"gsm8k-train-{n}/0/{kind}" for n in range(asked)]
        given = one.features, np.asarray(one.lengths), ids
        tasks.append(Examples.in_memory(kind, *given))
    mixture = Mixture("m", tasks, [1.0] * len(kinds))
    order = {"order": "same_question", "pack": pack}
    found = source(share, mixture, data=order, steps=steps)
    found.put(0, written(found, 0))
    batches = collections.defaultdict(list)
    for step in range(found.steps_per_window):
        for record in sum(found.record_ids(step), []):
            batches[record.partition("/")[0]].append(step)
    whole = [where for where in batches.values() if len(where) == len(kinds)]
    divided = [where for where in whole if len({*where}) > 1]
    assert len(whole) > found.steps_per_window
    assert len(divided) < found.steps_per_window
    assert all(max(where) - min(where) <= 1 for where in divided)
    # Runs of an earlier version, which divided every question, go on in no other way.
    assert ("packed_rows" in found.identity()) == (found.steps_per_window > 1)


def test_examples_without_a_teacher_get_one_hot_rows_of_the_same_width():
    found = source(0.5, tiny_run.mixture(teacher=False), top_k=4)
    assert found.k == 4
    found.put(0, written(found, 0))
    batch = found.batch(0)
    corpus = batch["decoder_format_ids"] // PART == 1
    targets = batch["decoder_target_tokens"][corpus]
    assert (batch["decoder_teacher_ids"][corpus][:, 0] == targets).all()
    assert (batch["decoder_teacher_probs"][corpus].sum(-1) == 1).all()
    assert (batch["decoder_teacher_tail"][corpus] == 0).all()


def test_rows_are_as_wide_as_the_widest_teacher():
    assert source(top_k=2).k == tiny_run.K
    assert source(top_k=7).k == 7


def test_padding_has_the_shapes_and_types_of_a_batch():
    for found in (source(0.5), tiny_run.source()):
        if isinstance(found, RolloutSource):
            found.put(0, written(found, 0))
        batch, empty = found.batch(0), found.padding()
        assert {n: (v.shape, v.dtype) for n, v in batch.items()} == {
            n: (v.shape, v.dtype) for n, v in empty.items()
        }
        assert not any(values.any() for values in empty.values())


def test_as_few_steps_as_fill_a_batch_of_the_decoder():
    mixture = tiny_run.mixture()

    def steps(share, batch_size):
        spec = RolloutSpec(share, teacher="anything", batch_size=batch_size)
        data = DataSpec(mixture, tiny_run.LENGTHS, 8, rollouts=spec)
        return RolloutSource(mixture, data, LOSS).steps_per_window

    assert steps(1.0, 8) == 1
    assert steps(0.1, 64) > steps(0.5, 64) > steps(1.0, 64)
    found = source(1.0)
    per_step = found.window_examples / found.steps_per_window
    # Windows of another length hold a little more or less.
    assert abs(steps(0.5, 64) - 64 / (0.5 * per_step)) < 2


def test_a_part_of_a_mixture_keeps_its_name():
    plain, mixed = LossConfig(), LossConfig(parts=(("x", 0.5), ("y", 2.0)))
    found = loss_with_parts(plain)
    assert found.parts == (("corpus", 1.0), ("on_policy", 1.0)) and found.written == 1
    found = loss_with_parts(mixed)
    own = (("on_policy/x", 0.5), ("on_policy/y", 2.0))
    assert found.parts == (*mixed.parts, *own) and found.written == 2
    same = LossConfig(parts=(("x", 0.5), ("y", 0.5)))
    assert loss_with_parts(same).parts == (*same.parts, ("on_policy", 0.5))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0), (3.0, 0.25)])
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_a_text_has_the_weight_of_the_part_whose_inputs_it_answers(weights, share):
    """Every position of a batch, by the record that it belongs to."""
    loss = loss_with_parts(LossConfig(parts=tuple(zip("xy", weights, strict=True))))
    tasks = []
    for part, name in enumerate("xy", start=1):
        one = tiny_run.examples(name, 60, part)
        formats = one.features["format_id"] % PART + PART * part
        features = {**one.features, "format_id": formats}
        tasks.append(dataclasses.replace(one, features=features))
    found = source(share, Mixture("m", tasks, [1.0, 1.0]), loss)
    found.put(0, written(found, 0))
    part_weights = np.asarray([1.0, *(weight for _, weight in loss.parts)])
    seen = set()
    for step in range(found.steps_per_window):
        batch, ids = found.batch(step), found.record_ids(step)
        parts = batch["decoder_format_ids"] // PART
        for row, records in enumerate(ids):
            segments = batch["decoder_segment_ids"][row]
            for number, record in enumerate(records, start=1):
                [part] = set(parts[row][segments == number])
                own = "/rollout-" in record
                assert (part > 2) == own
                name = record[0]
                assert part_weights[part] == weights["xy".index(name)], record
                seen.add((name, own))
    assert len(seen) == (4 if share < 1 else 2)


@pytest.mark.parametrize(
    ("tokens", "length", "ended"),
    [
        ([5, 6, 1, 0], 3, True),
        ([5, 6, 7, 8], 4, False),
        ([5, 0, 6, 1], 1, False),
        ([0, 5, 6, 1], 1, False),
        ([1, 0, 0, 0], 1, True),
        ([5, 6, 7, 1], 4, True),
    ],
)
def test_a_text_ends_at_eos_or_before_padding(tokens, length, ended):
    found = lengths_of(np.asarray([tokens]), 1)
    assert [one.tolist() for one in found] == [[length], [ended]]


def test_what_the_teacher_reads_is_the_text_that_is_learnt():
    drawn = [[0, 7, 1, 0], [5, 0, 9, 1], [5, 9, 1, 0], [40, 7, 1, 0], [5, 40, 7, 1]]
    read = np.asarray(of_texts(jnp.asarray(drawn), eos_id=1, readable=40))
    sizes, _ = lengths_of(read, 1)
    texts = [row[:size].tolist() for row, size in zip(read, sizes, strict=True)]
    assert texts == [[1], [5], [5, 9, 1], [1], [5]]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"share": 1.5, "teacher": "t"}, "the on-policy share"),
        ({"share": 0.5}, "needs one teacher, but none is named"),
        ({"share": 0.5, "teacher": "t", "server": "http://x/v1"}, "both"),
        ({"share": 0.5, "server": "http://x/v1"}, "ROLLOUT_MODEL"),
        ({"share": 0.5, "teacher": "t", "temperature": 0.0}, "temperature"),
        ({"share": 0.5, "teacher": "t", "temperature": 1e-38}, "temperature"),
        ({"share": 0.5, "teacher": "t", "concurrency": 20_000}, "concurrency"),
        ({"share": 0.5, "teacher": "t", "steps": 0}, "steps"),
        ({"share": 0.5, "teacher": "t", "top_k": 0}, "top_k"),
    ],
)
def test_rollouts_that_cannot_be_are_refused(fields, said):
    with pytest.raises(InputError, match=said):
        RolloutSpec(**fields)


def test_mixtures_need_not_have_formats():
    one = tiny_run.examples("a", 30, 0)
    features = {n: v for n, v in one.features.items() if n != "format_id"}
    mixture = Mixture("m", [dataclasses.replace(one, features=features)], [1.0])
    found = source(0.5, mixture)
    found.put(0, written(found, 0))
    batch = found.batch(0)
    formats = batch["decoder_format_ids"][batch["decoder_segment_ids"] > 0]
    assert set(formats) == {PART, 2 * PART}


@pytest.mark.parametrize("share", [1e-300, 1e-4, 0.01, 0.3, 1.0])
def test_a_small_share_has_windows_of_at_most_so_many_steps(share):
    data = DataSpec(
        tiny_run.mixture(),
        tiny_run.LENGTHS,
        8,
        rollouts=RolloutSpec(share, teacher="anything"),
    )
    steps = RolloutSource(tiny_run.mixture(), data, LOSS).steps_per_window
    assert 1 <= steps <= MOST_STEPS and (share > 0.01 or steps == MOST_STEPS)


def test_a_server_reports_so_many_alternatives_and_no_more():
    known = {"server": "http://localhost:1/v1", "model": "m", "problems_path": "p"}
    assert RolloutSpec(0.5, top_k=100, **known).top_k == 100
    with pytest.raises(InputError, match="top_k = 101; it must be at most 100"):
        RolloutSpec(0.5, top_k=101, **known)
    assert RolloutSpec(0.5, teacher="anything", top_k=101).top_k == 101


def test_texts_without_scores_are_counted_of_a_server_only():
    server = {"teacher": None, "server": "http://localhost:1/v1", "model": "m"}
    for more in ({}, {**server, "problems_path": "p"}):
        found = source()
        found.spec = dataclasses.replace(found.spec, **more)
        texts = written(found, 0)
        rows = texts.rows._replace(scored=texts.rows.scored * (texts.lengths > 4))
        found.put(0, texts._replace(rows=rows))
        metrics = found._windows[0].result().metrics
        assert ("on_policy/unscored" in metrics) == bool(more)
        if more:
            values = metrics["on_policy/unscored"]
            assert 0 < np.nanmean(values) < 1
