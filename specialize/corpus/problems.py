"""The benchmarks' own files -> `Problem`.

| reader | the owner's layout | answers |
|---|---|---|
| `read_gsm8k` | JSON lines: `question`, `answer` ("steps... #### 72") | "72" |
| `read_multiarith` | JSON list: `iIndex`, `sQuestion`, `lSolutions` | "39" |
| `read_asdiv` | XML `Problem`: `ID`, `Body`, `Question`, `Answer` | "9 (apples)" |
| `read_svamp` | JSON list: `ID`, `Body`, `Question`, `Answer` | "51" |
| `read_bbh` | JSON: `{"examples": [{"input", "target"}]}` | `target` |

Answers stay text as published ("1,080", "5 (ft); 7 (ft)"); what they mean is the
business of `answers`. A gold without a number (56 of ASDiv's) gives no answers, so
that no prediction can be right and a table can state the ceiling.

A file that is not what it should be ends with one `InputError` that names the file
and the line or record; nothing is skipped in silence.
"""

import json
import os
import pathlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, cast

from specialize.corpus.records import Problem
from specialize.errors import InputError
from specialize.judge.quantities import find_quantities

Path = str | os.PathLike[str]

_CALCULATOR_MARK = re.compile(r"<<.*?>>")


def read_gsm8k(path: Path) -> list[Problem]:
    r"""Reads GSM8K: one JSON object a line.

    Args:
        path: `train.jsonl`, `test.jsonl` or a file of the same layout.

    Returns:
        Problems with ids `gsm8k-<file stem>-<index>`; `rationale` is the human
        solution without `<<48/2=24>>` marks and without `#### 24`.

    Raises:
        InputError: naming file and line: not readable, not JSON, a field missing or
            not text, no "####" with a number behind it, a question given twice.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    for line, record in _json_lines(file):
        where = f"{file}:{line}"
        question = _text(record, "question", where)
        solution = _text(record, "answer", where)
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
    _require_distinct(problems, lambda problem: problem.question, "the question")
    return _require_some(problems, file)


def read_multiarith(path: Path) -> list[Problem]:
    """Reads MultiArith: a JSON list of records.

    Args:
        path: `MultiArith.json`.

    Returns:
        Problems with ids `multiarith-<iIndex>`. The owners' file repeats 20 question
        texts under different ids; they are kept.

    Raises:
        InputError: naming file and record: malformed, a field missing, no number in
            `lSolutions`, an `iIndex` given twice.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    for index, record in enumerate(_json_list(_json(file), file)):
        where = f"{file}#{index}"
        solutions = _field(record, "lSolutions", where)
        if not isinstance(solutions, list) or not solutions:
            raise InputError(
                f"{where}: 'lSolutions' is {solutions!r}, expected a list of numbers."
            )
        numbers = cast(list[Any], solutions)
        problems.append(
            Problem(
                id=f"multiarith-{_identity(record, 'iIndex', where)}",
                question=_text(record, "sQuestion", where),
                answers=tuple(_number(value, "lSolutions", where) for value in numbers),
                source=where,
            )
        )
    _require_distinct(problems, lambda problem: problem.id, "'iIndex'")
    return _require_some(problems, file)


def read_asdiv(path: Path) -> list[Problem]:
    """Reads ASDiv: an XML file of `Problem` elements.

    Args:
        path: `ASDiv.xml`.

    Returns:
        Problems with ids `asdiv-<ID>`. `answers` holds the gold as published, units
        included; it is empty where the gold has no number (56 of 2,305).

    Raises:
        InputError: naming file and record: malformed, an element missing or empty, an
            `ID` given twice.
    """
    file = pathlib.Path(path)
    try:
        root = ElementTree.fromstring(_read(file))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise InputError(
            f"{file}:{line}: not XML at column {column} ({error}). "
            "Expected ASDiv.xml as its owners publish it."
        ) from error
    problems: list[Problem] = []
    for index, element in enumerate(root.iter("Problem")):
        identity = (element.get("ID") or "").strip()
        where = f"{file}#{identity or index}"
        if not identity:
            raise InputError(f"{where}: a <Problem> without an ID.")
        parts: dict[str, str] = {}
        for name in ("Body", "Question", "Answer"):
            parts[name] = (element.findtext(name) or "").strip()
            if not parts[name]:
                raise InputError(f"{where}: <{name}> is missing or empty.")
        gold = parts["Answer"]
        problems.append(
            Problem(
                id=f"asdiv-{identity}",
                question=f"{parts['Body']} {parts['Question']}",
                answers=(gold,) if find_quantities(gold) else (),
                source=where,
            )
        )
    _require_distinct(problems, lambda problem: problem.id, "the ID")
    return _require_some(problems, file)


