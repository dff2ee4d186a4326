"""Same-question order: a question's records meet in one batch, once an epoch."""

import dataclasses

import numpy as np
import pytest
import tiny_run

from specialize.config import neutral
from specialize.errors import InputError
from specialize.training.data.mixtures import Mixture
from specialize.training.data.order import MixtureOrder
from specialize.training.data.spec import DataSpec

QUESTIONS = 24


def named(stored, samples):
    """The same examples under ids of records: question, sample, format."""
    ids = [
        f"q-{i % QUESTIONS}/{i // QUESTIONS}/{stored.task}".encode()
        for i in range(QUESTIONS * samples)
    ]
    characters = np.frombuffer(b"".join(ids), np.uint8)
    return dataclasses.replace(
        stored, _ids=(characters, np.cumsum([len(name) for name in ids]))
    )


def source(order, batch_size=8):
    tasks = [
        named(tiny_run.examples("cot", QUESTIONS * 4, 0), 4),
        named(tiny_run.examples("answer", QUESTIONS, 1), 1),
    ]
    return tiny_run.source(
        Mixture("named", tasks, [4.0, 1.0]),
        batch_size=batch_size,
        window_rows=None,
        order=order,
    )


def questions(found, step):
    return [
        {record.partition("/")[0] for row in found.record_ids(step) for record in row},
        sum(len(row) for row in found.record_ids(step)),
    ]


def test_a_batch_holds_few_questions_whole_instead_of_many_in_part():
    together, mixed = source("same_question"), source("random")
    asked, records = np.mean([[len(q), n] for q, n in _first(together)], axis=0)
    others, number = np.mean([[len(q), n] for q, n in _first(mixed)], axis=0)
    # Five records a question, and a question may begin in the batch before.
    assert asked <= records / 5 + 2
    assert others > 1.6 * asked and abs(number - records) < 4
    # Both formats of a question are there, not only samples of one.
    ids = [r for row in together.record_ids(3) for r in row]
    both = {"cot", "answer"}
    formats = {}
    for record in ids:
        question, _, kind = record.split("/")
        formats.setdefault(question, set()).add(kind)
    assert sum(kinds == both for kinds in formats.values()) >= len(formats) / 3


def _first(found, steps=8):
    return [questions(found, step) for step in range(steps)]


def test_every_epoch_takes_every_example_once_question_by_question():
    numbers = [np.arange(60) % 12, np.arange(24) % 12]
    order = MixtureOrder([60, 24], [60.0, 24.0], 3, numbers)
    orders = []
    for epoch in range(2):
        window = [order.window(epoch * 7 + i, 12) for i in range(7)]
        tasks = np.concatenate([t for t, _ in window])
        examples = np.concatenate([e for _, e in window])
        for task, size in enumerate((60, 24)):
            mine = examples[tasks == task]
            assert sorted(mine) == list(range(size))
            asked = numbers[task][mine]
            assert np.count_nonzero(np.diff(asked)) == 11  # each stands together
            orders.append(list(dict.fromkeys(asked.tolist())))
    assert orders[0] == orders[1] and orders[2] == orders[3]  # one order for all tasks
    assert orders[0] != orders[2]  # and another in the next epoch


def test_any_batch_can_be_made_without_the_ones_before_it():
    streamed = source("same_question")
    wanted = [streamed.batch(step) for step in range(9)]
    for name, values in source("same_question").batch(8).items():
        np.testing.assert_array_equal(values, wanted[8][name])


def test_a_run_of_one_order_is_not_taken_up_in_another():
    assert source("same_question").identity()["order"] == "same_question"
    assert "order" not in source("random").identity()
    with pytest.raises(
        InputError, match="order is 'sorted', expected one of random, same_question"
    ):
        source("sorted")


def test_t5x_which_cannot_keep_questions_together_says_so():
    assert neutral.shuffle(DataSpec(None, tiny_run.LENGTHS, 8))
    with pytest.raises(InputError, match="SeqIO shuffles"):
        neutral.shuffle(DataSpec(None, tiny_run.LENGTHS, 8, order="same_question"))
