"""A task file says how rows become problems; what is wrong with it is one message."""

import csv
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_task_cases import write_lines, yes_no_task

from specialize.corpus import prompts
from specialize.corpus.choices import FORMATS
from specialize.corpus.tasks.files import read_task
from specialize.corpus.tasks.known import find, index, read_problems, shipped
from specialize.corpus.wording import PAPER, Wording
from specialize.errors import InputError
from specialize.judging.answers import verdict

ROWS = [
    {"n": 1, "q": "Is ice cold?", "label": 1, "why": "Ice is frozen."},
    {"n": 2, "q": "Is fire cold?", "label": 0, "why": "Fire is hot."},
]


@pytest.fixture
def yes_no(tmp_path):
    file = tmp_path / "cold.toml"
    file.write_text(
        yes_no_task("Question: {q}", cot="{question}", fields='rationale = "why"')
    )
    return read_task(file)


def write(path, rows):
    """The rows in the format of the file's ending."""
    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="") as stream:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            table = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".jsonl":
        write_lines(path, rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        path.mkdir()
        (path / "dataset_info.json").write_text("{}")
        table = pyarrow.Table.from_pylist(rows)
        with (
            pyarrow.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as stream,
        ):
            stream.write_table(table)
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "saved"]
)
def test_the_same_rows_are_the_same_problems_in_every_format(tmp_path, yes_no, name):
    first, second = read_problems(write(tmp_path / name, ROWS), yes_no)
    assert (first.id, first.question) == ("cold-1", "Question: Is ice cold?")
    assert (first.answers, second.answers) == (("yes",), ("no",))
    assert first.rationale == "Ice is frozen."


def test_prompts_and_targets_have_the_wording_of_the_task(tmp_path, yes_no):
    first, second = read_problems(write(tmp_path / "a.jsonl", ROWS), yes_no)
    assert prompts.render("zero_shot_cot", first) == (
        "Question: Is ice cold?\nReason first.",
        "Ice is frozen.\nMy verdict: yes.",
    )
    inputs, targets = prompts.render("in_context_answer_only", first, [second])
    assert inputs == (
        "Q: Question: Is fire cold?\nA: My verdict: no.\n\n"
        "Q: Question: Is ice cold?\nA:"
    )
    assert targets == "My verdict: yes."


@pytest.mark.parametrize(
    ("text", "correct", "how"),
    [
        ("Ice melts. My verdict: yes.", True, "marked"),
        ("No wonder. my verdict: no", False, "marked"),
        ("It is not certain. MY VERDICT:  Yes", True, "marked"),
    ],
)
def test_the_closing_phrase_of_a_task_marks_the_answer(yes_no, text, correct, how):
    found = verdict(text, ["yes"], yes_no.judge)
    assert (found.correct, found.how) == (correct, how)


OPTIONS = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("choices", "row"),
    [
        ('"o"', {"o": OPTIONS, "a": 1}),
        ('"o"', {"o": OPTIONS, "a": "B"}),
        ('"o"', {"o": OPTIONS, "a": "(B)"}),
        ('"o"', {"o": OPTIONS, "a": "green"}),
        ('["x", "y", "z"]', {"x": "red", "y": "green", "z": "blue", "a": "B"}),
        ('{ from = "o", first = 1 }', {"o": OPTIONS, "a": "2"}),
        ('"o"', {"o": {"label": ["1", "2", "3"], "text": OPTIONS}, "a": "2"}),
    ],
)
def test_options_in_every_layout_give_a_letter(tmp_path, choices, row):
    task = tmp_path / "colours.toml"
    task.write_text(
        f'name = "colours"\n[fields]\nquestion = "q"\nanswer = "a"\n'
        f'choices = {choices}\n[answer]\ntype = "choice"\n'
    )
    data = write(tmp_path / "a.jsonl", [{"q": "What colour is grass?", **row}])
    [problem] = read_problems(data, task)
    assert problem.question == "What colour is grass?\n(A) red\n(B) green\n(C) blue"
    assert problem.answers == ("(B)",)


def test_a_notebook_may_give_a_task_as_a_dict(tmp_path):
    data = write(tmp_path / "trips.csv", [{"trip": "A to B", "km": "12.5 km"}])
    task = {
        "name": "trips",
        "fields": {"question": "How long is {trip}?", "answer": "km"},
    }
    [problem] = read_problems(data, task)
    assert (problem.id, problem.question) == ("trips-trips-0", "How long is A to B?")
    assert problem.answers == ("12.5 km",)
    assert verdict("It takes 12.5 kilometres.", problem.answers, find(task).judge)


