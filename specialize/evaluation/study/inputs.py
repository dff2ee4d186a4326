"""What the commands of a study read: their configurations and files.

The marker of a cell has them as they were when its commands began, so that cells of two
recipes are not averaged because both were run by the same words.
"""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from specialize import typed_json
from specialize.checks import shown
from specialize.config import reading, scanning, words
from specialize.digests import file_digest
from specialize.errors import InputError
from specialize.evaluation.study.spec import texts_in

# Files up to this size are read for their digest; of larger ones the size is compared.
_READ = 64 * 2**20
_OVERRIDE = "--gin."
_UNSET = object()
# Each configuration is compared several times in a process, and read once.
_KNOWN: dict[tuple[str, ...], tuple[Any, reading.Config]] = {}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What one command reads.

    Attributes:
        configuration: Name -> value of its gin files and flags, macros replaced. None:
            it has none, or it could not be read.
        files: Name of a file that the command or its configuration names -> its
            SHA-256, or its size if it is large. Files in the study are none of them:
            the commands of the study make them.
    """

    configuration: typed_json.Object | None = None
    files: dict[str, str] = dataclasses.field(default_factory=dict[str, str])


def inputs_of(command: Sequence[str], out: str | os.PathLike[str]) -> Inputs:
    """What a command reads now.

    Args:
        command: Its words, after `specialize`.
        out: The folder of the study, which is `{study}` in the values.
    """
    config, values = _read(command), None
    if config is not None:
        rows = config.rows()
        values = {str(row["name"]): _anywhere(row["value"], out) for row in rows}
    named = dict.fromkeys([*_named(command), *texts_in(values)])
    files = {name: state for name in named if (state := _state(name, out))}
    return Inputs(values, files)


def differences(before: Inputs, now: Inputs, command: Sequence[str]) -> list[str]:
    """What differs between two readings of a command, in words.

    What is missing now is no difference: no cell can be run with it.
    """
    found = []
    if before.configuration is not None and now.configuration is not None:
        old, new = before.configuration, now.configuration
        later = _defaults(command) if new.keys() - old.keys() else set[str]()
        later -= old.keys()
        for name in dict.fromkeys((*old, *new)):
            was, is_now = old.get(name, _UNSET), new.get(name, _UNSET)
            if was != is_now and name not in later:
                found.append(f"{name} was {_value(was)}, now {_value(is_now)}")
    for name, state in before.files.items():
        if now.files.get(name, state) != state:
            found.append(f"{name} has another content")
    return found


def _value(value: Any) -> str:
    return "not set" if value is _UNSET else shown(value)


def _flags(command: Sequence[str]) -> argparse.Namespace | None:
    """The gin flags of a command; None if it has none."""
    overrides = [word for word in command if word.startswith(_OVERRIDE)]
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    reading.add_flags(parser)
    try:
        flags, _ = parser.parse_known_args([w for w in command if w not in overrides])
    except argparse.ArgumentError:
        return None  # the command itself refuses it
    flags.gin_overrides = overrides
    return flags if flags.gin_file else None


def _read(command: Sequence[str]) -> reading.Config | None:
    """The configuration of a command; None if it has none that can be read."""
    flags = _flags(command)
    if flags is None:
        return None
    key = (*command, os.getcwd())
    before, config = _KNOWN.get(key, ((), None))
    if config is not None and _times(config) == before:
        return config
    try:
        files, bindings, folders = reading.words_of_flags(flags)
        config = reading.read(files, bindings, folders)
    except InputError:
        return None  # the command itself says why
    _KNOWN[key] = _times(config), config
    return config


def _times(config: reading.Config) -> tuple[tuple[int, int, int], ...]:
    """What changes when one of its gin files does."""
    found = []
    for name in config.scan.files:
        with contextlib.suppress(OSError):
            state = os.stat(name)
            found.append((state.st_ino, state.st_size, state.st_mtime_ns))
    return tuple(found)


def _defaults(command: Sequence[str]) -> set[str]:
    """What only our run files set: of these a later version may have more."""
    config = _read(command)
    if config is None:
        return set()
    runs = str(scanning.package_folder() / "runs") + os.sep
    return {
        str(row["name"])
        for row in config.rows()
        if all(
            os.path.abspath(one).startswith(runs)
            for one in (row["origin"], *row["overrides"])
        )
    }


def _anywhere(value: Any, out: str | os.PathLike[str]) -> Any:
    """A value for any folder of the study."""
    if isinstance(value, str):
        folder = rf"(?<![\w./-]){re.escape(os.fspath(out))}(?=/|$)"
        return re.sub(folder, "{study}", value)
    if isinstance(value, dict):
        return {_anywhere(k, out): _anywhere(v, out) for k, v in value.items()}
    if isinstance(value, list):
        return [_anywhere(one, out) for one in value]
    return value


def _named(command: Sequence[str]) -> Iterator[str]:
    """The words that may name inputs: all but gin's and those of outputs."""
    outputs = {f"--{name}" for name in words.OUTPUTS}
    option = ""
    for word in command:
        if word.startswith("--"):
            option, _, value = word.partition("=")
            if value and option not in outputs and not word.startswith(_OVERRIDE):
                yield value
        elif option not in outputs and option != "--gin_file":
            yield word


def _state(name: str, out: str | os.PathLike[str]) -> str | None:
    """What identifies the content of an input; None if it names no local file."""
    if not name or "\0" in name or "://" in name or len(name) > 4096:
        return None
    try:
        file = pathlib.Path(name)
        if not file.is_file() or file.absolute().is_relative_to(os.path.abspath(out)):
            return None
        size = file.stat().st_size
        return f"{size} bytes" if size > _READ else file_digest(file)
    except (OSError, InputError):
        return None  # the command that reads it says why
