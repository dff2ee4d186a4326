"""BIG-Bench Hard: its 27 tasks with their answer types; one JSON file per task."""

import dataclasses
import pathlib

import msgspec

from specialize import typed_json
from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem

# Tasks whose answers are not choice letters.
_TYPES = {
    "boolean_expressions": "boolean",
    "causal_judgement": "yes_no",
    "dyck_languages": "brackets",
    "formal_fallacies": "valid_invalid",
    "multistep_arithmetic_two": "number",
    "navigate": "yes_no",
    "object_counting": "number",
    "sports_understanding": "yes_no",
    "web_of_lies": "yes_no",
    "word_sorting": "words",
}
_CHOICES = (
    "date_understanding",
    "disambiguation_qa",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
)
ANSWER_TYPES = dict(sorted({**_TYPES, **{task: "choice" for task in _CHOICES}}.items()))
TASKS = tuple(ANSWER_TYPES)


@dataclasses.dataclass(frozen=True)
class _Task:
    examples: list[msgspec.Raw]


@dataclasses.dataclass(frozen=True)
class _Record:
    input: parsing.Text
    target: parsing.Text
    id: parsing.Identity | None = None


def read_bbh(path: parsing.Path) -> list[Problem]:
    """Reads one task of BIG-Bench Hard, or a file of the same layout.

    Args:
        path: `<task>.json`. A record may have its own `id`.

    Returns:
        Problems with ids `bbh-<file stem>-<id or index>`; `answers` is `(target,)`.

    Raises:
        InputError: the file is malformed, a field is missing, or an id occurs twice.
            The message names file and record.
    """
    file = pathlib.Path(path)
    remedy = (
        "Expected an object with 'examples', a list of objects with 'input' and "
        "'target', as BIG-Bench Hard's files are."
    )
    examples = typed_json.read(file, _Task, remedy=remedy).examples
    problems: list[Problem] = []
    for index, (where, record) in enumerate(parsing.each(file, examples, _Record)):
        identity = index if record.id is None else record.id
        problems.append(
            Problem(
                id=f"bbh-{file.stem}-{identity}",
                question=record.input.strip(),
                answers=(record.target.strip(),),
                source=where,
            )
        )
    return parsing.checked(problems, file, "'id'")
