"""The benchmarks as SeqIO tasks: nothing read at import, judged as everywhere else."""

import copy
import json
import os
import subprocess
import sys

import pytest

from specialize.errors import InputError

IMPORT = """
import sys
class Watch:
    opened = []
sys.addaudithook(
    lambda event, args: Watch.opened.append(str(args[0]))
    if event == "open" and str(args[0]).endswith((".jsonl", ".json", ".xml", ".model"))
    else None
)
import seqio
before = len(Watch.opened)
import specialize_tasks.benchmarks, specialize_tasks.locations
names = [n for n in seqio.TaskRegistry.names() if n.startswith("specialize_eval_")]
print(len(names), Watch.opened[before:])
"""


def test_importing_the_tasks_reads_no_data():
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SPECIALIZE_")
    }
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # (4 math suites + 27 BBH tasks) x 4 prompts.
    assert done.stdout.strip() == "124 []"


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio")


@pytest.fixture
def located(tmp_path, monkeypatch):
    """A benchmarks folder of two suites and a vocabulary trained on them."""
    import sentencepiece

    folder = tmp_path / "benchmarks"
    (folder / "gsm8k").mkdir(parents=True)
    lines = [
        json.dumps(
            {"question": f"What is {n} + 1?", "answer": f"{n} + 1\n#### {n + 1}"}
        )
        for n in range(10)
    ]
    for split in ("train", "test"):
        (folder / f"gsm8k/{split}.jsonl").write_text("\n".join(lines))
    (folder / "bbh/bbh").mkdir(parents=True)
    from specialize.corpus.tasks.known import shipped

    # Some of the tasks would not pass for BBH.
    for task, kind in shipped("bbh").subtasks.items():
        target = "Yes" if kind == "yes_no" else "(B)"
        (folder / f"bbh/bbh/{task}.json").write_text(
            json.dumps({"examples": [{"input": "Go.", "target": target}]})
        )
    model = tmp_path / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines + ["The answer is (B).", "Q: Go. A:"]),
        model_prefix=str(model),
        vocab_size=64,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    monkeypatch.setenv("SPECIALIZE_BENCHMARKS_DIR", str(folder))
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", f"{model}.model")
    return folder


def evaluate(seqio, name, predict, split="all"):
    from specialize_tasks import locations

    evaluator = seqio.Evaluator(
        name,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split=split,
    )

    def predict_fn(dataset, *unused, **ignored):
        del unused, ignored
        texts = [
            (int(index), predict(int(index)))
            for index, _ in dataset.as_numpy_iterator()
        ]
        ids = [(index, locations.VOCABULARY.encode(text)) for index, text in texts]
        # A model answers in rows of one length: EOS, then padding.
        longest = max(len(row) for _, row in ids) + 1
        return [
            (index, [*row, 1, *[0] * (longest - len(row) - 1)]) for index, row in ids
        ]

    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict_fn)
    return metrics.result()


def test_t5xs_evaluator_judges_as_we_do(seqio, located):
    from specialize_tasks import benchmarks

    name = benchmarks.task_name("gsm8k", "zero_shot_cot")
    found = evaluate(
        seqio, name, lambda n: f"The answer is {n + 1}" if n < 7 else f"{n + 2} is"
    )[name]
    assert found["accuracy"] == pytest.approx(0.7)
    assert found["accuracy_low"] < 0.7 < found["accuracy_high"]
    assert (found["n"], found["how_marked"], found["how_last"]) == (10, 0.7, 0.3)


def test_a_bbh_task_is_judged_by_its_type(seqio, located):
    for task, accuracy in (("snarks", 1.0), ("navigate", 0.0)):
        name = f"specialize_eval_bbh_{task}_zero_shot_answer_only"
        found = evaluate(seqio, name, lambda n: "(B)")
        assert found[name]["accuracy"] == accuracy


def test_mixtures_hold_their_suites_once(seqio):
    from specialize.corpus.tasks.known import shipped
    from specialize_tasks import benchmarks

    for group, suites in (
        ("mas", ("multiarith", "asdiv", "svamp")),
        ("bbh", [f"bbh/{task}" for task in shipped("bbh").subtasks]),
    ):
        mixture = seqio.get_mixture_or_task(f"specialize_eval_{group}_few_shot_cot")
        names = sorted(task.name for task in mixture.tasks)
        assert names == sorted(
            benchmarks.task_name(suite, "few_shot_cot") for suite in suites
        )


