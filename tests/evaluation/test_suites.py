"""Suites ask what the owners' files hold, in four ways, and nothing else."""

import json
import shutil

import pytest

from specialize.corpus.tasks.known import index, shipped
from specialize.errors import InputError
from specialize.evaluation.spec import PROMPTS, SPLITS
from specialize.evaluation.suites import loading, official_prompts, splits


def test_a_math_suite_is_asked_in_four_ways(benchmarks):
    asked = {
        prompt: loading.load_suite("gsm8k", benchmarks, prompt=prompt, split="all")
        .examples[3]
        .inputs
        for prompt in PROMPTS
    }
    question = "Q: test: what is 3 + 1?"
    step = "\nLet's think step by step"
    assert asked["zero_shot_cot"] == question + step
    assert asked["zero_shot_answer_only"] == question + " A:"
    assert asked["few_shot_cot"].endswith(question + step)
    assert asked["few_shot_cot"].count(step) == 5
    assert asked["few_shot_cot"].count("\nThe answer is ") == 4
    assert asked["few_shot_answer_only"].endswith(question + "\nA:")
    assert asked["few_shot_answer_only"].count("\nA: The answer is ") == 4
    assert "<<" not in asked["few_shot_cot"]


def test_bbh_is_asked_with_the_owners_prompt_without_its_canary(benchmarks):
    suite = loading.load_suite(
        "bbh/turning", benchmarks, prompt="few_shot_cot", split="all"
    )
    asked = suite.examples[2].inputs
    assert asked.startswith("Tell where one ends up.\n\nQ: Go left.")
    assert asked.endswith("Yes.\n\nQ: Go 2.\nA: Let's think step by step.")
    assert "canary" not in asked


def test_an_answer_only_prompt_keeps_no_rationale(benchmarks):
    suite = loading.load_suite(
        "bbh/turning", benchmarks, prompt="few_shot_answer_only", split="all"
    )
    assert suite.examples[2].inputs == (
        "Tell where one ends up.\n\nQ: Go left. Options:\n- Yes\n- No\nA: No\n\n"
        "Q: Go left, go right.\nA: Yes\n\nQ: Go 2.\nA:"
    )


def test_an_unknown_bbh_task_declares_its_type_or_shows_it(benchmarks):
    turning, naming = (
        loading.load_suite(f"bbh/{task}", benchmarks, split="all")
        for task in ("turning", "naming")
    )
    assert turning.examples[0].answer_type == "yes_no"
    assert naming.examples[0].answer_type == "words"
    file = benchmarks / "bbh/bbh/naming.json"
    file.write_text(file.read_text().replace('"words"', '"wrods"'))
    with pytest.raises(InputError, match="naming.json.*'wrods'.*words"):
        loading.load_suite("bbh/naming", benchmarks, split="all")


def test_groups_stand_for_their_suites(benchmarks):
    names = [
        suite.name for suite in loading.load_suites("mas", benchmarks, split="all")
    ]
    assert names == ["multiarith", "asdiv", "svamp"]
    names = [
        suite.name for suite in loading.load_suites("bbh", benchmarks, split="all")
    ]
    assert names == ["bbh/naming", "bbh/turning"]
    with pytest.raises(InputError, match="'bbh' is 2 suites"):
        loading.load_suite("bbh", benchmarks, split="all")


