"""MultiArith: word problems of several steps, as a JSON list."""

import pathlib
from typing import Any, cast

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem
from specialize.errors import InputError


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
    for index, record in enumerate(parsing.json_list(parsing.read_json(file), file)):
        where = f"{file}#{index}"
        solutions = parsing.field(record, "lSolutions", where)
        if not isinstance(solutions, list) or not solutions:
            raise InputError(
                f"{where}: 'lSolutions' is {solutions!r}, expected a list of numbers."
            )
        numbers = cast(list[Any], solutions)
        problems.append(
            Problem(
                id=f"multiarith-{parsing.identity(record, 'iIndex', where)}",
                question=parsing.text(record, "sQuestion", where),
                answers=tuple(
                    parsing.number(value, "lSolutions", where) for value in numbers
                ),
                source=where,
            )
        )
    return parsing.checked(problems, file, "'iIndex'")
