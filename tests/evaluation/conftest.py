"""A small benchmarks folder in the owners' layouts, written by hand."""

import json
import pathlib

import pytest

BBH_PROMPT = """BENCHMARK DATA SHOULD NEVER APPEAR. canary GUID 0
-----
Tell where one ends up.

Q: Go left. Options:
- Yes
- No
A: Let's think step by step.
One goes left and stays there; the answer is near. So the answer is No.

Q: Go left, go right.
A: Let's think step by step. One returns. So the answer is Yes."""


def write_json(path: pathlib.Path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: pathlib.Path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(record) for record in records))


@pytest.fixture
def benchmarks(tmp_path) -> pathlib.Path:
    folder = tmp_path / "benchmarks"
    for split, count in (("train", 12), ("test", 20)):
        write_lines(
            folder / f"gsm8k/{split}.jsonl",
            [
                {
                    "question": f"{split}: what is {n} + 1?",
                    "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}",
                }
                for n in range(count)
            ],
        )
    write_json(
        folder / "multiarith/MultiArith.json",
        [
            {"iIndex": n, "sQuestion": f"Twice {n // 2}?", "lSolutions": [n // 2 * 2.0]}
            for n in range(6)
        ],
    )
    write_json(
        folder / "svamp/SVAMP.json",
        [
            {"ID": f"chal-{n}", "Body": f"{n} left", "Question": "Why?", "Answer": n}
            for n in range(4)
        ],
    )
    (folder / "asdiv").mkdir()
    (folder / "asdiv/ASDiv.xml").write_text(
        "<a>"
        + "".join(
            f'<Problem ID="n-{n}"><Body>It is {n}.</Body><Question>How many?</Question>'
            f"<Answer>{answer}</Answer></Problem>"
            for n, answer in enumerate(["0 (x)", "1 (x)", "Ann", "3 (ft); 4 (ft)"])
        )
        + "</a>"
    )
    write_json(
        folder / "bbh/bbh/turning.json",
        {"examples": [{"input": f"Go {n}.", "target": "No"} for n in range(5)]},
    )
    write_json(
        folder / "bbh/bbh/naming.json",
        {"answer_type": "words", "examples": [{"input": "b a", "target": "a b"}]},
    )
    (folder / "bbh/cot-prompts").mkdir()
    (folder / "bbh/cot-prompts/turning.txt").write_text(BBH_PROMPT)
    return folder