def test_a_single_file_is_a_suite(benchmarks, tmp_path):
    file = shutil.copy(benchmarks / "gsm8k/test.jsonl", tmp_path / "mine.jsonl")
    suite = loading.load_suite("gsm8k", file, split="all")
    assert (len(suite.examples), suite.examples[0].id) == (20, "gsm8k-mine-0")
    file = shutil.copy(benchmarks / "bbh/bbh/turning.json", tmp_path / "turning.json")
    assert loading.load_suite("bbh", file, split="all").name == "bbh/turning"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gsmk8", {}, ["unknown suite 'gsmk8'", "Did you mean 'gsm8k'"]),
        ("navigate", {}, ["Did you mean 'bbh/navigate'"]),
        ("bbh/turnings", {}, ["Did you mean 'bbh/turning'"]),
        ("zzz", {}, ["Known: gsm8k, multiarith, asdiv, svamp, bbh, mas"]),
        ("gsm8k", {"prompt": "zero_shot"}, ["unknown prompt", "zero_shot_cot"]),
        ("gsm8k", {"split": "dev"}, ["'dev'", "all, validation, test"]),
        ("gsm8k", {"max_examples": 0}, ["max_examples is 0"]),
        (
            "gsm8k",
            {"prompt": "few_shot_cot", "demonstrations": 13},
            ["test.jsonl:1", "13 demonstrations", "12 other"],
        ),
        ("bbh/naming", {"prompt": "few_shot_cot"}, ["cot-prompts/naming.txt"]),
    ],
)
def test_what_cannot_be_asked_is_refused(benchmarks, name, options, words):
    with pytest.raises(InputError) as refusal:
        loading.load_suite(name, benchmarks, **options)
    for word in words:
        assert word in str(refusal.value)


