"""Reasoning apart from the answer: every form of it, every policy, exact rows."""

import json
import math

import hypothesis
import least
import numpy as np
import pytest
from hypothesis import strategies

from specialize.corpus.alignment.aligning import align
from specialize.corpus.building import pipeline, stages
from specialize.corpus.building.verification import verify
from specialize.corpus.choices import REASONING
from specialize.corpus.completions import (
    Questions,
    Sample,
    apart,
    completion_to_json,
    parse_line,
)
from specialize.corpus.lines import Line
from specialize.corpus.reasoning import answer_of, set_apart
from specialize.corpus.records import ORIGINS, Completion, Problem, TeacherToken
from specialize.corpus.spec import AlignmentSpec, FolderSpec, RecordsSpec, Sources
from specialize.corpus.storage import cards, shards
from specialize.errors import InputError
from specialize.judging.spec import JudgeSpec

from teacher_cases import token, vocabulary_of  # isort: skip

THOUGHT = "The answer is 70? No: 48 / 2 = 24."
SAID = "She sold 72 clips."

# Every form has the thought and the answer, or an empty thought.
FORMS = {
    "think": f"<think>\n{THOUGHT}\n</think>\n\n{SAID}",
    "thinking": f"<thinking>{THOUGHT}</thinking>\n{SAID}",
    "reasoning": f"<reasoning>\n{THOUGHT}\n</reasoning>{SAID}",
    "other case": f"<THINK>{THOUGHT}</Think>\n{SAID}",
    "blanks": f"< think >{THOUGHT}</ think >\n{SAID}",
    "mistral": f"[THINK]{THOUGHT}[/THINK]{SAID}",
    "kimi": f"◁think▷{THOUGHT}◁/think▷{SAID}",
    "sky": f"<|begin_of_thought|>\n{THOUGHT}\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n{SAID}\n<|end_of_solution|>",
    "answer tags": f"<think>{THOUGHT}</think>\n<answer>\n{SAID}\n</answer>",
    "opening tag eaten": f"{THOUGHT}\n</think>\n\n{SAID}",
    "thinks twice": f"<think>Hm</think><think>{THOUGHT}</think>\n{SAID}",
    "thinks again": f"<think>{THOUGHT}</think>\n{SAID}\n<think>Or 71?",
    "nested": f"<think>a <think>{THOUGHT}</think>\n{SAID}",
    "closed twice": f"{THOUGHT}</think>\nHm</think>\n{SAID}",
    "harmony": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{SAID}<|return|>",
    "harmony with a tool": f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>"
    "assistant<|channel|>commentary to=f <|constrain|>json<|message|>{}<|call|>"
    f"<|start|>assistant<|channel|>final<|message|>{SAID}",
    "harmony, first channel eaten": f"{THOUGHT}<|end|><|start|>assistant<|channel|>"
    f"final<|message|>{SAID}<|return|>",
    "harmony without its marks": f"analysis{THOUGHT}assistantfinal{SAID}",
}
EMPTY = {
    "empty pair": f"<think></think>{SAID}",
    "pair around white space": f"<think>\n\n</think>\n\n{SAID}",
    "closing tag alone": f"</think>\n{SAID}",
}
WITHOUT_ANSWER = {
    "unclosed": f"<think>\n{THOUGHT} {SAID}",
    "nothing after it": f"<think>\n{THOUGHT} {SAID}\n</think>\n\n",
    "harmony without final": f"<|channel|>analysis<|message|>{THOUGHT} {SAID}",
    "harmony without marks": f"analysisThe count: {THOUGHT} {SAID}",
}


def completion(text, **fields):
    return Completion("q", 0, text, **fields)


def tokens_of(text, cuts):
    """Tokens that spell a text, with one alternative each."""
    places = sorted({0, len(text), *(c % (len(text) + 1) for c in cuts)})
    return tuple(
        token(text[a:b], 0.6 + 0.3 * (a % 2), {f"~{a}": 0.05})
        for a, b in zip(places, places[1:], strict=False)
    )


