"""Tasks of one's own under T5X: trained in a mixture, evaluated by their own judge.

Yes/no and choice questions with their own field names, wording and closing phrase, and
a tenth of plain text. The gin files are those of `specialize train` and `evaluate`.
"""

import json
import random

import pytest

pytest.importorskip("t5x.train")

import seqio
import t5x_cases as cases
from own_task_cases import (
    THINGS,
    lengths,
    read_lines,
    recipe,
    write_lines,
    yes_no_rows,
    yes_no_task,
)

from specialize.quickstart import miniature
from specialize.student.loss.spec import PART
from specialize.training.data.mixtures import load_mixture

COLD = yes_no_task(
    files='[files]\ntrain = "cold.train.jsonl"\ntest = "cold.test.jsonl"',
    formats='in_context_cot = "Question: {question}\\nReason first."\n'
    'separator = "\\n--\\n"',
)
PICK = """
name = "pick"
[files]
train = "pick.train.jsonl"
test = "pick.test.jsonl"
[fields]
question = "{stem|sentence}"
choices = { from = "options", template = "{label}) {choice}", separator = " " }
answer = "right"
[answer]
type = "choice"
[formats]
closing = "So the letter is {answer}"
"""
# Without rationales there are no CoT demonstrations.
FORMATS = ("zero_shot_cot", "zero_shot_answer_only", "in_context_answer_only")
SHARES = (("cold", 6), ("pick", 3), ("more.jsonl", 1))
LENGTHS = lengths(160, 64)
RECIPE = recipe(
    LENGTHS,
    """
SCAN_LAYERS = False
DTYPE = 'float32'
BATCH_SIZE = 8
TRAIN_STEPS = 10
LEARNING_RATE = 0.01
CHECKPOINT_PERIOD = 10
EVAL_PERIOD = 10
LOG_PERIOD = 5
INPUT_LENGTH = 96
OUTPUT_LENGTH = 24
EVAL_BATCH_SIZE = 8
SPLIT = 'all'
""",
    tiny=False,
)


def cold(count, first):
    for row, text in yes_no_rows(count, first):
        del row["why"]
        yield row, f"cold-{row['n']}", text


def pick(count, name):
    draw = random.Random(name)
    for n in range(count):
        options = draw.sample(list(THINGS), 3)
        right = draw.randrange(3)
        stem = f"Case {n}: where is {options[right]}"
        row = {"stem": stem, "options": options, "right": right}
        text = f"It is there. So the letter is {'(' + 'ABC'[right] + ')'}"
        yield row, f"pick-{name}-{n}", text


