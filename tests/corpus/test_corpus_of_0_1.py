"""What version 0.1 wrote of a corpus is read as 0.1 read it, or refused by version."""

import asyncio
import dataclasses
import json
import pathlib
import sqlite3
from typing import Any

import numpy as np
import pytest

from specialize import cli, outputs, versions
from specialize.corpus.completions import Questions, parse_line
from specialize.corpus.lines import read_lines
from specialize.corpus.records import Completion, Problem
from specialize.corpus.sampling import sample
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.sampler import Tally
from specialize.corpus.sampling.spec import SamplingSpec
from specialize.corpus.sampling.teachers import Answer, Ask, Choice
from specialize.corpus.storage import cards, shards
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.tasks.known import read_problems
from specialize.quickstart.exact_teacher import TEACHER_NAME

NEWER = pytest.mark.parametrize("found", [2, "next"])


def problems(folder: pathlib.Path) -> list[Problem]:
    return read_problems(folder / "world/gsm8k/train.jsonl", "gsm8k")


# ---- The corpus ----------------------------------------------------------------------


def test_a_corpus_has_the_records_it_had(of_0_1: pathlib.Path, recorded: Any) -> None:
    manifest = shards.open_corpus(of_0_1 / "corpus")
    assert manifest.fingerprint.digest() == "22f51ffd4613f05e"
    assert manifest.fingerprint.teacher == "human+miniature-grammar-1"
    assert manifest.counts() == recorded["corpus"]["counts"]
    assert manifest.funnel == recorded["corpus"]["funnel"]
    records = list(shards.read_shards(of_0_1 / "corpus"))
    assert len(records) == len(recorded["corpus"]["records"]) == 20
    for record, was in zip(records, recorded["corpus"]["records"], strict=True):
        target = record.target
        assert (record.id, record.inputs, record.targets) == (
            was["id"],
            was["inputs"],
            was["targets"],
        )
        assert int(record.input_ids.sum()) == was["input_ids"]
        assert target.ids.tolist() == was["target_ids"]
        assert target.origin.tolist() == was["origin"]
        assert int(target.teacher_ids.sum()) == was["teacher_ids"]
        probs = np.exp(target.teacher_logprobs.astype(np.float64))
        np.testing.assert_allclose(probs.sum(), was["teacher_probs"], rtol=1e-6)
        np.testing.assert_allclose(target.tail.sum(), was["tail"], rtol=1e-5)


def test_a_record_has_the_teacher_rows_it_had(
    of_0_1: pathlib.Path, recorded: Any
) -> None:
    ((wanted, rows),) = recorded["corpus"]["rows"].items()
    (record,) = [r for r in shards.read_shards(of_0_1 / "corpus") if r.id == wanted]
    assert record.targets.startswith("At first there are 5.\nThen 5 + 4 = 9.\n")
    target = record.target
    assert target.teacher_ids.tolist() == rows["teacher_ids"]
    probs = np.exp(target.teacher_logprobs.astype(np.float64))
    np.testing.assert_allclose(probs, rows["teacher_probs"], atol=1e-6)
    np.testing.assert_allclose(target.tail, rows["tail"], atol=1e-6)


@NEWER
def test_a_newer_corpus_is_refused(
    of_0_1: pathlib.Path, restate: Any, refused: Any, found: Any
) -> None:
    path = of_0_1 / "corpus" / "corpus.json"
    restate(path, version=found, shards="of another shape")
    for read in (
        lambda: Manifest.load(of_0_1 / "corpus"),
        lambda: list(shards.read_shards(of_0_1 / "corpus")),
    ):
        refused(read, versions.CORPUS, path, found)


@NEWER
def test_newer_records_in_a_corpus_are_refused(
    of_0_1: pathlib.Path, restate: Any, refused: Any, found: Any
) -> None:
    path = of_0_1 / "corpus" / "corpus.json"
    fingerprint = json.loads(path.read_text())["fingerprint"]
    restate(path, fingerprint=fingerprint | {"record_version": found, "more": 1})
    refused(lambda: Manifest.load(of_0_1 / "corpus"), versions.CORPUS, path, found)


# ---- Responses -----------------------------------------------------------------------


def test_a_database_has_the_answers_it_had(of_0_1: pathlib.Path, recorded: Any) -> None:
    was = recorded["responses"]
    with ResponseStore(of_0_1 / "responses.sqlite") as store:
        assert store.settings() == was["settings"]
        assert store.noted("convention") == was["convention"]
        assert list(store.usage()) == was["usage"] == [2, 80, 180]
        assert [list(row) for row in store.failures()] == was["failures"]
        read = list(store.completions())
    texts = [[one.problem_id, one.sample, one.text] for one in read]
    assert texts == was["texts"]
    assert all(one.tokens for one in read)


def completions(folder: pathlib.Path, name: str) -> list[Completion]:
    questions = Questions(problems(folder))
    lines = read_lines(folder / name)
    return [one.completion for line in lines for one in parse_line(line, questions)]


def test_its_export_says_what_the_export_of_0_1_said(of_0_1: pathlib.Path) -> None:
    sample.export(of_0_1 / "responses.sqlite", of_0_1 / "again.jsonl")
    before = completions(of_0_1, "completions.jsonl")
    assert completions(of_0_1, "again.jsonl") == before and len(before) == 4
    card = cards.read_card(of_0_1 / "completions.jsonl")
    # 0.1 claimed the licence of GSM8K for every file of its layout.
    assert card.licences == {"gsm8k": "MIT (openai/grade-school-math)"}
    card = dataclasses.replace(
        card, licences={"gsm8k": "unknown: not stored by version 0.1"}
    )
    assert cards.read_card(of_0_1 / "again.jsonl") == card


