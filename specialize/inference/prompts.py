"""Prompts to decode: a file of JSON lines or of plain text."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from specialize import typed_json
from specialize.errors import InputError

# What the option of a command that reads prompts says.
HELP = (
    "JSON lines with a text in 'input' or 'inputs', and perhaps an 'id', or plain text "
    "with one prompt per line; answers in the lines are not read"
)


@dataclasses.dataclass(frozen=True)
class _Prompt:
    input: str | None = None
    inputs: str | None = None


def read_prompts(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads prompts from JSON lines (`.jsonl`, `.json`) or plain text.

    Returns:
        Dictionaries with "id", "input" and the other fields of their lines. "inputs",
        as in files of text to text, is read as "input".

    Raises:
        InputError: With file and line: the file is unreadable, a line is not JSON or
            has no "input" or a blank one, an id occurs twice, or there is no prompt.
    """
    file = pathlib.Path(path)
    found: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for where, line in _lines(file):
        number = int(where.rpartition(":")[2])
        identity = str(line.get("id", number - 1))
        if identity in seen:
            raise InputError(
                f"{where}: id {identity!r} is at line {seen[identity]} too. Give every "
                "prompt another id."
            )
        seen[identity] = str(number)
        found.append({**line, "id": identity})
    if not found:
        raise InputError(f"{file} contains no prompt. Add one, or name another file.")
    return found


def _lines(file: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ("file:line", object with "input")."""
    remedy = 'Write one object per line with a text in "input" or "inputs".'
    if file.suffix in (".jsonl", ".json"):
        for where, line in typed_json.read_lines(
            file, typed_json.Object, remedy=remedy
        ):
            prompt = typed_json.convert(line, _Prompt, where, remedy=remedy)
            text = prompt.inputs if prompt.input is None else prompt.input
            if text is None:
                raise InputError(f'{where}: there is no "input". {remedy}')
            if not text.strip():
                raise InputError(f'{where}: the "input" is blank. {remedy}')
            yield where, {**line, "input": text}
        return
    try:
        text = typed_json.read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is not UTF-8 ({error.reason} at byte {error.start}). Save it as "
            "UTF-8."
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{file}:{number}", {"input": line}
