"""The owners' files become problems; anything else is refused by name and place."""

import json

import least
import pytest

from specialize.corpus.tasks.known import read_problems
from specialize.errors import InputError


def gsm8k_line(question="How many?", answer="1 + 1 = <<1+1=2>>2.\n#### 2"):
    return json.dumps({"question": question, "answer": answer})


def asdiv(*bodies):
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><Machine-Reading-Corpus-File>'
        f"<ProblemSet>{''.join(bodies)}</ProblemSet></Machine-Reading-Corpus-File>"
    )


def asdiv_problem(id="nluds-0001", body="Two.", question="How many?", answer="2 (x)"):
    return (
        f'<Problem ID="{id}"><Body>{body}</Body><Question>{question}</Question>'
        f"<Answer>{answer}</Answer></Problem>"
    )


def test_gsm8k_gives_question_answer_and_rationale_without_calculator_marks(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(gsm8k_line() + "\n\n" + gsm8k_line("And 1,080?", "x\n#### 1,080"))
    first, second = read_problems(file, "gsm8k")
    assert (first.id, first.question, first.answers) == (
        "gsm8k-train-0",
        "How many?",
        ("2",),
    )
    assert first.rationale == "1 + 1 = 2."
    assert (second.id, second.answers) == ("gsm8k-train-1", ("1,080",))
    assert second.source == f"{file}:3"


def test_open_calculator_marks_are_read_in_no_time(tmp_path):
    file = tmp_path / "train.jsonl"
    solution = f"{'<<' * 100_000} 1 + 1 = <<1+1=2>>2.\n#### 2"
    file.write_text(gsm8k_line(answer=solution) + "\n", encoding="utf-8")
    assert least.seconds(lambda: read_problems(file, "gsm8k")) < 1
    [problem] = read_problems(file, "gsm8k")
    assert problem.rationale == f"{'<<' * 100_000} 1 + 1 = 2."


def test_svamp_joins_body_and_question_with_one_stop(tmp_path):
    file = tmp_path / "SVAMP.json"
    record = {
        "ID": "chal-1",
        "Body": "He had 3 left",
        "Question": "Why?",
        "Answer": 5.0,
    }
    other = record | {"ID": "chal-2", "Body": "He left.", "Answer": 0.5}
    file.write_text(json.dumps([record, other]))
    first, second = read_problems(file, "svamp")
    assert (first.id, first.question) == ("svamp-chal-1", "He had 3 left. Why?")
    assert second.question == "He left. Why?"
    assert (first.answers, second.answers) == (("5",), ("0.5",))


def test_asdiv_keeps_units_and_gives_no_answer_where_gold_has_no_number(tmp_path):
    file = tmp_path / "ASDiv.xml"
    file.write_text(asdiv(asdiv_problem(), asdiv_problem("b", answer="Mrs. Hilt")))
    first, second = read_problems(file, "asdiv")
    assert (first.id, first.question) == ("asdiv-nluds-0001", "Two. How many?")
    assert (first.answers, second.answers) == (("2 (x)",), ())


def test_multiarith_and_bbh_are_read_from_their_layouts(tmp_path):
    multiarith = tmp_path / "MultiArith.json"
    multiarith.write_text(
        json.dumps([{"iIndex": 7, "sQuestion": " A? ", "lSolutions": [39.0]}])
    )
    assert read_problems(multiarith, "multiarith")[0].id == "multiarith-7"
    assert read_problems(multiarith, "multiarith")[0].answers == ("39",)
    bbh = tmp_path / "navigate.json"
    bbh.write_text(json.dumps({"examples": [{"input": "Go.", "target": "No"}]}))
    assert read_problems(bbh, "bbh")[0].id == "bbh-navigate-0"
    assert read_problems(bbh, "bbh")[0].answers == ("No",)


@pytest.mark.parametrize(
    ("reader", "text", "words"),
    [
        ("gsm8k", "", ["holds no problem"]),
        ("gsm8k", gsm8k_line() + "\n{", [":2:", "not JSON"]),
        ("gsm8k", "[1]", [":1:", "expected an object, found a list"]),
        ("gsm8k", '{"question": "x"}', [":1:", "the key 'answer' is missing"]),
        ("gsm8k", gsm8k_line(question=" "), [":1: question is empty"]),
        ("gsm8k", gsm8k_line(answer="2"), [":1:", "####"]),
        ("gsm8k", gsm8k_line(answer="2 ####"), [":1:", "does not match"]),
        ("gsm8k", gsm8k_line(answer="#### two"), [":1:", "expected a number"]),
        ("gsm8k", gsm8k_line() + "\n" + gsm8k_line(), [":2:", ":1", "already"]),
        ("multiarith", "{}", ["expected a list, found an object"]),
        ("multiarith", "[{}]", ["#0: the key 'iIndex' is missing"]),
        ("multiarith", '[\n{"a": }]', ["not JSON"]),
        (
            "multiarith",
            '[{"iIndex": 1, "sQuestion": "A", "lSolutions": ["x"]}]',
            ["#0", "'x'", "number"],
        ),
        (
            "svamp",
            '[{"ID": "a", "Body": "B", "Question": "Q", "Answer": NaN}]',
            ["not JSON"],
        ),
        (
            "svamp",
            '[{"ID": "a", "Body": "B", "Question": "Q", "Answer": true}]',
            ["#0: answer is 'true', expected a number"],
        ),
        ("asdiv", "<a><b></a>", [":1:", "not XML"]),
        ("asdiv", asdiv(), ["holds no problem"]),
        ("asdiv", asdiv(asdiv_problem(answer="")), ["#0", "answer is"]),
        (
            "asdiv",
            asdiv(asdiv_problem(), asdiv_problem()),
            ["#1", "the id was already"],
        ),
        ("bbh", "[]", ["examples"]),
        ("bbh", '{"examples": [{"input": "x"}]}', ["#0", "'target'"]),
        ("bbh", '{"examples": []}', ["holds no problem"]),
        (
            "bbh",
            '{"examples": [{"id": "a", "input": "x", "target": "y"}, '
            '{"id": "a", "input": "z", "target": "y"}]}',
            ["#1", "#0", "already"],
        ),
    ],
)
def test_a_faulty_file_is_refused_by_name_and_place(tmp_path, reader, text, words):
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(InputError) as refusal:
        read_problems(file, reader)
    for word in (str(file), *words):
        assert word in str(refusal.value)


@pytest.mark.parametrize("reader", ["gsm8k", "multiarith", "asdiv", "svamp", "bbh"])
def test_a_missing_file_a_folder_and_a_binary_are_refused(tmp_path, reader):
    binary = tmp_path / "test.jsonl.gz"
    binary.write_bytes(b"\x1f\x8b\x08\x00\xff")
    for path in (tmp_path / "none.json", tmp_path, binary):
        with pytest.raises(InputError, match=path.name):
            read_problems(path, reader)


def test_the_owners_files_are_read_whole(shared_data):
    train = read_problems(shared_data / "gsm8k/train.jsonl", "gsm8k")
    assert len(train) == 7473
    assert not any("<<" in (problem.rationale or "") for problem in train)
    assert len(read_problems(shared_data / "gsm8k/test.jsonl", "gsm8k")) == 1319
    multiarith = read_problems(shared_data / "multiarith/MultiArith.json", "multiarith")
    assert len(multiarith) == 600
    assert len(read_problems(shared_data / "svamp/SVAMP.json", "svamp")) == 1000
    asdiv = read_problems(shared_data / "asdiv/ASDiv.xml", "asdiv")
    assert len(asdiv) == 2305
    assert sum(not problem.answers for problem in asdiv) == 56
    bbh = [read_problems(file, "bbh") for file in (shared_data / "bbh/bbh").glob("*")]
    assert (len(bbh), sum(map(len, bbh))) == (27, 6511)
