"""A study whose folder is in a bucket."""

import json

from specialize import cli
from specialize.evaluation.study import outcome
from specialize.paths import store as objects

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
STUDY = """\
SEEDS = (0, 1)
CELL = (
    'evaluate --predictions {from}/{arm}.jsonl --tasks {from}/t.toml '
    '--split all --json {cell}/results.json',
)
ARMS = {'good': {}, 'bad': {}}
MEASURES = {'sums': 'sums:zero_shot_cot'}
"""


def test_cells_are_run_one_by_one_gathered_and_reported(root, tmp_path, capsys):
    rows = [{"q": f"{n} + 1?", "a": str(n + 1)} for n in range(8)]
    for name, said in (("good", "a"), ("bad", "q")):
        lines = [
            {"suite": "sums:zero_shot_cot", "input": r["q"], "prediction": r[said]}
            for r in rows
        ]
        write(tmp_path / f"{name}.jsonl", lines)
    write(tmp_path / "sums.jsonl", rows)
    (tmp_path / "t.toml").write_text(TASK)
    place = f"SETTINGS = {{'from': '{tmp_path}'}}\n"
    (tmp_path / "study.gin").write_text(STUDY + place)
    words = ["study", f"{tmp_path}/study.gin", "--out", f"{root}/study"]
    assert cli.main([*words, "--cell=1"]) == 0
    assert cli.main([*words, "--list"]) == 0
    listed = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split("\t")[3] for line in listed] == ["to do", "done", *["to do"] * 2]
    assert cli.main(words) == 0
    found = outcome.load(f"{root}/study")
    assert found.done == 4 and found.scores["good"]["sums"].mean == 1
    assert found.scores["bad"]["sums"].mean == 1 / 8  # "0 + 1?" ends with its answer
    report = ["report", f"{root}/study", "--out", f"{root}/page.md"]
    assert cli.main(report) == 0
    assert b"2 arms, 2 seeds" in objects.read_bytes(f"{root}/page.md")
    capsys.readouterr()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
