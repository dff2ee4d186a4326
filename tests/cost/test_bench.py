"""The bench: what it feeds, how it goes round its workers, what a row says."""

import json
import sys

import numpy as np
import pytest

from specialize import cli
from specialize.cost.bench import commands
from specialize.cost.bench.batch import packed_batch
from specialize.cost.bench.protocol import Worker, WorkerError
from specialize.cost.bench.shapes import SHAPES
from specialize.cost.bench.stream import example_lengths, examples

SERVE = """
from specialize.cost.bench import protocol
held = []
def step():
    print("libraries print what they like")
    held.append(b"x" * {size})
protocol.serve(lambda: protocol.Case(step, {{"flops": 6e6}}), warm_up=1)
"""


def worker(size=1000) -> Worker:
    return Worker("mine", [sys.executable, "-c", SERVE.format(size=size)])


def test_a_worker_steps_when_asked_and_tells_its_memory():
    mine = worker(size=30 << 20)
    assert mine.ready() == {"flops": 6e6}
    took = [mine.run() for _ in range(3)]
    assert all(t["seconds"] > 0 and t["cpu_seconds"] > 0 for t in took)
    memory = mine.end()
    # The warm-up step and three timed ones hold 30 MiB each.
    assert 110 << 20 < memory["growth_bytes"] < 200 << 20
    assert memory["growth_bytes"] < memory["peak_bytes"]


def test_a_worker_that_dies_says_why():
    mine = Worker("mine", [sys.executable, "-c", "raise SystemExit('no such package')"])
    with pytest.raises(WorkerError, match="mine ended with status 1.*no such package"):
        mine.ready()


def test_packed_batches_are_as_the_packer_makes_them():
    shape = SHAPES["small"]
    batch = packed_batch(shape)
    weights = batch["decoder_loss_weights"]
    assert weights.mean() == pytest.approx(shape.filled, abs=0.01)
    np.testing.assert_array_equal(weights > 0, batch["decoder_target_tokens"] > 0)
    events = batch["decoder_teacher_probs"].sum(-1) + batch["decoder_teacher_tail"]
    np.testing.assert_allclose(events, weights, atol=1e-6)
    # Each segment begins at position 0 with a start token and is shifted by one.
    begins = batch["decoder_positions"] == 0
    assert not batch["decoder_input_tokens"][begins].any()
    inner = ~begins
    inner[:, 0] = False
    np.testing.assert_array_equal(
        batch["decoder_input_tokens"][inner],
        np.roll(batch["decoder_target_tokens"], 1, axis=1)[inner],
    )
    segments = batch["encoder_segment_ids"]
    assert (segments.max(1) == shape.examples_per_row).all()
    np.testing.assert_array_equal(segments > 0, batch["encoder_input_tokens"] > 0)


def test_the_synthetic_stream_has_the_lengths_of_the_real_mixture():
    sizes = example_lengths("all", 20_000, (2048, 432))
    # 207 in-context CoT : 207 zero-shot CoT : 7.3 : 7.3, by thousands.
    means = (207 * (631 + 68) + 7.3 * (329 + 63)) / (2 * (207 + 7.3))
    assert sizes[:, 0].mean() == pytest.approx(means, rel=0.02)
    assert sizes[:, 1].max() == 255
    assert (sizes[:, 0] > 1024).mean() < 0.01
    stored = examples(sizes[:50], SHAPES["tiny"])
    assert len(stored) == 50
    assert len(stored.features["teacher_probs"]) == sizes[:50, 1].sum()
    assert stored.record_id(7) == "bench/7"


def test_a_row_derives_its_rates_from_the_median():
    entry = commands.row(
        "train",
        "small",
        {"flops": 3e9, "useful_tokens": 300, "device": "d", "versions": {}},
        [9.0, 1.0, 2.0, 3.0, 4.0],
        {"peak_bytes": 2**20, "growth_bytes": 2**19},
        4e9,
    )
    assert entry["median_s"] == 3.0 and entry["repetitions"] == 5
    assert entry["useful_tokens_per_s"] == 100.0
    assert entry["model_flops_per_s"] == 1e9
    assert entry["share_of_matmul_peak"] == 0.25
    assert (entry["least_s"], entry["most_s"]) == (1.0, 9.0)
    assert entry["growth_bytes"] == 2**19


def test_too_few_repetitions_are_refused(capsys):
    assert cli.main(["bench", "loss", "--repetitions", "3"]) == 2
    assert "at least 20" in capsys.readouterr().err


def test_an_absent_peer_is_skipped_by_name(monkeypatch):
    monkeypatch.setenv("SPECIALIZE_T5X_PYTHON", sys.executable)
    peer = commands.Peer("t5x_train.py", "no_such_package", "SPECIALIZE_T5X_PYTHON")
    assert peer.command("tiny") is None
    found = commands.Peer("t5x_train.py", "json", "SPECIALIZE_T5X_PYTHON").command(
        "tiny"
    )
    assert found is not None and found[0] == sys.executable and found[2] == "tiny"


@pytest.mark.slow
@pytest.mark.parametrize("word", ["train", "loss", "decode", "input"])
def test_every_word_prints_a_row_and_writes_it(word, tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert cli.main(["bench", word, "--shape", "tiny", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert all(row["name"] in printed for row in rows)
    assert {row["name"] for row in rows} == {"matmul", *commands.WORDS[word]}
    for row in rows:
        assert row["repetitions"] == 20 and row["median_s"] > 0
        assert row["peak_bytes"] > 0 and row["versions"]["jax"]