@pytest.mark.parametrize("name", [*FORMS, *EMPTY])
def test_dropping_the_reasoning_leaves_the_answers_own_chain(name):
    found, reason = set_apart(completion((FORMS | EMPTY)[name]), "drop")
    assert reason is None
    assert found.text.strip() == found.answer.strip() == SAID
    assert answer_of(completion((FORMS | EMPTY)[name])).strip() == SAID


@pytest.mark.parametrize("name", FORMS)
def test_keeping_the_reasoning_puts_it_before_the_answer_without_its_marks(name):
    found, reason = set_apart(completion(FORMS[name]), "keep")
    assert reason is None
    assert THOUGHT in found.text[: found.reasoning]
    assert found.answer.strip() == SAID
    assert not any(mark in found.text for mark in ("think", "THINK", "<|", "channel"))


@pytest.mark.parametrize("policy", REASONING)
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_thought_is_nothing_to_keep_or_to_refuse(name, policy):
    found, reason = set_apart(completion(EMPTY[name]), policy)
    assert (found.text.strip(), found.reasoning, reason) == (SAID, 0, None)
    assert not apart(Sample(completion(EMPTY[name]), "x"), policy).reasoned


@pytest.mark.parametrize("name", FORMS)
def test_reasoning_is_refused_if_asked(name):
    assert set_apart(completion(FORMS[name]), "refuse")[1] == "reasoning"


@pytest.mark.parametrize("policy", REASONING)
@pytest.mark.parametrize("name", WITHOUT_ANSWER)
def test_reasoning_without_an_answer_is_never_right(name, policy):
    problem = Problem("q", "?", ("72",))
    for finish, expected in (("stop", "only_reasoning"), ("length", "cut_off")):
        one = completion(WITHOUT_ANSWER[name], finish_reason=finish)
        assert set_apart(one, policy)[1] == expected
        sample = apart(Sample(one, "x"), policy)
        assert verify(sample, problem, JudgeSpec()) == expected
        assert answer_of(one) == ""


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_numbers_in_the_reasoning_are_never_judged(policy):
    problem = Problem("q", "?", ("72",))
    for thought, said, expected in (
        ("The answer is 72.", "She sold 70 clips.", "wrong_answer"),
        ("The answer is 72.", "So that is settled.", "no_answer"),
        ("The answer is 70.", "She sold 72 clips.", None),
    ):
        sample = Sample(completion(f"<think>{thought}</think>\n{said}"), "x")
        assert verify(apart(sample, policy), problem, JudgeSpec()) == expected


def test_a_long_text_of_tags_takes_no_long_time():
    for mark in (
        "<think>a</think>b ",
        "<|channel|>final<|message|>x<|end|>",
        "</think>",
    ):
        text = mark * 5_000
        tokens = tokens_of(text, range(0, len(text), 5))
        for policy in REASONING:
            whole = completion(text, tokens=tokens)
            found = least.seconds(lambda whole=whole, p=policy: set_apart(whole, p))
            assert found < 2


def test_a_text_without_reasoning_is_the_same_object_under_every_policy():
    one = completion("I think <b>72</b> is right; channel 5 said so. a < think")
    for policy in REASONING:
        assert set_apart(one, policy) == (one, None)


@hypothesis.settings(deadline=None)
@hypothesis.given(
    strategies.sampled_from([*FORMS.values(), *EMPTY.values()]),
    strategies.sampled_from(["drop", "keep"]),
    strategies.lists(strategies.integers(0, 400), max_size=60),
)
def test_tokens_spell_what_is_left_and_whole_ones_are_unchanged(text, policy, cuts):
    tokens = tokens_of(text, cuts)
    found, _ = set_apart(completion(text, tokens=tokens), policy)
    without, _ = set_apart(completion(text), policy)
    assert (found.text, found.reasoning) == (without.text, without.reasoning)
    assert found.tokens is not None
    assert b"".join(one.token for one in found.tokens).decode() == found.text
    for one in found.tokens:
        certain = one.top == ((one.token, 0.0),) and one.token.isspace()
        assert one in tokens or one.is_unknown or certain
    again, _ = set_apart(found, policy)
    assert (again.text, again.reasoning) == (found.text, found.reasoning)


