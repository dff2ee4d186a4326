"""Prepared examples are found again by what they were made from, in any process."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
TASK = "specialize_gsm8k_zero_shot_cot"
TEACHER = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")
LENGTHS = dict.fromkeys(("inputs", "targets", *TEACHER), 128)
START = f"""
import sys, seqio
import specialize_tasks
from specialize.training.data.examples import load_tasks
task = seqio.get_mixture_or_task({TASK!r})
print(load_tasks([task], "train", {LENGTHS!r}, sys.argv[1])[0].digest)
"""


@pytest.fixture
def start(of_0_1):
    """Starts processes that prepare the corpus of 0.1; gives their digests."""
    places = {
        "SPECIALIZE_CORPUS_DIR": str(of_0_1 / "corpus"),
        "SPECIALIZE_VOCABULARY": str(of_0_1 / "vocabulary.model"),
        "PYTHONPATH": str(ROOT),
    }

    def run(count):
        command = [sys.executable, "-c", START, str(of_0_1 / "examples")]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        environment = os.environ | places
        running = [
            subprocess.Popen(command, env=environment, **pipes) for _ in range(count)
        ]
        ended = [(one, *one.communicate()) for one in running]
        assert all(one.returncode == 0 for one, _, _ in ended), ended[0][2][-3000:]
        return {out.split()[-1] for _, out, _ in ended}

    return run


def test_three_starts_in_two_processes_share_one_copy_and_drop_those_of_0_1(
    of_0_1, recorded, start
):
    (old,) = [name for name in recorded["examples"] if TASK in name]
    (other,) = [name for name in recorded["examples"] if TASK not in name]
    folder = of_0_1 / "examples"
    shutil.copytree(folder / old, folder / f"{old}-again")
    digest = recorded["examples"][old]["digest"]
    assert start(1) == {digest}
    (new,) = {path.name for path in folder.iterdir()} - {other}
    assert new != old and (folder / other).is_dir()  # another task's stays
    written = (folder / new / "examples.json").stat().st_mtime_ns
    assert start(2) == {digest}
    assert {path.name for path in folder.iterdir()} == {new, other}
    assert (folder / new / "examples.json").stat().st_mtime_ns == written
    assert json.loads((folder / new / "examples.json").read_text())["version"] == 1


class Scale:
    """A step with an argument, which it shows only in its fields."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, dataset):
        return dataset


def key(file, argument, step=Scale, source=None):
    """The key of a task over one file with one step, and whether it can be reused."""
    seqio = pytest.importorskip("seqio")
    from specialize.training.data.example_keys import key_of

    task = seqio.Task(
        "task",
        source=source or seqio.TextLineDataSource({"train": str(file)}),
        preprocessors=[step(argument)],
        output_features={"targets": seqio.Feature(seqio.PassThroughVocabulary(8))},
    )
    return key_of(task, "train", {"targets": 8})


def test_a_key_follows_from_the_contents_of_a_steps_arguments(tmp_path):
    file = tmp_path / "records.txt"
    file.write_text("one")
    two, again, three = key(file, 2), key(file, 2), key(file, 3)
    assert two == again and two[0] != three[0]
    assert two[1] is True
    file.write_text("one more")
    assert key(file, 2)[0] != two[0]


def closed(argument):
    def inner(dataset):
        return dataset.take(argument)

    def step(dataset):
        return inner(dataset)

    return step


def bound(argument):
    gin = pytest.importorskip("gin")
    step = configurable(gin)
    with gin.unlock_config():
        gin.bind_parameter("bound_step.factor", argument)
    return step


@functools.cache
def configurable(gin):
    @gin.configurable
    def bound_step(dataset, factor):
        return dataset.take(factor)

    return bound_step


KINDS = {
    "of an object": Scale,
    "of its method": lambda argument: Scale(argument).__call__,
    "of a closure": closed,
    "of a partial": lambda argument: functools.partial(closed, argument),
    "of gin": bound,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values",
    [
        (2, 3),
        ("a", "b"),
        ([1, {"x": 2}], [1, {"x": 3}]),
        (np.zeros(5000), np.arange(5000) == 2500),
        (np.zeros(9), np.zeros(9, np.int32)),
        (closed(1), closed(2)),
    ],
)
def test_every_kind_of_argument_is_in_the_key(tmp_path, kind, values):
    file = tmp_path / "records.txt"
    file.write_text("one")
    one, other = values
    first, again, second = (key(file, v, KINDS[kind]) for v in (one, one, other))
    assert first == again and first[1] is True
    assert first[0] != second[0]


