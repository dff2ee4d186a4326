"""A task of one's own goes from files to a trained and evaluated student."""

import json
import random
import shutil

import pytest

from specialize import cli
from specialize.errors import InputError

TASK = """
name = "cold"
[files]
train = "train.jsonl"
test = "test.jsonl"
[fields]
id = "n"
question = "q"
answer = { from = "label", values = { 1 = "yes", 0 = "no" } }
rationale = "why"
[answer]
type = "yes_no"
[formats]
zero_shot_cot = "Question: {question}\\nReason first."
closing = "My verdict: {answer}."
"""
THINGS = {"ice": "cold", "snow": "cold", "hail": "cold", "fire": "hot", "tea": "hot"}
RUN = """
from __gin__ import dynamic_registration
from specialize.student import network
include 't5x_configs/models/miniature.gin'
include 't5x_configs/data/gsm8k_four_formats.gin'
MIXTURE_OR_TASK_NAME = {'corpus:zero_shot': 9, 'more.jsonl': 1}
network.T5Config.emb_dim = 16
network.T5Config.mlp_dim = 16
network.T5Config.num_encoder_layers = 1
network.T5Config.num_decoder_layers = 1
TASK_FEATURE_LENGTHS = {
    'inputs': 96, 'targets': 64, 'teacher_ids': 64, 'teacher_probs': 64,
    'teacher_tail': 64, 'format_id': 64,
}
TRAIN_STEPS = 2
MESH = {'data': 1, 'fsdp': 1, 'model': 1}
LOG_PERIOD = 1
BATCH_SIZE = 8
WARMUP_STEPS = 1
TASKS = ('cold.toml',)
SUITES = ('cold',)
MAX_EXAMPLES = 4
OUTPUT_LENGTH = 8
EVAL_BATCH_SIZE = 4
"""


def rows(count, first):
    draw = random.Random(first)
    for n in range(first, first + count):
        thing, word = draw.choice(list(THINGS)), draw.choice(["cold", "hot"])
        yield {
            "n": n,
            "q": f"Here are {n} pieces of {thing}. Is {thing} {word}?",
            "label": int(THINGS[thing] == word),
            "why": f"{thing} is {THINGS[thing]}.",
        }


