"""Which question a record answers, whatever the ids of questions are."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.corpus.choices import RECORD_FORMATS
from specialize.corpus.records import Problem, RecordId
from specialize.corpus.vocabulary import read_vocabulary
from specialize.judging.spec import JudgeSpec
from specialize.training.data.order import questions_of
from specialize.training.rollouts.making import Rollouts
from specialize.training.rollouts.served_teacher import ServedTeacher
from specialize.training.rollouts.spec import RolloutSpec
from specialize.training.rollouts.windows import Asked
from specialize.training.rollouts.writing import Texts

VOCABULARY = read_vocabulary("byt5")

# Also "HumanEval/0", and ids that end as records do.
PARTS = st.sampled_from(["test", "algebra", "4.json", "0", "1", "human", "", *"ab é"])
IDS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
QUESTIONS = st.lists(IDS, min_size=2, max_size=6, unique=True)
SAMPLES = ("0", "1", "human")
FORMATS = RECORD_FORMATS[:3]
EACH = len(SAMPLES) * len(FORMATS)


def names_of(ids):
    return [f"{one}/{s}/{f}" for one in ids for s in SAMPLES for f in FORMATS]


@given(IDS, st.sampled_from(SAMPLES), st.sampled_from(RECORD_FORMATS))
def test_the_parts_of_an_id_are_found_again(problem, sample, kind):
    name = f"{problem}/{sample}/{kind}"
    assert RecordId.read(name) == (problem, sample, kind)
    assert str(RecordId.read(name)) == name


def test_an_id_that_is_no_records_is_a_question_of_its_own():
    for name in ("", "7", "gsm8k-train-5", "HumanEval/0"):
        assert RecordId.read(name) == (name, "", "")


@given(QUESTIONS)
@settings(max_examples=30)
def test_an_order_by_questions_knows_every_question(ids):
    names = names_of(ids)

    class Stored:
        record_id = staticmethod(names.__getitem__)

        def __len__(self):
            return len(names)

    numbers = questions_of([Stored(), Stored()])
    for found in numbers:
        assert found.tolist() == [n for n in range(len(ids)) for _ in range(EACH)]


@given(QUESTIONS)
@settings(max_examples=10)
def test_texts_are_judged_by_the_answer_of_their_question(ids):
    rollouts = object.__new__(Rollouts)
    rollouts._vocabulary, rollouts._judge = VOCABULARY, JudgeSpec()
    rollouts._problems = {
        one: Problem(one, "?", (str(n),)) for n, one in enumerate(ids)
    }
    said = [
        np.asarray(VOCABULARY.encode(f"So {n}."), np.int32) for n in range(len(ids))
    ]
    texts = [one for one in said for _ in range(EACH)]
    asked = Asked([], names_of(ids))
    found = rollouts._rights(Texts(asked, [], texts, np.ones(len(texts), bool)))
    assert (found == 1).all()


@given(QUESTIONS)
@settings(max_examples=10)
def test_a_server_is_asked_the_question_of_the_record(ids):
    problems = {one: Problem(one, f"{n}?", ()) for n, one in enumerate(ids)}
    server = {"server": "http://localhost:1/v1", "model": "m", "problems_path": "none"}
    spec = RolloutSpec(0.5, **server)
    teacher = ServedTeacher(spec, problems, VOCABULARY, "none", 3)
    asked = [teacher._problem(name) for name in names_of(ids)]
    assert asked == [one for one in problems.values() for _ in range(EACH)]