def test_how_a_source_reads_its_files_is_in_the_key(tmp_path):
    """Its function may open the files; they are identified otherwise."""
    seqio = pytest.importorskip("seqio")
    file = tmp_path / "records.txt"
    file.write_text("one")
    files = {"train": str(file)}

    def reader(argument):
        return lambda paths: (open, argument)

    class Own(seqio.FileDataSource):
        def __init__(self, argument):
            super().__init__(reader(0), files)
            self.argument = argument

    for make in (
        lambda n: seqio.TextLineDataSource(files, skip_header_lines=n),
        lambda n: seqio.FileDataSource(reader(n), files),
        Own,
    ):
        first, again, second = (key(file, 2, source=make(n)) for n in (0, 0, 1))
        assert first == again and first[1] is True
        assert first[0] != second[0]


def stock(seqio):
    import tensorflow as tf

    @seqio.map_over_dataset
    def mapped(example):
        return example

    @tf.function
    def graph(example):
        return tf.strings.join([example, "a"])

    @tf.autograph.experimental.do_not_convert
    def plain(dataset):
        return dataset.map(graph)

    return [
        *(mapped, graph, plain, seqio.CacheDatasetPlaceholder()),
        *(seqio.preprocessors.tokenize, seqio.preprocessors.append_eos),
        functools.partial(seqio.preprocessors.rekey, key_map={"inputs": "text"}),
    ]


def test_stock_preprocessors_and_what_decorates_own_ones_are_reused(tmp_path):
    seqio = pytest.importorskip("seqio")
    file = tmp_path / "records.txt"
    file.write_text("one")
    keys = [key(file, step, lambda step: step) for step in stock(seqio)]
    assert [one[1:] for one in keys] == [(True, ())] * len(keys)
    assert len({one[0] for one in keys}) == len(keys)


def test_a_start_says_why_examples_are_made_again(tmp_path, capsys):
    seqio = pytest.importorskip("seqio")
    file = tmp_path / "records.txt"
    file.write_text("one")
    words = seqio.Feature(seqio.ByteVocabulary())

    def both(dataset):
        count = int(os.environ.get("NO_SUCH_COUNT", 1))
        return dataset.map(lambda line: {"inputs": line, "targets": line}).take(count)

    task = seqio.Task(
        "said",
        source=seqio.TextLineDataSource({"train": str(file)}),
        preprocessors=[both, seqio.preprocessors.tokenize],
        output_features={name: words for name in ("inputs", "targets")},
    )
    assert len(loaded(task, tmp_path / "examples")) == 1
    said = capsys.readouterr().err
    assert "said (train): its examples are prepared again at every start" in said
    assert "both uses environ" in said


def test_what_shows_only_its_address_keeps_one_folder_and_is_never_reused(tmp_path):
    file = tmp_path / "records.txt"
    file.write_text("one")
    arguments = [object(), object()]  # at two addresses
    first, second = (key(file, argument) for argument in arguments)
    assert first == second and first[1] is False


def made_of(tensors):
    """A task of tensors, which has no files."""
    seqio = pytest.importorskip("seqio")
    import tensorflow as tf

    def read(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices(tensors())

    words = seqio.Feature(seqio.PassThroughVocabulary(300))
    return seqio.Task(
        "made",
        source=seqio.FunctionDataSource(read, splits=["train"]),
        preprocessors=[],
        output_features={name: words for name in ("inputs", "targets")},
    )


def loaded(task, folder, **more):
    from specialize.training.data.examples import load_tasks

    lengths = {"inputs": 8, "targets": 8}
    (found,) = load_tasks([task], "train", lengths, folder, **more)
    return found


def test_examples_of_one_shape_are_like_others(tmp_path):
    inputs, targets = [[4, 5, 1], [3, 2, 1]], [[6, 1], [7, 1]]

    def ragged():
        import tensorflow as tf

        each = {"inputs": inputs, "targets": targets}
        return {name: tf.ragged.constant(value) for name, value in each.items()}

    plain = loaded(made_of(lambda: {"inputs": inputs, "targets": targets}), tmp_path)
    other = loaded(made_of(ragged), tmp_path / "ragged")
    for name in ("inputs", "targets"):
        np.testing.assert_array_equal(plain.features[name], other.features[name])
    np.testing.assert_array_equal(plain.lengths, other.lengths)
    assert plain.lengths.tolist() == [[3, 2], [3, 2]]


def test_what_is_not_reused_is_prepared_once_by_each_run(tmp_path, monkeypatch):
    """Each of a run's processes on one disk calls it; another run prepares anew."""
    from specialize import sharding
    from specialize.training.data import examples

    task = made_of(lambda: {"inputs": [[4, 1]], "targets": [[6, 1]]})
    made = []
    real = examples._prepare
    monkeypatch.setattr(examples, "_prepare", lambda *a: (made.append(1), real(*a)))
    for run in ("first", "second"):
        monkeypatch.setattr(sharding, "from_leader", lambda value, run=run: run)
        for _ in range(3):
            assert len(loaded(task, tmp_path, exchange=tmp_path / "shared")) == 1
    assert len(made) == 2
    for _ in range(2):  # one process alone never knows
        loaded(task, tmp_path)
    assert len(made) == 4
