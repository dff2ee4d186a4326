"""A study: cells, resumption, several processes, statistics, verdicts and its page."""

import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import gin
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sums import write_predictions, write_task

from specialize import cli, config, run_folder
from specialize.errors import InputError
from specialize.evaluation.study import outcome
from specialize.evaluation.study.cells import cells_of
from specialize.evaluation.study.running import study
from specialize.evaluation.study.spec import StudySpec

ACCURACY = {"good": 0.8, "bad": 0.5}
SEEDS = (0, 1, 2)
STUDY = """\
SEEDS = (0, 1, 2)
CELL = (
    'evaluate --predictions {from}/{arm}-{seed}.jsonl --tasks {from}/t.toml '
    '--split all --json {cell}/results.json',
)
ARMS = {'good': {}, 'bad': {}}
MEASURES = {'sums': 'sums:zero_shot_cot'}
REFERENCE = 'bad'
FRONT = ('sums', 'sums')
CLAIMS = {
    'Good is better.': {'good.sums - bad.sums': 0.0},
    'Bad is better.': {'bad.sums - good.sums': 0.0},
    'Both.': {'good.sums - bad.sums': 0.0, '2 * bad.sums - good.sums': 10},
}
"""


@pytest.fixture
def asked(tmp_path):
    """A folder with a task, predictions of two arms and a study of them."""
    rows = write_task(tmp_path, 40)
    for arm, accuracy in ACCURACY.items():
        for seed in SEEDS:
            draw = random.Random(f"{arm} {seed}")

            def say(row, draw=draw, accuracy=accuracy):
                return row["a"] if draw.random() < accuracy else "0"

            write_predictions(tmp_path / f"{arm}-{seed}.jsonl", rows, say)
    place = f"SETTINGS = {{'from': '{tmp_path}'}}\n"
    (tmp_path / "study.gin").write_text(STUDY + place)
    return tmp_path


def words(asked, *more):
    return ["study", f"{asked}/study.gin", "--out", f"{asked}/out", *more]


