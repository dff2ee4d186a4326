"""Predictions of other programs: lm-evaluation-harness, their ids, nulls, parts."""

import csv
import gzip
import json

import pytest

from specialize import cli
from specialize.corpus.tasks.known import known_suites
from specialize.errors import InputError
from specialize.evaluation import lm_eval
from specialize.evaluation.predictions import match_predictions, read_predictions
from specialize.evaluation.results import Results
from specialize.evaluation.suites import loading
from specialize.judging.answers import verdict
from specialize.judging.choices import ANSWER_TYPES
from specialize.judging.spec import JudgeSpec


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def matched(path, asked, **options):
    return match_predictions(read_predictions(path, **options), [asked])[asked.key]


def sample(number, example, text, **other):
    """A line as lm_eval writes it with --log_samples."""
    return {
        "doc_id": number,
        "doc": {"question": example.problem.question, "answer": "#### 1"},
        "target": "1",
        "arguments": {
            "gen_args_0": {
                "arg_0": f"Q: Else?\nA: 3\n\nQ: {example.problem.question}\nA:",
                "arg_1": {"until": ["Q:"], "temperature": 0.0},
            }
        },
        "resps": [[text]],
        "filtered_resps": ["[invalid]"],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "doc_hash": "0",
        "exact_match": 0.0,
        **other,
    }


OLD = {"arguments": [["Q: Else?\nA: 3\n\nQ: {}\nA:", {"until": ["Q:"]}]]}
KINDS = {
    "as it is": {},
    "without the prompt": {"arguments": None},
    "without the row of the data": {"doc": None},
    "with other fields of the data": {"doc": {"n": 3, "q": "{}", "why": None}},
    "as old versions wrote it": OLD,
    "with an end of line": {"doc": {"question": "{}\n "}},
    "with the row alone": {"doc": None, "arguments": None},
    "with a text for the row": {"doc": "{}", "arguments": []},
}


def filled(value, question):
    if isinstance(value, dict):
        return {key: filled(one, question) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, question) for one in value]
    return value.replace("{}", question) if isinstance(value, str) else value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [1, -1])
def test_samples_of_lm_eval_are_known_by_their_questions(
    benchmarks, tmp_path, kind, order
):
    suite = loading.load_suite("gsm8k", benchmarks, split="all")
    lines = [
        sample(number, one, one.id, **filled(KINDS[kind], one.problem.question))
        for number, one in enumerate(suite.examples)
    ][::order]
    # Two filters write each sample twice.
    lines += [{**line, "filter": "flexible-extract"} for line in lines]
    file = tmp_path / "samples_gsm8k_cot_2025-01-02T03-04-05.678.jsonl"
    found = matched(write(file, lines), suite, known=known_suites())
    assert found == [(one.id,) for one in suite.examples]


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("samples_gsm8k_2024-06-01T00-00-00.000000.jsonl", "gsm8k"),
        ("samples_gsm8k_cot_llama_2024-06-01T00-00-00.0.jsonl.gz", "gsm8k"),
        ("runs/samples_bbh_cot_fewshot_navigate_2024-06-01T0.jsonl", "bbh/navigate"),
        ("samples_bbh_zeroshot_web_of_lies_2024-06-01T0.jsonl", "bbh/web_of_lies"),
        ("samples_ASDiv_2024-06-01T0.jsonl", "asdiv"),
        ("samples_my_cold.jsonl", "cold"),
        ("samples_hellaswag_2024-06-01T0.jsonl", None),
        ("samples_gsm8ks_2024-06-01T0.jsonl", None),
        ("gsm8k.jsonl", None),
    ],
)
def test_the_name_of_a_file_says_its_suite(name, suite):
    assert lm_eval.suite_of(name, known_suites(["cold"])) == suite


