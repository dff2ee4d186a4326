"""A study whose folder is in a bucket."""

import operator

import pytest
from sums import write_predictions, write_task

from specialize import cli
from specialize.errors import InputError
from specialize.evaluation.study import outcome
from specialize.evaluation.study.cells import cells_of
from specialize.evaluation.study.records import begin, begun_of, is_done
from specialize.evaluation.study.spec import StudySpec
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


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_cell_that_has_begun_with_other_settings_is_not_finished(root):
    def work(rate):
        commands = (f"train --rate {rate} --out {{cell}}/run", "evaluate")
        spec = StudySpec(arms={"a": {}}, cell=commands, measures={"m": "s:p"})
        return cells_of(spec, f"{root}/study")[0].work

    for number in (0, 1):
        begin(work(1), number)
        objects.write_bytes(f"{root}/study/cells/a/seed-0/run/weights", b"")
    assert not is_done(work(1)) and len(begun_of(work(1)).commands) == 2
    with pytest.raises(InputError, match="was begun by other commands"):
        is_done(work(2))
    objects.remove([f"{root}/study/cells/a/seed-0/run/weights"])
    assert not is_done(work(2)) and begun_of(work(2)) is None