def test_a_token_that_the_cut_divides_has_one_hot_rows_and_all_others_are_exact(
    tmp_path,
):
    vocabulary = vocabulary_of(tmp_path, ["▁She", "▁sold", "▁72"])
    rest = [token(" sold", 0.6, {" has": 0.3}), token(" 72", 0.5, {" 7": 0.4})]
    whole = [token(t, 0.9) for t in ("<think>", "Hm", "</think>")]
    for first, unknown in (
        ([*whole, token("She", 0.7, {"He": 0.2})], []),
        ([*whole, token("\n\n", 0.9), token("She", 0.7, {"He": 0.2})], []),
        ([*whole[:2], token("</think>\n", 0.9), token("She", 0.7, {"He": 0.2})], []),
        ([*whole[:2], token("</think>She", 0.7, {"</think>He": 0.2})], [0]),
        ([*whole[:2], token("</", 1), token("think>\nShe", 0.7)], [0]),
    ):
        tokens = (*first, *rest)
        text = b"".join(one.token for one in tokens).decode()
        found = apart(Sample(completion(text, tokens=tokens), "x"), "drop").completion
        target = align(found.tokens, found.text, vocabulary)
        plain = align(
            [token("She", 0.7, {"He": 0.2}), *rest], "She sold 72", vocabulary
        )
        assert target.ids.tolist() == plain.ids.tolist()
        for position, origin in enumerate(target.origin):
            if position in unknown:
                assert ORIGINS[origin] == "no_distribution"
                continue
            for part in ("teacher_ids", "teacher_logprobs", "tail", "origin"):
                np.testing.assert_array_equal(
                    getattr(target, part)[position], getattr(plain, part)[position]
                )


@pytest.mark.parametrize("policy", ["drop", "keep"])
def test_a_token_of_two_tags_without_text_between_them_leaves_nothing(policy):
    words = ["<think>", "Hm", "</think", "><", "think>", "So", "</think>", "72"]
    tokens = tuple(token(word, 0.9) for word in words)
    one = completion("".join(words), tokens=tokens)
    found = apart(Sample(one, "x"), policy).completion
    assert all(part.token and not part.is_unknown for part in found.tokens)


@pytest.mark.parametrize("method", ["bytes", "dtw"])
def test_nothing_about_a_token_without_distribution_is_taught_as_soft(tmp_path, method):
    vocabulary = vocabulary_of(tmp_path, ["▁She", "▁sold", "▁72"])
    lost = TeacherToken(b"She sold", -math.inf, ())
    target = align(
        [lost, token(" 72", 0.5, {" 7": 0.4})], "She sold 72", vocabulary, method=method
    )
    words = [ORIGINS[one] for one in target.origin]
    assert "soft" not in words[:2]
    assert words[2] == "soft"


def test_the_border_of_the_reasoning_survives_a_file():
    tokens = tokens_of(FORMS["think"], range(0, 400, 3))
    one, _ = set_apart(completion(FORMS["think"], tokens=tokens), "keep")
    line = Line("x:1", json.dumps(completion_to_json(one)).encode())
    problem = Problem("q", "?", ("72",))
    for with_tokens in (True, False):
        (found,) = parse_line(
            line, Questions([problem], "keep"), with_tokens=with_tokens
        )
        assert found.completion.answer.strip() == SAID
        assert THOUGHT in found.completion.text
        (found,) = parse_line(line, Questions([problem]), with_tokens=with_tokens)
        assert found.completion.text.strip() == SAID
    beyond = line._replace(data=line.data.replace(b'"reasoning": ', b'"reasoning": 9'))
    with pytest.raises(InputError, match=r"x:1: reasoning is 9\d+, expected at most"):
        parse_line(beyond, Questions([problem]))


@pytest.fixture
def thoughtful(world, tmp_path):
    """The world's completions, each with a thought that ends in the wrong answer."""
    lines = []
    for number, line in enumerate(world.completions.read_text().splitlines()):
        one = json.loads(line)
        before = ["<think>", "The answer is 999.", "</think>", "\n"]
        if number % 7 == 3:
            before = []
        one["text"] = "".join([*before, one["text"]])
        one["tokens"] = before + one["tokens"]
        one["token_logprobs"] = [-0.1] * len(before) + one["token_logprobs"]
        tops = [{text: -0.1} for text in before]
        one["top_logprobs"] = tops + one["top_logprobs"]
        lines.append(json.dumps(one))
    path = tmp_path / "thoughtful.jsonl"
    path.write_text("\n".join(lines))
    return path