def start(asked, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "specialize", *words(asked, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def in_this_process(made):
    """Runs commands here, which is faster, and notes them."""

    def command(line, held):
        made.append(list(line))
        return cli.main(line)

    return command


def spec_of(asked, **changes):
    values = dict(
        arms={"good": {}, "bad": {}},
        cell=(
            "evaluate --predictions {from}/{arm}-{seed}.jsonl --tasks {from}/t.toml "
            "--split all --json {cell}/results.json",
        ),
        measures={"sums": "sums:zero_shot_cot"},
        seeds=SEEDS,
        settings={"from": str(asked)},
        reference="bad",
        claims={
            "Good is better.": {"good.sums - bad.sums": 0.0},
            "Bad is better.": {"bad.sums - good.sums": 0.0},
        },
        front=("sums", "sums"),
    )
    return StudySpec(**(values | changes))


def accuracy_of(asked, arm, seed):
    golds = [json.loads(line) for line in open(asked / "sums.jsonl")]
    lines = [json.loads(line) for line in open(asked / f"{arm}-{seed}.jsonl")]
    pairs = zip(lines, golds, strict=True)
    return sum(a["prediction"] == b["a"] for a, b in pairs) / len(golds)


def test_a_study_gives_means_differences_and_verdicts(asked, capfd):
    assert cli.main(words(asked)) == 0
    said = capfd.readouterr().out
    found = outcome.load(asked / "out")
    assert (found.done, found.cells) == (6, 6)
    values = {
        arm: [accuracy_of(asked, arm, seed) for seed in SEEDS] for arm in ACCURACY
    }
    for arm, expected in values.items():
        assert list(found.scores[arm]["sums"].values.values()) == expected
    pair = stats.ttest_rel(values["good"], values["bad"])
    ends = pair.confidence_interval(0.95)
    one = found.differences["good"]["sums"]
    assert [one.low, one.high] == pytest.approx([ends.low, ends.high])
    assert one.p_value == pytest.approx(pair.pvalue)
    verdicts = {claim.text: claim.verdict for claim in found.claims}
    assert set(verdicts) == {"Good is better.", "Bad is better.", "Both."}
    assert verdicts["Both."] == outcome.REFUTED
    for text in ("6 of 6 cells", "Points above bad", "Good is better.", "refuted"):
        assert text in said

    # The list, and the page as HTML and as markdown.
    assert cli.main(words(asked, "--list")) == 0
    listed = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    assert listed[:3] == [
        ["0", "good", "0", "done"],
        ["1", "bad", "0", "done"],
        ["2", "good", "1", "done"],
    ]
    for name in ("page.html", "page.md"):
        out = str(asked / name)
        assert cli.main(["report", f"{asked}/out", "--out", out]) == 0
        page = pathlib.Path(out).read_text()
        assert "Good is better." in page and "2 arms, 3 seeds" in page
        mean = one.mean * 100
        assert f"{mean:+.1f}" in page
    assert "<svg" in (asked / "page.html").read_text()
    assert cli.main(["report", f"{asked}/out", f"{asked}/out", "--out", out]) == 2
    assert "Name it alone" in capfd.readouterr().err


def test_what_is_done_is_not_run_again(asked, capsys):
    made = []
    study(spec_of(asked), out=asked / "out", only=[1, 4], command=in_this_process(made))
    assert len(made) == 2
    found = study(spec_of(asked), out=asked / "out", command=in_this_process(made))
    assert len(made) == 6 == found.done
    # A later seed adds cells, and the numbers of the others stay.
    before = cells_of(spec_of(asked), asked / "out")
    more = spec_of(asked, seeds=(*SEEDS, 7))
    assert cells_of(more, asked / "out")[:6] == before
    for arm in ACCURACY:
        os.link(asked / f"{arm}-0.jsonl", asked / f"{arm}-7.jsonl")
    study(more, out=asked / "out", command=in_this_process(made))
    assert len(made) == 8
    # The folder may be moved.
    (asked / "out").rename(asked / "moved")
    study(more, out=asked / "moved", command=in_this_process(made))
    assert len(made) == 8
    capsys.readouterr()


def test_other_commands_are_refused_before_any_work(asked, capsys):
    made = []
    study(spec_of(asked), out=asked / "out", only=[3], command=in_this_process(made))
    other = spec_of(asked, cell=(spec_of(asked).cell[0] + " --rule reference",))
    with pytest.raises(InputError, match="other commands: .*name another --out"):
        study(other, out=asked / "out", command=in_this_process(made))
    assert len(made) == 1

    def make(line, held):
        made.append(line)
        return cli.main(line) if line[0] == "evaluate" else 0

    for world in ("one", "two"):
        spec = spec_of(asked, prepare={"world": (f"make {world}",)})
        if world == "two":
            with pytest.raises(InputError, match="world, seed 0 was made by other"):
                study(spec, out=asked / "stages", command=make)
        else:
            study(spec, out=asked / "stages", only=[0], command=make)
    assert len(made) == 3
    capsys.readouterr()


def test_a_cell_that_fails_leaves_the_others_alone(asked, capsys):
    (asked / "good-1.jsonl").rename(asked / "away")
    made = []
    with pytest.raises(InputError, match=r"1 of 6 cells failed, cell 2 \(good, seed 1"):
        study(spec_of(asked), out=asked / "out", command=in_this_process(made))
    found = outcome.load(asked / "out")
    assert found.done == 5
    assert found.differences["good"]["sums"].n == 2  # seeds that have both
    (asked / "away").rename(asked / "good-1.jsonl")
    made.clear()
    found = study(spec_of(asked), out=asked / "out", command=in_this_process(made))
    assert len(made) == 1 and found.done == 6
    capsys.readouterr()


@pytest.mark.parametrize("status", [143, 130, -9])
def test_a_command_that_a_signal_ended_is_not_done(asked, status):
    names = {143: "SIGTERM", 130: "SIGINT", -9: "SIGKILL"}
    with pytest.raises(InputError, match=f"was ended by a signal, {names[status]}"):
        study(spec_of(asked), out=asked / "out", command=lambda line, held: status)
    assert done(asked) == {}


def test_stages_are_made_once_per_seed_before_what_needs_them(asked):
    made = []

    def command(line, held):
        made.append(" ".join(line))
        if line[0] == "evaluate":
            return cli.main(line)
        return int(line[1] == "broken" and "0" in line[2])

    spec = spec_of(
        asked,
        prepare={
            "world": ("make world {seed}", "make more {seed}"),
            "broken": ("make broken {seed}",),
        },
        arms={"good": {"needs": ("world",)}, "bad": {"needs": ("broken", "world")}},
    )
    with pytest.raises(InputError, match=r"1 of 6 cells failed, cell 1 .*'specialize "):
        study(spec, out=asked / "out", command=command)
    assert [line for line in made if line.startswith("make")] == [
        *("make world 0", "make more 0", "make broken 0"),
        *("make world 1", "make more 1", "make broken 1"),
        *("make world 2", "make more 2", "make broken 2"),
    ]


def test_a_stage_may_have_the_name_of_an_arm(asked):
    def command(line, held):
        return cli.main(line) if line[0] == "evaluate" else 0

    spec = spec_of(asked, prepare={"good": ("make {seed}",)})
    assert study(spec, out=asked / "out", command=command).done == 6
    cells = cells_of(spec, asked / "out")
    works = [w for c in cells for w in (c.work, *c.work.stages.values())]
    assert len({one.key for one in works}) == len({one.marker for one in works}) == 9


def test_a_stage_that_failed_is_not_tried_for_every_arm(asked, capsys):
    made = []

    def command(line, held):
        made.append(line)
        return 2

    spec = spec_of(asked, prepare={"world": ("make world {seed}",)})
    with pytest.raises(InputError, match="6 of 6 cells failed"):
        study(spec, out=asked / "out", command=command)
    assert len(made) == len(SEEDS)
    capsys.readouterr()


def test_kill_9_loses_no_finished_cell(asked):
    for number, seed in enumerate((1, 2)):
        place = asked / f"good-{seed}.jsonl"
        place.rename(asked / "kept")
        os.mkfifo(place)  # the command waits for what nobody writes
        process = start(asked)
        kept = 2 * (number + 1)
        wait_for(lambda k=kept: len(done(asked)) == k and blocked(asked))
        markers = done(asked)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        # The command of the killed process still runs, and its cell is left to it.
        other = start(asked, f"--cell={kept}")
        assert "run by another process" in other.communicate(timeout=300)[0]
        kill(blocked(asked))
        place.unlink()
        (asked / "kept").rename(place)
        assert done(asked) == markers
    said = start(asked).communicate(timeout=300)[0]
    assert said.count("done in") == 2 and "6 of 6 cells" in said, said
    assert {name: done(asked)[name] for name in markers} == markers


def done(asked):
    """The markers of the cells that are done, with the time of their writing."""
    found = (asked / "out").glob("cells/*/*/done.json")
    return {str(path): path.stat().st_mtime_ns for path in found}


def blocked(asked):
    """The processes of cells' commands, which wait for their predictions."""
    return [
        int(one.parent.name)
        for one in pathlib.Path("/proc").glob("[0-9]*/cmdline")
        if str(asked).encode() in read(one).replace(b"study.gin", b"")
        and b"--predictions" in read(one)
    ]


def kill(processes):
    for one in processes:
        os.kill(one, signal.SIGKILL)


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_share_the_cells(asked):
    both = [start(asked), start(asked)]
    said = [one.communicate(timeout=300)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum(one.count("done in") for one in said) == 6, said
    assert outcome.load(asked / "out").done == 6


def test_the_last_outcome_that_is_written_has_every_cell(asked, monkeypatch):
    """Also if another process finishes a cell between gathering and writing."""
    made = []
    study(spec_of(asked), out=asked / "out", command=in_this_process(made))
    gather, missing = outcome.gather, []

    def late(spec, out):
        found = gather(spec, out)
        if not missing:  # as this process saw it before the other one was done
            missing.append(True)
            found = dataclasses.replace(found, done=found.done - 1)
        return found

    monkeypatch.setattr(outcome, "gather", late)
    found = study(spec_of(asked), out=asked / "out", command=in_this_process(made))
    assert found.done == 6 and outcome.load(asked / "out").done == 6


def test_a_process_takes_another_seed_while_a_stage_is_made(asked):
    """Its first cell needs what the other process is making; it comes back to it."""
    (asked / "world").mkdir()
    for seed in SEEDS:
        os.link(asked / "good-0.jsonl", asked / f"world/{seed}.jsonl")
    (asked / "world/0.jsonl").unlink()
    os.mkfifo(asked / "world/0.jsonl")  # making it waits for what nobody writes
    text = (asked / "study.gin").read_text()
    stage = text.partition("CELL = (")[2].partition("')")[0].replace("{arm}-", "world/")
    stage = stage.split(",\n)")[0].replace("{cell}", "{shared}")
    (asked / "study.gin").write_text(f"{text}PREPARE = {{'world': ({stage},)}}\n")
    first = start(asked)
    wait_for(lambda: blocked(asked))
    second = start(asked)
    wait_for(lambda: len(done(asked)) == 4)
    assert not list((asked / "out/cells").glob("*/seed-0/done.json"))
    kill([first.pid, *blocked(asked)])
    first.wait()
    (asked / "world/0.jsonl").unlink()
    os.link(asked / "good-1.jsonl", asked / "world/0.jsonl")
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 0 and "6 of 6 cells" in said, said


def test_an_interrupt_ends_the_command_too(asked):
    place = asked / "good-0.jsonl"
    place.unlink()
    os.mkfifo(place)
    process = start(asked)
    wait_for(lambda: blocked(asked))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 128 + signal.SIGTERM
    wait_for(lambda: not blocked(asked))


def test_a_grid_is_every_combination(asked):
    spec = spec_of(
        asked,
        arms={"alone": {"LEARNING_RATE": 3}},
        grid={
            "size": {"small": {"a": "s", "needs": ()}, "large": {"a": "l"}},
            "data": {"few": {"N": 1}, "many": {"N": 2, "a": "m{seed}"}},
        },
        settings={"from": "x", "a": "none"},
        cell=("evaluate {from} {a} {macros}",),
        reference=None,
        claims={"Sizes.": {"large.few.sums - small.few.sums": 0}},
        seeds=(5,),
    )
    commands = {cell.arm: cell.work.commands[0][1:] for cell in cells_of(spec, "out")}
    assert commands == {
        "small.few": ("x", "s", "--gin.N=1"),
        "small.many": ("x", "m5", "--gin.N=2"),
        "large.few": ("x", "l", "--gin.N=1"),
        "large.many": ("x", "m5", "--gin.N=2"),
        "alone": ("x", "none", "--gin.LEARNING_RATE=3"),
    }


def test_a_group_of_words_may_have_other_groups(asked):
    spec = spec_of(
        asked,
        cell=("train {all} --gin.X={name}",),
        settings={
            "all": ("--a", "{some}", "b {name}"),
            "some": ("--seed", "{seed}"),
            "name": "n",
        },
    )
    (line,) = cells_of(spec, "out")[0].work.commands
    assert line == ("train", "--a", "--seed", "0", "b n", "--gin.X=n")


def test_placeholders_in_macros_words_and_groups_of_words(asked):
    spec = spec_of(
        asked,
        arms={"a": {"MIXTURE": {"{shared}/x y": 85, "{cell}": (1, "{seed}")}}},
        settings={"group": ("--out", "{study}/{name}"), "name": "it's", "a": "A"},
        cell=("train {group} --word='{a} b {name}' --mesh={'data':1} {macros}",),
        reference=None,
        claims={},
        seeds=(3,),
    )
    (cell,) = cells_of(spec, "/s")
    assert cell.work.commands == (
        (
            *("train", "--out", "/s/it's", "--word=A b it's", "--mesh={data:1}"),
            "--gin.MIXTURE={'/s/shared/seed-3/x y': 85, '/s/cells/a/seed-3': (1, '3')}",
        ),
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {}}, "needs an arm"),
        ({"arms": {"a-b": {}}}, "'a-b'; names have letters"),
        ({"arms": {"../up": {}}}, "names have letters"),
        ({"arms": {"a": {"Mixed": 1}}}, "'Mixed'; settings are"),
        ({"arms": {"a": {"seed": 1}}}, "'seed', which every study has"),
        ({"arms": {"a": {"needs": ("w",)}}}, "expected one of"),
        ({"arms": {"a": {"commands": "evaluate"}}}, "expected a tuple of commands"),
        ({"arms": [1]}, "arms is"),
        ({"cell": ()}, "expected a tuple of commands"),
        ({"cell": ("evaluate {frm}",)}, "{frm}, which is not one of .*'from'"),
        ({"prepare": {"w": ("make {cell}",)}}, "{cell}, which is not one of"),
        ({"measures": {}}, "needs a measure"),
        ({"measures": {"sums": ("a", "b", "c")}}, "'suite:prompt' or"),
        ({"seeds": (1, 1)}, "each may be once"),
        ({"seeds": ()}, r"such as \(0, 1\)"),
        ({"seeds": (-1,)}, "at least 0"),
        ({"seeds": "a"}, r"expected a tuple of whole numbers, such as \(0, 1\)"),
        ({"reference": "god"}, "'good'"),
        ({"front": ("sums",)}, "not two measures"),
        ({"claims": {"c": {}}}, "has no contrast"),
        ({"claims": {"c": {"good.sums - bd.sums": 0}}}, "arm 'bd'.*'bad'"),
        ({"claims": {"c": {"good.sms": 0}}}, "measure 'sms'.*'sums'"),
        ({"claims": {"c": {"good.sums bad.sums": 0}}}, "not a sum of measures"),
        ({"claims": {"c": {"": 0}}}, "not a sum of measures"),
        ({"claims": {"c": {"good.sums": "0"}}}, "must be a number"),
        ({"claims": {1: {"good.sums": 0}}}, "the claim 1 has no text"),
        ({"claims": {"": {"good.sums": 0}}}, "has no text"),
        ({"arms": {1: {}}}, "the arm is named 1"),
        ({"arms": {("a", "b"): {}}}, "the arm is named"),
        ({"arms": {"x" * 201: {}}}, "201 letters"),
        ({"grid": {"size": {1: {}}}}, "the level of the grid is named 1"),
        ({"grid": {1: {"a": {}}}}, "the factor of the grid is named 1"),
        ({"grid": {"size": {"a": {"needs": 5}}}}, "needs of 'a' is 5, a tuple"),
        ({"grid": {"size": {"a": 5}}}, "the settings of the level 'a' is 5"),
        (
            {"grid": {"x": {"a": {}, "a.b": {}}, "y": {"b.c": {}, "c": {}}}},
            "two combinations of levels of the grid are called 'a.b.c'",
        ),
        ({"settings": {"from": "{from}"}}, "uses itself: from -> from"),
        ({"settings": {"from": "{a}", "a": "x{b}", "b": "{a}"}}, "a -> b -> a"),
        ({"settings": {"from": ("{a}",), "a": ("-x", "{from}")}}, "from -> a -> from"),
        ({"settings": {"from": "{all}", "all": "{macros}x"}}, "macros} inside"),
        ({"cell": ("evaluate {from} --x={macros}",)}, "{macros} inside '--x={macros}'"),
        ({"cell": ("evaluate 'open {from}",)}, "no line of words"),
    ],
)
def test_a_study_is_checked_where_it_is_made(asked, changes, words):
    if "arms" in changes:
        changes = {"reference": None, "claims": {}, **changes}
    with pytest.raises(InputError, match=words):
        spec_of(asked, **changes)


