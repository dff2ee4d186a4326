"""The key of prepared examples: a digest of everything from which they are made."""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from specialize import paths, versions
from specialize.training.data.code_identity import (
    identity,
    is_of_library,
    vocabulary_key,
)

if TYPE_CHECKING:
    import seqio

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Key(NamedTuple):
    """What identifies prepared examples.

    Attributes:
        digest: The digest of everything from which they are made, as far as is known.
        repeatable: Whether it is all known, so that the examples may be reused.
        unknown: What of the task's code is not, in words.
    """

    digest: str
    repeatable: bool
    unknown: tuple[str, ...]


def key_of(task: "seqio.Task", split: str, feature_lengths: Mapping[str, int]) -> Key:
    """Returns a digest of everything that determines the examples; whether it suffices.

    Files are identified by path, size and time of change; the code of preprocessors and
    of the source as `code_identity` says. A source without files (a function), or code
    that uses what has no content to compare, cannot be identified: such examples are
    not reused.
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
            vocabulary_key(feature.vocabulary),
        ]
        for name, feature in task.output_features.items()
    }
    steps, unknown = identity(list(task.preprocessors))
    reader = None
    if repeatable:
        reader, of_reader = identity(_reader(task.source), may_read=True)
        unknown += of_reader
    # `settings` of a source are what its examples depend on besides files.
    settings = getattr(task.source, "settings", dict)()
    parts = [task.name, split, sorted(feature_lengths.items()), stats, settings]
    parts = [versions.EXAMPLES.writes, *parts, features, steps, reader]
    text, addresses = _ADDRESS.subn("", json.dumps(parts, sort_keys=True, default=str))
    if addresses:
        unknown.append("a setting of the source shows only its address")
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Key(digest, repeatable and not unknown, tuple(unknown))


def _place(path: pathlib.Path) -> str:
    """The path of a file; on every machine the same for a copy from a bucket."""
    place, copies = path.resolve(), paths.copies().resolve()
    return str(place.relative_to(copies) if copies in place.parents else place)


def _reader(source: Any) -> Any:
    """What decides how a source reads its files.

    Of a source of a library, these are its functions and numbers: other fields may be
    what it has loaded.
    """
    if not is_of_library(type(source)):
        return source
    fields = sorted(vars(source).items())
    return [type(source), *(pair for pair in fields if _decides(pair[1]))]


def _decides(field: Any) -> bool:
    return callable(field) or isinstance(field, int)