def test_a_sample_of_several_columns_is_known_by_its_row_and_a_column(
    benchmarks, tmp_path
):
    """A prompt in another wording that quotes no question, as of ASDiv."""
    suite = loading.load_suite("asdiv", benchmarks, split="all")

    def line(row, text):
        doc = {"body": f"It is {row}.  And so", "question": "How many?", "formula": "x"}
        doc |= {"long": suite.examples[row].problem.question[:-1]}
        prompt = {"a": {"arg_0": f"{doc['body']}\nQuestion:{doc['question']}\nAnswer:"}}
        return {"doc_id": row, "doc": doc, "arguments": prompt, "resps": [[text]]}

    lines = [line(row, f"{row}") for row in (2, 0, 3, 1)]
    found = matched(write(tmp_path / "s.jsonl", lines), suite, suite="asdiv")
    assert found == [("0",), ("1",), ("2",), ("3",)]
    lines[0]["doc"]["long"] = "It is another question."
    with pytest.raises(InputError, match="s.jsonl:1 .*no example with this input"):
        matched(write(tmp_path / "s.jsonl", lines), suite, suite="asdiv")


def test_samples_and_options_of_lm_eval_are_predictions(benchmarks, tmp_path):
    suite = loading.load_suite("bbh/turning", benchmarks, split="all")
    lines = []
    for number, one in enumerate(suite.examples):
        asked = {
            f"gen_args_{at}": {"arg_0": one.problem.question, "arg_1": f" {option}"}
            for at, option in enumerate(("Yes", "No"))
        }
        scores = [[["-7.5", "False"]], [["-0.25", "True"]]]
        lines.append(sample(number, one, "") | {"arguments": asked, "resps": scores})
    found = matched(write(tmp_path / "o.jsonl", lines), suite, suite="bbh/turning")
    assert found == [("No",)] * 5
    several = [
        sample(number, one, "") | {"resps": [["Yes", None]]}
        for number, one in enumerate(suite.examples)
    ]
    found = matched(write(tmp_path / "s.jsonl", several), suite, suite="bbh")
    assert found == [("Yes", "")] * 5


@pytest.mark.parametrize("value", [[], None, 3, "x", [3], [[]], [{}], [["-1", "x"], 2]])
def test_outputs_of_another_form_are_one_message(tmp_path, value):
    file = write(tmp_path / "s.jsonl", [{"doc_id": 0, "resps": value}])
    with pytest.raises(InputError, match=r"s.jsonl:1: 'resps' is .*--log_samples"):
        read_predictions(file, suite="gsm8k")


IDS = {
    "whole": lambda suite, at: suite.examples[at].id,
    "row": lambda suite, at: at,
    "row as a number with a point": lambda suite, at: float(at),
    "row as text": lambda suite, at: str(at),
    "row with zeros": lambda suite, at: f"{at:05}",
    "with a prefix": lambda suite, at: f"my-run/{suite.examples[at].id}",
    "with two prefixes": lambda suite, at: f"a:b_{suite.examples[at].id}",
    "with slashes": lambda suite, at: suite.examples[at].id.replace("-", "/"),
    "with underscores": lambda suite, at: suite.examples[at].id.replace("-", "_"),
    "in capitals": lambda suite, at: suite.examples[at].id.upper(),
    "without the task": lambda suite, at: suite.examples[at].id.partition("-")[2],
    "task and row": lambda suite, at: f"{suite.family}_{at}",
    "task, split and row": lambda suite, at: f"{suite.family}/test/{at}",
    "a word and the row": lambda suite, at: f"doc_{at}",
}


@pytest.mark.parametrize("name", ["gsm8k", "svamp", "asdiv", "bbh/turning"])
@pytest.mark.parametrize("kind", IDS)
def test_ids_of_other_programs_are_those_of_the_examples(
    benchmarks, tmp_path, name, kind
):
    suite = loading.load_suite(name, benchmarks, split="all")
    lines = [
        {"suite": name, "id": IDS[kind](suite, at), "prediction": str(at)}
        for at in range(len(suite.examples))
    ]
    found = matched(write(tmp_path / "p.jsonl", lines), suite)
    assert found == [(str(at),) for at in range(len(lines))]


