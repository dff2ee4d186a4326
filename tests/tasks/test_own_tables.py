"""A CSV with numbers and units, and a Parquet file, become a student by commands alone.

Both tasks share a vocabulary and one tiny run: corpora, training, evaluation by each
task's judge, and the export.
"""

import csv
import json
import random

import pytest
from own_task_cases import lengths, read_lines, recipe, write_lines

from specialize import cli

TRIPS = """
name = "trips"
[files]
train = "trips.csv"
test = "trips-test.csv"
[fields]
id = "no"
question = "How far is it from {from} to {to}?"
answer = "{distance} {unit}"
rationale = "remark"
[formats]
zero_shot_cot = "Trip: {question}\\nAdd the parts."
closing = "In total: {answer}"
"""
PICKS = """
name = "picks"
[files]
train = "picks.parquet"
test = "picks-test.parquet"
[fields]
question = "{about.stem|sentence}\\n{choices}\\nWhich one?"
choices = { from = "about.options", template = "{label}: {choice}", separator = "; " }
answer = "gold"
[answer]
type = "choice"
[formats]
zero_shot_cot = "{question} Reason."
closing = "So it is {answer}."
"""
RUN = recipe(
    lengths(64, 48),
    """
MIXTURE_OR_TASK_NAME = {'of trips': 3, 'of picks': 1}
MESH = {'data': 1, 'fsdp': 1, 'model': 1}
BATCH_SIZE = 4
VOCABULARY_PATH = 'v.model'
TASKS = ('trips.toml', 'picks.toml')
INPUT_LENGTH = 64
OUTPUT_LENGTH = 4
EVAL_BATCH_SIZE = 4
SPLIT = 'all'
""",
)
TOWNS = ("Ulm", "Bonn", "Kiel", "Jena", "Hof")
THINGS = ("ice", "snow", "fire", "tea")


def trips(count, first):
    """(row, text of the teacher) of each trip; distances are numbers with units."""
    draw = random.Random(first)
    for no in range(first, first + count):
        a, b = draw.randint(1, 9), draw.randint(1, 9)
        start, end = draw.sample(TOWNS, 2)
        row = {
            "no": no,
            "from": f"{start} ({no})",
            "to": end,
            "distance": f"1,{a}00.5" if no % 3 else str(a + b),
            "unit": "km" if no % 2 else "miles",
            "remark": f"{a} and {b}, by train",
        }
        yield row, f"Parts. In total: {row['distance']} {row['unit']}"


