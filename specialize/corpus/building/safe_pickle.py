"""Reads pickles of plain data without running anything in them.

A pickle is a program: it may name any function and call it. This reader admits the
names of three containers and refuses every other name before it is looked up; lists,
dicts, tuples, strings, bytes and numbers need no name. On Linux, a file that asks for
far more memory than its content needs is refused too.
"""

import collections
import os
import pathlib
import pickle
import reprlib
from typing import Any

from specialize import memory, typed_json
from specialize.errors import InputError

_ADMITTED: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
}


class _Refused(Exception):
    """A pickle names something that is not a plain container."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        # All names pass through here, those of extension codes too.
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any, /) -> Any:
        raise _Refused(f"an object outside the file ({reprlib.repr(pid)})")


# Bytes of memory per byte of a pickle: a dict of one number takes 16.
_MOST_GROWTH = 64
_SMALL = 1 << 30


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a pickle of plain containers, strings and numbers.

    Raises:
        InputError: the file is missing or damaged, or names anything but plain
            containers; the message says what. Nothing in the file was run.
    """
    file = pathlib.Path(path)
    typed_json.refuse_device(file, remedy="Name a pickle.")
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            with memory.bounded(_MOST_GROWTH * size + _SMALL):
                return _Unpickler(stream).load()
    except _Refused as error:
        raise InputError(
            f"{file} is refused: it names {error}, and a pickle may run anything that "
            "it names. Only plain lists, dicts, strings and numbers are read. Convert "
            "the file where it was made, and only if you trust it."
        ) from error
    except OSError as error:
        raise typed_json.unreadable(file, error, remedy="Check the path.") from error
    except (
        # `load` raises all of these for damaged files.
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        ImportError,
        MemoryError,
    ) as error:
        raise InputError(
            f"{file} is not a readable pickle ({type(error).__name__}: "
            f"{str(error)[:200]}). Copy "
            "it again."
        ) from error