def test_an_integer_is_the_tasks_own_id_before_it_is_a_row(tmp_path):
    rows = [{"n": n, "q": f"{n} and 1?", "a": n + 1} for n in (3, 1, 2)]
    write(tmp_path / "test.jsonl", rows)
    task = tmp_path / "plus.toml"
    task.write_text(
        'name = "plus"\n[files]\ntest = "test.jsonl"\n[fields]\n'
        'id = "n"\nquestion = "q"\nanswer = "a"\n'
    )
    suite = loading.load_suite("plus", None, split="all", tasks=(task,))
    lines = [{"id": n, "prediction": str(n)} for n in (1, 2, 3)]
    found = matched(write(tmp_path / "p.jsonl", lines), suite, suite="plus")
    assert found == [("3",), ("1",), ("2",)]


@pytest.mark.parametrize(
    "wrong", [20, -1, "x", "gsm8k-train-1", "svamp-3", "", "3-x", "test-20", "run-3"]
)
def test_an_id_of_nothing_is_no_example(benchmarks, tmp_path, wrong):
    suite = loading.load_suite("gsm8k", benchmarks, split="all")
    lines = [{"suite": "gsm8k", "id": wrong, "prediction": "1"}]
    with pytest.raises(InputError, match=r"p.jsonl:1 .*has no example"):
        matched(write(tmp_path / "p.jsonl", lines), suite)


def test_every_mismatch_is_counted_and_the_first_are_named(benchmarks, tmp_path):
    suite = loading.load_suite("gsm8k", benchmarks, split="all")
    lines = [
        {"suite": "gsm8k", "id": one.id, "prediction": "1"} for one in suite.examples
    ]
    lines += [{"suite": "gsm8k", "id": f"x{n}", "prediction": "1"} for n in range(9)]
    lines += [{"suite": "gsm8k", "input": "What?", "prediction": "1"}] * 2
    lines += [{"suite": "gsm8k", "id": 4, "prediction": "1"}] * 5
    lines += [{"suite": "svamp", "id": 4, "prediction": "1"}]
    lines[7]["prediction"] = ["1", "2"]
    with pytest.raises(InputError) as refusal:
        matched(write(tmp_path / "p.jsonl", lines), suite)
    ids, inputs, twice, other, number = str(refusal.value).split("\n")
    assert ids.startswith("9 of 37 lines (") and ids.count("p.jsonl:") == 3
    assert "'x0'" in ids and "'x3'" not in ids and ids.count(", ...") == 1
    assert inputs.startswith("2 of 37 lines (") and "'What?'" in inputs
    assert twice.startswith("5 of 37 lines (") and "already answered" in twice
    assert "p.jsonl:37: predictions of suite 'svamp'" in other
    assert "p.jsonl:8: 2 samples, but 1" in number


def test_malformed_lines_are_counted_too(tmp_path):
    good = {"suite": "gsm8k", "id": 1, "prediction": "1"}
    lines = [good, *[{**good, "prediction": n} for n in range(5)], {"suite": "gsm8k"}]
    with pytest.raises(InputError) as refusal:
        read_predictions(write(tmp_path / "p.jsonl", lines))
    first, *rest = str(refusal.value).split("\n")
    assert first.endswith("p.jsonl: 6 of 7 lines cannot be read, first:")
    assert [line.split(":")[1] for line in rest] == ["2", "3", "4"]


def as_csv(path, lines):
    with open(path, "w", newline="") as stream:
        table = csv.DictWriter(stream, list(lines[0]))
        table.writeheader()
        table.writerows(lines)


def as_parquet(path, lines):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(lines), path)