def test_an_arm_does_not_replace_one_of_the_grid(asked):
    levels = {"good": {}, "bad": {}}
    for grid, arm in (
        ({"one": levels}, "bad"),
        ({"one": levels, "two": {"x": {"A": 1}}}, "good.x"),
    ):
        with pytest.raises(InputError, match=f"the arm '{arm}' is in arms and in the"):
            spec_of(asked, grid=grid, arms={arm: {"A": 2}}, reference=None, claims={})


def test_a_mistake_in_a_study_names_its_line(asked, capsys):
    text = (asked / "study.gin").read_text().replace("'bad': {}", "'bd': {}")
    (asked / "study.gin").write_text(text)
    assert cli.main(words(asked)) == 2
    assert f"{asked}/study.gin:" in capsys.readouterr().err
    assert not (asked / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEEDS", "(0.5, 1)"),
        ("CELL", "('evaluate \"open {from}',)"),
        ("ARMS", "{'good': {'needs': ('arms',)}, 'bad': {}}"),
        ("MEASURES", "{'sums': 3}"),
        ("REFERENCE", "'sums'"),
        ("FRONT", "('arms', 'cell')"),
        ("CLAIMS", "{'c': {'good.sums': 'measures'}}"),
        ("GRID", "{'arms': {1: {}}}"),
        ("PREPARE", "{'w': ('make {cell}',)}"),
    ],
)
def test_a_mistake_is_said_of_its_own_macro(asked, capsys, name, value):
    lines = (asked / "study.gin").read_text() + f"{name} = {value}\n"
    (asked / "study.gin").write_text(lines)
    where = f"{asked}/study.gin:{lines.count(chr(10))}: {name}: "
    assert cli.main(words(asked)) == 2
    assert where in capsys.readouterr().err


