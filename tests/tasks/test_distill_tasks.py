"""The corpus as SeqIO tasks, and plain text files: features, lengths, rates."""

import json
import os

import gin
import numpy as np
import pytest

from specialize import outputs
from specialize.corpus.choices import FORMATS
from specialize.errors import InputError

TEACHER = ("teacher_ids", "teacher_probs", "teacher_tail", "format_id")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of the miniature world: (folder, vocabulary, manifest)."""
    from specialize.corpus.building import pipeline
    from specialize.corpus.spec import AlignmentSpec, FolderSpec, RecordsSpec, Sources
    from specialize.quickstart import miniature

    folder = tmp_path_factory.mktemp("miniature")
    world = miniature.write(
        folder / "world", num_train=24, num_test=2, num_samples=2, num_pretraining=40
    )
    vocabulary = miniature.train_vocabulary(world / "text.txt", folder / "m.model")
    manifest = pipeline.build(
        Sources(
            world / "gsm8k" / "train.jsonl", completions=(world / "completions.jsonl",)
        ),
        AlignmentSpec(vocabulary),
        FolderSpec(folder / "corpus", num_shards=2),
        records=RecordsSpec(demonstrations=3),
        processes=1,
    )
    return folder, vocabulary, manifest


@pytest.fixture
def tasks(corpus, monkeypatch):
    """The registered tasks, pointed at the corpus."""
    pytest.importorskip("seqio")
    import specialize_tasks as tasks

    folder, vocabulary, _ = corpus
    monkeypatch.setenv("SPECIALIZE_CORPUS_DIR", str(folder / "corpus"))
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", str(vocabulary))
    monkeypatch.setenv("SPECIALIZE_TEXT_PATH", str(folder / "world/pretraining.jsonl"))
    return tasks


def lengths(inputs=400, targets=128):
    return {"inputs": inputs, "targets": targets, **dict.fromkeys(TEACHER, targets)}


def examples(name, sizes, split="train"):
    import seqio

    dataset = seqio.get_mixture_or_task(name).get_dataset(
        sizes, split, shuffle=False, seed=0
    )
    return list(dataset.as_numpy_iterator())


def records(corpus, format):
    from specialize.corpus.storage import shards

    folder, _, _ = corpus
    found = shards.read_shards(folder / "corpus", formats=[format])
    return {record.id: record for record in found}


@pytest.mark.parametrize("format", FORMATS)
def test_every_record_arrives_with_its_teacher_rows_in_place(tasks, corpus, format):
    from specialize.corpus.storage.shards import normalise_rows

    wanted = records(corpus, format)
    found = examples(f"specialize_gsm8k_{format}", lengths(2000, 400))
    assert len(found) == len(wanted) == corpus[2].counts()[format]
    for example in found:
        record = wanted[example["record_id"].decode()]
        np.testing.assert_array_equal(example["inputs"], [*record.input_ids, 1])
        np.testing.assert_array_equal(example["targets"], record.target.ids)
        assert example["targets"][-1] == 1
        np.testing.assert_array_equal(example["teacher_ids"], record.target.teacher_ids)
        probs, tail = normalise_rows(record.target.teacher_logprobs, record.target.tail)
        np.testing.assert_allclose(example["teacher_probs"], probs, rtol=1e-6)
        np.testing.assert_allclose(example["teacher_tail"], tail, rtol=1e-6)
        total = example["teacher_probs"].sum(1) + example["teacher_tail"]
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        assert set(example["format_id"]) == {FORMATS.index(format) + 1}
        assert not example["cuts"].any()


def test_an_input_too_long_loses_whole_demonstrations_from_the_front(tasks, corpus):
    import seqio

    from specialize.corpus.vocabulary import Vocabulary

    wanted = records(corpus, "in_context_cot")
    vocabulary = Vocabulary(corpus[1])
    limit = int(np.median([len(record.input_ids) for record in wanted.values()])) - 20
    found = examples("specialize_gsm8k_in_context_cot", lengths(limit, 400))
    assert len(found) == len(wanted)
    dropped = [int(example["cuts"][0]) for example in found]
    assert 0 < sum(count > 0 for count in dropped) <= len(found)
    for example in found:
        record = wanted[example["record_id"].decode()]
        parts = record.inputs.split("\n\nQ: ")
        count = int(example["cuts"][0])
        rest = "Q: " + "\n\nQ: ".join(parts[count:]) if count else record.inputs
        np.testing.assert_array_equal(example["inputs"], [*vocabulary.encode(rest), 1])
        assert len(example["inputs"]) <= limit
        if count:
            one_more = "Q: " + "\n\nQ: ".join(parts[count - 1 :])
            assert len(vocabulary.encode(one_more)) + 1 > limit
    assert seqio.get_mixture_or_task("specialize_gsm8k_in_context_cot") is not None


def test_an_example_whose_question_does_not_fit_is_left_out_and_counted(
    tasks, corpus, tmp_path
):
    import seqio

    from specialize.training.data.examples import load_tasks

    sizes = [len(r.input_ids) + 1 for r in records(corpus, "zero_shot_cot").values()]
    limit = int(np.median(sizes))
    task = seqio.get_mixture_or_task("specialize_gsm8k_zero_shot_cot")
    (stored,) = load_tasks([task], "train", lengths(limit, 400), tmp_path)
    kept = sum(size <= limit for size in sizes)
    assert 0 < kept < len(sizes)
    assert len(stored) == kept
    assert stored.counts["read"] == len(sizes)
    assert stored.counts["left_out"] == len(sizes) - kept


def test_a_target_too_long_keeps_eos_under_its_own_row(tasks, corpus):
    wanted = records(corpus, "zero_shot_cot")
    limit = 12
    found = examples("specialize_gsm8k_zero_shot_cot", lengths(400, limit))
    assert all(len(example["targets"]) <= limit for example in found)
    cut = [example for example in found if example["cuts"][2]]
    assert cut
    for example in cut:
        target = wanted[example["record_id"].decode()].target
        assert example["cuts"][2] == len(target.ids) - limit
        np.testing.assert_array_equal(example["targets"][:-1], target.ids[: limit - 1])
        assert example["targets"][-1] == 1
        np.testing.assert_array_equal(
            example["teacher_ids"][-1], target.teacher_ids[-1]
        )
        np.testing.assert_allclose(example["teacher_probs"][-1, 0], 1, rtol=1e-6)


def test_prepared_examples_are_those_of_the_task_and_are_made_once(
    tasks, corpus, tmp_path
):
    import seqio

    from specialize.training.data.examples import load_tasks

    task = seqio.get_mixture_or_task("specialize_gsm8k_in_context_cot")
    (stored,) = load_tasks([task], "train", lengths(), tmp_path)
    for index, example in enumerate(examples(task.name, lengths())):
        assert stored.record_id(index) == example["record_id"].decode()
        for name in ("inputs", "targets", *TEACHER):
            part = "inputs" if name == "inputs" else "targets"
            start = stored.starts[part][index]
            values = stored.features[name][start : start + len(example[name])]
            np.testing.assert_array_equal(values, example[name])
    (folder,) = tmp_path.iterdir()
    written = (folder / "examples.json").stat().st_mtime_ns
    (again,) = load_tasks([task], "train", lengths(), tmp_path)
    assert again.digest == stored.digest
    assert (folder / "examples.json").stat().st_mtime_ns == written
    # Other lengths, or records held out, are other examples.
    load_tasks([task], "train", lengths(300), tmp_path)
    gin.parse_config("specialize_tasks.distill.held_out.fraction = 0.5")
    load_tasks([task], "train", lengths(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_parts_are_joined_to_the_bytes_that_one_process_makes(
    tasks, corpus, tmp_path, fraction
):
    import seqio

    from specialize.training.data import examples, sharing

    gin.parse_config(f"specialize_tasks.distill.held_out.fraction = {fraction}")
    task = seqio.get_mixture_or_task("specialize_gsm8k_in_context_cot")
    found = records(corpus, "zero_shot_cot").values()
    limit = int(np.median([len(record.input_ids) for record in found]))
    sizes = lengths(limit, 100)  # some are left out, and some are cut
    examples.load_tasks([task], "train", sizes, tmp_path / "one")
    (one,) = (tmp_path / "one").iterdir()
    wanted = {file.name: file.read_bytes() for file in one.iterdir()}
    counts = json.loads(wanted["examples.json"])["counts"]
    assert counts["kept"] and counts["cut"] and (fraction or counts["left_out"])
    (empty := tmp_path / "empty").mkdir()
    examples._prepare(task, "train", sizes, empty, (0, 10**6))
    for count in (2, 3):
        parts = [tmp_path / f"{n} of {count}" for n in range(count)]
        for n, part in enumerate(parts):
            part.mkdir()
            examples._prepare(task, "train", sizes, part, (n, count))
        parts = [empty, *parts]
        (whole := tmp_path / f"{count} joined").mkdir()
        sharing.join(parts, whole)
        found = {file.name: file.read_bytes() for file in whole.iterdir()}
        assert found == {n: d for n, d in wanted.items() if n != outputs.MARKER}
    damaged = parts[1] / "targets.bin"
    damaged.write_bytes(damaged.read_bytes() + b"1")
    with pytest.raises(InputError, match="the checksum of targets.bin is"):
        sharing.join(parts, tmp_path / "none")


def test_only_our_own_preprocessors_are_known_to_take_records_one_by_one(
    tasks, monkeypatch
):
    import jax
    import seqio

    from specialize.training.data import sharing

    monkeypatch.setattr(jax, "process_count", lambda: 3)
    task = seqio.get_mixture_or_task("specialize_gsm8k_in_context_cot")
    assert sharing.number_of_parts(task) == 1  # there are few records
    monkeypatch.setattr(sharing, "FEWEST_RECORDS", task.source.records() // 2)
    assert sharing.number_of_parts(task) == 2
    steps = [*task.preprocessors, lambda dataset: dataset.batch(2)]
    changed = seqio.Task(
        "changed", task.source, task.output_features, preprocessors=steps
    )
    assert sharing.number_of_parts(changed) == 1


def test_held_out_problems_are_held_out_in_every_format(tasks, corpus):
    gin.parse_config("specialize_tasks.distill.held_out.fraction = 0.4")
    problems = {}
    for format in ("zero_shot_cot", "in_context_answer_only"):
        for split in ("train", "validation"):
            found = examples(f"specialize_gsm8k_{format}", lengths(), split)
            problems[format, split] = {
                example["record_id"].decode().split("/")[0] for example in found
            }
    train, held_out = (problems["zero_shot_cot", s] for s in ("train", "validation"))
    assert train and held_out and not train & held_out
    assert problems["in_context_answer_only", "train"] <= train | held_out
    assert not problems["in_context_answer_only", "train"] & held_out


def test_without_held_out_records_there_is_no_validation_split(tasks):
    with pytest.raises(InputError, match="held_out.fraction"):
        examples("specialize_gsm8k_zero_shot_cot", lengths(), "validation")


def test_rates_are_the_numbers_of_records_unless_gin_says_otherwise(tasks, corpus):
    import seqio

    mixture = seqio.get_mixture_or_task("specialize_gsm8k_four_formats")
    counts = corpus[2].counts()
    found = {task.source.format: mixture.get_rate(task) for task in mixture.tasks}
    assert found == {name: float(counts[name]) for name in FORMATS}
    gin.parse_config("specialize_tasks.distill.rate.zero_shot_cot = 3.5")
    found = {task.source.format: mixture.get_rate(task) for task in mixture.tasks}
    assert found["zero_shot_cot"] == 3.5
    assert found["in_context_cot"] == counts["in_context_cot"]


def test_the_ablations_hold_two_formats_each(tasks):
    import seqio

    for name in ("in_context", "zero_shot"):
        mixture = seqio.get_mixture_or_task(f"specialize_gsm8k_{name}")
        assert {task.name for task in mixture.tasks} == {
            f"specialize_gsm8k_{name}_cot",
            f"specialize_gsm8k_{name}_answer_only",
        }


def test_a_corpus_of_another_vocabulary_is_refused_by_field(
    tasks, corpus, tmp_path, monkeypatch
):
    from specialize.quickstart import miniature

    text = tmp_path / "other.txt"
    text.write_text("Some other words stand here.\nThey make other pieces 1 2 3.\n")
    other = miniature.train_vocabulary(text, tmp_path / "other.model", size=40)
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", str(other))
    with pytest.raises(InputError, match="vocabulary_sha256"):
        examples("specialize_gsm8k_zero_shot_cot", lengths())


def test_an_unknown_name_says_which_tasks_package_was_imported(tasks, tmp_path):
    from specialize.training.data.mixtures import load_mixture

    with pytest.raises(InputError) as caught:
        load_mixture("specialize_gsm8k_four_format", "train", lengths(), tmp_path)
    message = str(caught.value)
    assert os.fspath(tasks.__file__) in message
    assert "'specialize_gsm8k_four_formats'" in message


def test_plain_text_is_a_task_without_a_teacher(tasks, corpus, tmp_path):
    from specialize.corpus.vocabulary import Vocabulary
    from specialize.training.data.mixtures import load_mixture

    sizes = {"inputs": 30, "targets": 10}
    found = examples("specialize_text_to_text", sizes)
    vocabulary = Vocabulary(corpus[1])
    with open(corpus[0] / "world" / "pretraining.jsonl", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    assert len(found) == len(pairs)
    for example, pair in zip(found, pairs, strict=True):
        for name, limit in sizes.items():
            whole = vocabulary.encode(pair[name])
            np.testing.assert_array_equal(example[name], [*whole[: limit - 1], 1])
    mixture = load_mixture("specialize_text_to_text", "train", sizes, tmp_path)
    assert set(mixture.tasks[0].features) == {"inputs", "targets"}
    assert mixture.tasks[0].counts["read"] == len(pairs)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", ":2: not JSON"),
        ('{"inputs": "a"}', "the key 'targets' is missing"),
        ('{"inputs": "a", "targets": ""}', "is empty"),
        ('{"inputs": "a", "targets": 3}', "targets: expected a text"),
        ("\xff", "not JSON"),
        ("[" * 100_000, "expected an object"),
    ],
)
def test_a_bad_line_of_text_is_named(tasks, tmp_path, monkeypatch, line, said):
    path = tmp_path / "text.jsonl"
    path.write_text('{"inputs": "a", "targets": "b"}\n' + line + "\n")
    monkeypatch.setenv("SPECIALIZE_TEXT_PATH", str(path))
    with pytest.raises(InputError, match=said) as caught:
        examples("specialize_text_to_text", {"inputs": 8, "targets": 8})
    assert f"{path}:2" in str(caught.value)
