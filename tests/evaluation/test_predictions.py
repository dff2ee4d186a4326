"""Outputs made elsewhere answer every example of their suite once, or are refused."""

import json

import pytest

from specialize.errors import InputError
from specialize.evaluation.predictions import (
    match_predictions,
    read_predictions,
    suite_names,
)
from specialize.evaluation.suites import loading


def write(tmp_path, records):
    file = tmp_path / "predictions.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in records) + "\n")
    return file


def by_id(suite, text="The answer is 1."):
    return [
        {"suite": suite.name, "id": example.id, "prediction": f"{n} {text}"}
        for n, example in enumerate(suite.examples)
    ]


def test_predictions_come_into_the_suites_order(benchmarks, tmp_path):
    gsm8k = loading.load_suite("gsm8k", benchmarks, split="all")
    turning = loading.load_suite("bbh/turning", benchmarks, split="all")
    file = write(tmp_path, [*reversed(by_id(gsm8k)), *by_id(turning)])
    read = read_predictions(file)
    assert suite_names(read) == ["gsm8k", "bbh/turning"]
    matched = match_predictions(read, [gsm8k, turning])
    assert set(matched) == {gsm8k.key, turning.key}
    assert matched[gsm8k.key][3] == ("3 The answer is 1.",)


def test_an_input_is_a_question_or_a_prompt_whatever_its_spaces(benchmarks, tmp_path):
    suite = loading.load_suite("svamp", benchmarks, split="all")
    records = [
        {"suite": "svamp", "input": text, "prediction": str(n)}
        for n, example in enumerate(suite.examples)
        for text in [example.problem.question if n % 2 else f" {example.inputs}\n"]
    ]
    matched = match_predictions(read_predictions(write(tmp_path, records)), [suite])
    assert matched[suite.key] == [("0",), ("1",), ("2",), ("3",)]


@pytest.mark.parametrize(
    "prompt",
    [
        "Q: Another?\nA: 5.\n\nQ: {}\nA: Let's think step by step.",
        "Question: {}\nLet's think step by step",
        "Solve this problem.\n\n{}\n\nGive a number.",
        "<|user|>\nFirst: test: what is 5 + 1? Then:\n{} Reason.<|assistant|>",
    ],
)
@pytest.mark.parametrize("split", ["all", "validation"])
def test_a_prompt_of_another_make_is_known_by_its_question(
    benchmarks, tmp_path, prompt, split
):
    every = loading.load_suite("gsm8k", benchmarks, split="all")
    asked = loading.load_suite("gsm8k", benchmarks, split=split)
    records = [
        {
            "suite": "gsm8k",
            "input": prompt.format(example.problem.question),
            "prediction": example.id,
        }
        for example in every.examples
    ]
    matched = match_predictions(read_predictions(write(tmp_path, records)), [asked])
    said = [texts[0] for texts in matched[asked.key]]
    assert said == [example.id for example in asked.examples]


def test_one_suite_with_two_prompts_is_told_apart(benchmarks, tmp_path):
    loaded = [
        loading.load_suite("svamp", benchmarks, prompt=prompt, split="all")
        for prompt in ("zero_shot_cot", "few_shot_cot")
    ]
    records = [
        record | {"suite": suite.key, "prediction": suite.prompt}
        for suite in loaded
        for record in by_id(suite)
    ]
    matched = match_predictions(read_predictions(write(tmp_path, records)), loaded)
    assert matched["svamp:few_shot_cot"] == [("few_shot_cot",)] * 4
    records[1]["suite"] = "svamp"
    with pytest.raises(InputError, match=":2: .*several prompts. Write 'svamp:zero"):
        match_predictions(read_predictions(write(tmp_path, records)), loaded)


