"""The four formats, byte for byte, and demonstrations that follow from a seed."""

import json

import pytest

from specialize.corpus import prompts
from specialize.corpus.choices import FORMATS
from specialize.corpus.records import Problem
from specialize.corpus.tasks.known import read_problems
from specialize.errors import InputError


def problem(number, question=None, **changes):
    fields = {
        "id": f"p-{number}",
        "question": question or f"What is {number} + 1?",
        "answers": (str(number + 1),),
        "rationale": f"{number} + 1 = {number + 1}.",
    }
    return Problem(**(fields | changes))


QUERY = problem(0, "Ratio: what is 0 + 1?")
SHOTS = [problem(1), problem(2)]


@pytest.mark.parametrize(
    ("format", "inputs", "targets"),
    [
        (
            "zero_shot_answer_only",
            "Q: Ratio: what is 0 + 1? A:",
            "The answer is 1",
        ),
        (
            "zero_shot_cot",
            "Q: Ratio: what is 0 + 1?\nLet's think step by step",
            "0 + 1 = 1.\nThe answer is 1",
        ),
        (
            "in_context_answer_only",
            "Q: What is 1 + 1?\nA: The answer is 2\n\n"
            "Q: What is 2 + 1?\nA: The answer is 3\n\n"
            "Q: Ratio: what is 0 + 1?\nA:",
            "The answer is 1",
        ),
        (
            "in_context_cot",
            "Q: What is 1 + 1?\nLet's think step by step\n1 + 1 = 2.\n"
            "The answer is 2\n\n"
            "Q: What is 2 + 1?\nLet's think step by step\n2 + 1 = 3.\n"
            "The answer is 3\n\n"
            "Q: Ratio: what is 0 + 1?\nLet's think step by step",
            "0 + 1 = 1.\nThe answer is 1",
        ),
    ],
)
def test_a_format_is_written_exactly(format, inputs, targets):
    shots = SHOTS if format.startswith("in_context") else []
    assert prompts.render(format, QUERY, shots) == (inputs, targets)


def test_a_teachers_text_replaces_the_rationale_but_not_an_answer_alone():
    text = "It is 1.\nThe answer is 1"
    assert prompts.render("zero_shot_cot", QUERY, [], text)[1] == text
    assert prompts.render("zero_shot_answer_only", QUERY, [], text)[1] == (
        "The answer is 1"
    )


def test_what_a_format_lacks_is_refused_by_place():
    bare = problem(1, rationale=None, source="test.jsonl:7")
    unsolved = problem(1, answers=(), source="ASDiv.xml#b")
    with pytest.raises(InputError, match="test.jsonl:7 has no rationale"):
        prompts.render("zero_shot_cot", bare)
    with pytest.raises(InputError, match="test.jsonl:7 has no rationale"):
        prompts.render("in_context_cot", QUERY, [bare])
    with pytest.raises(InputError, match="ASDiv.xml#b has no gold answer"):
        prompts.render("zero_shot_answer_only", unsolved)
    for format, shots in (("zero_shot_cot", SHOTS), ("in_context_cot", []), ("x", [])):
        with pytest.raises(ValueError, match=format):
            prompts.render(format, QUERY, shots)


def test_demonstrations_follow_from_pool_query_seed_and_draw():
    pool = [problem(number) for number in range(50)]
    drawn = prompts.draw_demonstrations(pool, pool[3], seed=1, draw=2)
    assert len({shot.id for shot in drawn}) == 4
    assert drawn == prompts.draw_demonstrations(pool, pool[3], seed=1, draw=2)
    others = [
        prompts.draw_demonstrations(pool, query, seed=seed, draw=draw)
        for query, seed, draw in ((pool[3], 1, 3), (pool[3], 2, 2), (pool[4], 1, 2))
    ]
    assert all(drawn != other for other in others)


def test_demonstrations_are_drawn_the_same_on_every_machine():
    pool = [problem(number) for number in range(50)]
    drawn = prompts.draw_demonstrations(pool, pool[0], seed=0)
    assert [shot.id for shot in drawn] == PINNED


# What seed 0 draws for p-0 of 50; a change would silently change every corpus.
PINNED = ["p-7", "p-21", "p-15", "p-27"]


def test_every_other_problem_is_drawn_equally_often():
    pool = [problem(number) for number in range(6)]
    counts = dict.fromkeys((shot.id for shot in pool), 0)
    for draw in range(2000):
        for shot in prompts.draw_demonstrations(pool, pool[0], 2, seed=0, draw=draw):
            counts[shot.id] += 1
    assert counts.pop("p-0") == 0
    assert all(700 < count < 900 for count in counts.values())  # 800 +- 3.6 sigma


def test_the_query_is_never_its_own_demonstration_under_any_name():
    twin = problem(9, "What is  0 + 1?")
    query = problem(0, "What is 0 +\n1?")
    pool = [twin, *(problem(number) for number in range(1, 5))]
    for draw in range(50):
        drawn = prompts.draw_demonstrations(pool, query, 4, seed=0, draw=draw)
        assert twin not in drawn
    with pytest.raises(InputError, match="5 demonstrations.*4 other"):
        prompts.draw_demonstrations(pool, query, 5, seed=0)


def test_the_teachers_prompt_ends_with_the_question():
    shots = "Question: a?\nLet's think step by step\nThe answer is 1\n"
    assert prompts.teacher_prompt(shots, "b?") == (
        f"{shots}\nQuestion: b?\nLet's think step by step"
    )
    assert prompts.teacher_prompt("", "b?") == "Question: b?\nLet's think step by step"


def test_the_reference_codes_own_examples_are_reproduced(shared_data):
    train = read_problems(shared_data / "gsm8k/train.jsonl", "gsm8k")
    by_question = {problem.question: problem for problem in train}
    text = (shared_data / "codex/format_examples.json").read_text(encoding="utf-8")
    examples = json.loads(text)
    checked = set()
    for name, shown in examples.items():
        format = next((one for one in FORMATS if name.startswith(one)), None)
        if format is None:
            continue
        questions = [
            block[3:].split("\nLet's think")[0].split("\nA:")[0].removesuffix(" A:")
            for block in shown.split("\n\n")
            if block.startswith("Q: ")
        ]
        *shots, query = (by_question[question] for question in questions)
        inputs = prompts.render_inputs(format, query.question, shots)
        # The notebook printed encoder text, a blank line, decoder text.
        assert shown == inputs or shown.startswith(f"{inputs}\n\n"), name
        targets = shown[len(inputs) :].strip()
        if targets and format.endswith("_cot"):
            assert prompts.render(format, query, shots, targets) == (inputs, targets)
        checked.add(format)
    assert checked == set(FORMATS)