def without(asked, *names):
    for name in names:
        (asked / "out" / "cells" / name / "results.json").unlink()


def test_results_that_are_missing_are_not_left_out_of_a_mean(asked, capsys):
    spec = spec_of(asked)
    study(spec, out=asked / "out", only=(0, 1, 2), command=in_this_process([]))
    kept = (asked / "out/cells/good/seed-1/results.json").read_text()
    without(asked, "good/seed-1")
    for done in ((), (3,)):  # some seeds of an arm, then the only one
        with pytest.raises(InputError, match=r"seed-1/results.json is missing, but c"):
            study(spec, out=asked / "out", only=done, command=in_this_process([]))
    (asked / "out/cells/good/seed-1/results.json").write_text(kept)
    assert study(spec, out=asked / "out", command=in_this_process([])).done == 6
    for file in ("result.json", "other/results.json"):
        typo = dataclasses.replace(
            spec, measures={"sums": (file, "sums:zero_shot_cot")}
        )
        with pytest.raises(InputError, match=f"{file} is missing, but cell 0"):
            study(typo, out=asked / "out", command=in_this_process([]))
        both = dataclasses.replace(
            spec, measures={**spec.measures, "more": (file, "sums:zero_shot_cot")}
        )
        with pytest.raises(InputError, match=f"no cell has {file}.*'more'"):
            study(both, out=asked / "out", command=in_this_process([]))
    capsys.readouterr()


