"""SeqIO tasks of a user's module: what is wrong with them is one message."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest
from own_task_cases import lengths, recipe, write_lines

from specialize import cli
from specialize.errors import InputError

VOCABULARY = pathlib.Path(__file__).parents[1] / "golden/v0_1/vocabulary.model"
NUMBERS = itertools.count()
TEXTS = {"inputs": ["Say one.", "Say two.", "Say three."], "targets": ["1", "2", "3"]}


@pytest.fixture
def located(monkeypatch):
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", str(VOCABULARY))


def register(*steps, source=None, tokenize=True, kind="int32", rank=1):
    """Registers a task whose last preprocessors are `steps`; gives its name."""
    import seqio
    import tensorflow as tf

    from specialize_tasks import locations

    def texts(split, shuffle_files=False, seed=None):
        return tf.data.Dataset.from_tensor_slices(TEXTS)

    feature = seqio.Feature(locations.VOCABULARY)
    name = f"foreign_{next(NUMBERS)}"
    before = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(source or texts, splits=["train"]),
        preprocessors=[*(before if tokenize else []), *steps],
        output_features={
            "inputs": feature,
            "targets": seqio.Feature(
                locations.VOCABULARY, dtype=getattr(tf, kind), rank=rank
            ),
        },
    )
    return name


def changed(change, side="targets"):
    """A preprocessor that changes a side of every example."""
    return lambda dataset: dataset.map(lambda e: {**e, side: change(e[side])})


def prepared(name, folder):
    from specialize.training.data.mixtures import load_mixture

    (found,) = load_mixture({name: 1.0}, "train", lengths(40, 40), folder).tasks
    return found


def refused(name, folder):
    with pytest.raises(InputError) as caught:
        prepared(name, folder)
    assert name in str(caught.value)
    assert not list(folder.iterdir())
    return str(caught.value)


@pytest.mark.parametrize("kind", ["int64", "uint16"])
@pytest.mark.parametrize("cast", [True, False])
def test_every_type_of_integers_gives_the_same_examples(located, tmp_path, kind, cast):
    import tensorflow as tf

    small = changed(lambda ids: ids % 100)
    steps = [changed(lambda ids: tf.cast(ids, getattr(tf, kind)))] if cast else []
    plain = prepared(register(small), tmp_path)
    other = prepared(register(small, *steps, kind=kind), tmp_path)
    for name, values in plain.features.items():
        assert values.dtype == other.features[name].dtype
        np.testing.assert_array_equal(values, other.features[name])


@pytest.mark.parametrize("declared", [True, False])
def test_what_is_no_vector_of_ids_is_named_with_its_type_and_rank(
    located, tmp_path, declared
):
    import tensorflow as tf

    def of(kind, rank):
        return {"kind": kind, "rank": rank} if declared else {}

    floats = changed(lambda ids: tf.cast(ids, tf.float32))
    matrix = changed(lambda ids: tf.stack([ids, ids], 1))
    scalar = changed(lambda ids: ids[0])
    without = lambda dataset: dataset.map(lambda e: {"inputs": e["inputs"]})  # noqa: E731
    for name, said in {
        register(tokenize=False): "'inputs' of type string and rank 0.* Add seqio",
        register(floats, **of("float32", 1)): "'targets' of type float32 and rank 1",
        register(matrix, **of("int32", 2)): "'targets' of type int32 and rank 2",
        register(scalar, **of("int32", 0)): "'targets' of type int32 and rank 0",
        register(without): "give no 'targets'",
    }.items():
        assert re.search(said, refused(name, tmp_path))


def raising_eagerly(dataset):
    raise RuntimeError("first of all")


def raising_in_a_map(dataset):
    return dataset.map(lambda example: {**example, "targets": example["nothing"]})


def raising_while_read(dataset):
    import tensorflow as tf

    def fail(ids):
        raise LookupError("while it is read")

    return dataset.map(
        lambda e: {
            **e,
            "targets": tf.ensure_shape(
                tf.py_function(fail, [e["targets"]], tf.int32), [None]
            ),
        }
    )


def failing_in_the_graph(dataset):
    import tensorflow as tf

    def check(example):
        tf.debugging.assert_less(tf.size(example["targets"]), 0, "of the graph")
        return example

    return dataset.map(check)


def forgetting_to_return(dataset):
    dataset.map(lambda example: example)


def unreadable(split, shuffle_files=False, seed=None):
    raise OSError("no data here")


@pytest.mark.parametrize(
    ("step", "said", "placed"),
    [
        (raising_eagerly, "RuntimeError: first of all", True),
        (raising_in_a_map, "KeyError: 'nothing'", True),
        (raising_while_read, "LookupError: while it is read", False),
        (failing_in_the_graph, "of the graph", False),
        (forgetting_to_return, "'NoneType'", False),
        (unreadable, "OSError: no data here", True),
    ],
)
def test_an_error_in_code_of_others_is_told_as_theirs(
    located, tmp_path, step, said, placed
):
    of_source = step is unreadable
    name = register(source=step) if of_source else register(step)
    message = refused(name, tmp_path)
    assert "the source or a preprocessor of the SeqIO task" in message
    assert said in message and message.endswith("Correct the task.")
    assert "Traceback" not in message and "\n" not in message
    if placed:
        where = re.search(r" at (\S+):(\d+)\.", message)
        assert where and where[1] == __file__
        first = step.__code__.co_firstlineno
        assert 0 < int(where[2]) - first < 3


@pytest.mark.parametrize(
    ("side", "kind", "value"),
    [
        *[("targets", "int32", value) for value in (-1, 65_541, 2**31 - 1)],
        ("inputs", "int32", 10**6),
        ("targets", "int64", -(2**40)),
        ("targets", "int64", 2**32 + 5),
    ],
)
def test_an_id_outside_the_vocabulary_is_refused_with_its_example(
    located, tmp_path, side, kind, value
):
    import tensorflow as tf

    from specialize_tasks import locations

    # The third example has it, in its last place but one.
    def third(dataset):
        return dataset.enumerate().map(
            lambda number, e: {
                **e,
                side: tf.where(
                    (number == 2)
                    & (tf.range(tf.size(e[side])) == tf.size(e[side]) - 2),
                    tf.cast(value, getattr(tf, kind)),
                    tf.cast(e[side], getattr(tf, kind)),
                ),
            }
        )

    message = refused(register(third, kind=kind), tmp_path)
    assert f"example 2: {side} has the id {np.clip(value, -(2**31), 2**31 - 1)}" in (
        message
    )
    size = locations.VOCABULARY.vocab_size
    assert f"has {size:,} ids, from 0 to {size - 1}" in message


def test_ids_of_the_rows_that_fill_up_are_accepted_and_no_more(located, tmp_path):
    """A base student that has learnt little samples them as a second teacher."""
    import tensorflow as tf

    from specialize_tasks import locations

    def all_are(number):
        task = register(changed(lambda ids: tf.fill(tf.shape(ids), number)))
        return prepared(task, tmp_path / str(number))

    size = locations.VOCABULARY.vocab_size
    last = -(-size // 128) * 128 - 1
    assert last > size - 1
    for number in (size - 1, size, last):
        found = all_are(number).features["targets"]
        assert set(np.asarray(found).tolist()) == {number}
    with pytest.raises(InputError, match=f"targets has the id {last + 1}, but"):
        all_are(last + 1)


def test_train_says_it_before_a_run_folder_is_left(
    located, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    pairs = [{"inputs": f"Say {n}.", "targets": str(n)} for n in range(9)]
    write_lines(tmp_path / "a.jsonl", pairs)
    name = register(raising_in_a_map)
    mixture = json.dumps({"a.jsonl": 9, name: 1})
    mesh = "MESH = {'data': 1, 'fsdp': 1, 'model': 1}\nBATCH_SIZE = 8"
    settings = f"MIXTURE_OR_TASK_NAME = {mixture}\nMODEL_DIR = 'run'\n{mesh}"
    (tmp_path / "run.gin").write_text(recipe(lengths(40, 40), settings))
    assert cli.main(["train", "--gin_file", "run.gin"]) == 2
    error = capsys.readouterr().err
    assert error.count("error:") == 1 and "KeyError: 'nothing'" in error
    assert not (tmp_path / "run").exists()


def with_field(name, value):
    """A preprocessor that gives every example a field of the user's own."""
    return lambda dataset: dataset.map(lambda e: {**e, name: value})


