import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialize.training.logging import run_log
from specialize.training.logging.run_log import MetricSums, RunLog
from specialize.training.logging.spec import LoggingSpec


def test_the_step_line_says_what_people_ask_for():
    record = {
        "train": {"kl": 0.412, "ce": 0.88, "loss": 1.2},
        "learning_rate": 4e-4,
        "padding": 0.03,
        "speed": {
            "seconds_per_step": 3.1,
            "flops_per_second": 41e12,
            "model_flops_utilization": 0.38,
            "tokens_per_second": 8700.0,
            "eta_seconds": 7800.0,
        },
    }
    assert run_log.step_line(120, 4000, record) == (
        "step 120/4000  3.1 s  41 TFLOP/s  MFU 38 %  8.7k tok/s (pad 3 %)  "
        "kl .412 ce .880  lr 4e-4  eta 2h10"
    )


def test_the_step_line_has_the_kl_of_every_part_of_a_mixture():
    means = {"kl": 0.4, "ce": 0.9, "zero_shot_cot/kl": 1.0, "corpus/kl": 0.3}
    means |= {"base_answers/kl": 0.05, "base_answers/ce": 0.1}
    record = {"train": means, "learning_rate": 1e-3, "padding": 0.0, "speed": {}}
    line = run_log.step_line(1, 2, record)
    assert "kl .400 ce .900  kl of corpus .300, base_answers .050  lr 1e-3" in line


class FullDisk:
    """A writer in the background: it fails, and says so at the next call."""

    def __init__(self):
        self.calls = 0

    def write_scalars(self, step, scalars):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("consider") from OSError(28, "No space left on device")

    def close(self):
        raise RuntimeError("consider") from OSError(28, "No space left on device")


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_run_goes_on_if_summaries_cannot_be_written(tmp_path, capfd, lines):
    log = open_log(tmp_path, 0)
    log._writer = writer = FullDisk()
    for step in range(lines):
        log.evaluation(step, {"loss": 1.0})
    log.close()
    assert writer.calls == min(lines, 2)
    assert capfd.readouterr().err.count("No space left on device") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == lines


def test_an_interval_goes_through_json_exactly():
    one, other = MetricSums(), MetricSums()
    steps = [{"kl": (0.1 * i, 3.0), "loss": (1 / (i + 1), 7.0)} for i in range(10)]
    for metrics in steps:
        one.add(metrics)
    for metrics in steps[:4]:
        other.add(metrics)
    other = MetricSums(json.loads(json.dumps(other.to_json())))
    for metrics in steps[4:]:
        other.add(metrics)
    assert one.means() == other.means()
    assert one.to_json() == other.to_json()


def test_a_mean_is_over_all_tokens_not_over_steps():
    interval = MetricSums()
    interval.add({"kl": (2.0, 1.0), "never": (0.0, 0.0)})
    interval.add({"kl": (6.0, 3.0), "never": (0.0, 0.0)})
    assert interval.means() == {"kl": 2.0}


def open_log(folder, first_step):
    return RunLog(
        folder,
        LoggingSpec(tensorboard=False, peak_flops=1.0),
        total_steps=100,
        first_step=first_step,
        flops=1.0,
        devices=1,
    )


def write_lines(shown, steps):
    for step in steps:
        shown.line(
            step,
            {"kl": 1.0 / step, "bad": float("nan")},
            seconds=None,
            average=None,
            tokens_per_step=1.0,
            learning_rate=0.1,
            padding=0.0,
            epochs={},
        )


def test_a_resumed_run_replaces_the_lines_behind_its_checkpoint(tmp_path):
    first = open_log(tmp_path, 0)
    write_lines(first, [10, 20, 30])
    first.close()
    path = tmp_path / "metrics.jsonl"
    # A kill may cut the last line.
    path.write_text(path.read_text() + '{"step": 40, "tr')
    second = open_log(tmp_path, 20)
    write_lines(second, [30])
    second.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[0]["train"]["bad"] is None


@pytest.mark.parametrize(
    "line",
    [b'{"step": 15, "train": {"\xff": 1}}', b'{"step": "x"}', b"\xff", b'{"step": -1}'],
)
def test_a_damaged_line_is_dropped_and_the_others_stay(tmp_path, capfd, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10}\n' + line + b'\n{"step": 20}\n{"step": 30}\n')
    open_log(tmp_path, 20).close()
    assert path.read_text() == '{"step": 10}\n{"step": 20}\n'
    assert "1 damaged lines are dropped, first 2" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5s"), (65.0, "1m05"), (7800.0, "2h10"), (2e5, "2d07h")]
)
def test_durations_are_short(seconds, text):
    assert run_log._duration(seconds) == text


WINDOWS = st.lists(
    st.tuples(st.integers(1, 4), st.floats(0, 9)), min_size=1, max_size=5
)


@given(WINDOWS)
def test_every_step_of_a_window_has_its_share_of_the_time_before_the_window(windows):
    """Each step takes 1 s; so with a line for each step, no line has all of it."""
    with pytest.MonkeyPatch.context() as patch:
        now = [0.0]
        patch.setattr(run_log.time, "perf_counter", lambda: now[0])
        clock, found, expected = run_log.Clock(), [], []
        for steps, before in windows:
            now[0] += before
            clock.spread(before, steps)
            for _ in range(steps):
                now[0] += 1
                clock.tick()
                found.append(clock.read())
                expected.append(1 + before / steps)
    assert found[0] is None  # the first step is left out
    assert found[1:] == pytest.approx(expected[1:])
