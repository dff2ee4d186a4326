"""Judges of one's own: a function of (prediction, golds) in a file or module."""

import functools
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from specialize.errors import InputError

Judge = Callable[[str, Sequence[str]], Any]

_REMEDY = (
    "Write 'file.py:function' or 'package.module:function'; the function takes "
    "(prediction, golds) and returns True or False, or (True or False, the answer)."
)


def check(name: str) -> None:
    """Refuses a name that is not of the form "file.py:function".

    Raises:
        InputError: It is not.
    """
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise InputError(f"judge is {name!r}, which names no function. {_REMEDY}")


@functools.lru_cache
def find(name: str) -> Judge:
    """Imports the function of a name such as "file.py:function"; runs its module.

    Raises:
        InputError: There is no such file, module or function, or its import fails.
    """
    check(name)
    place, _, function = name.rpartition(":")
    try:
        module = _module(place)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"judge {name!r} cannot be imported ({type(error).__name__}: {error}). "
            f"{_REMEDY}"
        ) from error
    found = getattr(module, function, None)
    if not callable(found):
        raise InputError(f"{place} has no function {function!r}. {_REMEDY}")
    return found


def call(name: str, prediction: str, golds: Sequence[str]) -> tuple[bool, str | None]:
    """(whether it is right, its answer or None) of one prediction.

    Raises:
        InputError: The function fails, or returns something else.
    """
    judge = find(name)
    try:
        found = judge(prediction, golds)
    except Exception as error:
        raise InputError(
            f"judge {name!r} failed on {prediction[-80:]!r} "
            f"({type(error).__name__}: {error}). Correct the function."
        ) from error
    pair: tuple[Any, ...] = (found, prediction.strip())
    if isinstance(found, tuple):
        pair = found  # pyright: ignore
    if len(pair) != 2:
        raise InputError(f"judge {name!r} returned {found!r}. {_REMEDY}")
    correct, value = pair
    correct = correct.item() if hasattr(correct, "item") else correct  # numpy's bool
    if not isinstance(correct, bool) or not (value is None or isinstance(value, str)):
        raise InputError(f"judge {name!r} returned {found!r}. {_REMEDY}")
    return correct, value


def _module(place: str) -> Any:
    file = pathlib.Path(place)
    if file.suffix != ".py":
        return importlib.import_module(place)
    name = f"judge_of_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the suffix has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module