def build(world, file, out, policy=None):
    return pipeline.build(
        Sources(world.problems, [file], teacher="t", reasoning=policy),
        AlignmentSpec(world.vocabulary),
        FolderSpec(out, num_shards=1),
        records=RecordsSpec(("zero_shot_cot",)),
        processes=1,
    )


def records(folder):
    return {one.id: one for one in shards.read_shards(folder)}


def test_a_corpus_without_the_reasoning_has_the_rows_of_the_answers_alone(
    world, thoughtful, tmp_path
):
    manifest = build(world, thoughtful, tmp_path / "dropped")
    plain = build(world, world.completions, tmp_path / "plain")
    assert manifest.funnel["rejected"] == plain.funnel["rejected"]
    assert manifest.funnel["reasoned"] > 0
    assert "reasoned" not in plain.funnel
    assert manifest.fingerprint == plain.fingerprint
    found, expected = records(tmp_path / "dropped"), records(tmp_path / "plain")
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert one.targets == expected[name].targets
        for part in ("ids", "teacher_ids", "teacher_logprobs", "tail"):
            left = getattr(one.target, part)
            np.testing.assert_array_equal(left, getattr(expected[name].target, part))


def test_the_policy_of_a_corpus_is_in_its_fingerprint_and_each_stage_follows_it(
    world, thoughtful, tmp_path
):
    built = build(world, thoughtful, tmp_path / "kept", "keep")
    assert built.fingerprint.sampling["reasoning"] == "keep"
    taught = [one.targets for one in records(tmp_path / "kept").values()]
    assert any("The answer is 999." in text for text in taught)
    assert not any("think>" in text for text in taught)
    sources = Sources(world.problems, [thoughtful], teacher="t", reasoning="keep")
    stages.verify(sources, tmp_path / "v.jsonl", processes=1)
    assert cards.read_card(tmp_path / "v.jsonl").sampling["reasoning"] == "keep"
    stages.align(
        Sources(world.problems, [tmp_path / "v.jsonl"]),
        AlignmentSpec(world.vocabulary),
        tmp_path / "a.jsonl",
        processes=1,
    )
    staged = stages.write(
        Sources(world.problems, [tmp_path / "a.jsonl"]),
        AlignmentSpec(world.vocabulary),
        FolderSpec(tmp_path / "staged", num_shards=1),
        records=RecordsSpec(("zero_shot_cot",)),
        processes=1,
    )
    assert staged.fingerprint == built.fingerprint
    assert staged.funnel["reasoned"] == built.funnel["reasoned"]
    left, right = records(tmp_path / "staged"), records(tmp_path / "kept")
    assert {n: one.targets for n, one in left.items()} == {
        n: one.targets for n, one in right.items()
    }


def test_refused_reasoning_is_counted(world, thoughtful, tmp_path):
    manifest = build(world, thoughtful, tmp_path / "refused", "refuse")
    assert manifest.funnel["rejected"]["reasoning"] > 0
    assert manifest.fingerprint.sampling["reasoning"] == "refuse"


def test_what_align_refuses_is_counted_by_its_reason(world, thoughtful, tmp_path):
    sources = Sources(world.problems, [thoughtful], reasoning="refuse")
    student = AlignmentSpec(world.vocabulary)
    funnel = stages.align(sources, student, tmp_path / "a.jsonl", processes=1)
    assert funnel.rejected["reasoning"] > 0
    assert "unaligned" not in funnel.rejected
    assert funnel.read - funnel.verified == sum(funnel.rejected.values())


def test_what_was_dropped_cannot_be_kept(world, thoughtful, tmp_path):
    card = cards.Card("t", sampling={"reasoning": "drop"})
    cards.write_card(thoughtful, card)
    with pytest.raises(InputError, match="reasoning is 'keep', but .* left no reason"):
        build(world, thoughtful, tmp_path / "x", "keep")
    with pytest.raises(InputError, match="reasoning is 'dorp', expected one of drop"):
        Sources(world.problems, reasoning="dorp")