def test_one_line_answers_a_question_asked_twice_and_two_answer_one_each(
    benchmarks, tmp_path
):
    suite = loading.load_suite(
        "multiarith", benchmarks, split="all"
    )  # every question twice
    once = [
        {"suite": "multiarith", "input": f"Twice {n}?", "prediction": str(n)}
        for n in range(3)
    ]
    matched = match_predictions(read_predictions(write(tmp_path, once)), [suite])
    assert [texts[0] for texts in matched[suite.key]] == list("001122")
    twice = once + [record | {"prediction": "x"} for record in once]
    matched = match_predictions(read_predictions(write(tmp_path, twice)), [suite])
    assert [texts[0] for texts in matched[suite.key]] == list("0x1x2x")
    thrice = read_predictions(write(tmp_path, [*twice, once[0]]))
    with pytest.raises(InputError, match=":7 .example.*already answered at.*:1"):
        match_predictions(thrice, [suite])


def test_bbh_may_be_named_as_a_whole_and_a_prompt_may_follow(benchmarks, tmp_path):
    loaded = loading.load_suites("bbh", benchmarks, split="all")
    records = [
        record | {"suite": name}
        for suite, name in zip(loaded, ("bbh", "bbh/turning:few_shot_cot"), strict=True)
        for record in by_id(suite)
    ]
    matched = match_predictions(read_predictions(write(tmp_path, records)), loaded)
    assert [len(matched[suite.key]) for suite in loaded] == [1, 5]


def test_predictions_for_examples_that_were_not_asked_are_left_out(
    benchmarks, tmp_path
):
    every = loading.load_suite("gsm8k", benchmarks, split="all")
    test = loading.load_suite("gsm8k", benchmarks, split="test")
    read = read_predictions(write(tmp_path, by_id(every)))
    matched = match_predictions(read, [test])
    assert len(matched[test.key]) == len(test.examples) < 20


def test_samples_are_a_list_as_long_for_every_example(benchmarks, tmp_path):
    suite = loading.load_suite("svamp", benchmarks, split="all")
    records = [record | {"prediction": ["1", "2"]} for record in by_id(suite)]
    matched = match_predictions(read_predictions(write(tmp_path, records)), [suite])
    assert matched[suite.key][0] == ("1", "2")
    records[2]["prediction"] = "1"
    with pytest.raises(InputError, match=":3: 1 samples, but 2 at .*:1"):
        match_predictions(read_predictions(write(tmp_path, records)), [suite])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda records: records.append(records[0]), [":5", "already", ":1"]),
        (lambda records: records[1].update(suite="gsm8k"), [":2", "'gsm8k'", "svamp"]),
        (lambda records: records[1].update(suite="svanp"), [":2", "mean 'svamp'"]),
        (lambda records: records[1].update(id="gsm8k-test-1"), [":2", "another"]),
        (lambda records: records[1].pop("id"), [":2", "'id' or 'input'"]),
        (lambda records: records[1].pop("suite"), [":2", "'suite'"]),
        (lambda records: records[1].pop("prediction"), [":2", "'prediction'"]),
        (
            lambda records: records[1].update(prediction=5),
            [":2", "prediction: ", "text"],
        ),
        (lambda records: records[1].update(prediction=[]), [":2", "prediction: "]),
        (lambda records: records[1].update(id=5), [":2", "'5'", "another"]),
        (lambda records: records[1].update(id=True), [":2", "id: expected a whole"]),
        (lambda records: records[1].update(id=1.5), [":2", "id is 1.5"]),
        (lambda records: records.insert(0, []), [":1", "expected an object"]),
    ],
)
def test_what_does_not_fit_the_suite_is_refused(benchmarks, tmp_path, spoil, words):
    suite = loading.load_suite("svamp", benchmarks, split="all")
    records = by_id(suite)
    spoil(records)
    with pytest.raises(InputError) as refusal:
        match_predictions(read_predictions(write(tmp_path, records)), [suite])
    for word in words:
        assert word in str(refusal.value)


def test_a_faulty_file_is_refused(tmp_path):
    file = tmp_path / "predictions.jsonl"
    with pytest.raises(InputError, match="does not exist"):
        read_predictions(file)
    file.write_text("\n")
    with pytest.raises(InputError, match="contains no prediction"):
        read_predictions(file)
    file.write_text('{"suite": "a", "id": "b", "prediction": "c"}\n{"suite":')
    with pytest.raises(InputError, match=":2: not JSON"):
        read_predictions(file)
