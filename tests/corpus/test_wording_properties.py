"""Whatever a task file's templates are, what is rendered is read back the same."""

import json
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.corpus import prompts
from specialize.corpus.choices import FORMATS
from specialize.corpus.records import Problem
from specialize.corpus.tasks.files import read_task

TEXTS = st.text(string.ascii_letters + " \n.,?:{}()é\u2028\u3000", max_size=40)
QUESTIONS = TEXTS.map(str.strip).filter(bool)
LITERALS = st.text("abQ \n:{}.é", max_size=6).map(
    lambda text: text.replace("{", "{{").replace("}", "}}")
)
SEPARATORS = st.text("-\n #", max_size=4).map(lambda text: f"\n{text}")


@st.composite
def tasks(draw):
    """A task with templates of every kind, as a JSON file or a notebook has it."""
    formats = {
        name: f"{draw(LITERALS)}{{question}}{draw(LITERALS)}" for name in FORMATS
    }
    formats["closing"] = f"{draw(LITERALS)}={{answer}}{draw(LITERALS)}"
    formats["target"] = f"{draw(LITERALS)}{{rationale}}{draw(LITERALS)}{{closing}}"
    formats["separator"] = draw(SEPARATORS)
    formats["teacher"] = f"{draw(LITERALS)}{{question}}"
    values = {
        "name": "drawn",
        "fields": {"question": "q", "answer": "a"},
        "formats": formats,
    }
    return read_task(json.loads(json.dumps(values)))


@settings(max_examples=60, deadline=None)
@given(
    task=tasks(),
    questions=st.lists(
        QUESTIONS, min_size=3, max_size=5, unique_by=lambda text: tuple(text.split())
    ),
    rationales=st.lists(TEXTS, min_size=5, max_size=5),
    answers=st.lists(st.integers(-999, 999), min_size=5, max_size=5),
)
def test_rendering_and_parsing_are_inverse_in_every_format(
    task, questions, rationales, answers
):
    wording = task.wording
    made = zip(questions, rationales, answers, strict=False)
    query, *pool = (
        Problem(f"drawn-{n}", question, (str(answer),), rationale, wording=wording)
        for n, (question, rationale, answer) in enumerate(made)
    )
    for name in FORMATS:
        drawn = [
            one
            for one in prompts.draw_demonstrations([query, *pool], query, 2, seed=1)
            if name.startswith("in_context")
        ]
        assert query.question not in [one.question for one in drawn]
        inputs, targets = prompts.render(name, query, drawn)
        for one in drawn:  # in order, each at the front of what is left
            _, target = prompts.render(name, one, drawn)
            begin = wording.input(name, one.question)
            assert inputs.startswith(begin)
            after = inputs.removeprefix(begin)[1:]
            assert after.startswith(target + wording.separator)
            inputs = after.removeprefix(target + wording.separator)
        assert wording.question(name, inputs) == query.question
        rationale = query.rationale.strip() if name.endswith("_cot") else ""
        assert wording.parts(targets) == (rationale, query.answers[0])
    assert query.question in wording.asked(query.question)