class LastQuestion:
    """A teacher who is asked for what 0.1 could not get, and for nothing else."""

    name = TEACHER_NAME

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def describe(self) -> dict[str, Any]:
        return {"teacher": self.name, "temperature": 1.0, "top_logprobs": 5}

    async def ask(self, ask: Ask) -> Answer:
        self.asked.append((ask.problem_id, ask.first_sample, ask.count))
        logprobs: dict[str, Any] = {"tokens": ["No"], "token_logprobs": [-0.5]}
        choices = [
            {"index": index, "text": "No", "logprobs": logprobs}
            for index in range(ask.count)
        ]
        usable = [Choice(index, "No", None, "stop") for index in range(ask.count)]
        return Answer(usable, json.dumps({"choices": choices}).encode(), 1, 1, 0.1)

    async def close(self) -> None:
        pass


def continued(folder: pathlib.Path, teacher: LastQuestion) -> Tally:
    asked = SamplingSpec(samples=2, samples_per_request=2, seed=1)
    path = folder / "responses.sqlite"
    return asyncio.run(sample.run(problems(folder), teacher, path, asked))


def test_a_sampling_of_0_1_goes_on_with_what_is_missing(of_0_1: pathlib.Path) -> None:
    teacher = LastQuestion()
    tally = continued(of_0_1, teacher)
    assert teacher.asked == [("gsm8k-train-2", 0, 2)]
    assert (tally.cached, tally.done) == (4, 2)
    with ResponseStore(of_0_1 / "responses.sqlite") as store:
        assert len(list(store.completions())) == 6


@NEWER
@pytest.mark.parametrize("create", [False, True])
def test_a_newer_database_is_refused_and_left_alone(
    of_0_1: pathlib.Path, refused: Any, found: Any, create: bool
) -> None:
    path = of_0_1 / "responses.sqlite"
    with sqlite3.connect(path) as database:
        change = "UPDATE meta SET value = ? WHERE name = 'layout'"
        database.execute(change, (json.dumps(found),))
        database.execute("DROP TABLE samples")
    database.close()
    before = path.read_bytes()
    refused(lambda: ResponseStore(path, create=create), versions.RESPONSES, path, found)
    assert path.read_bytes() == before


# ---- Files between the stages --------------------------------------------------------


def test_completions_and_their_card_are_read(of_0_1: pathlib.Path) -> None:
    card = cards.read_card(of_0_1 / "completions.jsonl")
    assert card is not None
    assert card.teacher == "miniature-grammar-1"
    assert card.sampling["logprobs"] == "before_temperature"
    read = completions(of_0_1, "completions.jsonl")
    assert completions(of_0_1, "right.jsonl") == read
    tokens = read[0].tokens
    assert tokens is not None
    assert [token.token for token in tokens[:3]] == [b"At", b" firs", b"t"]
    np.testing.assert_allclose(np.exp(tokens[0].logprob), 0.3, rtol=1e-6)


def test_aligned_samples_become_the_targets_that_they_became(
    of_0_1: pathlib.Path,
) -> None:
    words = ["--problems", str(of_0_1 / "world/gsm8k/train.jsonl"), "--processes", "1"]
    words += ["--aligned", str(of_0_1 / "aligned.jsonl"), "--demonstrations", "1"]
    words += ["--vocabulary", str(of_0_1 / "vocabulary.model")]
    assert cli.main(["corpus", "write", *words, "--out", str(of_0_1 / "written")]) == 0
    before, now = (
        {record.id: record.target for record in shards.read_shards(of_0_1 / name)}
        for name in ("corpus", "written")
    )
    assert before.keys() == now.keys()
    for identity, target in before.items():
        for field in dataclasses.fields(target):
            values = getattr(now[identity], field.name)
            np.testing.assert_array_equal(values, getattr(target, field.name))


@NEWER
@pytest.mark.parametrize("name", ["completions", "right", "aligned"])
def test_a_newer_card_is_refused(
    of_0_1: pathlib.Path, restate: Any, refused: Any, found: Any, name: str
) -> None:
    path = of_0_1 / f"{name}.jsonl.card.json"
    restate(path, version=found, colour="red")
    export = of_0_1 / f"{name}.jsonl"
    refused(lambda: cards.read_card(export), versions.CARD, path, found)


# ---- What is written now -------------------------------------------------------------


def test_what_is_written_now_states_its_version(of_0_1: pathlib.Path) -> None:
    path = of_0_1 / "now.jsonl"
    cards.write_card(path, cards.Card("t"))
    assert json.loads(cards.card_path(path).read_text())["version"] == 1
    assert cards.read_card(path) == cards.Card("t")
    outputs.claim(of_0_1 / "now", "corpus")
    marker = json.loads((of_0_1 / "now" / outputs.MARKER).read_text())
    assert marker == {"kind": "corpus", "version": 1}
    manifest = Manifest.load(of_0_1 / "corpus").to_json()
    assert manifest["version"] == manifest["fingerprint"]["record_version"] == 1


@NEWER
def test_a_newer_folder_is_refused_by_its_marker_and_never_replaced(
    of_0_1: pathlib.Path, restate: Any, refused: Any, found: Any
) -> None:
    folder = of_0_1 / "corpus"
    assert outputs.check_writable(folder, "corpus")  # that of 0.1, without a version
    marker = folder / outputs.MARKER
    restate(marker, version=found)
    for read in (
        lambda: outputs.claim(folder, "corpus"),
        lambda: shards.check_output(folder, replace=True),
    ):
        refused(read, versions.FOLDER, marker, found)
    assert (folder / "corpus.json").exists()
