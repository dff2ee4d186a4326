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
