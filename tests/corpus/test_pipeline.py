"""build: local files -> a corpus."""

import collections
import dataclasses
import gzip
import json
import pathlib
import re

import numpy as np
import pytest

from specialize import cli
from specialize.corpus.choices import FORMATS
from specialize.corpus.prompts import render
from specialize.corpus.storage import shards
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.tasks.known import read_problems
from specialize.corpus.vocabulary import Vocabulary
from specialize.errors import InputError
from specialize.evaluation.report import origins, runs
from specialize.evaluation.report.runs import Run

import flat  # isort: skip


def build(world, out, **options):
    arguments = {
        "completions": (world.completions,),
        "teacher": "grammar",
        "demonstrations": 2,
        "num_shards": 2,
        "processes": 1,
    } | options
    return flat.build(world.problems, world.vocabulary, out, **arguments)


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def corpus(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    return out, build(world, out)


def test_right_samples_are_in_the_cot_formats_and_questions_once_in_the_others(
    world, corpus
):
    out, manifest = corpus
    problems = {p.id: p for p in read_problems(world.problems, "gsm8k")}
    right = collections.Counter(f"{identity}/human" for identity in problems)
    for line in world.completions.read_text().splitlines():
        record = json.loads(line)
        gold = problems[record["problem_id"]].answers[0]
        if record["text"].endswith(f"The answer is {gold}"):
            right[f"{record['problem_id']}/{record['sample']}"] += 1
    ids = collections.defaultdict(set)
    for record in shards.read_shards(out):
        stem, _, name = record.id.rpartition("/")
        assert name == record.format
        assert stem not in ids[name]
        ids[name].add(stem)
    assert ids["zero_shot_cot"] == ids["in_context_cot"] == set(right)
    firsts = {f"{identity}/human" for identity in problems}
    assert ids["zero_shot_answer_only"] == ids["in_context_answer_only"] == firsts
    assert len(right) < 4 * len(problems), "the teacher never erred: nothing was tested"
    assert manifest.funnel["rejected"] == {
        "wrong_answer": manifest.funnel["read"] + len(problems) - len(right)
    }
    assert manifest.counts() == {name: len(ids[name]) for name in FORMATS}


def test_a_record_holds_the_text_and_ids_of_its_format(world, corpus):
    out, _ = corpus
    vocabulary = Vocabulary(world.vocabulary)
    problems = {p.id: p for p in read_problems(world.problems, "gsm8k")}
    for record in shards.read_shards(out):
        problem = problems[record.id.rpartition("/")[0].rpartition("/")[0]]
        assert record.input_ids.tolist() == vocabulary.encode(record.inputs)
        ids = record.target.ids.tolist()
        assert ids == [*vocabulary.encode(record.targets), vocabulary.eos_id]
        assert record.targets.endswith(f"The answer is {problem.answers[0]}")
        if record.format.startswith("zero_shot"):
            expected, _ = render(record.format, problem)
            assert record.inputs == expected
        else:
            assert record.inputs.count("Q: ") == 3
            assert record.inputs.count(problem.question) == 1


def test_the_rows_of_a_human_rationale_are_one_hot_and_a_teachers_are_soft(corpus):
    out, _ = corpus
    for record in shards.read_shards(out):
        target = record.target
        probs = np.exp(target.teacher_logprobs)
        np.testing.assert_allclose(probs.sum(1) + target.tail, 1, atol=2e-3)
        human = "/human/" in record.id or record.format.endswith("answer_only")
        if human:
            assert (target.teacher_ids[:, 0] == target.ids).all()
            assert (probs[:, 0] == 1).all()
        else:
            assert (target.origin == 0).mean() > 0.5
            assert (probs[:, 1] > 0).any()


def test_no_two_in_context_records_of_a_question_share_their_demonstrations(corpus):
    out, _ = corpus
    drawn = collections.defaultdict(list)
    for record in shards.read_shards(out, formats=["in_context_cot"]):
        drawn[record.id.split("/")[0]].append(record.inputs)
    assert all(len(set(inputs)) == len(inputs) for inputs in drawn.values())


def test_the_number_of_processes_changes_no_byte(world, corpus, tmp_path, monkeypatch):
    out, _ = corpus
    monkeypatch.setattr("specialize.corpus.building.passes._CHUNK_BYTES", 20_000)
    build(world, tmp_path / "one", processes=1)
    build(world, tmp_path / "two", processes=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_the_order_of_the_input_changes_no_shard(world, corpus, tmp_path):
    out, _ = corpus
    lines = world.completions.read_text().splitlines()
    shuffled = tmp_path / "shuffled.jsonl.gz"
    shuffled.write_bytes(gzip.compress("\n".join(reversed(lines)).encode()))
    build(world, tmp_path / "corpus", completions=(shuffled,))

    shards_of = {name for name in files_of(out) if name.endswith(".gz")}
    again = files_of(tmp_path / "corpus")
    assert shards_of
    assert all(again[name] == files_of(out)[name] for name in shards_of)


def test_the_samples_of_a_question_are_spread_over_each_shard(corpus):
    out, _ = corpus
    questions = [
        record.id.split("/")[0]
        for record in shards.read_shards(out, formats=["zero_shot_cot"])
    ]
    pairs = zip(questions, questions[1:], strict=False)
    neighbours = sum(left == right for left, right in pairs)
    # In the order of the input two of three neighbours answer the same question.
    assert neighbours < len(questions) / 5


def test_the_manifest_knows_teacher_sources_and_settings(world, corpus):
    out, manifest = corpus
    assert Manifest.load(out) == manifest
    assert manifest.fingerprint.teacher == "human+grammar"
    assert manifest.fingerprint.demonstrations == {"count": 2, "seed": 0}
    names = [source["file"] for source in manifest.card["sources"]]
    assert names == ["train.jsonl", "completions.jsonl"]


def test_without_rationales_the_first_right_sample_writes_the_answer(world, tmp_path):
    build(world, tmp_path / "corpus", rationales=False, formats=FORMATS[3:])
    records = list(shards.read_shards(tmp_path / "corpus"))
    assert {record.format for record in records} == {"zero_shot_answer_only"}
    samples = collections.Counter(record.id.split("/")[1] for record in records)
    assert samples["0"] > 12
    assert set(samples) <= {"0", "1", "2"}
    assert len({record.id.split("/")[0] for record in records}) == len(records)


def test_near_duplicates_and_a_budget_leave_fewer_samples(world, tmp_path):
    manifest = build(world, tmp_path / "corpus", near_duplicates=0.9, max_samples=2)
    funnel = manifest.funnel
    assert funnel["rejected"]["near_duplicate"] > 0
    per_question = collections.Counter(
        record.id.split("/")[0]
        for record in shards.read_shards(tmp_path / "corpus", formats=["zero_shot_cot"])
    )
    assert max(per_question.values()) == 2
    for part in (funnel, funnel["human"]):
        assert part["read"] == part["kept"] + sum(part["rejected"].values())


STAGES = ("read", "verified", "aligned", "kept", "questions", "solved")


def test_human_rationales_are_counted_apart_from_the_teachers_samples(world, tmp_path):
    options: dict = {"max_input_tokens": 60, "near_duplicates": 0.9, "max_samples": 3}
    both = build(world, tmp_path / "both", **options)
    count = len(read_problems(world.problems, "gsm8k"))
    human = both.funnel["human"]
    assert [human[name] for name in STAGES[:3]] == [count] * 3
    assert human["questions"] == human["solved"] == count
    assert human["kept"] + human["rejected"].get("input_too_long", 0) == count
    lines = world.completions.read_text().splitlines()
    assert both.funnel["read"] == len(lines) == 3 * count
    stems = {r.id.rpartition("/")[0] for r in shards.read_shards(tmp_path / "both")}
    kept = {True: 0, False: 0}
    for stem in stems:
        kept[stem.endswith("/human")] += 1
    assert (human["kept"], both.funnel["kept"]) == (kept[True], kept[False])
    alone = build(world, tmp_path / "alone", rationales=False, **options)
    assert "human" not in alone.funnel
    for name in ("read", "verified", "questions", "solved"):
        assert both.funnel[name] == alone.funnel[name]
    only = build(world, tmp_path / "only", completions=(), max_input_tokens=60)
    assert only.funnel["read"] == only.funnel["kept"] == 0
    assert only.funnel["human"]["read"] == count


def test_every_way_to_see_a_funnel_shows_both_sources(world, corpus, capsys):
    out, manifest = corpus
    read, human = manifest.funnel["read"], manifest.funnel["human"]["read"]
    assert f"| human: read | {human} |" in (out / "README.md").read_text()
    assert f"| read | {read} |" in (out / "README.md").read_text()
    assert cli.main(["corpus", "stats", "--corpus", str(out)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"teacher .*of read .*human", text)
    assert re.search(rf"read .* {read} .*100\.0 % .* {human} ", text)
    assert cli.main(["corpus", "stats", "--corpus", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["funnel"] == manifest.funnel
    section = origins.funnel([Run(out, "r", [], [], {"r": runs._corpus(out)}, {}, ())])
    captions = [caption for caption, _ in section.figures]
    assert {"Samples at each stage", "Human rationales at each stage"} <= {*captions}


def test_records_that_are_too_long_are_counted_per_format(world, tmp_path):
    full = build(world, tmp_path / "full")
    limit = full.formats["in_context_cot"].inputs.median
    manifest = build(world, tmp_path / "short", max_input_tokens=limit)
    dropped = sum(
        part["dropped"]["in_context_cot"]["input_too_long"]
        for part in (manifest.funnel, manifest.funnel["human"])
    )
    assert (
        dropped == full.counts()["in_context_cot"] - manifest.counts()["in_context_cot"]
    )
    assert dropped > 0
    assert manifest.counts()["zero_shot_cot"] == full.counts()["zero_shot_cot"]
    assert manifest.formats["in_context_cot"].inputs.max <= limit


def test_a_rerun_is_refused_unless_it_may_replace(world, tmp_path):
    build(world, tmp_path / "corpus", rationales=False)
    before = files_of(tmp_path / "corpus")
    with pytest.raises(InputError, match="already holds a corpus"):
        build(world, tmp_path / "corpus")
    assert files_of(tmp_path / "corpus") == before
    build(world, tmp_path / "corpus", replace=True)
    assert files_of(tmp_path / "corpus") != before


def spoil(world, tmp_path, change, line=5):
    lines = world.completions.read_text().splitlines()
    record = json.loads(lines[line - 1])
    replaced = change(record)
    lines[line - 1] = json.dumps(record) if replaced is None else replaced
    path = tmp_path / "spoilt.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def set_key(name, value):
    return lambda record: record.__setitem__(name, value)


def set_logprob(value):
    return lambda record: record["token_logprobs"].__setitem__(2, value)


def raise_mass(record):
    record["top_logprobs"][3] = {"a": -0.1, "b": -0.1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: '{"problem_id": "gsm8k', r"spoilt\.jsonl:5: not JSON"),
        (lambda record: "[1, 2]", r"spoilt\.jsonl:5: expected an object"),
        (set_logprob(float("nan")), r"spoilt\.jsonl:5, token 2: the log-prob.* nan"),
        (set_logprob(0.3), r"spoilt\.jsonl:5, token 2: the log-prob.* 0\.3"),
        (raise_mass, r"spoilt\.jsonl:5, token 3: .* sum to"),
        (set_key("problem_id", "gsm8k-train-999"), "answers 'gsm8k-train-999'"),
        (set_key("sample", -1), "sample: expected a whole number >= 0"),
        (set_key("sample", 0), "sample 0 of 'gsm8k-train-1' was already given"),
        (set_key("text", None), "text: expected a text, found null"),
        (set_key("tokens", ["a"]), r"are \[1, \d+, \d+\], expected equal"),
    ],
)
def test_a_fault_in_a_file_stops_the_run_and_leaves_nothing(
    world, tmp_path, change, message
):
    path = spoil(world, tmp_path, change, line=6 if "already" in message else 5)
    with pytest.raises(InputError, match=message):
        build(world, tmp_path / "out", completions=(path,))
    assert [p.name for p in tmp_path.iterdir()] == ["spoilt.jsonl"]


def test_a_fault_that_another_process_finds_stops_the_run_too(world, tmp_path):
    path = spoil(world, tmp_path, set_logprob(float("nan")))
    with pytest.raises(InputError, match=r"spoilt\.jsonl:5, token 2"):
        build(world, tmp_path / "out", completions=(path,), processes=2)
    assert [p.name for p in tmp_path.iterdir()] == ["spoilt.jsonl"]


def test_samples_whose_tokens_do_not_spell_their_text_are_counted(world, tmp_path):
    path = spoil(world, tmp_path, set_key("text", "Another text. The answer is 5"))
    manifest = build(world, tmp_path / "out", completions=(path,))
    assert manifest.funnel["rejected"]["tokens_do_not_spell_the_text"] == 1


def test_a_run_that_would_keep_nothing_is_an_error(world, tmp_path):
    path = tmp_path / "wrong.jsonl"
    path.write_text(
        json.dumps(
            {"problem_id": "gsm8k-train-0", "sample": 0, "text": "I do not know"}
        )
    )
    with pytest.raises(InputError, match="none of 1 samples is kept.*no_answer"):
        build(world, tmp_path / "out", completions=(path,), rationales=False)
    with pytest.raises(InputError, match=r"samples is kept \(.*target_too_long: \d+\)"):
        build(world, tmp_path / "out", max_target_tokens=1)
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.jsonl"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k = 0"),
        ({"formats": ["zero_shot"]}, "zero_shot"),
        ({"method": "nearest"}, "alignment is 'nearest'"),
        ({"demonstrations": 0}, "demonstrations = 0"),
        ({"demonstrations": 24}, "24 demonstrations were asked for"),
        ({"num_shards": 0}, "num_shards = 0"),
        ({"rows": 2**31}, "it must be at most 2147483647"),
        ({"near_duplicates": 1.5}, "near_duplicates = 1.5"),
        ({"max_samples": 0}, "max_samples = 0"),
        ({"task": "gsm"}, "'gsm' is no task.*Did you mean 'gsm8k'"),
        ({"completions": ("absent.jsonl",)}, "absent.jsonl does not exist"),
    ],
)
def test_settings_that_cannot_be_are_refused(world, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        build(world, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_another_file_in_place_of_the_vocabulary_is_refused(world, tmp_path):
    with pytest.raises(InputError, match="text.txt"):
        build(
            dataclasses.replace(world, vocabulary=world.folder / "text.txt"),
            tmp_path / "out",
        )


def test_the_real_codex_samples_all_become_records(shared_data, tmp_path):
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text().splitlines()[:10]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    manifest = flat.build(
        tmp_path / "train.jsonl",
        shared_data / "t5" / "spiece.model",
        tmp_path / "corpus",
        completions=(shared_data / "codex" / "codex_raw_q0_50samples.json",),
        teacher="code-davinci-002",
        processes=1,
    )
    for part, count in ((manifest.funnel, 50), (manifest.funnel["human"], 10)):
        assert part["read"] == part["kept"] == count
    assert manifest.counts() == dict(zip(FORMATS, (60, 10, 60, 10), strict=True))
    assert manifest.fingerprint.vocabulary_rows == 32128
    records = {r.id: r for r in shards.read_shards(tmp_path / "corpus")}
    record = records["gsm8k-train-0/0/zero_shot_cot"]
    assert record.targets == (
        "If Natalia sold 48 clips in April, she sold 48/2 = 24 clips in May.\n"
        "In total, Natalia sold 48 + 24 = 72 clips in April and May.\n"
        "The answer is 72"
    )