@pytest.mark.parametrize(
    ("contrast", "lacks"),
    [("good.more - bad.more", "bad"), ("bad.more - 2 * good.sums", "bad")]
    + [("good.sums - good.more", "good")],
)
def test_a_claim_on_what_an_arm_does_not_have_is_no_open_question(
    asked, contrast, lacks, capsys
):
    more = {"sums": "sums:zero_shot_cot", "more": ("m.json", "sums:zero_shot_cot")}
    spec = spec_of(asked, measures=more, claims={"More.": {contrast: 0.0}})
    run = in_this_process([])

    def command(line, held):
        status, results = run(line, held), pathlib.Path(line[-1])
        if f"/{lacks}/" not in str(results):
            (results.parent / "m.json").write_bytes(results.read_bytes())
        return status

    assert study(spec, out=asked / "out", only=[0, 1], command=command).done == 2
    said = f"claim 'More.' needs {lacks}.more for '{contrast}', but no cell of the arm"
    with pytest.raises(InputError, match=re.escape(said)):
        study(spec, out=asked / "out", command=command)
    capsys.readouterr()


def test_cells_of_two_preparations_are_not_averaged(asked, capsys):
    """Also if the stage was removed and made anew, as its message says."""

    def make(line, held):
        return cli.main(line) if line[0] == "evaluate" else 0

    one, two = (
        spec_of(asked, prepare={"world": (f"make {world}",)}) for world in ("a", "b")
    )
    study(one, out=asked / "out", only=[0], command=make)
    (asked / "out/shared/seed-0/world.done.json").unlink()
    with pytest.raises(InputError, match=r"world, seed 0, with which good, seed 0 beg"):
        study(two, out=asked / "out", command=make)
    assert study(one, out=asked / "out", command=make).done == 6  # the same again
    capsys.readouterr()


