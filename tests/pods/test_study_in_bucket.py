"""A study whose folder is in a bucket."""

import operator

import pytest
from sums import write_predictions, write_task

from specialize import cli
from specialize.evaluation.study import outcome
from specialize.paths import store as objects

STUDY = """\
SEEDS = (0, 1)
CELL = (
    'evaluate --predictions {from}/{arm}.jsonl --tasks {from}/t.toml '
    '--split all --json {cell}/results.json',
)
ARMS = {'good': {}, 'bad': {}}
MEASURES = {'sums': 'sums:zero_shot_cot'}
"""


@pytest.mark.parametrize(
    "store", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True
)
def test_cells_are_run_one_by_one_gathered_and_reported(root, tmp_path, capsys):
    rows = write_task(tmp_path, 8)
    for name, said in (("good", "a"), ("bad", "q")):
        write_predictions(tmp_path / f"{name}.jsonl", rows, operator.itemgetter(said))
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