def picks(count, first):
    draw = random.Random(first)
    for no in range(first, first + count):
        options = draw.sample(THINGS, 3)
        right = draw.randrange(3)
        about = {"stem": f"Case {no} has {options[right]}", "options": options}
        yield (
            {"about": about, "gold": right},
            f"It says so. So it is ({'ABC'[right]}).",
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    import pyarrow
    import pyarrow.parquet

    from specialize.quickstart import miniature

    folder = tmp_path_factory.mktemp("tables")
    (folder / "trips.toml").write_text(TRIPS)
    (folder / "picks.toml").write_text(PICKS)
    (folder / "run.gin").write_text(RUN)
    texts = []
    for name, count, first in (("trips", 24, 0), ("trips-test", 6, 100)):
        made = list(trips(count, first))
        texts += [f"{row} {text}" for row, text in made]
        with open(folder / f"{name}.csv", "w", newline="") as stream:
            table = csv.DictWriter(stream, list(made[0][0]))
            table.writeheader()
            table.writerows(row for row, _ in made)
        answers = [(f"trips-{row['no']}", text) for row, text in made]
        write_completions(folder / f"{name}.answers.jsonl", answers)
    for name, count, first in (("picks", 24, 0), ("picks-test", 6, 100)):
        made = list(picks(count, first))
        texts += [f"{row} {text}" for row, text in made]
        rows = pyarrow.Table.from_pylist([row for row, _ in made])
        pyarrow.parquet.write_table(rows, folder / f"{name}.parquet")
        answers = [(f"picks-{name}-{at}", text) for at, (_, text) in enumerate(made)]
        write_completions(folder / f"{name}.answers.jsonl", answers)
    texts += ["Trip: Add the parts. Reason. Which one? How far is it from A: B: C:"] * 9
    (folder / "text.txt").write_text("\n".join(texts))
    miniature.train_vocabulary(folder / "text.txt", folder / "v.model")
    return folder


def write_completions(file, answers):
    write_lines(
        file,
        [{"problem_id": id, "sample": 0, "text": text} for id, text in answers]
        + [{"problem_id": answers[0][0], "sample": 1, "text": "No idea, or 3 (D)."}],
    )


@pytest.fixture(autouse=True)
def in_the_place(place, monkeypatch):
    monkeypatch.chdir(place)
    for name in ("VOCABULARY", "BENCHMARKS_DIR", "CORPUS_DIR"):
        monkeypatch.delenv(f"SPECIALIZE_{name}", raising=False)


@pytest.fixture(scope="module")
def corpora(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name, ending, formats in (
            ("trips", "csv", ("zero_shot_cot", "in_context_cot")),
            ("picks", "parquet", ("zero_shot_cot", "in_context_answer_only")),
        ):
            words = ["--task", f"{name}.toml", "--problems", f"{name}.{ending}"]
            words += ["--completions", f"{name}.answers.jsonl", "--teacher", "t"]
            words += ["--vocabulary", "v.model", "--no_rationales", "--processes", "1"]
            words += ["--demonstrations", "1", "--formats", *formats]
            words += ["--out", f"of {name}"]
            assert cli.main(["corpus", "build", *words]) == 0
    return place


def test_right_answers_with_units_and_letters_are_kept(corpora):
    import specialize

    for name in ("trips", "picks"):
        manifest = json.loads((corpora / f"of {name}" / "corpus.json").read_text())
        assert manifest["funnel"]["read"] == 25 and manifest["funnel"]["kept"] == 24
        assert manifest["fingerprint"]["task"].startswith(f"{name}-")
    [first, *_] = specialize.Corpus("of trips")
    records = {one.id: one for one in specialize.Corpus("of trips")}
    first = records["trips-0/0/zero_shot_cot"]
    assert first.inputs.startswith("Trip: How far is it from ")
    assert first.inputs.endswith("?\nAdd the parts.")
    assert first.targets.startswith("Parts. In total: ")
    assert first.targets.endswith(" miles")
    records = {one.id: one for one in specialize.Corpus("of picks")}
    first = records["picks-picks-0/0/zero_shot_cot"]
    assert first.inputs.startswith("Case 0 has ") and ".\nA: " in first.inputs
    assert "; B: " in first.inputs and first.inputs.endswith("\nWhich one? Reason.")


def test_both_become_one_trained_evaluated_and_exported_student(corpora):
    words = ["--gin_file", "run.gin"]
    assert cli.main(["train", *words, "--gin.MODEL_DIR=run"]) == 0
    words += ["--gin.SUITES=('trips','picks')", "--gin.CHECKPOINT_PATH=run"]
    assert cli.main(["evaluate", *words, "--gin.OUTPUT_DIR=run/ev"]) == 0
    suites = json.loads((corpora / "run/ev/results.json").read_text())["suites"]
    assert {name: score["n"] for name, score in suites.items()} == {
        "trips:zero_shot_cot": 6,
        "picks:zero_shot_cot": 6,
    }
    words = ["--source", "run", "--target", "student", "--to", "hf"]
    assert cli.main(["convert", *words, "--vocabulary", "v.model"]) == 0
    exported = {file.name for file in (corpora / "student").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= exported
    assert cli.main(["report", "run", "--out", "report.md"]) == 0


@pytest.mark.parametrize("name", ["trips", "picks"])
def test_the_teachers_answers_are_right_by_the_judge_of_the_task(corpora, name):
    answers = read_lines(corpora / f"{name}-test.answers.jsonl")
    write_lines(
        corpora / "p.jsonl",
        [
            {"id": one["problem_id"], "prediction": one["text"]}
            for one in answers
            if one["sample"] == 0
        ],
    )
    words = ["--predictions", "p.jsonl", "--tasks", f"{name}.toml", "--split", "all"]
    assert cli.main(["evaluate", *words, "--json", "judged.json"]) == 0
    suites = json.loads((corpora / "judged.json").read_text())["suites"]
    score = suites[f"{name}:zero_shot_cot"]
    assert (score["n"], score["accuracy"]) == (6, 1.0)
    assert score["how"] == {"marked": 6, "last": 0, "none": 0}
