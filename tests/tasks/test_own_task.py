"""A task of one's own goes from files to a trained and evaluated student."""

import itertools
import json
import shutil

import pytest
from own_task_cases import (
    THINGS,
    lengths,
    read_lines,
    recipe,
    write_lines,
    yes_no_rows,
    yes_no_task,
)

from specialize import cli
from specialize.corpus.tasks.known import find
from specialize.errors import InputError

FILES = '[files]\ntrain = "train.jsonl"\ntest = "test.jsonl"'
TASK = yes_no_task(files=FILES, fields='rationale = "why"')
RUN = recipe(
    lengths(96, 64),
    """
MIXTURE_OR_TASK_NAME = {'corpus:zero_shot': 9, 'more.jsonl': 1}
MESH = {'data': 1, 'fsdp': 1, 'model': 1}
LOG_PERIOD = 1
BATCH_SIZE = 8
TASKS = ('cold.toml',)
SUITES = ('cold',)
MAX_EXAMPLES = 4
OUTPUT_LENGTH = 8
EVAL_BATCH_SIZE = 4
""",
)


def rows(count, first):
    return [row for row, _ in yes_no_rows(count, first)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the task, its data and a corpus."""
    from specialize.quickstart import miniature

    folder = tmp_path_factory.mktemp("own")
    (folder / "cold.toml").write_text(TASK)
    (folder / "run.gin").write_text(RUN)
    write_lines(folder / "train.jsonl", rows(60, 0))
    write_lines(folder / "test.jsonl", rows(20, 1000))
    texts = []
    completions = []
    for row, right in yes_no_rows(60, 0):
        # The second answer is right in one of three questions.
        second = f"{row['why']} My verdict: yes." if row["n"] % 3 else right
        for sample, text in enumerate((right, second)):
            texts.append(f"Question: {row['q']} Reason first. {text}")
            completions.append(
                {"problem_id": f"cold-{row['n']}", "sample": sample, "text": text}
            )
    write_lines(folder / "completions.jsonl", completions)
    pairs = [{"inputs": f"Say {w}.", "targets": w} for w in THINGS]
    write_lines(folder / "more.jsonl", pairs)
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
    lines = read_lines(place / "run/metrics.jsonl")
    assert lines[-1]["step"] == 2
    for part in ("corpus", "more"):
        assert lines[0]["train"][f"{part}/kl"] > 0
    assert lines[0]["train"]["more/soft_share"] == 0
    assert 0 <= lines[-1]["eval"]["cold/accuracy"] <= 1
    words = ["--gin_file", "run.gin", "--gin.CHECKPOINT_PATH=run"]
    assert cli.main(["evaluate", *words, "--gin.OUTPUT_DIR=run/ev"]) == 0
    results = json.loads((place / "run/ev/results.json").read_text())
    assert results["suites"]["cold:zero_shot_cot"]["n"] == 4


def test_predictions_of_another_model_are_judged_in_the_tasks_way(place):
    write_lines(
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


@pytest.fixture
def copies(place, monkeypatch):
    """Copies and links of the corpus and the text, and tasks that read them."""
    from specialize_tasks import text

    shutil.copytree("corpus", "again/math", dirs_exist_ok=True)
    shutil.copyfile("more.jsonl", "again/other.txt")
    for link, target in (("linked", "../corpus"), ("other.jsonl", "../more.jsonl")):
        if not (place / "again" / link).is_symlink():
            (place / "again" / link).symlink_to(target)
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", "again/math")
    monkeypatch.setattr(text, "text_files", lambda: {"train": "again/other.txt"})
    corpora = ["corpus", "again/math", "again/linked", "specialize_corpus_four_formats"]
    texts = ["more.jsonl", "again/other.txt", "again/other.jsonl"]
    return corpora, [*texts, "specialize_text_to_text"]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_copy_is_refused_whatever_its_name(copies, kind):
    import seqio

    from specialize_tasks import mixing

    for one, two in itertools.permutations(copies[kind], 2):
        with pytest.raises(InputError) as caught:
            mixing.mixture({one: 1.0, two: 1.0})
        message = str(caught.value)
        assert f"{two} is in the mixture twice, or a copy of it is: {one} has" in (
            message
        )
    # Other formats of a copy are other data, and the names are those of the folders.
    name = mixing.mixture({"corpus:zero_shot_cot": 1, "again/math:in_context": 1})
    names = [task.name for task in seqio.get_mixture_or_task(name).tasks]
    assert {one.partition("_")[0] for one in names} == {"corpus", "math"}


def test_tasks_that_make_other_data_of_one_file_are_no_copies(copies):
    import seqio

    from specialize_tasks import locations, mixing, text

    def turned(dataset):
        sides = {"inputs": "targets", "targets": "inputs"}
        return dataset.map(lambda e: {new: e[old] for new, old in sides.items()})

    feature = seqio.Feature(locations.VOCABULARY)
    if "turned" not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(
            "turned",
            source=text.JsonLinesSource("more.jsonl"),
            preprocessors=[turned, seqio.preprocessors.tokenize],
            output_features={"inputs": feature, "targets": feature},
        )
    assert mixing.mixture({"more.jsonl": 1, "turned": 1})


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


@pytest.fixture(scope="module")
def plain_task(place):
    """A SeqIO task of text to text, as a user registers it."""
    import seqio
    import tensorflow as tf

    from specialize_tasks import locations

    def dataset(split, shuffle_files, seed=None):
        pairs = {"inputs": [f"Name {w}." for w in THINGS], "targets": list(THINGS)}
        return tf.data.Dataset.from_tensor_slices(pairs)

    def add(name, vocabulary, split="train"):
        feature = seqio.Feature(vocabulary, add_eos=True)
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(dataset, splits=[split]),
            preprocessors=[
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
            ],
            output_features={"inputs": feature, "targets": feature},
        )
        return name

    add("flan_like_other", seqio.ByteVocabulary())
    held_out = add("flan_like_held_out", locations.VOCABULARY, "test")
    seqio.MixtureRegistry.add(
        "flan_like_mixture",
        [(add("flan_like_a", locations.VOCABULARY), 3.0), (held_out, 5.0)],
    )
    for name, rate in {
        "of_zero": 0.0,
        "without_rate": lambda task: task.num_input_examples("train") * 1.0,
        "below_zero": lambda task: -1.0,
    }.items():
        seqio.MixtureRegistry.add(f"flan_like_{name}", [("flan_like_a", rate)])
    return "flan_like_a"


def test_a_registered_task_gets_rows_and_a_part_beside_a_corpus(
    plain_task, monkeypatch
):
    import seqio

    from specialize.student.loss.spec import PART
    from specialize_tasks import mixing

    name = mixing.mixture({"corpus:zero_shot": 8.0, "flan_like_mixture": 2.0})
    found = seqio.get_mixture_or_task(name)
    rates = {task.name: found.get_rate(task) for task in found.tasks}
    assert sum(rates.values()) == pytest.approx(10.0)
    [plain] = [one for one in rates if one.startswith("flan_like_a")]
    assert rates[plain] == 2.0
    for task in rates:
        part = 2 if task == plain else 1
        for example in examples(task):
            assert set(example["format_id"] // PART) == {part}
            assert len(example["targets"]) == len(example["teacher_tail"])
            if task == plain:
                assert (example["teacher_ids"][:, 0] == example["targets"]).all()
                assert (example["teacher_probs"][:, 0] == 1).all()
                assert example["targets"][-1] == 1
    # A task that has rows keeps them.
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", "corpus")
    again = mixing.mixture({"specialize_corpus_zero_shot_cot": 1.0, "more.jsonl": 1})
    assert "specialize_corpus_zero_shot_cot_part1" in str(
        [task.name for task in seqio.get_mixture_or_task(again).tasks]
    )


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"flan_like_b": 1.0}, "Did you mean 'flan_like_a'"),
        ({"corpus": 1.0, "flan_like_other": 1.0}, "not the student's|no 'inputs' in"),
        ({"flan_like_a": 1.0, "flan_like_mixture": 1.0}, "twice"),
        ({"corpus": 1.0, "flan_like_held_out": 1.0}, "no task with a split 'train'"),
        ({"corpus": 1.0, "flan_like_of_zero": 1.0}, "and a positive rate"),
        ({"corpus": 1.0, "flan_like_without_rate": 1.0}, "gives no rate of the task"),
        ({"corpus": 1.0, "flan_like_below_zero": 1.0}, "-1.0; it must be"),
    ],
)
def test_a_registered_task_that_cannot_be_mixed_is_one_message(
    plain_task, shares, said
):
    from specialize_tasks import mixing

    with pytest.raises(InputError, match=said):
        mixing.mixture(shares)


def examples(name, **lengths):
    import seqio

    import specialize_tasks  # noqa: F401

    task = seqio.get_mixture_or_task(name)
    sizes = {feature: 400 for feature in task.output_features} | lengths
    return list(task.get_dataset(sizes, "train", shuffle=False).as_numpy_iterator())


@pytest.fixture
def registered(place, monkeypatch):
    from specialize_tasks import own

    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", "corpus")
    assert own.register("cold.toml") == ["cold"]


def test_names_of_seqio_begin_with_the_tasks(registered):
    import seqio

    from specialize.corpus.choices import FORMATS
    from specialize.evaluation.spec import PROMPTS

    for name in FORMATS:
        assert {example["format_id"][0] for example in examples(f"cold_{name}")} == {
            FORMATS.index(name) + 1
        }
    for name in ("four_formats", "zero_shot", "in_context"):
        assert name in str(seqio.get_mixture_or_task(f"cold_{name}").name)
    for prompt in PROMPTS:
        task = seqio.get_mixture_or_task(f"cold_eval_{prompt}")
        found = list(task.get_dataset(None, "all", shuffle=False).as_numpy_iterator())
        assert len(found) == 20
        assert found[0]["targets_pretokenized"].startswith(b"My verdict: ")
        targets = [
            task.postprocess_fn(None, example=example, is_target=True)
            for example in found
        ]
        said = [f"So. my verdict: {target['golds'][0].upper()}." for target in targets]
        [metric] = task.metric_fns
        assert metric(targets, said)["accuracy"] == 1
        assert metric(targets, said)["how_marked"] == 1


def test_a_name_is_registered_again_after_its_task_changed(registered, place, tmp_path):
    import seqio

    from specialize_tasks import own

    text = (place / "cold.toml").read_text().replace("Reason first.", "Think.")
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text((place / name).read_text())
    (tmp_path / "cold.toml").write_text(text)
    own.register(tmp_path / "cold.toml")
    task = seqio.get_mixture_or_task("cold_eval_zero_shot_cot")
    first = next(task.get_dataset(None, "all", shuffle=False).as_numpy_iterator())
    assert first["inputs_pretokenized"].endswith(b"\nThink.")
    (tmp_path / "cold.toml").write_text(text.replace('"cold"', '"specialize_corpus"'))
    for _ in range(2):
        with pytest.raises(InputError, match="'specialize_corpus' is that of other"):
            own.register(tmp_path / "cold.toml")


def test_a_corpus_of_another_task_is_refused(registered, place, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for file in (place / "corpus").iterdir():
        (corpus / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((corpus / "corpus.json").read_text())
    manifest["fingerprint"]["task"] = "trips-0123456789abcdef"
    (corpus / "corpus.json").write_text(json.dumps(manifest))
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", str(corpus))
    with pytest.raises(InputError, match="of the task 'trips', but cold_zero_shot_cot"):
        examples("cold_zero_shot_cot")
    assert examples("specialize_corpus_zero_shot_cot")


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ("colt", "Did you mean 'cold'"),
        ("cold/x", "unknown suite"),
        ("bbh/navigat", "'bbh/navigate'"),
        ("cold:zero_shot", "unknown prompt"),
    ],
)
def test_t5x_is_told_of_a_suite_that_does_not_exist(place, suite, said):
    from specialize.config import neutral

    found = neutral.evaluation_task(("cold",), "zero_shot_cot", ("cold.toml",))
    assert found == "cold_eval_zero_shot_cot"
    found = neutral.evaluation_task(("mas",), "zero_shot_cot", ("cold.toml",))
    assert found == "specialize_eval_mas_zero_shot_cot"
    with pytest.raises(InputError, match=said):
        neutral.evaluation_task((suite,), "zero_shot_cot", ("cold.toml",))


BOUNDARIES = {
    "paper's": {},
    "own": {"in_context_cot": "Riddle {question} is hard."},
    "none before the question": {"in_context_cot": "{question}\\nSo?"},
    "another separator": {"separator": "\\n--\\n", "in_context_cot": "Ask: {question}"},
}


@pytest.mark.parametrize("kind", BOUNDARIES)
def test_demonstrations_are_dropped_whole_in_any_wording(
    place, tmp_path, monkeypatch, kind
):
    """A question that has the text between two of them is left out, never cut."""
    import specialize
    from specialize.corpus.vocabulary import Vocabulary

    wording = "".join(f'{k} = "{v}"\n' for k, v in BOUNDARIES[kind].items())
    head = TASK.partition("[formats]")[0]
    task = tmp_path / "cold.toml"
    task.write_text(f"{head}[formats]\n{wording}")
    after, before = find(task).wording.boundary("in_context_cot")
    values = rows(30, 0)
    values[3]["q"] += f"{after}{before}is it so?"
    write_lines(tmp_path / "train.jsonl", values)
    lines = [
        {
            "problem_id": f"cold-{row['n']}",
            "sample": 0,
            "text": f"{row['why']} The answer is {'yes' if row['label'] else 'no'}.",
        }
        for row in values
    ]
    write_lines(tmp_path / "completions.jsonl", lines)
    words = ["--task", task, "--problems", tmp_path / "train.jsonl", "--teacher", "t"]
    words += ["--completions", tmp_path / "completions.jsonl", "--no_rationales"]
    words += ["--vocabulary", "v.model", "--demonstrations", 3, "--processes", 1]
    words += ["--formats", "in_context_cot", "--out", tmp_path / "corpus"]
    assert cli.main(["corpus", "build", *map(str, words)]) == 0
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", str(tmp_path / "corpus"))
    records = {one.id: one for one in specialize.Corpus(tmp_path / "corpus")}
    vocabulary = Vocabulary("v.model")
    limit = min(len(one.input_ids) for one in records.values()) - 10
    found = examples("specialize_corpus_in_context_cot", inputs=limit)
    kept = [
        record
        for record in records.values()
        if record.inputs.removeprefix(before).count(after + before) == 3
    ]
    # The odd question is neither cut nor a demonstration that is cut in two.
    assert {example["record_id"].decode() for example in found} == {r.id for r in kept}
    assert 10 <= len(kept) < 30
    for example in found:
        record = records[example["record_id"].decode()]
        count = int(example["cuts"][0])
        parts = record.inputs.removeprefix(before).split(after + before)
        rest = before + (after + before).join(parts[count:])
        assert 1 <= count <= 3 and rest.startswith(f"{before}Here are")
        assert example["inputs"].tolist() == [*vocabulary.encode(rest), 1]