def test_a_report_of_a_study_that_was_killed_has_what_is_done(asked, capsys):
    ran = []

    def command(line, held):
        if ran:
            raise KeyboardInterrupt
        ran.append(line)
        return cli.main(line)

    with pytest.raises(KeyboardInterrupt):
        study(spec_of(asked), out=asked / "out", command=command)
    assert outcome.load(asked / "out").done == 1
    page = str(asked / "page.html")
    assert cli.main(["report", str(asked / "out"), "--out", page]) == 0
    capsys.readouterr()


def test_a_measure_that_is_not_there_names_those_that_are(asked, capsys):
    spec = spec_of(asked, measures={"sums": "sums:few_shot_cot"})
    with pytest.raises(InputError, match="only sums:zero_shot_cot"):
        study(spec, out=asked / "out", only=[0], command=in_this_process([]))
    capsys.readouterr()


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_intervals_and_tests_are_those_of_student(values):
    found = outcome.estimate(dict(enumerate(values)))
    if len(set(values)) > 1 and stats.sem(values) > 1e-6:
        expected = stats.ttest_1samp(values, 0)
        ends = expected.confidence_interval(0.95)
        assert [found.low, found.high] == pytest.approx([ends.low, ends.high])
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-5, abs=1e-12)
    middle = (found.low + found.high) / 2
    assert found.mean == pytest.approx(sum(values) / len(values)) == middle
    assert outcome.verdict(found, found.high + 2e-9) == outcome.REFUTED
    assert outcome.verdict(found, found.low - 2e-9) == outcome.SUPPORTED
    if found.high > found.low:
        assert outcome.verdict(found, middle) == outcome.OPEN


