"""A task of sums, whose predictions are judged without a model."""

from own_task_cases import write_lines

TASK = """\
name = "sums"
[files]
test = "sums.jsonl"
[fields]
question = "q"
answer = "a"
[answer]
type = "number"
"""


def write_task(folder, count):
    """Writes `t.toml` and its questions; returns the questions with their answers."""
    rows = [{"q": f"{n} + 1?", "a": str(n + 1)} for n in range(count)]
    write_lines(folder / "sums.jsonl", rows)
    (folder / "t.toml").write_text(TASK)
    return rows


def write_predictions(path, rows, say):
    """Writes what `say` answers to each question."""
    suite = "sums:zero_shot_cot"
    write_lines(
        path,
        [{"suite": suite, "input": row["q"], "prediction": say(row)} for row in rows],
    )
