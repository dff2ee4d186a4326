"""A score says how verdicts were reached and what no prediction can answer right."""

import dataclasses
import json

import pytest

from specialize.evaluation.scoring import judging
from specialize.evaluation.suites import loading
from specialize.judging.spec import JudgeSpec


def answers(suite, wrong=()):
    return [
        "The answer is 999." if index in wrong else f"So the answer is {gold}."
        for index, example in enumerate(suite.examples)
        for gold in [example.golds[0] if example.golds else "unknown"]
    ]


def right(score):
    return [one.verdict.correct for one in score.judged]


def test_a_score_counts_right_answers_and_how_they_were_reached(benchmarks):
    suite = loading.load_suite("gsm8k", benchmarks, split="all")
    texts = answers(suite, wrong=(1, 2))
    texts[3], texts[4] = "I think 4", ""
    score = judging.judge_suite(suite, texts)
    assert (score.n, score.correct, score.accuracy) == (20, 17, 0.85)
    assert score.hows == {"marked": 18, "last": 1, "none": 1}
    assert right(score)[:6] == [True, False, False, True, False, True]
    assert score.interval.low < 0.85 < score.interval.high


def test_golds_without_a_number_are_a_ceiling_and_never_right(benchmarks):
    suite = loading.load_suite("asdiv", benchmarks, split="all")
    score = judging.judge_suite(suite, ["Ann"] * 4)
    assert score.correct == 0
    assert score.ceiling == judging.Ceiling(4, without_gold=1, unwritable=0)
    best = judging.judge_suite(suite, answers(suite))
    assert best.accuracy == best.ceiling.accuracy == 0.75


class NoBraces:
    unk_id = 2

    def encode(self, text):
        return [2 if character in "{}<" else 5 for character in text]


def test_what_a_vocabulary_cannot_write_lowers_the_ceiling(benchmarks):
    suite = loading.load_suite("bbh/turning", benchmarks, split="all")
    braces = dataclasses.replace(suite.examples[0], golds=("}",))
    suite = dataclasses.replace(suite, examples=(braces, *suite.examples[1:]))
    assert judging.ceiling(suite, NoBraces()).accuracy == 0.8
    assert judging.ceiling(suite).accuracy == 1.0
    either = dataclasses.replace(braces, golds=("}", ")"))
    suite = dataclasses.replace(suite, examples=(either,))
    assert judging.ceiling(suite, NoBraces()).unwritable == 0
    # Of a number's gold the unit need not be written.
    number = dataclasses.replace(braces, golds=("5 {ft}",), answer_type="number")
    suite = dataclasses.replace(suite, examples=(number,))
    assert judging.ceiling(suite, NoBraces()).unwritable == 0


def test_the_t5_vocabulary_cannot_write_99_of_dyck_languages(shared_data):
    from specialize.corpus.vocabulary import Vocabulary

    vocabulary = Vocabulary(shared_data / "t5/spiece.model")
    unwritable = {
        suite.name: judging.ceiling(suite, vocabulary).unwritable
        for name in ("bbh", "mas", "gsm8k")
        for suite in loading.load_suites(name, shared_data, split="all")
    }
    assert {name: n for name, n in unwritable.items() if n} == {
        "bbh/dyck_languages": 99
    }


def test_several_samples_vote_and_give_pass_at_k(benchmarks):
    suite = loading.load_suite("svamp", benchmarks, split="all")
    samples = [
        ["The answer is 0.", "0.00", "The answer is 7"],  # right twice
        ["The answer is 5.", "The answer is 5.0", "1"],  # outvoted
        ["?", "", "The answer is 2"],  # those without an answer do not vote
        ["?", "??", ""],
    ]
    score = judging.judge_suite(suite, samples)
    assert right(score) == [True, False, True, False]
    assert score.pass_at(1) == pytest.approx((2 / 3 + 1 / 3 + 1 / 3 + 0) / 4)
    assert score.pass_at(3) == pytest.approx(3 / 4)
    written = score.to_json()
    assert written["samples"] == 3
    assert set(written["pass_at"]) == {"1", "2"}


def test_a_score_is_json(benchmarks):
    suite = loading.load_suite(
        "multiarith", benchmarks, prompt="zero_shot_answer_only", split="all"
    )
    score = judging.judge_suite(suite, answers(suite, wrong=(0,)))
    written = json.loads(json.dumps(score.to_json()))
    assert written["accuracy"] == pytest.approx(5 / 6)
    assert written["how"] == {"marked": 6, "last": 0, "none": 0}
    assert written["selection"] == suite.selection()
    assert written["ceiling"]["accuracy"] == 1


def test_the_reference_rule_knows_whether_a_rationale_was_asked_for(benchmarks):
    texts = ["No"] * 5
    for prompt, correct in (("zero_shot_cot", 0), ("zero_shot_answer_only", 5)):
        suite = loading.load_suite(
            "bbh/turning", benchmarks, prompt=prompt, split="all"
        )
        assert (
            judging.judge_suite(suite, texts, judge=JudgeSpec("reference")).correct
            == correct
        )


def test_unfitting_predictions_are_a_defect_of_the_caller(benchmarks):
    suite = loading.load_suite("svamp", benchmarks, split="all")
    with pytest.raises(ValueError, match="4 examples, got 3"):
        judging.judge_suite(suite, ["1"] * 3)
    with pytest.raises(ValueError, match=r"\[1, 2\] samples"):
        judging.judge_suite(suite, [["1"], ["1", "2"], ["1"], ["1"]])
    empty = dataclasses.replace(suite, examples=())
    with pytest.raises(ValueError, match="0 examples"):
        judging.judge_suite(empty, [])
