"""SVAMP: word problems whose wording was varied, as a JSON list."""

import pathlib

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem


def read_svamp(path: parsing.Path) -> list[Problem]:
    """Reads SVAMP: a JSON list of records.

    Args:
        path: `SVAMP.json`.

    Returns:
        Problems with ids `svamp-<ID>`. 358 bodies end without a full stop; they get
        one, so that body and question are two sentences.

    Raises:
        InputError: the file is malformed, a field is missing, `Answer` has no number,
            or an `ID` occurs twice. The message names file and record.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    for index, record in enumerate(parsing.json_list(parsing.read_json(file), file)):
        where = f"{file}#{index}"
        body = parsing.text(record, "Body", where)
        stop = "" if body.endswith((".", "?", "!", ",", ";", ":")) else "."
        gold = parsing.field(record, "Answer", where)
        problems.append(
            Problem(
                id=f"svamp-{parsing.identity(record, 'ID', where)}",
                question=f"{body}{stop} {parsing.text(record, 'Question', where)}",
                answers=(parsing.number(gold, "Answer", where),),
                source=where,
            )
        )
    return parsing.checked(problems, file, "the ID")
