"""Decodes many prompts into a file, and resumes where a killed run stopped."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from specialize import versions
from specialize.errors import InputError
from specialize.inference.engine import Engine
from specialize.progress import track


def decode_to_file(
    engine: Engine,
    prompts: Sequence[str],
    path: str | os.PathLike[str],
    settings: dict[str, Any],
    *,
    description: str = "decode",
) -> list[dict[str, Any]]:
    """Decodes `prompts`, appending each batch to `path` when it is finished.

    The first line of the file holds its version and `settings`; every other line holds
    one prompt. A rerun with the same settings decodes only the missing batches, and
    the last line again, which a kill may have cut.

    Args:
        engine: decodes the prompts.
        prompts: encoder texts.
        path: file of JSON lines; made if it does not exist, else continued.
        settings: everything that the texts depend on, as JSON values.
        description: text of the progress bar.

    Returns:
        For each prompt, in order: index, texts, scores, num_tokens, truncated.

    Raises:
        InputError: the file has other settings, another version, or a malformed line.
    """
    file = pathlib.Path(path)
    found = _read(file, settings)
    beyond = [index for index in found if not 0 <= index < len(prompts)]
    if beyond:
        raise InputError(
            f"{file} holds prompt {beyond[0]}, but there are {len(prompts)} prompts. "
            "Remove the file, or name another output."
        )
    # Every process decodes; one writes. All must agree on what is done.
    leader = jax.process_index() == 0
    if leader:
        file.parent.mkdir(parents=True, exist_ok=True)
        _rewrite(file, settings, found)
    missing = len(prompts) - len(found)
    if missing:
        stream = engine.generate(prompts, done=set(found))
        with open(file if leader else os.devnull, "a", encoding="utf-8") as out:
            for one in track(stream, description, total=missing):
                line = {
                    "index": one.index,
                    "texts": list(one.texts),
                    "scores": list(one.scores),
                    "num_tokens": list(one.num_tokens),
                    "truncated": one.truncated,
                }
                found[one.index] = line
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
                out.flush()
    return [found[index] for index in range(len(prompts))]


def _read(file: pathlib.Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise InputError(
                f"{file}, line {number} is not JSON ({error}). Remove the file to "
                "decode again."
            ) from error
    if not parsed:
        return {}
    versions.DECODED.check(parsed[0].get("version", 1), file)
    # JSON has no tuples, so compare what a file can hold.
    wanted = json.loads(json.dumps(settings))
    if parsed[0].get("settings") != wanted:
        raise InputError(
            f"{file} was decoded with other settings: {parsed[0].get('settings')}, now "
            f"{wanted}. Remove it, or name another output."
        )
    try:
        return {int(line["index"]): line for line in parsed[1:]}
    except KeyError as error:
        raise InputError(
            f"{file} has a line without {error}. Remove the file to decode again."
        ) from error


def _rewrite(
    file: pathlib.Path, settings: dict[str, Any], found: dict[int, dict[str, Any]]
) -> None:
    """Writes only the complete lines, so that appending starts on a new line."""
    from specialize import outputs

    head = {"version": versions.DECODED.writes, "settings": settings}
    lines = (head, *found.values())
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    outputs.write_text(file, text)