def write(file, values):
    file.write_text("".join(json.dumps(value) + "\n" for value in values))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the task, its data and a corpus."""
    from specialize.quickstart import miniature

    folder = tmp_path_factory.mktemp("own")
    (folder / "cold.toml").write_text(TASK)
    (folder / "run.gin").write_text(RUN)
    write(folder / "train.jsonl", rows(60, 0))
    write(folder / "test.jsonl", rows(20, 1000))
    texts = []
    completions = []
    for row in rows(60, 0):
        right = "yes" if row["label"] else "no"
        # The second answer is right in one of three questions.
        for sample, answer in enumerate((right, "yes" if row["n"] % 3 else right)):
            text = f"{row['why']} My verdict: {answer}."
            texts.append(f"Question: {row['q']} Reason first. {text}")
            completions.append(
                {"problem_id": f"cold-{row['n']}", "sample": sample, "text": text}
            )
    write(folder / "completions.jsonl", completions)
    pairs = [{"inputs": f"Say {w}.", "targets": w} for w in THINGS]
    write(folder / "more.jsonl", pairs)
    (folder / "text.txt").write_text("\n".join(texts))
    miniature.train_vocabulary(folder / "text.txt", folder / "v.model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--task", "cold.toml", "--problems", "train.jsonl", "--teacher", "t"]
        words += ["--completions", "completions.jsonl", "--no_rationales"]
        words += ["--vocabulary", "v.model", "--demonstrations", "1"]
        words += ["--processes", "1", "--out", "corpus"]
        assert cli.main(["corpus", "build", *words]) == 0
    return folder


@pytest.fixture(autouse=True)
def in_the_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", "v.model")
    monkeypatch.delenv("SPECIALIZE_BENCHMARKS_DIR", raising=False)


def test_only_right_answers_are_kept_in_the_wording_of_the_task(place):
    import specialize

    records = list(specialize.Corpus("corpus"))
    manifest = json.loads((place / "corpus" / "corpus.json").read_text())
    right = sum(1 + (row["n"] % 3 == 0 or row["label"] == 1) for row in rows(60, 0))
    assert manifest["funnel"]["read"] == 120
    assert manifest["formats"]["zero_shot_cot"]["records"] == right
    for record in records:
        assert record.targets.endswith((" My verdict: yes.", " My verdict: no.")) or (
            record.targets in ("My verdict: yes.", "My verdict: no.")
        )
        if record.format == "zero_shot_cot":
            assert record.inputs.startswith("Question: Here are ")
            assert record.inputs.endswith("\nReason first.")


def test_a_mixture_with_text_is_trained_on_and_the_task_is_evaluated(place):
    words = ["--gin_file", "run.gin", "--gin.MODEL_DIR=run"]
    assert cli.main(["train", *words]) == 0
    lines = [
        json.loads(line)
        for line in (place / "run/metrics.jsonl").read_text().split("\n")
        if line
    ]
    assert lines[-1]["step"] == 2
    assert 0 <= lines[-1]["eval"]["cold/accuracy"] <= 1
    words = ["--gin_file", "run.gin", "--gin.CHECKPOINT_PATH=run"]
    assert cli.main(["evaluate", *words, "--gin.OUTPUT_DIR=run/ev"]) == 0
    results = json.loads((place / "run/ev/results.json").read_text())
    assert results["suites"]["cold:zero_shot_cot"]["n"] == 4


def test_predictions_of_another_model_are_judged_in_the_tasks_way(place):
    write(
        place / "predictions.jsonl",
        [
            {
                "id": f"cold-{row['n']}",
                "suite": "cold",
                "prediction": f"Well. my verdict: {'Yes' if row['label'] else 'No'}",
            }
            for row in rows(20, 1000)
        ],
    )
    words = ["evaluate", "--predictions", "predictions.jsonl", "--json", "judged.json"]
    words += ["--tasks", "cold.toml", "--split", "all"]
    assert cli.main(words) == 0
    suite = json.loads((place / "judged.json").read_text())["suites"]
    assert suite["cold:zero_shot_cot"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({}, "the mixture is empty"),
        ({"nowhere": 1.0}, "'nowhere' of the mixture does not exist"),
        ({"corpus:zero_shots": 1.0}, "Did you mean 'zero_shot'"),
        ({"corpus": 1.0, "corpus:zero_shot": 1.0}, "twice"),
        ({"corpus": 0.0}, "above 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_message(shares, said):
    from specialize_tasks import mixing

    with pytest.raises(InputError, match=said):
        mixing.mixture(shares)


def test_corpora_with_other_spellings_cannot_be_mixed(place):
    from specialize_tasks import mixing

    shutil.copytree(place / "corpus", place / "kept")
    path = place / "kept" / "corpus.json"
    value = json.loads(path.read_text())
    assert value["fingerprint"]["spelling"] == {"unwritable": "rewrite", "table": 1}
    del value["fingerprint"]["spelling"]  # as --unwritable keep
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="cannot be mixed: spelling is"):
        mixing.mixture({"corpus": 1.0, "kept": 1.0})


def test_shares_are_kept_whatever_the_number_of_records(place):
    import seqio

    from specialize_tasks import mixing

    name = mixing.mixture({"corpus": 9.0, "more.jsonl": 1.0})
    assert name == mixing.mixture({"corpus": 9, "more.jsonl": 1})
    found = seqio.get_mixture_or_task(name)
    rates = {task.name: found.get_rate(task) for task in found.tasks}
    text = [rate for task, rate in rates.items() if task.startswith("more_")]
    assert text == [1.0] and sum(rates.values()) == pytest.approx(10.0)
