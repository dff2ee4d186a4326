import jax
import numpy as np
import pytest
import tiny_run

from specialize import sharding
from specialize.errors import InputError
from specialize.training.data import batches, feed, packing
from specialize.training.data.mixtures import Mixture

source = tiny_run.source


def test_a_batch_is_a_function_of_seed_and_step():
    streamed = source()
    wanted = [streamed.batch(step) for step in range(9)]
    fresh = source().batch(7)
    for name, values in fresh.items():
        np.testing.assert_array_equal(values, wanted[7][name])
    assert any((values != wanted[6][name]).any() for name, values in fresh.items())
    other = source(seed=1).batch(7)
    assert (other["decoder_target_tokens"] != fresh["decoder_target_tokens"]).any()


@pytest.mark.parametrize(
    ("window_rows", "decided"),
    [
        (None, {"window_rows": 64, "window_examples": 161}),
        (16, {"window_rows": 16, "window_examples": 37}),
    ],
)
def test_what_identifies_a_run_of_version_0_1_still_does(window_rows, decided):
    """Its checkpoints hold these values; a run with others refuses to resume."""
    assert source(window_rows=window_rows).identity() == {
        "examples": "a-96-0:3.0-b-40-1:1.0",
        "batch_size": 8,
        "feature_lengths": {"inputs": 24, "targets": 12},
        "seed": 0,
        "pack": True,
        **decided,
    }


def test_processes_make_only_their_rows_and_the_same_ones():
    everything = source().batch(3)
    mine = source().batch(3, np.asarray([1, 4, 5]))
    for name, values in mine.items():
        np.testing.assert_array_equal(values, everything[name][[1, 4, 5]])


def test_every_row_holds_its_records_whole_with_their_teacher():
    found = source()
    mixture = found.mixture
    batch, layout = found.batch(5), found.layout(5)
    ids = found.record_ids(5)
    for row in range(8):
        here = np.flatnonzero(layout.rows == row)
        assert ids[row] == [
            mixture.tasks[layout.tasks[i]].record_id(int(layout.examples[i]))
            for i in here
        ]
        for segment, index in enumerate(here, start=1):
            task = mixture.tasks[layout.tasks[index]]
            example = int(layout.examples[index])
            for part, side in (("inputs", "encoder"), ("targets", "decoder")):
                start = task.starts[part][example]
                size = task.lengths[example, 0 if part == "inputs" else 1]
                mine = batch[f"{side}_segment_ids"][row] == segment
                assert mine.sum() == size
                tokens = (
                    "encoder_input_tokens"
                    if part == "inputs"
                    else ("decoder_target_tokens")
                )
                np.testing.assert_array_equal(
                    batch[tokens][row][mine], task.features[part][start : start + size]
                )
                np.testing.assert_array_equal(
                    batch[f"{side}_positions"][row][mine], np.arange(size)
                )
            for name, key in packing.TEACHER_FEATURES.items():
                np.testing.assert_array_equal(
                    batch[key][row][mine], task.features[name][start : start + size]
                )


def test_teacher_forcing_starts_anew_with_every_example():
    batch = source().batch(0)
    first = (batch["decoder_positions"] == 0) & (batch["decoder_segment_ids"] > 0)
    assert first.sum() > 8
    assert not batch["decoder_input_tokens"][first].any()
    inner = batch["decoder_positions"] > 0
    before = np.roll(batch["decoder_target_tokens"], 1, axis=1)
    np.testing.assert_array_equal(batch["decoder_input_tokens"][inner], before[inner])


def test_nothing_is_lost_within_an_epoch_but_what_is_counted():
    tasks = [tiny_run.examples("a", 80, 0)]
    found = source(Mixture("one", tasks, [1.0]))
    seen: list[int] = []
    step = 0
    while found.epochs(step)["a"] < 3:
        seen += found.layout(step).examples.tolist()
        step += 1
    whole = step - step % found.steps_per_window
    seen = [
        example
        for number in range(whole)
        for example in found.layout(number).examples.tolist()
    ]
    drawn = whole // found.steps_per_window * found.window_examples
    assert len(seen) == drawn - found.left_out(0, whole)
    assert found.left_out(0, whole) <= 0.02 * drawn
    counts = np.bincount(seen, minlength=80)
    assert counts.min() >= drawn // 80 - 1 - found.left_out(0, whole)
    assert counts.max() <= drawn // 80 + 1


def test_without_packing_a_row_is_one_example_and_has_no_segments():
    found = source(pack=False)
    batch = found.batch(2)
    assert "encoder_segment_ids" not in batch
    assert [len(ids) for ids in found.record_ids(2)] == [1] * 8


def test_rates_are_kept_by_examples():
    found = source(batch_size=16, window_rows=64)
    tasks = np.concatenate([found.layout(step).tasks for step in range(40)])
    assert abs(np.mean(tasks == 0) - 0.75) < 0.01


def test_a_mixture_without_a_teacher_makes_plain_batches():
    batch = source(tiny_run.mixture(teacher=False)).batch(0)
    assert not any("teacher" in name for name in batch)
    assert "decoder_segment_ids" in batch


def test_held_out_batches_hold_every_example_once():
    mixture = tiny_run.mixture()
    total, tokens = 0, 0
    for batch, number in batches.held_out_batches(
        mixture, batch_size=8, feature_lengths=tiny_run.LENGTHS
    ):
        assert batch["decoder_target_tokens"].shape == (8, 12)
        total += number
        tokens += int((batch["decoder_segment_ids"] > 0).sum())
    assert total == sum(map(len, mixture.tasks))
    assert tokens == sum(int(task.lengths[:, 1].sum()) for task in mixture.tasks)


def test_the_devices_hold_the_global_batch_in_the_order_of_its_rows():
    mesh = sharding.make_mesh(2, 2, 2)
    found = source()
    placed = feed.global_batch(found, 4, mesh)
    expected = found.batch(4)
    assert placed.keys() == expected.keys()
    for name, values in placed.items():
        assert values.sharding.is_equivalent_to(
            sharding.batch_sharding(mesh), values.ndim
        )
        np.testing.assert_array_equal(jax.device_get(values), expected[name])


def test_the_feed_gives_every_step_in_order_and_passes_errors_on():
    mesh = sharding.make_mesh(1, devices=jax.devices()[:1])
    found = source()
    fed = list(feed.feed(found, mesh, 3, 9))
    assert [one.step for one in fed] == list(range(3, 9))
    np.testing.assert_array_equal(
        fed[2].batch["decoder_target_tokens"], found.batch(5)["decoder_target_tokens"]
    )

    def broken(step, rows=None):
        raise OSError("disk gone")

    found.batch = broken
    with pytest.raises(OSError, match="disk gone"):
        next(feed.feed(found, mesh, 0, 2))


def test_a_step_far_away_costs_what_the_first_one_costs():
    found = source()
    assert found.batch(10**6)["decoder_target_tokens"].shape == (8, 12)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_without_rows_is_refused(size):
    with pytest.raises(InputError, match=f"batch_size = {size}; it must be at least 1"):
        source(batch_size=size)