def of_lengths(inputs, targets, *, eos):
    """A preprocessor that makes all sides so long, perhaps with EOS in the end."""
    import tensorflow as tf

    def ids(length):
        return tf.concat([tf.range(length - eos) % 50 + 10, [1] * eos], 0)

    return lambda dataset: dataset.map(
        lambda e: {"inputs": ids(inputs), "targets": ids(targets)}
    )


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("eos", [0, 1])
@pytest.mark.parametrize(
    "sizes", [(12, 8), (13, 8), (12, 9), (400, 400), (3, 2)], ids=str
)
def test_what_is_too_long_is_cut_and_counted_and_ends_with_eos(
    located, tmp_path, capsys, alone, eos, sizes
):
    from specialize.training.data.mixtures import load_mixture

    name = register(of_lengths(*sizes, eos=eos))
    asked = name if alone else {name: 1.0}
    [found] = load_mixture(asked, "train", lengths(12, 8), tmp_path).tasks
    cut = [size > limit for size, limit in zip(sizes, (12, 8), strict=True)]
    counts = found.counts
    assert counts["cut"] == 3 * any(cut)
    named = [counts["input_tokens_cut"], counts["target_tokens_cut"]]
    assert named == [3 * one for one in cut] and counts["left_out"] == 0
    assert ("of 3 examples 3 were cut" in capsys.readouterr().err) == any(cut)
    shape = [min(size, limit) for size, limit in zip(sizes, (12, 8), strict=True)]
    assert found.lengths.tolist() == [shape] * 3
    for side, length, was_cut in zip(("inputs", "targets"), shape, cut, strict=True):
        first = found.features[side][:length].tolist()
        kept = eos and not (alone and was_cut)
        assert first == [*range(10, 10 + length - kept), *[1] * kept]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ["record_id", "cuts", "format_id"])
