"""SVAMP: word problems whose wording was varied, as a JSON list."""

import dataclasses
import pathlib

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem


@dataclasses.dataclass(frozen=True)
class _Record:
    ID: parsing.Identity
    Body: parsing.Text
    Question: parsing.Text
    Answer: parsing.Number


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
    for where, record in parsing.read_list(file, _Record):
        body = record.Body.strip()
        stop = "" if body.endswith((".", "?", "!", ",", ";", ":")) else "."
        problems.append(
            Problem(
                id=f"svamp-{record.ID}",
                question=f"{body}{stop} {record.Question.strip()}",
                answers=(parsing.number(record.Answer, "Answer", where),),
                source=where,
            )
        )
    return parsing.checked(problems, file, "the ID")