def test_a_task_asks_what_its_suite_asks(seqio, located):
    from specialize.evaluation.suites import loading
    from specialize_tasks import benchmarks, locations

    name = benchmarks.task_name("gsm8k", "few_shot_answer_only")
    task = seqio.get_mixture_or_task(name)
    asked = loading.load_suite(
        "gsm8k", located, prompt="few_shot_answer_only", split="test"
    )
    found = list(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
    assert [one["id"].decode() for one in found] == [e.id for e in asked.examples]
    for one, example in zip(found, asked.examples, strict=True):
        ids = locations.VOCABULARY.encode(example.inputs)
        assert one["inputs"].tolist() == [*ids, 1]


def test_the_reference_rule_can_be_bound(seqio, located):
    import gin

    from specialize_tasks import metrics

    target = {
        **{"golds": ("3",), "answer_type": "number", "answer_only": False},
        **{"judge": "exact", "mark": ""},
    }
    assert metrics.accuracy([target], ["The answer is -3"])["accuracy"] == 0
    gin.bind_parameter("specialize_tasks.metrics.judging.rule", "reference")
    assert metrics.accuracy([target], ["The answer is -3"])["accuracy"] == 1


def test_a_located_vocabulary_is_the_files_own(seqio, located):
    from specialize_tasks.locations import LocatedVocabulary

    path = os.environ["SPECIALIZE_VOCABULARY"]
    ours, theirs = LocatedVocabulary(), seqio.SentencePieceVocabulary(path, 100)
    assert ours == theirs and theirs == ours
    assert not (ours != theirs or theirs != ours)
    assert ours != seqio.SentencePieceVocabulary(path, 50)
    assert ours != seqio.ByteVocabulary()
    assert ours.encode("What is 3?") == theirs.encode("What is 3?")
    assert ours.vocab_size == theirs.vocab_size
    assert ours.tf_tokenizer.tokenize("What").numpy().tolist() == theirs.encode("What")
    relative = seqio.SentencePieceVocabulary(os.path.relpath(path), 100)
    assert ours == relative


def test_a_location_is_asked_for_on_use_and_refused_by_name(seqio, monkeypatch):
    import gin

    from specialize_tasks import locations

    for name in ("CORPUS_DIR", "BENCHMARKS_DIR", "VOCABULARY"):
        monkeypatch.delenv(f"SPECIALIZE_{name}", raising=False)
    vocabulary = copy.deepcopy(locations.VOCABULARY)
    assert str(vocabulary) == "LocatedVocabulary()"
    for ask, gin_name, variable in (
        (lambda: vocabulary.encode("a"), "vocabulary_path", "SPECIALIZE_VOCABULARY"),
        (locations.corpus_folder, "corpus_dir", "SPECIALIZE_CORPUS_DIR"),
        (locations.benchmarks_folder, "benchmarks_dir", "SPECIALIZE_BENCHMARKS_DIR"),
    ):
        with pytest.raises(InputError, match=f"locations.{gin_name}.path.*{variable}"):
            ask()
        monkeypatch.setenv(variable, "/nowhere/at/all")
        with pytest.raises(InputError, match=f"/nowhere/at/all.*{variable}"):
            ask()
        gin.bind_parameter(f"specialize_tasks.locations.{gin_name}.path", "/elsewhere")
        with pytest.raises(
            InputError,
            match=rf"/elsewhere does not exist \({gin_name.upper()}\). Check the path",
        ):
            ask()
        gin.clear_config()


def test_a_vocabulary_follows_its_location(seqio, located, monkeypatch, tmp_path):
    import shutil

    from specialize_tasks.locations import LocatedVocabulary

    vocabulary = LocatedVocabulary()
    before = vocabulary.encode("What is 3?")
    copied = shutil.copy(os.environ["SPECIALIZE_VOCABULARY"], tmp_path / "other.model")
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", str(copied))
    assert vocabulary.encode("What is 3?") == before
    assert vocabulary.sentencepiece_model_file == str(copied)
