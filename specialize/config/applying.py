"""Gives a valid configuration to gin, and calls functions with it.

gin accepts a mistyped macro silently and stops at its first error. This module checks
every statement first, reports all problems at once, and gives gin only a configuration
without problems.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from specialize import paths, processes
from specialize.config import words
from specialize.config.problems import raise_problems
from specialize.config.reading import Config, read, words_of_flags
from specialize.config.rules import lint
from specialize.config.scanning import REQUIRED, Macro
from specialize.errors import InputError

_CURRENT: list[Config] = []
# Flags that are each process's own, or that the settings have already.
_OF_A_PROCESS = {
    *("coordinator", "process_id", "in_buckets", "output_files"),
    *("gin_file", "gin_bindings", "gin_search_paths", "gin_overrides"),
}


def current() -> Config | None:
    """The configuration that gin has now, if `parse` gave it."""
    return _CURRENT[-1] if _CURRENT else None


def forget() -> None:
    """Takes the configuration from gin, so that a later call does not find it.

    A run that Python starts after a command in the same process would save the
    configuration of that command as its own.
    """
    _CURRENT.clear()
    if gin := sys.modules.get("gin"):
        gin.clear_config()


def macros_of_parameters() -> dict[str, str]:
    """The macro of each "Class.field", in the configuration that gin has now."""
    config = current()
    bindings = config.scan.effective().values() if config else ()
    return {
        f"{one.selector.rpartition('.')[2]}.{one.parameter}": one.value.name
        for one in bindings
        if one.selector and isinstance(one.value, Macro)
    }


def from_flags(flags: argparse.Namespace, **options: Any) -> Config:
    """`parse` of a parsed command line, which is the same in all its processes.

    Args:
        flags: The options of `add_flags`; `gin_overrides` has the `--gin.NAME=VALUE`
            words, which the command line removes wherever they are.
        **options: Keyword arguments of `parse`.

    Raises:
        InputError: As for `parse`; or a `--gin.` word has no `=`; or another process of
            the command has other settings.
    """
    config = parse(*words_of_flags(flags), **options)
    processes.agree(
        _given(config, flags),
        what="settings",
        remedy="Start every process with the same gin files and options.",
    )
    return config


def _given(config: Config, flags: argparse.Namespace) -> dict[str, Any]:
    """All settings but paths, under which each machine may have its own copy."""
    places = {*words.INPUTS, *words.OUTPUTS, *getattr(flags, "output_files", ())}
    options = {
        f"--{name}": processes.comparable(value)
        for name, value in vars(flags).items()
        if name not in places | _OF_A_PROCESS and not callable(value)
    }
    rows = config.rows()
    settings = {r["name"]: processes.comparable(r["value"], r["name"]) for r in rows}
    return {**settings, **options}


def parse(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    *,
    entry: str | None = None,
    allow_missing: Sequence[str] = (),
    devices: int | None = None,
) -> Config:
    """Reads a configuration, checks it and gives it to gin (finalized).

    Args:
        gin_files: As in `read`.
        bindings: As in `read`; they are applied after the files.
        search_paths: As in `read`.
        entry: As in `read`.
        allow_missing: Macros that may stay `%gin.REQUIRED`, because the caller does
            not need them; their value is then None.
        devices: Number of chips of the run, if known, to check batches.

    Returns:
        The configuration that gin now has.

    Raises:
        InputError: Every problem of the configuration, one per line.
    """
    config = read(gin_files, bindings, search_paths, entry=entry)
    raise_problems(lint(config, allow_missing=allow_missing, devices=devices))
    _give_to_gin(config, allow_missing)
    _CURRENT[:] = [config]
    return config


def _give_to_gin(config: Config, allow_missing: Sequence[str]) -> None:
    import gin
    import gin.config

    gin.clear_config()
    unset = [
        f"{name} = None"
        for name, binding in config.scan.macros().items()
        if name in allow_missing and binding.value == Macro(REQUIRED)
    ]
    at_home = [one for one in config.scan.effective().values() if one.at_home]
    # By import: gin knows an object by the name under which it first met it.
    imports = dict.fromkeys(
        f"import {module}" for one in at_home if (module := _module_of(one.selector))
    )
    homes = [f"{one.name} = {one.value!r}" for one in at_home]
    if imports:
        homes = ["from __gin__ import dynamic_registration", *imports, *homes]
    try:
        with _reading(gin, config.scan.places):
            gin.parse_config_files_and_bindings(
                list(config.gin_files),
                [*config.bindings, *unset],
                finalize_config=False,
            )
            gin.parse_config(homes)
            gin.finalize()
    except (ValueError, OSError, SyntaxError, NameError, AttributeError) as error:
        raise InputError(f"gin refuses the configuration: {error}") from error


def _module_of(selector: str) -> str:
    """The loaded module in which a configurable is; "" if its name says none."""
    module = selector.rpartition(".")[0]
    while module and module not in sys.modules:
        module = module.rpartition(".")[0]
    return module


@contextlib.contextmanager
def _reading(gin: Any, places: Mapping[tuple[str, str], str]) -> Iterator[None]:
    """Lets gin read the files that we have found and checked, also from buckets.

    Like us, it then reads files that begin with a byte order mark.

    Args:
        gin: The module.
        places: As in `scanning.Scan`.
    """
    opened = [""]

    @contextlib.contextmanager
    def reader(name: str) -> Iterator[TextIO]:
        place = places[opened[-1], name]
        opened.append(place)
        with open(paths.local(place), encoding="utf-8-sig") as file:
            yield file
        opened.pop()

    readers = gin.config._FILE_READERS
    before = list(readers)
    readers.insert(0, (reader, lambda name: (opened[-1], name) in places))
    try:
        yield
    finally:
        readers[:] = before


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """The evaluated parameters that the configuration binds to a function.

    Raises:
        InputError: No gin file binds a parameter of it, or the constructor of a value
            rejects its input.
    """
    import gin

    _configured(function)
    try:
        # By the function: another file may have registered it by another name.
        return gin.get_bindings(function)
    except InputError as error:
        raise _without_gins_lines(error) from None


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function with the parameters that the configuration binds to it.

    Raises:
        InputError: No gin file binds a parameter of it, a required one is missing, or
            the function itself rejects its input.
    """
    configured = _configured(function)
    try:
        return configured(*args, **kwargs)
    except InputError as error:
        raise _without_gins_lines(error) from None


def _configured(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with gin's parameters."""
    import gin

    try:
        return gin.get_configurable(function)
    except (ValueError, KeyError) as error:
        name = f"{function.__module__}.{function.__qualname__}"
        raise InputError(
            f"No gin file configures {name}. Put the run file first, for example "
            "--gin_file runs/train.gin."
        ) from error


def _without_gins_lines(error: InputError) -> InputError:
    """The error without the lines that gin appends about its callers."""
    message = str(error).split("\n  In call to configurable")[0]
    return InputError(message).with_traceback(error.__traceback__)
