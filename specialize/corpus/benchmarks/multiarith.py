"""MultiArith: word problems of several steps, as a JSON list."""

import dataclasses
import pathlib
from typing import Annotated

import msgspec

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem


@dataclasses.dataclass(frozen=True)
class _Record:
    iIndex: parsing.Identity
    sQuestion: parsing.Text
    lSolutions: Annotated[list[parsing.Number], msgspec.Meta(min_length=1)]


def read_multiarith(path: parsing.Path) -> list[Problem]:
    """Reads MultiArith: a JSON list of records.

    Args:
        path: `MultiArith.json`.

    Returns:
        Problems with ids `multiarith-<iIndex>`. The owners' file repeats 20 question
        texts under different ids; they are kept.

    Raises:
        InputError: the file is malformed, a field is missing, `lSolutions` has no
            number, or an `iIndex` occurs twice. The message names file and record.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    for where, record in parsing.read_list(file, _Record):
        problems.append(
            Problem(
                id=f"multiarith-{record.iIndex}",
                question=record.sQuestion.strip(),
                answers=tuple(
                    parsing.number(value, "lSolutions", where)
                    for value in record.lSolutions
                ),
                source=where,
            )
        )
    return parsing.checked(problems, file, "'iIndex'")