def test_a_judge_of_ones_own_is_a_function_in_a_file(tmp_path):
    (tmp_path / "near.py").write_text(
        "def near(prediction, golds):\n"
        "    found = prediction.split()[-1]\n"
        "    return any(abs(float(found) - float(g)) < 1 for g in golds), found\n"
    )
    task = tmp_path / "task.toml"
    task.write_text(
        'name = "guess"\n[fields]\nquestion = "q"\nanswer = "a"\n'
        '[answer]\ntype = "number"\njudge = "near.py:near"\n'
    )
    judge = read_task(task).judge
    assert verdict("about 17.6", ["18"], judge).correct
    assert verdict("about 15", ["18"], judge).value == "15"
    with pytest.raises(
        InputError, match=r"near.py:near' failed on 'dunno'.*ValueError"
    ):
        verdict("dunno", ["18"], judge)
    task.write_text(task.read_text().replace("near.py:near", "near.py:far"))
    with pytest.raises(InputError, match="has no function 'far'"):
        verdict("17", ["18"], read_task(task).judge)


FAULTS = [
    ('nam = "x"', "nam is no key of a task. Did you mean 'name'?"),
    ('[fields]\nquestion = "{q|sentense}"', "the filter 'sentense'"),
    ('[fields]\nquestion = "{q"', "fields.question"),
    ('[fields]\nanswer = { from = "a", pattern = "(" }', "no regular expression"),
    ('[fields]\nanswer = { from = "a", pattern = "[[/x]" }', "is ambiguous"),
    ('[fields]\nanswer = { from = "a", pattern = "[0--9]" }', "is ambiguous"),
    ('[fields]\nanswer = { from = "a", pattern = "[a||b]" }', "is ambiguous"),
    ('[fields]\nanswer = { frm = "a" }', "fields.answer.frm is no key"),
    ('[fields]\nunique = "name"', "expected one of id, question"),
    ('[answer]\ntype = "numbr"', "Did you mean 'number'?"),
    ('[answer]\njudge = "near.py"', "expected one of exact, reference"),
    ('[formats]\nzero_shot_cto = "Q {question}"', "Did you mean 'zero_shot_cot'?"),
    ('[formats]\nclosing = "Done"', "expected a text with {answer}"),
    ('[formats]\nseparator = "|"', "begins with white space"),
    ("[files]\ntrain = 3", "files.train is 3, expected a text"),
    ("[files]\nvalidation_share = [5, 2]", "expected [a, b]"),
    ('[subtasks]\none = "wrods"', "Did you mean 'words'?"),
]


@pytest.mark.parametrize(("text", "said"), FAULTS)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, text, said):
    task = tmp_path / "task.toml"
    task.write_text(f"# a comment\n\n{text}\n")
    with pytest.raises(InputError) as refusal:
        read_task(task)
    line = 3 + text.count("\n")
    [found] = [one for one in str(refusal.value).split("\n") if said in one]
    assert found.startswith(f"{task}:{line}: ")


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    task = tmp_path / "task.toml"
    task.write_text('name = "my task"\n[fields]\nqestion = "q"\n[answer]\ntype = "x"\n')
    with pytest.raises(InputError) as refusal:
        read_task(task)
    lines = str(refusal.value).split("\n")
    assert len(lines) == 6  # name, question, answer, qestion, type, where to read more
    assert "Did you mean 'question'?" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "is not TOML"),
        ("a = [" * 10_000, "is not TOML"),
        (b"\xff\xfe", "not UTF-8"),
        ("", "name is missing"),
    ],
)
def test_what_is_no_task_file_is_one_message(tmp_path, text, said):
    task = tmp_path / "task.toml"
    task.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=said):
        read_task(task)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"n": 1}, "the key 'q' is missing, from which question is read"),
        ({"n": 1, "q": "?", "label": 2}, "answer is '2', expected yes or no"),
        ({"n": 1, "q": "", "label": 1, "why": ""}, ""),
        ({"n": 1, "q": {"x": 1}, "label": 1}, "is an object, expected a text"),
        ({"n": None, "q": "?", "label": 1}, "the key 'n' is missing"),
    ],
)
def test_a_faulty_row_is_named(tmp_path, yes_no, row, said):
    rows = [ROWS[1], {"why": "", **row}]
    data = write(tmp_path / "a.jsonl", rows)
    if not said:  # the template has a text of its own
        assert read_problems(data, yes_no)[1].question == "Question:"
        return
    with pytest.raises(InputError) as refusal:
        read_problems(data, yes_no)
    assert f"{data}:2: " in str(refusal.value) and said in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "row", "answer"),
    [
        # Of two alternatives with a group each, one matches.
        (
            {"answer": {"from": "a", "pattern": r"#### (\d+)|Answer: (\d+)"}},
            {"q": "?", "a": "So: Answer: 4"},
            "4",
        ),
        ({"answer": {"from": "a", "pattern": r"\d+( km)?"}}, {"q": "?", "a": "4"}, "4"),
        # "a.b" is column b of the object in a, or a column of this name.
        ({"answer": "a.b"}, {"q": "?", "a": {"b": 4}}, "4"),
        ({"answer": "a.b"}, {"q": "?", "a.b": 4}, "4"),
        ({"answer": "{a.b|sentence}"}, {"q": "?", "a.b": "4"}, "4."),
        ({"answer": {"from": "a", "default": "b"}}, {"q": "?", "a": None, "b": 4}, "4"),
    ],
)
def test_an_answer_is_found_in_its_column(tmp_path, fields, row, answer):
    task = {"name": "x", "fields": {"question": "q", **fields}}
    [problem] = read_problems(write(tmp_path / "a.jsonl", [row]), task)
    assert problem.answers == (answer,)