WRITERS = {
    "p.jsonl.gz": lambda path, lines: path.write_bytes(
        gzip.compress("".join(json.dumps(one) + "\n" for one in lines).encode())
    ),
    "p.json": lambda path, lines: path.write_text(json.dumps(lines)),
    "p.out": write,
    "p.csv": as_csv,
    "p.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_of_every_format_are_read(benchmarks, tmp_path, name):
    suite = loading.load_suite("svamp", benchmarks, split="all")
    lines = [{"suite": "svamp", "id": n, "prediction": f"It's {n}"} for n in range(4)]
    WRITERS[name](tmp_path / name, lines)
    assert matched(tmp_path / name, suite) == [(f"It's {n}",) for n in range(4)]


@pytest.mark.parametrize("kind", ANSWER_TYPES)
@pytest.mark.parametrize("judge", ["exact", "reference", "own"])
def test_no_answer_is_none_whatever_its_type_and_judge(tmp_path, kind, judge):
    if judge == "own":
        (tmp_path / "last.py").write_text("last = lambda p, golds: p.split()[-1]\n")
        judge = f"{tmp_path / 'last.py'}:last"
    for text in ("", " \n"):
        found = verdict(text, ["(A)", "yes", "1"], JudgeSpec(judge, kind))
        assert (found.correct, found.value, found.how) == (False, None, "none")


def test_a_part_is_judged_and_every_table_says_so(benchmarks, tmp_path, capsys):
    """Null predictions are answers that are none; missing lines are not judged."""
    lines = [
        {"suite": "gsm8k", "id": n, "prediction": None if n < 2 else f"{n + 1}"}
        for n in range(12)
    ]
    lines += [{"suite": "bbh", "id": f"turning-{n}", "prediction": "No"} for n in (0,)]
    lines += [{"suite": "svamp", "id": n, "prediction": "0"} for n in range(4)]
    words = ["--split", "all", "--benchmarks", str(benchmarks)]
    words += ["--json", str(tmp_path / "r.json")]
    file = write(tmp_path / "p.jsonl", lines)
    assert cli.main(["evaluate", "--predictions", str(file), *words]) == 0
    shown = capsys.readouterr().out
    assert "12 of 20" in shown and "1 of 5" in shown
    results = Results.load(tmp_path / "r.json")
    score = results.suites["gsm8k:zero_shot_cot"]
    assert (score["n"], score["asked"], score["correct"]) == (12, 20, 10)
    assert score["how"] == {"marked": 0, "last": 10, "none": 2}
    assert (score["selection"]["n"], score["selection"]["of"]) == (12, 20)
    assert "asked" not in results.suites["svamp:zero_shot_cot"]
    assert "bbh/naming:zero_shot_cot" not in results.suites
    assert len(results.lines("gsm8k:zero_shot_cot")) == 12
    report = ["report", str(tmp_path / "r.json"), "--out", str(tmp_path / "r.md")]
    assert cli.main(report) == 0
    assert "12 of 20" in (tmp_path / "r.md").read_text()


def test_an_average_over_a_part_says_so(benchmarks, tmp_path):
    lines = [
        {"suite": name, "id": n, "prediction": "0"}
        for name, count in (("multiarith", 6), ("asdiv", 4), ("svamp", 3))
        for n in range(count)
    ]
    words = ["--split", "all", "--benchmarks", str(benchmarks)]
    words += ["--json", str(tmp_path / "r.json")]
    file = write(tmp_path / "p.jsonl", lines)
    assert cli.main(["evaluate", "--predictions", str(file), *words]) == 0
    average = Results.load(tmp_path / "r.json").averages["mas:zero_shot_cot"]
    assert (average["n"], average["asked"]) == (13, 14)


def test_lines_without_a_suite_are_of_the_one_that_is_named(
    benchmarks, tmp_path, capsys
):
    file = write(tmp_path / "p.jsonl", [{"id": n, "prediction": "0"} for n in range(4)])
    words = ["evaluate", "--predictions", str(file), "--split", "all"]
    words += ["--benchmarks", str(benchmarks)]
    assert cli.main([*words, "--suite", "svamp"]) == 0
    assert cli.main(words) == 2
    assert "4 of 4 lines" in (said := capsys.readouterr().err) and "--suite" in said
