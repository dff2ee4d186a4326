"""GSM8K: grade-school word problems with human solutions, as JSON lines."""

import dataclasses
import pathlib
import re

from specialize import typed_json
from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem
from specialize.errors import InputError
from specialize.judging.quantities import find_quantities

_CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


@dataclasses.dataclass(frozen=True)
class _Record:
    question: parsing.Text
    answer: parsing.Text


def read_gsm8k(path: parsing.Path) -> list[Problem]:
    """Reads GSM8K: one JSON object per line.

    Args:
        path: `train.jsonl`, `test.jsonl` or a file of the same layout.

    Returns:
        Problems with ids `gsm8k-<file stem>-<index>`; `rationale` is the human
        solution without `<<48/2=24>>` marks and without `#### 24`.

    Raises:
        InputError: the file is not readable or not JSON, a field is missing or not
            text, "####" and a number do not end the answer, or a question occurs
            twice. The message names file and line.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    for where, record in typed_json.read_lines(file, _Record, remedy=parsing.REMEDY):
        question, solution = record.question.strip(), record.answer.strip()
        rationale, mark, gold = solution.rpartition("####")
        gold = gold.strip()
        if not mark or not find_quantities(gold):
            raise InputError(
                f"{where}: 'answer' ends {solution[-40:]!r}, expected '#### ' and the "
                "gold number. Correct the line or remove it."
            )
        problems.append(
            Problem(
                id=f"gsm8k-{file.stem}-{len(problems)}",
                question=question,
                answers=(gold,),
                rationale=_CALCULATOR_MARK.sub("", rationale).strip(),
                source=where,
            )
        )
    return parsing.checked(problems, file, "the question", key="question")