@pytest.mark.parametrize(
    ("fields", "row", "said"),
    [
        (
            {"answer": "a.b"},
            {"a": {"c": 4}},
            "the key 'a.b' is missing, .*has 'q', 'a'",
        ),
        (
            {"answer": {"from": "a", "default": "b"}},
            {"c": 4},
            "the key 'b' is missing, from which answer is read",
        ),
        ({"answer": "a", "id": "n"}, {"a": 4, "n": 10**301}, "over 300 digits"),
        ({"answer": "a", "choices": "o"}, {"a": 1, "o": ["x"] * 27}, "27 texts for 26"),
        (
            {"answer": "a", "choices": "o"},
            {"a": 1, "o": {"label": list(range(27)), "text": ["x"] * 27}},
            "27 texts for 27 labels, expected 1 to 26",
        ),
        (
            {"answer": "a", "choices": "o"},
            {"a": 1, "o": {"label": ["A", "A"], "text": ["x", "y"]}},
            "the labels of choices are A, A, expected each of them once",
        ),
        (
            {"answer": "a", "choices": "o"},
            {"a": "9" * 5000, "o": ["x", "y"]},
            "expected one of the labels A, B",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_one_message(tmp_path, fields, row, said):
    kind = "choice" if "choices" in fields else "number"
    task = {
        "name": "x",
        "fields": {"question": "q", **fields},
        "answer": {"type": kind},
    }
    data = write(tmp_path / "a.jsonl", [{"q": "?", **row}])
    with pytest.raises(InputError, match=f"a.jsonl:1: .*{said}"):
        read_problems(data, task)


WORDS = st.text(string.ascii_letters + " \n.,?:{}\u2028é", max_size=40)
PIECES = st.text("ab \n:{}", max_size=6).map(
    lambda text: text.replace("{", "{{").replace("}", "}}")
)


@given(before=PIECES, after=PIECES, question=WORDS)
def test_an_input_is_read_back_whatever_its_template(before, after, question):
    wording = Wording({name: f"{before}{{question}}{after}" for name in FORMATS})
    for name in FORMATS:
        text = wording.input(name, question)
        assert wording.question(name, text) == question


@given(middle=PIECES, rationale=WORDS, answer=st.integers())
def test_a_target_is_read_back_whatever_its_template(middle, rationale, answer):
    wording = Wording(
        target=f"{{rationale}}\n{middle}{{closing}}", closing="So: {answer}!"
    )
    text = wording.solution(rationale, str(answer))
    assert wording.parts(text) == (rationale.strip(), str(answer))


@given(
    inputs=PIECES,
    questions=st.lists(WORDS.filter(str.strip), min_size=3, max_size=6),
    query=st.integers(0, 2),
)
def test_demonstrations_never_hold_the_query(inputs, questions, query):
    wording = Wording({name: f"{inputs}{{question}}\n" for name in FORMATS})
    pool = [
        prompts.Problem(str(i), text, ("1",), "because", wording=wording)
        for i, text in enumerate(questions)
    ]
    others = {" ".join(text.split()) for text in questions}
    others.discard(" ".join(questions[query].split()))
    if not others:
        return
    drawn = prompts.draw_demonstrations(pool, pool[query], len(others), seed=0)
    assert {" ".join(one.question.split()) for one in drawn} == others


def test_the_shipped_tasks_have_the_papers_wording():
    for name in index().tasks:
        assert shipped(name).wording == PAPER
        assert shipped(name).name == name


def test_a_mistyped_task_is_told_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'gsm8k'"):
        find("gsmk8")