@pytest.fixture(scope="module")
def place(tmp_path_factory, run):
    """Two tasks, their data and corpora, a text file, a vocabulary and a recipe."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "cold.toml").write_text(COLD)
    (folder / "pick.toml").write_text(PICK)
    made = {
        "cold.train": list(cold(40, 0)),
        "cold.test": list(cold(16, 1000)),
        "pick.train": list(pick(40, "pick")),
        "pick.test": list(pick(16, "test")),
    }
    for name, found in made.items():
        write_lines(folder / f"{name}.jsonl", [row for row, *_ in found])
    write_lines(
        folder / "more.jsonl",
        [{"inputs": f"Say {word}.", "targets": word} for word in THINGS],
    )
    texts = [
        f"{list(row.values())} {text}" for f in made.values() for row, _, text in f
    ]
    texts += ["Question: Reason first. Let's think step by step (A) B) C) (D)"] * 20
    (folder / "text.txt").write_text("\n".join(texts))
    miniature.train_vocabulary(folder / "text.txt", folder / "v.model")
    for name in ("cold", "pick"):
        lines = [
            {"problem_id": id, "sample": 0, "text": text}
            for _, id, text in made[f"{name}.train"]
        ]
        write_lines(folder / f"{name}.completions.jsonl", lines)
        run(
            *("specialize", "corpus", "build", "--task", folder / f"{name}.toml"),
            *("--problems", folder / f"{name}.train.jsonl", "--teacher", "t"),
            *("--completions", folder / f"{name}.completions.jsonl"),
            *("--no_rationales", "--vocabulary", folder / "v.model"),
            *("--formats", *FORMATS, "--demonstrations", 2),
            *("--processes", 1, "--out", folder / name),
        )
    tasks = tuple(str(folder / f"{name}.toml") for name in ("cold", "pick"))
    shares = {str(folder / name): share for name, share in SHARES}
    (folder / "recipe.gin").write_text(
        f"{RECIPE}TASKS = {tasks!r}\nMIXTURE_OR_TASK_NAME = {shares!r}\n"
        f"VOCABULARY_PATH = '{folder / 'v.model'}'\n"
    )
    return folder


def t5x(run, program, place, **macros):
    return run(
        f"t5x.{program}",
        f"--gin_file=t5x_configs/runs/t5x_{program.replace('eval', 'evaluate')}.gin",
        f"--gin_file={place / 'recipe.gin'}",
        *(f"--gin.{name}={value!r}" for name, value in macros.items()),
    )


@pytest.fixture(scope="module")
def trained(place, run):
    first = cases.random_student(place, place / "v.model")
    folder = place / "run"
    t5x(run, "train", place, MODEL_DIR=str(folder), INITIAL_CHECKPOINT_PATH=str(first))
    return folder / "checkpoint_10"


@pytest.mark.parametrize("name", ["cold", "pick"])
def test_t5x_evaluates_a_task_as_we_do(place, trained, run, tmp_path, name):
    """What T5X wrote is judged here, and the same checkpoint is evaluated here."""
    where = {"CHECKPOINT_PATH": str(trained), "SUITES": (name,)}
    t5x(run, "eval", place, OUTPUT_DIR=str(tmp_path / "t5x"), **where)
    task = f"{name}_eval_zero_shot_cot"
    [metrics] = (tmp_path / "t5x").rglob(f"{task}-metrics.jsonl")
    [theirs] = read_lines(metrics)
    [written] = (tmp_path / "t5x").rglob(f"{task}-0*.jsonl")
    said = {row["input"]["id"]: row["prediction"] for row in read_lines(written)}
    write_lines(
        tmp_path / "p.jsonl",
        [{"id": id, "prediction": text} for id, text in said.items()],
    )
    run(
        *("specialize", "evaluate", "--predictions", tmp_path / "p.jsonl"),
        *("--tasks", place / f"{name}.toml", "--split", "all"),
        *("--json", tmp_path / "judged.json"),
    )
    run(
        *("specialize", "evaluate", "--gin_file", place / "recipe.gin"),
        *(f"--gin.{key}={value!r}" for key, value in where.items()),
        f"--gin.OUTPUT_DIR={str(tmp_path / 'ours')!r}",
    )
    for file in (tmp_path / "judged.json", tmp_path / "ours" / "results.json"):
        results = json.loads(file.read_text())
        score = results["suites"][f"{name}:zero_shot_cot"]
        assert theirs["n"] == score["n"] == 16
        assert theirs["accuracy"] == pytest.approx(score["accuracy"])
        for how, count in score["how"].items():
            assert theirs[f"how_{how}"] * 16 == pytest.approx(count)
    file = tmp_path / "ours" / f"{name}.zero_shot_cot.jsonl"
    assert {row["id"]: row["prediction"] for row in read_lines(file)} == said


def test_both_engines_draw_the_same_shares(place, tmp_path, monkeypatch):
    """As T5X reads the mixture, a tenth of the examples is text."""
    import specialize_tasks  # noqa: F401

    monkeypatch.setenv("SPECIALIZE_VOCABULARY", str(place / "v.model"))
    shares = {str(place / name): share for name, share in SHARES}
    ours = load_mixture(shares, "train", LENGTHS, tmp_path)
    provider = seqio.get_mixture_or_task(ours.name)
    assert list(ours.rates) == [provider.get_rate(t) for t in provider.tasks]
    assert sum(ours.rates) == pytest.approx(10)
    drawn = provider.get_dataset(
        LENGTHS, "train", shuffle=True, seed=0, num_epochs=None
    ).take(2000)
    formats = [int(example["format_id"][0]) for example in drawn.as_numpy_iterator()]
    text = sum(one % PART == 0 for one in formats) / len(formats)  # has no format
    assert text == pytest.approx(0.1, abs=0.03)
