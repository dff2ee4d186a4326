"""Processes that were given different inputs all end, each with the same message."""

import argparse
import threading
import time

import pytest

from specialize import outputs, processes
from specialize.errors import InputError
from specialize.outputs import shared
from specialize.processes import listing

GIVEN = {
    "LEARNING_RATE": 1e-3,
    "SUITES": ["gsm8k", "mas"],
    "network": {"emb_dim": 16, "dtype": "float32", "mesh": {}},
    "prompts": "ab" * 32,
    "system": "Think. " * 30,
    "missing": None,
}
CHANGES = [
    ("LEARNING_RATE", 1e-2, "LEARNING_RATE is 0.001 in {0}, 0.01 in {1}"),
    ("SUITES", ["mas"], 'SUITES is ["gsm8k", "mas"] in {0}, ["mas"] in {1}'),
    ("network", {"emb_dim": 8, "dtype": "float32"}, "network.emb_dim is 16 in {0}, 8"),
    ("prompts", "cd" * 32, "prompts is abababababab (digest) in {0}, cdcdcdcdcdcd"),
    ("system", "Think. " * 31, 'system is "Think. Think.'),
    ("missing", 0, "missing is null in {0}, 0 in {1}"),
    ("new", "x", 'new is not set in {0}, "x" in {1}'),
]


@pytest.mark.parametrize(("name", "value", "said"), CHANGES)
@pytest.mark.parametrize(
    ("others", "who", "rest", "of"),
    [
        ([1], "process 1", "process 0", "of 2"),
        ([2], "process 2", "processes 0 and 1", "of 3"),
        ([1, 3], "processes 1 and 3", "processes 0 and 2", "of 4"),
    ],
)
def test_every_process_names_those_that_differ_and_what_they_were_given(
    together, name, value, said, others, who, rest, of
):
    def call(number):
        given = GIVEN | ({name: value} if number in others else {})
        processes.agree(given, what="settings", remedy="Give all the same.")

    found = together(call, others[-1] + 1)
    assert len(set(found)) == 1
    start = f"{who.capitalize()} {of} got other settings than process 0: "
    assert found[0].startswith(start + said.format(rest, who))
    assert found[0].endswith(". Give all the same.") and len(found[0]) < 400


def test_equal_inputs_pass_and_leave_almost_nothing_in_the_service(together):
    def call(number):
        for _ in range(5):
            processes.agree(GIVEN, what="settings", remedy="")

    assert together(call, 3) == [None] * 3
    assert {key.rpartition("/")[0] for key in together.service.values} == {
        "specialize/agreement/4"
    }


def test_a_process_at_another_part_of_the_work_is_named(together):
    def call(number):
        what = "suites" if number else "prompts"
        processes.agree({}, what=what, remedy="")

    said = "Process 1 of 2 is at another part of the work than process 0: at the suites"
    assert all(one.startswith(said) for one in together(call, 2))


def test_a_message_about_many_processes_and_values_stays_short(together):
    def call(number):
        given = {f"value {n}": number if number > 1 else 0 for n in range(30)}
        processes.agree(given, what="settings", remedy="")

    said = set(together(call, 12))
    assert len(said) == 1 and len(found := said.pop()) < 2000, found
    assert "Processes 2, 3, 4, 5 and 6 more of 12 got other" in found
    assert "and 22 more" in found


def test_paths_are_not_compared_but_all_else_is():
    def hidden(place, share=85):
        return processes.comparable(
            {
                "MODEL_DIR": f"{place}/run",
                "train.initial_checkpoint_path": f"{place}/base",
                "MIXTURE_OR_TASK_NAME": {f"{place}/corpus": share},
                "TASKS": (f"{place}/own.toml",),
                "SUITES": ["gsm8k"],
            }
        )

    assert hidden("/a") == hidden("s3://b")
    assert hidden("/a") != hidden("/a", 15)
    for name in ("SUITES", "LEARNING_RATE", "microbatches", "profile"):
        assert processes.comparable("x", name) == "x"


def test_a_folder_that_all_processes_find_is_shared(together, tmp_path):
    place = tmp_path / "new/run"
    found = together(lambda _: outputs.check_shared(place, "MODEL_DIR"), 3)
    assert found == [None] * 3 and list(place.iterdir()) == []


def test_a_shared_folder_may_show_new_files_late(together, tmp_path):
    """As a network file system does."""
    (tmp_path / "0").mkdir()

    def call(number):
        if number == 2:
            threading.Timer(0.5, (tmp_path / "2").symlink_to, [tmp_path / "0"]).start()
        outputs.check_shared(tmp_path / str(number and 2), "MODEL_DIR")

    assert together(call, 3) == [None] * 3


def test_folders_of_their_own_are_refused_and_nothing_is_left(
    together, tmp_path, monkeypatch
):
    monkeypatch.setattr(shared, "LOOKED", 0.3)
    for number in range(3):
        (tmp_path / str(number)).mkdir()
    began = time.monotonic()
    found = together(
        lambda n: outputs.check_shared(tmp_path / str(n % 2), "MODEL_DIR"), 3
    )
    assert len(set(found)) == 1 and time.monotonic() - began < 5
    said = f"MODEL_DIR is not shared by the processes: process 0 writes in {tmp_path}/0"
    assert found[0].startswith(said)
    assert (
        "process 1 of 3 found nothing of it there" in found[0] and "s3://" in found[0]
    )
    assert not any(any(one.iterdir()) for one in tmp_path.iterdir())


