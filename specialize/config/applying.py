"""A sound configuration handed to gin, and functions called with it.

gin accepts a mistyped macro in silence and stops at its first complaint. Here every
statement is examined first, all problems are told at once, and only a clean
configuration reaches gin.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from specialize.config import scanning
from specialize.config.problems import raise_problems
from specialize.config.reading import Config, read, words_of_flags
from specialize.config.rules import lint
from specialize.config.scanning import REQUIRED, Macro
from specialize.errors import InputError

_CURRENT: list[Config] = []


def current() -> Config | None:
    """The configuration gin holds now, if it came through `parse`."""
    return _CURRENT[-1] if _CURRENT else None


def from_flags(flags: argparse.Namespace, **options: Any) -> Config:
    """`parse` on a parsed command line.

    Args:
        flags: what `add_flags` filled; `gin_overrides` holds the `--gin.NAME=VALUE`
            words, which the command line takes out wherever they stand.
        **options: go to `parse`.

    Returns:
        The configuration gin now holds.

    Raises:
        InputError: as `parse`; or a `--gin.` word without `=`.
    """
    return parse(*words_of_flags(flags), **options)


def parse(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    *,
    entry: str | None = None,
    allow_missing: Sequence[str] = (),
    devices: int | None = None,
) -> Config:
    """Reads a configuration, examines it and gives it to gin (finalized).

    Args:
        gin_files: names as given to --gin_file; at least one.
        bindings: `NAME = value` strings, applied after the files.
        search_paths: folders for relative names.
        entry: as `read`.
        allow_missing: macros that may stay `%gin.REQUIRED`, because the caller does
            not need them; gin then holds None for them.
        devices: number of chips of the run, if known, to check batches against.

    Returns:
        The configuration gin now holds.

    Raises:
        InputError: every problem of the configuration, one a line.
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
    for folder in config.search_paths:
        if folder not in gin.config._LOCATION_PREFIXES:
            gin.add_config_file_search_path(folder)
    unset = [
        f"{name} = None"
        for name in allow_missing
        if config.scan.macros().get(name) is not None
        and config.scan.macros()[name].value == Macro(REQUIRED)
    ]
    try:
        gin.parse_config_files_and_bindings(
            [os.fspath(_found(name, config)) for name in config.gin_files],
            [*config.bindings, *unset],
            finalize_config=True,
        )
    except (ValueError, OSError, SyntaxError, NameError, AttributeError) as error:
        raise InputError(f"gin refuses the configuration: {error}") from error


def _found(name: str, config: Config) -> Any:
    path = scanning.find(name, config.search_paths)
    if path is None:
        raise InputError(f"gin file {name!r} disappeared while it was being read.")
    return path.resolve()


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that the configuration binds to a function, evaluated.

    Raises:
        InputError: a value's own constructor refuses its input.
    """
    import gin

    name = f"{function.__module__}.{function.__qualname__}"
    try:
        return gin.get_bindings(name)
    except InputError as error:
        raise _without_gins_lines(error) from None


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function with the parameters that the configuration binds to it.

    Raises:
        InputError: no gin file binds any parameter of it, a required one is missing,
            or the function itself refuses its input.
    """
    import gin

    name = f"{function.__module__}.{function.__qualname__}"
    try:
        configured = gin.get_configurable(function)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"No gin file configures {name}. Put the run file first, for example "
            "--gin_file runs/train.gin."
        ) from error
    try:
        return configured(*args, **kwargs)
    except InputError as error:
        raise _without_gins_lines(error) from None


def _without_gins_lines(error: InputError) -> InputError:
    """Gin appends where it was called from; the message stands on its own."""
    message = str(error).split("\n  In call to configurable")[0]
    return InputError(message).with_traceback(error.__traceback__)