def read_svamp(path: Path) -> list[Problem]:
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
    for index, record in enumerate(_json_list(_json(file), file)):
        where = f"{file}#{index}"
        body = _text(record, "Body", where)
        stop = "" if body.endswith((".", "?", "!", ",", ";", ":")) else "."
        problems.append(
            Problem(
                id=f"svamp-{_identity(record, 'ID', where)}",
                question=f"{body}{stop} {_text(record, 'Question', where)}",
                answers=(_number(_field(record, "Answer", where), "Answer", where),),
                source=where,
            )
        )
    _require_distinct(problems, lambda problem: problem.id, "the ID")
    return _require_some(problems, file)


def read_bbh(path: Path) -> list[Problem]:
    """Reads one task of BIG-Bench Hard, or a file of the same layout.

    Args:
        path: `<task>.json`. A record may carry its own `id`.

    Returns:
        Problems with ids `bbh-<file stem>-<id or index>`; `answers` is `(target,)`.

    Raises:
        InputError: naming file and record: malformed, a field missing, an id given
            twice.
    """
    file = pathlib.Path(path)
    value = _json(file)
    if not isinstance(value, dict) or "examples" not in value:
        raise InputError(
            f"{file}: expected an object with 'examples', a list of objects with "
            "'input' and 'target', as BIG-Bench Hard's files are."
        )
    problems: list[Problem] = []
    examples = cast(dict[str, Any], value)["examples"]
    for index, record in enumerate(_json_list(examples, file)):
        where = f"{file}#{index}"
        identity = _identity(record, "id", where) if "id" in record else str(index)
        problems.append(
            Problem(
                id=f"bbh-{file.stem}-{identity}",
                question=_text(record, "input", where),
                answers=(_text(record, "target", where),),
                source=where,
            )
        )
    _require_distinct(problems, lambda problem: problem.id, "'id'")
    return _require_some(problems, file)


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"{file} does not exist. Name the benchmark's file as its owner "
            "publishes it."
        ) from error
    except IsADirectoryError as error:
        raise InputError(f"{file} is a folder, expected a file.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is not UTF-8 ({error.reason}). Expected the "
            "uncompressed file as its owner publishes it."
        ) from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error


def _json(file: pathlib.Path) -> Any:
    try:
        return json.loads(_read(file))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{file}:{error.lineno}: not JSON at column {error.colno} ({error.msg})."
        ) from error


def _json_lines(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): JSON text may hold U+2028 unescaped.
    for number, line in enumerate(_read(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{file}:{number}: not JSON at column {error.colno} ({error.msg}). "
                "Expected one JSON object a line."
            ) from error
        yield number, _record(record, f"{file}:{number}")


def _json_list(value: Any, file: pathlib.Path) -> Iterator[dict[str, Any]]:
    if not isinstance(value, list):
        raise InputError(
            f"{file}: expected a JSON list of records, found {type(value).__name__}."
        )
    for index, record in enumerate(cast(list[Any], value)):
        yield _record(record, f"{file}#{index}")


def _record(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: expected a JSON object, found {type(value).__name__}."
        )
    return cast(dict[str, Any], value)


def _field(record: dict[str, Any], name: str, where: str) -> Any:
    if name not in record:
        raise InputError(f"{where}: no field {name!r}; it has {sorted(record)}.")
    return record[name]


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = _field(record, name, where)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name!r} is {value!r}, expected text.")
    return value.strip()


def _identity(record: dict[str, Any], name: str, where: str) -> str:
    value = _field(record, name, where)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: {name!r} is {value!r}, expected an identifier.")
    return str(value)


def _number(value: Any, name: str, where: str) -> str:
    """A JSON number as people write it: 39.0 becomes "39"."""
    if isinstance(value, str) and find_quantities(value):
        return value.strip()
    finite = isinstance(value, int | float) and abs(value) < float("inf")
    if isinstance(value, bool) or not finite:
        raise InputError(f"{where}: {name!r} is {value!r}, expected a number.")
    return str(int(value)) if value == int(value) else repr(value)


def _require_distinct(
    problems: Iterable[Problem], key: Callable[[Problem], Hashable], what: str
) -> None:
    seen: dict[Hashable, str] = {}
    for problem in problems:
        identity = key(problem)
        if identity in seen:
            raise InputError(
                f"{problem.source}: {what} was already given at {seen[identity]}. "
                "Every record must be there once; remove one of them."
            )
        seen[identity] = problem.source


def _require_some(problems: list[Problem], file: pathlib.Path) -> list[Problem]:
    if not problems:
        raise InputError(f"{file} holds no problem. Name a file with at least one.")
    return problems
