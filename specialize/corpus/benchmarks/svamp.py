"""SVAMP: word problems whose wording was varied, as a JSON list."""

import pathlib

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem


def read_svamp(path: parsing.Path) -> list[Problem]:
    """Reads SVAMP: a JSON list of records.

    Args:
        path: `SVAMP.json`.

    Returns:
        Problems with ids `svamp-<ID>`. 358 bodies end without a stop; they get one,
        so that body and question are two sentences.

    Raises:
        InputError: naming file and record: malformed, a field missing, no number in
            `Answer`, an `ID` given twice.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    for index, record in enumerate(parsing.json_list(parsing.read_json(file), file)):
        where = f"{file}#{index}"
        body = parsing.text(record, "Body", where)
        stop = "" if body.endswith((".", "?", "!", ",", ";", ":")) else "."
        problems.append(
            Problem(
                id=f"svamp-{parsing.identity(record, 'ID', where)}",
                question=f"{body}{stop} {parsing.text(record, 'Question', where)}",
                answers=(
                    parsing.number(
                        parsing.field(record, "Answer", where), "Answer", where
                    ),
                ),
                source=where,
            )
        )
    parsing.require_distinct(problems, lambda problem: problem.id, "the ID")
    return parsing.require_some(problems, file)
