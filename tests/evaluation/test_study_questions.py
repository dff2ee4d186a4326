"""Arms are compared on the same questions only, and parts of them are told."""

import copy
import json

import pytest

from specialize import cli
from specialize.errors import InputError
from specialize.evaluation.results import Results
from specialize.evaluation.study import outcome, tables
from specialize.evaluation.study.cells import cells_of
from specialize.evaluation.study.questions import differing, questions_of
from specialize.evaluation.study.running import study
from specialize.evaluation.study.spec import StudySpec

KEY, MEAN = "sums:zero_shot_cot", "bbh:zero_shot_cot"
PARTS = ("bbh/one:zero_shot_cot", "bbh/two:zero_shot_cot")


def score(n=40, digest="all", split="test", judge="exact", asked=None, accuracy=0.5):
    found = {"rule": judge, "n": n, "accuracy": accuracy, "low": 0.0, "high": 1.0}
    found["selection"] = {"split": split, "of": 40, "n": n, "digest": digest}
    return found if asked is None else {**found, "asked": asked}


def mean_of(*parts):
    found = {"n": sum(one["n"] for one in parts), "suites": len(parts)}
    asked = sum(one.get("asked", one["n"]) for one in parts)
    more = {} if asked == found["n"] else {"asked": asked}
    return {**found, "accuracy": 0.5, "low": 0.0, "high": 1.0, **more}


def results_of(one=None, parts=None):
    parts = [score(), score(20)] if parts is None else parts
    suites = {KEY: score() if one is None else one}
    suites |= dict(zip(PARTS, parts, strict=False))
    return Results({}, {}, suites, {MEAN: mean_of(*parts)})


def run(folder, results, seeds=(0, 1), reference="a"):
    """A study of three arms; those of an arm and seed are `results`, if it names it."""
    spec = StudySpec(
        arms={"a": {}, "b": {}, "c": {}},
        cell=("evaluate {arm} {seed} {cell}",),
        measures={"sums": KEY, "bbh": MEAN},
        seeds=seeds,
        reference=reference,
        claims={"Better.": {"b.sums - a.sums": 0.0}} if reference else {},
    )

    def command(words, held):
        arm, seed, cell = words[1:]
        own = results.get((arm, int(seed)), results.get(arm, results_of()))
        own.save(f"{cell}/results.json")
        return 0

    return spec, study(spec, out=folder / "out", command=command)


OTHERS = {
    "a part": (results_of(score(5, "part", asked=40)), "5 of 40 questions", KEY),
    "a sample": (results_of(score(7, "some")), "7 questions", KEY),
    "a split": (results_of(score(40, "valid", "validation")), "split validation", KEY),
    "a judge": (results_of(score(judge="reference")), "judge reference", KEY),
    "a suite less": (results_of(parts=[score()]), "no bbh/two:zero_shot_cot", MEAN),
    "a part of a suite": (
        results_of(parts=[score(), score(3, "part", asked=20)]),
        "for bbh/two:zero_shot_cot 3 of 20 questions",
        MEAN,
    ),
}


@pytest.mark.parametrize("reference", ["a", "b", None])
@pytest.mark.parametrize("name", OTHERS)
def test_arms_with_different_questions_are_not_compared(
    tmp_path, name, reference, capsys
):
    other, said, key = OTHERS[name]
    with pytest.raises(InputError, match="different questions") as caught:
        run(tmp_path, {("b", 1): other}, reference=reference)
    measure = {KEY: "sums", MEAN: "bbh"}[key]
    text = str(caught.value)
    assert said in text and f"measure {measure!r}" in text
    assert "cell 4 (b, seed 1)" in text and "seed 0" not in text
    assert "remove the folder" in text
    capsys.readouterr()


@pytest.mark.parametrize("name", OTHERS)
def test_seeds_may_have_different_questions(tmp_path, name, capsys):
    other, _, _ = OTHERS[name]
    _, found = run(tmp_path, {(arm, 1): other for arm in "abc"})
    assert found.differences["b"]["sums"].n == 2
    capsys.readouterr()


def test_a_part_of_the_questions_is_told_in_every_table(tmp_path, capsys):
    parts = {
        (arm, seed): results_of(
            score(5 + seed, f"part {seed}", asked=40, accuracy=0.1 * (seed + 1)),
            [score(), score(3, "part", asked=20)],
        )
        for arm in "abc"
        for seed in (0, 1)
    }
    spec, found = run(tmp_path, parts)
    cases = [found.scores["a"], found.differences["b"]]
    for one in cases:
        assert one["sums"].answered == {"0": (5, 40), "1": (6, 40)}
        assert one["bbh"].answered == {"0": (43, 60), "1": (43, 60)}
    written = json.loads((tmp_path / "out/study.json").read_text())
    assert written["scores"]["c"]["sums"]["answered"] == {"0": [5, 40], "1": [6, 40]}
    assert outcome.load(tmp_path / "out") == found
    tables.show(found)
    shown = capsys.readouterr().out
    page = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path / "out"), "--out", str(page)]) == 0
    for text in (" ".join(shown.split()), page.read_text()):
        assert text.count("(43 of 60 questions)") == 5  # 3 arms and 2 differences
        assert text.count("(5 to 6 of 40 questions)") == 6  # and a contrast
    # The same questions are the same, however it came that these were asked.
    alone = [{**parts["a", seed].suites[KEY], "asked": None} for seed in (0, 1)]
    for cell in cells_of(spec, tmp_path / "out"):
        if cell.arm == "b":
            file = tmp_path / f"out/cells/b/seed-{cell.seed}/results.json"
            content = json.loads(file.read_text())
            content["suites"][KEY] = alone[cell.seed]
            file.write_text(json.dumps(content))
    found = outcome.gather(spec, tmp_path / "out")
    assert found.scores["b"]["sums"].answered == {}
    assert found.differences["b"]["sums"].answered == {"0": (5, 40), "1": (6, 40)}
    capsys.readouterr()


def without(result, *names):
    """The results as an earlier version wrote them, without some of the fields."""
    suites = copy.deepcopy(dict(result.suites))
    for one in suites.values():
        for name in names:
            one.pop(name, None)
            one.get("selection", {}).pop(name, None)
    return Results({}, {}, suites, result.averages)


@pytest.mark.parametrize("lacks", [["digest"], ["selection"], ["selection", "rule"]])
def test_what_an_earlier_version_did_not_record_is_no_difference(lacks):
    def both(one, other):
        found = (one, without(other, *lacks))
        return [
            differing(questions_of(x.scores, key), questions_of(y.scores, key))
            for x, y in (found, found[::-1])
            for key in (KEY, MEAN)
        ]

    assert both(results_of(), results_of()) == [None] * 4
    for name in ("a part", "a sample", "a suite less", "a part of a suite"):
        assert any(both(results_of(), OTHERS[name][0])), name


def test_the_same_questions_of_two_splits_are_the_same():
    one, other = results_of(score(split="test")), results_of(score(split="all"))
    found = (questions_of(each.scores, KEY) for each in (one, other))
    assert differing(*found) is None
