"""The key of prepared examples: a digest of everything from which they are made."""

import contextlib
import functools
import hashlib
import inspect
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from specialize import paths, versions
from specialize.digests import file_digest

if TYPE_CHECKING:
    import seqio

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def key_of(
    task: "seqio.Task", split: str, feature_lengths: Mapping[str, int]
) -> tuple[str, bool]:
    """Returns a digest of everything that determines the examples; whether it suffices.

    Files are identified by path, size and time of change; preprocessors by their source
    file and bound arguments. A source without files (a function), or an argument whose
    text is only its address, cannot be identified: such examples are not reused.
    """
    files = [pathlib.Path(str(path)) for path in task.source.list_shards(split)]
    repeatable = bool(files) and all(path.is_file() for path in files)
    stats = [
        [_place(path), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
        if repeatable
    ]
    features = {
        name: [
            str(feature.dtype),
            feature.rank,
            feature.add_eos,
            _vocabulary_key(feature.vocabulary),
        ]
        for name, feature in task.output_features.items()
    }
    sources = [_source_key(step) for step in task.preprocessors]
    # `settings` of a source are what its examples depend on besides files.
    settings = getattr(task.source, "settings", dict)()
    parts = [task.name, split, sorted(feature_lengths.items()), stats, settings]
    parts = [versions.EXAMPLES.writes, *parts, features, sources]
    text, addresses = _ADDRESS.subn("", json.dumps(parts, sort_keys=True, default=str))
    return hashlib.sha256(text.encode()).hexdigest()[:16], repeatable and not addresses


def _place(path: pathlib.Path) -> str:
    """The path of a file; on every machine the same for a copy from a bucket."""
    place, copies = path.resolve(), paths.copies().resolve()
    return str(place.relative_to(copies) if copies in place.parents else place)


def _vocabulary_key(vocabulary: Any) -> list[Any]:
    file = getattr(vocabulary, "sentencepiece_model_file", None)
    size = vocabulary.vocab_size
    if file is None or not os.path.isfile(file):
        return [type(vocabulary).__name__, size]
    return [file_digest(file), size]


def _source_key(step: Any) -> list[str]:
    """What a function does: its source file, bound arguments and gin's bindings."""
    bound: list[str] = []
    while isinstance(step, functools.partial):
        bound += [_shown(step.args), _shown(sorted(step.keywords.items()))]
        step = step.func
    if bindings := _gin_bindings(step):
        bound.append(_shown(sorted(bindings.items())))
    step = inspect.unwrap(step)
    function = step if hasattr(step, "__qualname__") else type(step)
    if function is not step:
        # A callable object: its fields are its arguments.
        bound.append(_shown(getattr(step, "__dict__", step)))
    if inspect.ismethod(step):
        bound.append(_shown(step.__self__))
    cells = getattr(step, "__closure__", None) or ()
    bound += [_shown(cell.cell_contents) for cell in cells]
    try:
        file = inspect.getsourcefile(function)
        source = pathlib.Path(file).read_bytes() if file else b""
    except (TypeError, OSError):
        source = b""
    name = f"{function.__module__}.{function.__qualname__}"
    return [name, hashlib.sha256(source).hexdigest(), *bound]


def _gin_bindings(step: Any) -> dict[str, Any]:
    import gin

    try:
        return gin.get_bindings(step)
    except ValueError:  # nothing that gin configures
        return {}


def _shown(value: Any) -> str:
    """A text that differs if the value does, or has an address if that is unknown."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return f"{array.dtype}{array.shape}{digest}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_shown(k)}: {_shown(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, tuple) and type(value) is tuple:
        return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_shown, value)))}}}"
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        return str(_source_key(value))
    if hasattr(value, "vocab_size"):
        return str(_vocabulary_key(value))
    text = repr(value)
    if _ADDRESS.search(text) and hasattr(value, "__dict__"):
        # Its fields say what it is, unless they lead back to it.
        with contextlib.suppress(RecursionError):
            return f"{type(value).__qualname__}{_shown(vars(value))}"
    return text
