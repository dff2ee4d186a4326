import collections
import json
import math
import re

import numpy as np
import pytest

from specialize import outputs
from specialize.errors import InputError
from specialize.quickstart import exact_teacher, miniature, word_problems


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return miniature.write(
        tmp_path_factory.mktemp("world") / "mini",
        seed=3,
        num_train=40,
        num_test=20,
        num_samples=5,
        num_pretraining=200,
    )


def lines(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def test_the_answer_of_a_problem_follows_from_its_text(world):
    for item in lines(world / "gsm8k" / "test.jsonl"):
        numbers = [
            int(w.strip(".")) for w in item["question"].split() if w[0].isdigit()
        ]
        gains = ["more" in sentence for sentence in item["question"].split(". ")[1:-1]]
        total = numbers[0] + sum(
            n if gain else -n for n, gain in zip(numbers[1:], gains, strict=True)
        )
        assert item["answer"].endswith(f"#### {total}")


def test_test_questions_and_other_entities_are_not_in_training(world):
    train = {item["question"] for item in lines(world / "gsm8k" / "train.jsonl")}
    test = {item["question"] for item in lines(world / "gsm8k" / "test.jsonl")}
    assert len(train) == 40 and len(test) == 20 and not train & test
    text = " ".join(train)
    for item in json.loads((world / "multiarith" / "MultiArith.json").read_text()):
        assert item["sQuestion"].split()[0] not in text
        assert item["sQuestion"].rstrip("?").split(" does ")[0].split()[-1] not in text


def test_the_teachers_tokens_concatenate_to_its_text_and_probabilities_are_proper(
    world,
):
    for item in lines(world / "completions.jsonl"):
        assert "".join(item["tokens"]) == item["text"]
        for token, logprob, top in zip(
            item["tokens"], item["token_logprobs"], item["top_logprobs"], strict=True
        ):
            assert sum(math.exp(value) for value in top.values()) <= 1 + 1e-9
            assert top.get(token, logprob) == logprob


def test_reported_probabilities_are_the_frequencies_of_sampling():
    problem = word_problems.problems(1, seed=0, prefix="p")[0]
    teacher = exact_teacher.ExactTeacher()
    samples = [teacher.sample(problem, i, seed=0) for i in range(4000)]
    first = collections.Counter(s.tokens[0].token for s in samples)
    for token, logprob in samples[0].tokens[0].top:
        p = math.exp(logprob)
        tolerance = 4 * np.sqrt(p * (1 - p) / 4000)
        assert abs(first[token] / 4000 - p) <= tolerance
    texts = collections.Counter(s.text for s in samples)
    text, count = texts.most_common(1)[0]
    sample = next(s for s in samples if s.text == text)
    p = math.exp(sum(token.logprob for token in sample.tokens))
    assert abs(count / 4000 - p) <= 4 * np.sqrt(p * (1 - p) / 4000)


def test_the_teacher_errs_sometimes_but_not_often(world):
    gold = {
        f"gsm8k-train-{i}": item["answer"].split("#### ")[1]
        for i, item in enumerate(lines(world / "gsm8k" / "train.jsonl"))
    }
    items = lines(world / "completions.jsonl")
    right = [
        item["text"].endswith(f"The answer is {gold[item['problem_id']]}")
        for item in items
    ]
    assert 0.7 < np.mean(right) < 0.99


def test_the_same_seed_writes_the_same_bytes(world, tmp_path):
    again = miniature.write(
        tmp_path / "again",
        seed=3,
        num_train=40,
        num_test=20,
        num_samples=5,
        num_pretraining=200,
    )
    for path in sorted(world.rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(world)).read_bytes()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not written by specialize"):
        miniature.write(tmp_path, num_train=1, num_test=1)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_vocabulary_has_t5s_special_ids_and_writes_every_answer(world, tmp_path):
    import sentencepiece

    path = miniature.train_vocabulary(
        world / "text.txt", tmp_path / "v.model", size=300
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id()) == (0, 1, 2)
    for item in lines(world / "completions.jsonl"):
        text = item["text"].replace("\n", " ")
        assert pieces.decode(pieces.encode(text)) == text
    assert "▁10." not in [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "file.json"
    outputs.write_json(target, {"whole": True})
    with pytest.raises(RuntimeError), outputs.staged_file(target) as staged:
        staged.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"whole": True}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_failed_folder_leaves_nothing_behind(tmp_path):
    with (
        pytest.raises(RuntimeError),
        outputs.staged_directory(tmp_path / "out", "corpus") as staged,
    ):
        (staged / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_kind_is_refused(tmp_path):
    outputs.claim(tmp_path / "run", "run")
    assert outputs.claim(tmp_path / "run", "run") == tmp_path / "run"
    with pytest.raises(InputError, match="holds a run of specialize"):
        outputs.claim(tmp_path / "run", "corpus")


def test_the_teacher_scores_its_own_texts_as_it_drew_them():
    teacher = exact_teacher.ExactTeacher()
    for number, problem in enumerate(word_problems.problems(40, seed=3, prefix="p")):
        drawn = teacher.sample(problem, number, seed=0)
        assert teacher.score(problem, drawn.text) == drawn.tokens


def test_the_teacher_goes_on_from_the_number_that_was_stated():
    (problem,) = word_problems.problems(1, seed=3, prefix="p")
    drawn = exact_teacher.ExactTeacher().sample(problem, 0, seed=0)
    first, second, *rest = drawn.text.splitlines(keepends=True)
    wrong = re.sub(r"\d+\.\n$", "97.\n", second)
    tokens = exact_teacher.ExactTeacher().score(problem, first + wrong + "".join(rest))
    begin = len(exact_teacher.tokenize(first + wrong))
    # 97 is none of its slips: the rest of the line is unknown, the next one is not.
    departed = [one.is_unknown or one.logprob == -math.inf for one in tokens[:begin]]
    assert departed.count(True) in (3, 4)  # "97." and a line break, perhaps without 9
    assert departed[-1] and tokens[begin].logprob > -math.inf
    stated = [dict(one.top) for one in tokens[begin : begin + 4] if len(one.top) == 1]
    assert any(b" 9" in top for top in stated)