@pytest.mark.parametrize("value", [7, "same", [1, 2], [1.5, 2.0, 3.0]], ids=str)
def test_a_field_of_the_users_own_means_nothing_to_us(
    located, tmp_path, alone, name, value
):
    from specialize.training.data.mixtures import load_mixture

    task = register(with_field(name, value))
    asked = task if alone else {task: 1.0}
    [found] = load_mixture(asked, "train", lengths(40, 40), tmp_path).tasks
    assert found.counts["cut"] == 0 and len(found) == 3
    assert found.record_id(2) == f"{found.task}/train/2"


def test_rows_of_a_teacher_are_cut_with_their_tokens(located):
    import tensorflow as tf

    from specialize_tasks import locations, preprocessors

    one = {
        "inputs": tf.range(5),
        "targets": tf.constant([4, 5, 6, 7, 1]),
        "teacher_ids": tf.reshape(tf.range(10), [5, 2]),
        "teacher_tail": tf.range(5.0),
    }

    class Feature:
        vocabulary = locations.VOCABULARY

    features = {"inputs": Feature, "targets": Feature}
    dataset = preprocessors.fit_tokens(
        tf.data.Dataset.from_tensors(one), features, {"inputs": 5, "targets": 3}
    )
    [found] = dataset.as_numpy_iterator()
    assert found["targets"].tolist() == [4, 5, 1] and found["cuts"].tolist() == [
        0,
        0,
        2,
    ]
    assert found["teacher_ids"].tolist() == [[0, 1], [2, 3], [8, 9]]
    assert found["teacher_tail"].tolist() == [0, 1, 4] and len(found["inputs"]) == 5