@pytest.mark.parametrize("tenths", [(9, 8, 1), (7, 5, 2), (3, 1, 2), (10, 7, 3)])
def test_a_difference_that_is_the_number_decides_nothing(tenths):
    """0.9 - 0.8 is a little less than 0.1 in float64."""
    one, two, number = (tenth / 10 for tenth in tenths)
    for sign in (1, -1):
        found = outcome.estimate({seed: sign * (one - two) for seed in SEEDS})
        assert outcome.verdict(found, sign * number) == outcome.OPEN


def test_one_seed_decides_nothing():
    one = outcome.estimate({0: 0.5})
    assert (one.mean, one.low, one.p_value) == (0.5, None, None)
    assert outcome.verdict(one, 0.0) == outcome.OPEN
    assert outcome.estimate({}).mean is None


TERMS = st.tuples(
    st.sampled_from(["+", "-"]),
    st.one_of(st.none(), st.integers(0, 9), st.sampled_from([0.5, 2.25])),
    st.sampled_from(["a", "a.b", "c_1"]),
    st.sampled_from(["m", "other_m"]),
)


@given(st.lists(TERMS, min_size=1, max_size=5), st.booleans())
def test_contrasts_are_sums(terms, spaced):
    space = " " if spaced else ""
    text = "".join(
        f"{sign}{space}{'' if factor is None else f'{factor}{space}*{space}'}{arm}.{m}"
        + space
        for sign, factor, arm, m in terms
    )
    spec = StudySpec(
        arms={"a": {}, "a.b": {}, "c_1": {}},
        cell=("evaluate",),
        measures={"m": "x", "other_m": "x"},
    )
    expected = {}
    for sign, factor, arm, m in terms:
        value = (1 if factor is None else factor) * (-1 if sign == "-" else 1)
        expected[arm, m] = expected.get((arm, m), 0) + value
    assert spec.terms(text.removeprefix("+")) == pytest.approx(expected)


