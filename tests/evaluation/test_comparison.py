"""A difference is between the same questions, in the terminal and in the report."""

import io
import json

import pytest
from rich.console import Console

from specialize import cli
from specialize.evaluation import tables
from specialize.evaluation.comparison import compare
from specialize.evaluation.report.report import report
from specialize.evaluation.results import Results
from specialize.evaluation.spec import DEFAULT_SPLIT, EvaluationSpec

KEY = "gsm8k:zero_shot_cot"


def results(folder, right, *, key=KEY, split="test", averages=None):
    """Results whose predictions are {id: correct}, of one suite or of several."""
    folder.mkdir()
    suites, files = {}, {}
    for one in [key] if isinstance(key, str) else key:
        files[one] = f"{one.replace('/', '.').replace(':', '.')}.jsonl"
        lines = [{"id": id, "correct": correct} for id, correct in right.items()]
        (folder / files[one]).write_text("\n".join(map(json.dumps, lines)) + "\n")
        share = sum(right.values()) / len(right)
        suites[one] = {
            **{"accuracy": share, "low": share, "high": share, "n": len(right)},
            "selection": {"split": split, "n": len(right)},
        }
    made = Results(
        {"checkpoint": str(folder)},
        {"split": split},
        suites,
        {name: suites[one] for name in averages or ()},
        files,
    )
    made.save(folder / "results.json")
    return Results.load(folder / "results.json")


def questions(right, of, prefix="q"):
    return {f"{prefix}{n}": n < right for n in range(of)}


def printed(new, old):
    console = Console(file=io.StringIO(), width=200)
    console.print(tables.table(new, old))
    return console.file.getvalue()


def test_difference_interval_and_p_are_over_shared_questions(tmp_path):
    # The base answered ten questions more, all wrongly: its whole file says 10 %, the
    # ten shared questions 30 %.
    old = results(
        tmp_path / "old", {**questions(3, 10), **questions(0, 20, "only old ")}
    )
    new = results(tmp_path / "new", questions(7, 10))
    found = compare(KEY, new, old)
    assert (found.n, found.before, found.after) == (10, 0.3, 0.7)
    assert found.difference.value == pytest.approx(0.4)
    assert found.difference.low <= 0.4 <= found.difference.high
    assert found.p_value == 0.125  # 4 won, none lost: 2 * 0.5^4
    assert str(found).startswith("+40.0 [") and "p = 0.125, n 10" in str(found)
    assert "shared of 30 and 10" in str(found)


def test_the_terminal_and_the_report_say_the_same(tmp_path):
    old = results(tmp_path / "old", {**questions(3, 10), **questions(0, 5, "other ")})
    new = results(tmp_path / "new", questions(7, 10))
    report([tmp_path / "new"], tmp_path / "r.md", base=tmp_path / "old")
    page, said = (tmp_path / "r.md").read_text(), str(compare(KEY, new, old))
    assert said in page and said in printed(new, old)
    assert "30.0 % → 70.0 %" in page, "the finding is of shared questions as well"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"split": "all"}, "base: split all, not test"),
        ({"key": "gsm8k:few_shot_cot"}, "base: not asked"),
        ({"right": questions(3, 10, "another ")}, "no question is shared"),
    ],
)
def test_different_questions_have_no_difference(tmp_path, other, said):
    old = results(tmp_path / "old", **{"right": questions(3, 10), **other})
    new = results(tmp_path / "new", questions(7, 10))
    report([tmp_path / "new"], tmp_path / "r.md", base=tmp_path / "old")
    for text in (printed(new, old), (tmp_path / "r.md").read_text()):
        assert said in text
        assert "+40.0" not in text and "→ 70.0" not in text


def test_without_predictions_nothing_is_paired(tmp_path):
    old = results(tmp_path / "old", questions(3, 10))
    new = results(tmp_path / "new", questions(7, 10))
    (tmp_path / "old" / old.predictions[KEY]).unlink()
    assert "no predictions to pair" in str(compare(KEY, new, old))


def test_an_average_is_compared_suite_by_suite(tmp_path):
    keys = ["bbh/a:zero_shot_cot", "bbh/b:zero_shot_cot"]
    average = "bbh:zero_shot_cot"
    old = results(tmp_path / "old", questions(3, 10), key=keys, averages=[average])
    new = results(tmp_path / "new", questions(7, 12), key=keys, averages=[average])
    found = compare(average, new, old)
    assert found.n == 20 and found.p_value is None
    assert found.difference.value == pytest.approx(0.4)
    assert "shared questions only" in str(found)
    fewer = results(
        tmp_path / "fewer", questions(3, 10), key=keys[:1], averages=[average]
    )
    assert "other suites" in str(compare(average, new, fewer))


# ---- One default for the split -------------------------------------------------------


def test_every_way_of_evaluating_asks_one_split_by_default():
    import inspect

    from specialize import config
    from specialize.evaluation.suites import loading

    found = config.read(
        ["runs/evaluate.gin"], ["CHECKPOINT_PATH = 'a'", "SUITES = ('gsm8k',)"]
    )
    assert found.value("SPLIT") == DEFAULT_SPLIT == "test"
    assert EvaluationSpec().split == DEFAULT_SPLIT
    for function in (loading.load_suite, loading.load_suites):
        parameter = inspect.signature(function).parameters["split"]
        assert parameter.default == DEFAULT_SPLIT, function


@pytest.mark.parametrize(
    ("words", "split", "n"),
    [
        ((), "test", 12),
        (("--split", "validation"), "validation", 8),
        (("--split", "all"), "all", 20),
    ],
)
def test_predictions_are_judged_on_the_split_that_the_table_states(
    benchmarks, tmp_path, capsys, words, split, n
):
    lines = [
        {"suite": "gsm8k", "id": f"gsm8k-test-{n}", "prediction": "The answer is 1."}
        for n in range(20)
    ]
    file = tmp_path / "outputs.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "found.json"
    said = ("--benchmarks", str(benchmarks), "--json", str(out), *words)
    assert cli.main(["evaluate", "--predictions", str(file), *said]) == 0
    found = json.loads(out.read_text())
    assert found["settings"]["split"] == split
    assert found["suites"][KEY]["n"] == n
    assert found["suites"][KEY]["selection"]["split"] == split
    shown = capsys.readouterr().out
    assert "split" in shown and split in shown.split() and str(n) in shown.split()
