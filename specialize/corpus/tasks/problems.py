"""The problems of a file, as a task reads them."""

import os
import pathlib
from collections.abc import Mapping

from specialize.corpus.records import Problem
from specialize.corpus.tasks import fields
from specialize.corpus.tasks.rows import ENDINGS, Row, read_rows
from specialize.corpus.tasks.spec import TaskSpec
from specialize.errors import InputError
from specialize.judging.quantities import find_quantities

Path = str | os.PathLike[str]

# The answers of a type that has few, and other spellings of them.
LABELS = {
    "boolean": ("True", "False"),
    "yes_no": ("yes", "no"),
    "valid_invalid": ("valid", "invalid"),
}
SPELLINGS = {"yes_no": {"true": "yes", "false": "no"}}


def read_problems(path: Path, task: TaskSpec) -> list[Problem]:
    """Reads the questions of a file.

    Args:
        path: A file or folder of `rows`.
        task: How its rows are read.

    Returns:
        Problems with ids `<task>-<file>-<row>`, or `<task>-<id>` if the task says which
        column identifies a row.

    Raises:
        InputError: The file is malformed, a row lacks a column or has an answer of
            another type, or two rows share what identifies them. The message names the
            file and the row.
    """
    file = pathlib.Path(path)
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    usual = task.files.test or task.files.train or ""
    kind = next((end for end in ENDINGS if usual.endswith(end)), None)
    rows = read_rows(file, records=task.rows.records, kind=kind)
    for index, (where, row) in enumerate(rows):
        problem = _problem(task, file, index, where, row)
        key = problem.id if task.rows.unique == "id" else problem.question
        if key in seen:
            what = "the id" if task.rows.unique == "id" else "the question"
            raise InputError(
                f"{problem.source}: {what} was already given at {seen[key]}. Every "
                "record must be there once; remove one of them."
            )
        seen[key] = problem.source
        problems.append(problem)
    if not problems:
        raise InputError(f"{file} holds no problem. Name a file with at least one.")
    return problems


def _problem(
    task: TaskSpec, file: pathlib.Path, index: int, where: str, row: Row
) -> Problem:
    stem = file.name.removesuffix(".gz").partition(".")[0]
    row = {fields.FILE: stem, fields.INDEX: str(index), **row}
    rows = task.rows
    name = f"{{{fields.FILE}}}-{{{fields.INDEX}}}"
    id_field = rows.id or fields.Field(name)
    identity = fields.text_of(id_field, row, where, "id")
    if rows.id is not None and not identity:
        raise InputError(f"{where}: the id is empty.")
    options: Mapping[str, str] = {}
    if rows.choices is not None:
        options = fields.options_of(rows.choices, row, where)
        row[fields.CHOICES] = fields.listed(rows.choices, options)
    question = fields.text_of(rows.question, row, where, "question")
    if not question:
        raise InputError(f"{where}: question is empty. Correct the row or remove it.")
    if (
        rows.choices is not None
        and f"{{{fields.CHOICES}}}" not in rows.question.template
    ):
        question = f"{question}\n{row[fields.CHOICES]}"
    rationale = None
    if rows.rationale is not None:
        rationale = fields.text_of(rows.rationale, row, where, "rationale")
    return Problem(
        id=f"{task.name}-{identity}",
        question=question,
        answers=_answers(task, row, where, options),
        rationale=rationale,
        source=where,
        wording=task.wording,
    )


def _answers(
    task: TaskSpec, row: Row, where: str, options: Mapping[str, str]
) -> tuple[str, ...]:
    found: list[str] = []
    values = fields.values_of(task.rows.answer, row, where, "answer")
    for value in values:
        answer = _answer(value, task, options)
        if answer is not None:
            found.append(answer)
        elif not value or not task.rows.unanswerable:
            raise InputError(
                f"{where}: answer is {value[-80:]!r}, expected "
                f"{_expected(task, options)}. Correct the row or remove it."
            )
    if not values:
        raise InputError(f"{where}: answer is an empty list, expected an answer.")
    return tuple(found)


def _answer(value: str, task: TaskSpec, options: Mapping[str, str]) -> str | None:
    """An answer in the form that the judge compares with, or None if it is none."""
    if not value:
        return None
    answer_type = task.judge.answer_type
    if answer_type == "number":
        return value if find_quantities(value) else None
    if answer_type == "choice" and task.rows.choices is not None:
        return fields.chosen(value, task.rows.choices, options)
    value = SPELLINGS.get(answer_type or "", {}).get(value.lower(), value)
    labels = LABELS.get(answer_type or "", (value,))
    known = value.lower() in [label.lower() for label in labels]
    return value if known else None


def _expected(task: TaskSpec, options: Mapping[str, str]) -> str:
    answer_type = task.judge.answer_type
    if answer_type == "number":
        return "a number"
    if answer_type == "choice" and options:
        return f"one of the labels {', '.join(options)}, a number, or an option's text"
    if labels := LABELS.get(answer_type or ""):
        return " or ".join(labels)
    return "a text"
