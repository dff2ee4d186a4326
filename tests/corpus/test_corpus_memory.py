"""Memory does not grow with the number of completions."""

import collections
import json
import pathlib
import random
import subprocess
import sys

import least
import numpy as np
import pytest

from specialize.corpus.building import passes, pipeline, stages, verdicts
from specialize.corpus.importing.numbering import Numbers
from specialize.corpus.spec import (
    AcceptanceSpec,
    AlignmentSpec,
    FolderSpec,
    RecordsSpec,
    Sources,
)
from specialize.corpus.storage import record_order, sorted_runs
from specialize.corpus.storage.manifest import Manifest
from specialize.corpus.storage.sorted_runs import SortedRuns

PROGRAM = pathlib.Path(__file__).parents[2] / "benchmarks" / "corpus_memory.py"
ROW = np.dtype([("key", "<i8"), ("number", "<u8")])


def repeated(world, path, count):
    """Samples of the world's questions, again and again, each with its own number."""
    lines = [json.loads(line) for line in world.completions.read_text().splitlines()]
    given: collections.Counter[str] = collections.Counter()
    with open(path, "w") as file:
        for index in range(count):
            line = lines[index % len(lines)]
            number = given[line["problem_id"]]
            given[line["problem_id"]] += 1
            value = {"problem_id": line["problem_id"], "text": line["text"]}
            file.write(json.dumps(value | {"sample": number}) + "\n")
    return path


def build(world, path, out, **acceptance):
    return pipeline.build(
        Sources(world.problems, [path], rationales=False),
        AlignmentSpec(world.vocabulary),
        FolderSpec(out, 2, replace=True),
        acceptance=AcceptanceSpec(**acceptance),
        records=RecordsSpec(("zero_shot_cot",)),
        processes=1,
    )


@pytest.fixture
def hold(monkeypatch):
    """Lets hardly any rows be held, and little else."""

    def most(rows):
        monkeypatch.setattr(sorted_runs, "_MOST_ROWS", rows)
        monkeypatch.setattr(sorted_runs, "_FEWEST_ROWS", 1)
        monkeypatch.setattr(passes, "_CHUNK_BYTES", 1 << 12)
        monkeypatch.setattr(record_order, "_GATHERED", 256)

    return most


def test_verdicts_of_more_completions_take_no_more_memory(
    world, tmp_path, hold, monkeypatch
):
    hold(100)
    few, many = (repeated(world, tmp_path / f"{n}", n) for n in (100, 700))
    held: list[int] = []
    decide = verdicts.Verdicts.decide

    def seen(self, acceptance):
        found = decide(self, acceptance)
        held.append(least.held())
        return found

    monkeypatch.setattr(verdicts.Verdicts, "decide", seen)

    def run(path):
        stages.verify(
            Sources(world.problems, [path]),
            tmp_path / "v.jsonl",
            rejected=tmp_path / "rejected.jsonl",
            processes=1,
        )

    run(many)  # first what is made once, such as imports
    for path in (few, many):
        least.memory(lambda path=path: run(path), times=2)
    few_bytes, many_bytes = min(held[1:3]), min(held[3:])
    # A row of numbers has 29 bytes, and a verification that is held over 300.
    assert many_bytes - few_bytes < 15 * 600


def test_the_order_of_more_records_takes_no_more_memory(tmp_path, hold):
    hold(300)

    def run(count):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "0").write_bytes(bytes(100))
        collected = record_order.Collected(folder, 3)
        chance = np.random.default_rng(0)
        for _ in range(count // 10):
            entries = np.zeros(10, record_order._ENTRY)
            entries["shard"] = chance.integers(0, 12, 10)
            entries["key"] = chance.integers(0, 2**63, 10)
            entries["size"] = 10
            collected.add(record_order.Spooled(entries, {}))
        tasks = list(map(len, (task.records for task in collected.tasks())))
        assert (sum(tasks), len(tasks)) == (count, len(collected))

    run(6000)  # first what is made once, such as caches; enough to fill each gather
    few_bytes, many_bytes = (
        least.memory(lambda n=n: run(n), times=2) for n in (6000, 15000)
    )
    assert many_bytes - few_bytes < 15 * 9000  # a row has 36 bytes


@pytest.mark.parametrize("most_rows", [1, 7, 64, 10_000])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_rows_are_sorted_whether_they_fit_in_memory_or_not(tmp_path, most_rows, count):
    chance = random.Random(0)
    rows = [(chance.randrange(-40, 40), number) for number in range(count)]
    runs = SortedRuns(tmp_path / "runs", ROW, most_rows=most_rows)
    for begin in range(0, count, 9):
        runs.append(np.array(rows[begin : begin + 9], ROW))
    assert len(runs) == count
    assert list(runs) == sorted(rows)
    assert list(runs) == sorted(rows)  # and again
    assert (tmp_path / "runs").exists() == (count >= most_rows)


def test_a_corpus_is_the_same_however_little_is_held(
    world, tmp_path, hold, monkeypatch
):
    path = repeated(world, tmp_path / "c.jsonl", 180)
    acceptance = {"near_duplicates": 0.9, "max_samples": 2}
    build(world, path, tmp_path / "usual")
    build(world, path, tmp_path / "few", **acceptance)
    hold(50)
    build(world, path, tmp_path / "usual_again")
    build(world, path, tmp_path / "few_again", **acceptance)
    for name in ("usual", "few"):
        files = sorted(file.name for file in (tmp_path / name).iterdir())
        for file in files:
            before = (tmp_path / name / file).read_bytes()
            assert (tmp_path / f"{name}_again" / file).read_bytes() == before, file
    usual, few = (
        Manifest.load(tmp_path / name).funnel["kept"] for name in ("usual", "few")
    )
    assert 0 < few < usual / 2


def test_numbers_are_a_set_that_holds_ranges():
    chance = random.Random(0)
    for most in (5, 30):
        numbers, expected = Numbers(), set()
        for _ in range(60):
            one = chance.randrange(most)
            numbers.add(one)
            expected.add(one)
            found = {n for n in range(most + 2) if n in numbers}
            free = next(n for n in range(most + 2) if n not in expected)
            assert (found, numbers.first_free()) == (expected, free)
    for one in range(1, 1000):
        numbers.add(one)
    assert len(numbers) == 1  # all of them are one range


@pytest.mark.slow
def test_more_completions_take_the_same_anonymous_memory(shared_data):
    def anonymous(count):
        words = [sys.executable, PROGRAM, "--data", shared_data, "--count", str(count)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        assert row["records"] == {"zero_shot_cot": count}
        return row["anonymous_mib"]

    # From 131,072 rows on they are sorted in files. 80,000 verifications in memory
    # took 110 MiB.
    assert anonymous(220_000) - anonymous(140_000) < 30