@pytest.mark.parametrize("other", ["s3://b/other", "gs://b/run", "local"])
def test_other_urls_of_an_output_are_refused(together, tmp_path, other):
    place = tmp_path if other == "local" else other
    found = together(
        lambda n: outputs.check_shared(place if n else "s3://b/run", "MODEL_DIR"), 2
    )
    assert len(set(found)) == 1
    shown = "a local folder" if other == "local" else other
    assert f'MODEL_DIR is "s3://b/run" in process 0, "{shown}" in process 1' in found[0]


GIN = """
from __gin__ import dynamic_registration
from specialize.training.optimization import spec
from specialize.checkpoints import spec as checkpoints
LEARNING_RATE = 0.1
TRAIN_STEPS = 2
PLACE = '/a'
spec.OptimizerSpec.learning_rate = %LEARNING_RATE
spec.OptimizerSpec.total_steps = %TRAIN_STEPS
checkpoints.CheckpointSpec.dir = %PLACE
"""


def test_a_command_with_other_settings_in_another_process_ends(other_process, tmp_path):
    from specialize import config

    (tmp_path / "a.gin").write_text(GIN)
    flags = argparse.Namespace(
        gin_file=[str(tmp_path / "a.gin")],
        gin_bindings=[],
        gin_search_paths=[],
        limit=3,
        process_id=0,
        out="a",
        run=print,
    )
    sent = {}
    other_process("settings", lambda had: sent.update(had) or had)
    try:
        config.from_flags(flags)
        assert sent["LEARNING_RATE"] == "0.1" and sent["--limit"] == "3"
        assert "/a" not in str(sent) and "--out" not in sent
        assert not {"--process_id", "--run"} & sent.keys()
        for name in ("LEARNING_RATE", "TRAIN_STEPS", "--limit"):
            other_process("settings", lambda had, n=name: {**had, n: "7"})
            with pytest.raises(InputError, match=f"{name} is .* in process 0, 7 in"):
                config.from_flags(flags)
    finally:
        config.forget()


@pytest.mark.parametrize("name", ["prompts", "weights", "w", "number of prompts"])
def test_other_prompts_weights_or_settings_end_a_decoding_before_it_begins(
    other_process, tmp_path, name
):
    from specialize.inference.engine import Engine
    from specialize.inference.resumable import decode_to_file

    class Never(Engine):
        def __init__(self):
            pass

        def generate(self, *args, **more):
            raise AssertionError("decoded")

    other_process("prompts, weights or settings", lambda had: {**had, name: "x"})
    with pytest.raises(InputError, match=f"{name} is .* in process 0, x in process 1"):
        decode_to_file(
            Never(),
            ["a"],
            tmp_path / "out.jsonl",
            {"w": 1, "prompts": "p", "weights": "q"},
        )
    assert not any(tmp_path.iterdir())


def test_other_checkpoints_end_a_choice(together, tmp_path, monkeypatch):
    from specialize.evaluation import selection

    monkeypatch.setattr(listing, "LOOKED", 0.2)
    for step in ("0/checkpoints/2", "0/checkpoints/4", "1/checkpoints/2"):
        (tmp_path / step).mkdir(parents=True)
    said = together(lambda n: selection.steps_of(str(tmp_path / str(n))), 2)
    assert len(set(said)) == 1
    assert "checkpoints/4 is seen by process 0 of 2, but not by process 1" in said[0]


@pytest.mark.parametrize(
    "name",
    [
        "run.examples",
        "tasks.a",
        "settings.OptimizerSpec.learning_rate",
        "settings.train.total_steps",
        "held-out examples",
    ],
)
def test_other_examples_or_settings_end_a_run_before_it_begins(
    other_process, tmp_path, name
):
    import tiny_run

    other_process("examples or settings", lambda had: {**had, name: "x"})
    with pytest.raises(InputError, match=f"{name} is .* in process 0, x in process 1"):
        tiny_run.run(tmp_path / "run", 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["sizes of files", "files"])
def test_other_files_of_a_task_end_a_run_before_they_are_read(
    other_process, tmp_path, kind, monkeypatch
):
    import seqio

    from specialize.training.data import examples, sharing

    files = [tmp_path / name for name in ("a.txt", "b.txt")]
    for file in files:
        file.write_text("a text\n")
    source = seqio.TextLineDataSource({"train": [str(file) for file in files]})
    words = seqio.Feature(seqio.ByteVocabulary())
    task = seqio.Task(
        "lines",
        source=source,
        preprocessors=[],
        output_features={name: words for name in ("inputs", "targets")},
    )
    # Several processes would prepare it together.
    monkeypatch.setattr(sharing, "number_of_parts", lambda task: 2)
    other_process(kind, lambda had: {name: had[name] + "!" for name in had})
    with pytest.raises(InputError, match=f"got other {kind} than.*: lines is"):
        examples.load_tasks(
            *([task], "train", dict.fromkeys(("inputs", "targets"), 8)),
            tmp_path / "prepared",
            exchange=tmp_path / "exchange",
        )
    assert sorted(tmp_path.iterdir()) == files