def test_every_sub_task_of_ones_own_has_its_files(tmp_path):
    task = tmp_path / "sums.toml"
    text = (
        'name = "sums"\n[files]\ntrain = "train/{subtask}.jsonl"\n'
        'test = "{subtask}.jsonl"\n[fields]\nquestion = "q"\nanswer = "a"\n'
        "rationale = 'q'\n[subtasks]\none = 'number'\ntwo = 'yes_no'\n"
    )
    task.write_text(text)
    for part, answer in (("one", 1), ("two", "no")):
        (tmp_path / "train").mkdir(exist_ok=True)
        for name in (f"train/{part}.jsonl", f"{part}.jsonl"):
            rows = [{"q": f"{name} {n}?", "a": answer} for n in range(5)]
            (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    found = loading.load_suites("sums", None, prompt="few_shot_cot", tasks=[task])
    assert [suite.name for suite in found] == ["sums/one", "sums/two"]
    for suite in found:
        [inputs, *_] = [example.inputs for example in suite.examples]
        part = suite.name.partition("/")[2]
        assert inputs.count(f"Q: train/{part}.jsonl ") == 4
    task.write_text(text.replace("test =", "validation ="))
    with pytest.raises(InputError, match="sums has no test file"):
        loading.load_suites("sums", None, tasks=[task])


def test_a_missing_folder_or_file_is_refused(benchmarks, tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        loading.load_suite("gsm8k", tmp_path / "nowhere", split="all")
    (benchmarks / "svamp/SVAMP.json").unlink()
    with pytest.raises(InputError, match="SVAMP.json does not exist"):
        loading.load_suite("svamp", benchmarks, split="all")
    shutil.rmtree(benchmarks / "bbh/bbh")
    with pytest.raises(InputError, match="has no task file"):
        loading.load_suites("bbh", benchmarks, split="all")


def test_some_of_bbhs_tasks_do_not_pass_for_bbh(benchmarks):
    source = benchmarks / "bbh/bbh/turning.json"
    for task in tuple(shipped("bbh").subtasks)[:26]:
        shutil.copy(source, benchmarks / f"bbh/bbh/{task}.json")
    with pytest.raises(InputError, match="lacks 1 of.*word_sorting"):
        loading.load_suites("bbh", benchmarks, split="all")


def test_a_faulty_official_prompt_is_refused(benchmarks):
    file = benchmarks / "bbh/cot-prompts/turning.txt"
    for text, words in (
        ("No example.", "no example that begins"),
        ("Do.\n\nQ: a\nA: So it is No.", "example 0 has no 'A:'"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=words):
            loading.load_suite(
                "bbh/turning", benchmarks, prompt="few_shot_cot", split="all"
            )


def test_validation_and_test_are_disjoint_whole_and_seeded(benchmarks):
    for name in (*index().groups["math"], "bbh/turning"):
        every, validation, test = (
            {example.id for example in found.examples}
            for split in SPLITS
            for found in [loading.load_suite(name, benchmarks, split=split)]
        )
        assert validation and test
        assert not validation & test
        assert validation | test == every


def test_a_sample_is_part_of_every_larger_sample(benchmarks):
    few, more = (
        loading.load_suite("gsm8k", benchmarks, max_examples=n, split="all")
        for n in (3, 7)
    )
    assert {e.id for e in few.examples} < {e.id for e in more.examples}
    order = [int(example.id.rpartition("-")[2]) for example in more.examples]
    assert order == sorted(order)
    assert set(few.left_out) == {f"gsm8k-test-{n}" for n in range(20)} - {
        example.id for example in few.examples
    }


def test_the_papers_splits_are_written_down(shared_data):
    found = {
        name: [
            loading.load_suite(name, shared_data, split=split).selection()
            for split in ("validation", "test")
        ]
        for name in index().groups["math"]
    }
    written = {
        name: [(one["n"], one["digest"]) for one in pair]
        for name, pair in found.items()
    }
    # Sizes are the paper's; digests pin the ids, so that a figure stays comparable.
    assert written == WRITTEN


WRITTEN = {
    "gsm8k": [(500, "def678cdc39b24db"), (819, "72cd6e32c3354a99")],
    "multiarith": [(200, "e22cdae4f3ae5f03"), (400, "04b59acaa29f9df5")],
    "asdiv": [(500, "47edc3b72ab6a976"), (1805, "f68fd466e85401ef")],
    "svamp": [(500, "39dc0cc90e7c231e"), (500, "258b7d6e95b0704c")],
}


def test_the_27_official_prompts_leave_no_rationale_behind(shared_data):
    loaded = loading.load_suites(
        "bbh", shared_data, prompt="few_shot_answer_only", max_examples=1, split="all"
    )
    assert len(loaded) == 27
    for suite in loaded:
        task = suite.name.partition("/")[2]
        prompt = official_prompts.read_prompt(
            shared_data / f"bbh/cot-prompts/{task}.txt"
        )
        asked = suite.examples[0].inputs
        assert len(prompt.demonstrations) == 3
        for shot in prompt.demonstrations:
            assert f"Q: {shot.question}\nA: {shot.answer}\n\n" in asked
            sentences = [one for one in shot.rationale.split(". ") if len(one) > 25]
            assert sentences or task == "sports_understanding"
            assert not any(one in asked for one in sentences), task
        lowered = asked.lower()
        assert "step by step" not in lowered and "the answer is" not in lowered, task
        answers = [line for line in asked.split("\n") if line.startswith("A:")]
        assert answers[-1] == "A:" and len(answers) == 4
        assert max(map(len, answers)) < 100


def test_every_bbh_target_is_an_answer_of_its_type(shared_data):
    from specialize.judging.answers import judge

    for suite in loading.load_suites("bbh", shared_data, split="all"):
        for example in suite.examples:
            for text in (example.golds[0], f"So the answer is {example.golds[0]}."):
                verdict = judge(text, example.golds, example.answer_type)
                assert verdict.correct, (suite.name, text, verdict)


def test_every_gold_of_the_math_suites_answers_itself(shared_data):
    from specialize.judging.answers import judge

    for name in index().groups["math"]:
        for example in loading.load_suite(name, shared_data, split="all").examples:
            for gold in example.golds:
                for text in (gold, f"The answer is {gold}.", f"#### {gold}"):
                    verdict = judge(text, example.golds)
                    assert verdict.correct, (text, verdict)


def test_a_selection_is_plain_json(benchmarks):
    suite = loading.load_suite("svamp", benchmarks, split="test")
    assert json.loads(json.dumps(suite.selection())) == {
        "split": "test",
        "seed": 0,
        "n": 2,
        "of": 4,
        "digest": splits.digest(example.id for example in suite.examples),
    }
    assert (suite.key, suite.family) == ("svamp:zero_shot_cot", "svamp")
