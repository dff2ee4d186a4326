"""BIG-Bench Hard: its 27 tasks with their answer types; one JSON file per task."""

import pathlib
from typing import Any, cast

from specialize.corpus.benchmarks import parsing
from specialize.corpus.records import Problem
from specialize.errors import InputError

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
    value = parsing.read_json(file)
    if not isinstance(value, dict) or "examples" not in value:
        raise InputError(
            f"{file}: expected an object with 'examples', a list of objects with "
            "'input' and 'target', as BIG-Bench Hard's files are."
        )
    problems: list[Problem] = []
    examples = cast(dict[str, Any], value)["examples"]
    for index, record in enumerate(parsing.json_list(examples, file)):
        where = f"{file}#{index}"
        identity = parsing.identity({"id": index, **record}, "id", where)
        problems.append(
            Problem(
                id=f"bbh-{file.stem}-{identity}",
                question=parsing.text(record, "input", where),
                answers=(parsing.text(record, "target", where),),
                source=where,
            )
        )
    return parsing.checked(problems, file, "'id'")