def test_the_studies_that_we_ship_are_valid(tmp_path, capsys):
    folder = pathlib.Path(cli.__file__).parents[1] / "t5x_configs/studies"
    for file in folder.glob("*.gin"):
        line = ["study", f"studies/{file.name}", "--out", str(tmp_path / "x"), "--list"]
        assert cli.main(line) == 0
    listed = capsys.readouterr().out.splitlines()
    # The paper's claims, on-policy, adapters, the quickstart.
    assert len(listed) == 75 + 50 + 25 + 20
    assert not (tmp_path / "x").exists()


def test_a_command_leaves_no_configuration_to_what_python_calls_next(asked, capsys):
    """`train` would save it in its folder as its own."""
    assert cli.main(words(asked, "--list")) == 0
    assert config.current() is None and not gin.config_str()
    capsys.readouterr()


@pytest.mark.slow
def test_the_study_of_the_paper_in_its_reduced_form(tmp_path, capfd):
    out = tmp_path / "paper"
    line = ["study", "studies/paper.gin", "--out", str(out), "--gin.SEEDS=(0, 1)"]
    line += ["--gin.STEPS=60", "--gin.BASE_STEPS=80", "--gin.PERIOD=20"]
    line += ["--gin.PROBLEMS=200", "--gin.QUESTIONS=40"]
    assert cli.main(line) == 0
    found = outcome.load(out)
    assert found.done == found.cells == 30
    assert len(found.claims) == 6
    for claim in found.claims:
        for contrast in claim.contrasts:
            assert contrast.estimate.n == 2
    assert (out / "cells/none/seed-0/run" / run_folder.METRICS).exists()
    assert cli.main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    capfd.readouterr()


@pytest.mark.slow
def test_the_study_of_rollouts_in_its_reduced_form(tmp_path, capfd):
    out = tmp_path / "on_policy"
    line = ["study", "studies/on_policy.gin", "--out", str(out), "--gin.SEEDS=(0, 1)"]
    line += ["--gin.STEPS=30", "--gin.TEACHER_STEPS=30", "--gin.BASE_STEPS=30"]
    line += ["--gin.MORE_STEPS=30", "--gin.PROBLEMS=200", "--gin.QUESTIONS=20"]
    assert cli.main(line) == 0
    found = outcome.load(out)
    assert found.done == found.cells == 20
    text = (out / "cells/few_all/seed-0/run" / run_folder.METRICS).read_text()
    assert '"on_policy/share": 1.0' in text
    capfd.readouterr()
