"""Prepared examples in their folder: raw arrays that are mapped into memory.

Every file has a checksum in `examples.json`, which is compared when the folder is
opened: a flipped bit would otherwise be trained on.
"""

import dataclasses
import hashlib
import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from jaxtyping import Int, Shaped

from specialize import outputs, typed_json, versions
from specialize.errors import InputError

META = "examples.json"
# The numbers that a task may report about each example
# (specialize_tasks/preprocessors.py).
CUTS = ("demonstrations_dropped", "input_tokens_cut", "target_tokens_cut")
_CHUNK = 1 << 20
_REMEDY = "Remove the folder; the next run makes it again."


@dataclasses.dataclass(frozen=True)
class Stored:
    """How the values of a feature are stored."""

    dtype: Literal["<u2", "<i4", "<f4"]
    shape: Annotated[list[typed_json.Count], msgspec.Meta(max_length=1)]


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a folder of prepared examples says about itself."""

    examples: typed_json.Count
    features: dict[Annotated[str, msgspec.Meta(pattern=r"^[\w.-]+$")], Stored]
    counts: dict[str, typed_json.Count]
    digests: dict[str, str]
    # CRC-32 of each file; folders of versions before 0.2 have none.
    checksums: dict[str, typed_json.Count] = dataclasses.field(default_factory=dict)
    task: str = ""
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Examples:
    """The prepared examples of a task.

    Attributes:
        task: SeqIO name of the task.
        features: flat values of each feature, [total tokens, ...].
        starts: where each example begins, for "inputs" and "targets".
        lengths: number of encoder and decoder tokens of each example.
        counts: number of examples read, kept, left out and cut, and the kinds of cuts.
        digest: digest of the examples, equal for equal examples.
    """

    task: str
    features: Mapping[str, Shaped[np.ndarray, "..."]]
    starts: Mapping[str, Int[np.ndarray, " N"]]
    lengths: Int[np.ndarray, "N 2"]
    counts: Mapping[str, int]
    digest: str
    _ids: tuple[Shaped[np.ndarray, "..."], Int[np.ndarray, "..."]]

    @classmethod
    def in_memory(
        cls,
        task: str,
        features: Mapping[str, Shaped[np.ndarray, "..."]],
        lengths: Int[np.ndarray, "N 2"],
        ids: Sequence[str],
        *,
        digest: str = "",
    ) -> "Examples":
        """Examples that are in no folder.

        Args:
            task: their name.
            features: flat values of each feature, one example after the other.
            lengths: number of encoder and decoder tokens of each example.
            ids: the id of each example's record.
            digest: digest of the examples.
        """
        first = np.cumsum(lengths, axis=0, dtype=np.int64) - lengths
        names = [one.encode() for one in ids]
        return cls(
            task,
            features,
            {"inputs": first[:, 0], "targets": first[:, 1]},
            lengths,
            {"read": len(names), "kept": len(names), "cut": 0, "left_out": 0},
            digest,
            (
                np.frombuffer(b"".join(names), np.uint8),
                np.cumsum([len(name) for name in names], dtype=np.int64),
            ),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def record_id(self, example: int) -> str:
        """The id of an example's record."""
        characters, ends = self._ids
        begin = int(ends[example - 1]) if example else 0
        return bytes(characters[begin : int(ends[example])]).decode()


def read_meta(folder: pathlib.Path) -> Meta:
    """What a folder of prepared examples says about itself.

    Raises:
        InputError: It is missing, malformed, or of another version.
    """
    content = typed_json.read(folder / META, typed_json.Object, remedy=_REMEDY)
    versions.EXAMPLES.check(content.get("version", 1), folder / META)
    return typed_json.convert(content, Meta, folder / META, remedy=_REMEDY)


def describe(
    folder: pathlib.Path,
    task: str,
    split: str,
    features: Mapping[str, Stored],
    counts: Mapping[str, int],
) -> None:
    """Writes what a folder of prepared examples says about itself, its last file.

    Args:
        folder: The folder, with the arrays.
        task: SeqIO name of the task.
        split: Split of the task.
        features: How each feature is stored.
        counts: Numbers of cuts; and of the examples that were read, if it is known.
    """
    ends = np.fromfile(folder / "id_ends.bin", np.int64)
    characters = (folder / "ids.bin").read_bytes()
    begins = [0, *ends[:-1].tolist()]
    ids = b"\0".join(
        characters[begin:end]
        for begin, end in zip(begins, ends.tolist(), strict=bool(len(ends)))
    )
    digests = {"record_id": hashlib.sha256(ids).hexdigest()}
    for name in (*features, "lengths"):
        with open(folder / f"{name}.bin", "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    count = len(ends)
    read = counts.get("read", count)
    meta = {
        "version": versions.EXAMPLES.writes,
        "task": task,
        "split": split,
        "examples": count,
        "features": {name: vars(kind) for name, kind in features.items()},
        "counts": {
            "read": read,
            "kept": count,
            "left_out": max(0, read - count),
            **{name: counts[name] for name in ("cut", *CUTS)},
        },
        "digests": digests,
    }
    outputs.write_json(folder / META, {**meta, "checksums": checksums(folder)})


def none_left(meta: Meta) -> InputError:
    """The error if no example is left."""
    read = meta.counts["read"] or "the"
    return InputError(
        f"task {meta.task!r} ({meta.split}) keeps none of {read} examples. Raise the "
        "feature lengths, or look at the corpus."
    )


def open_examples(folder: pathlib.Path, task: str) -> Examples:
    """Maps the arrays of a folder of prepared examples into memory.

    Raises:
        InputError: a file is missing, cut or changed, or disagrees with the others.
    """
    meta = read_meta(folder)
    features: dict[str, Any] = {}
    try:
        _compare_checksums(folder, meta)
        lengths = np.fromfile(folder / "lengths.bin", "i4").reshape(meta.examples, 2)
        for name, kind in meta.features.items():
            values = np.memmap(folder / f"{name}.bin", kind.dtype, "r")
            features[name] = values.reshape(-1, *kind.shape)
        ids = np.memmap(folder / "ids.bin", np.uint8, "r")
        id_ends = np.fromfile(folder / "id_ends.bin", np.int64)
        _check(meta, lengths, ids, id_ends)
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    ends = np.cumsum(lengths, axis=0, dtype=np.int64)
    first = ends - lengths
    starts = {"inputs": first[:, 0], "targets": first[:, 1]}
    for name, values in features.items():
        expected = int(ends[-1, 0 if name == "inputs" else 1])
        if len(values) != expected:
            raise InputError(
                f"{folder / name}.bin holds {len(values)} tokens, expected {expected}: "
                "the file is damaged. Remove the folder; the next run makes it again."
            )
    text = json.dumps(meta.digests, sort_keys=True)
    return Examples(
        task=task,
        features=features,
        starts=starts,
        lengths=lengths,
        counts=meta.counts,
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        _ids=(ids, id_ends),
    )


def _check(meta: Meta, lengths: Any, ids: Any, id_ends: Any) -> None:
    """Raises a `ValueError` that says what is wrong with prepared examples."""
    missing = {"read", "kept", "left_out", "cut", *CUTS} - meta.counts.keys()
    if missing := missing | ({"inputs", "targets"} - meta.features.keys()):
        raise ValueError(f"{META} lacks {', '.join(sorted(missing))}")
    if lengths.min() < 1:  # such an example is never written
        raise ValueError("lengths.bin has an empty example")
    ends = np.concatenate([[0], id_ends])
    if len(id_ends) != len(lengths) or np.diff(ends).min() < 0 or ends[-1] != len(ids):
        raise ValueError("id_ends.bin does not divide ids.bin into the examples' ids")
    bytes(ids).decode()


def checksums(folder: pathlib.Path) -> dict[str, int]:
    """The CRC-32 of every array in a folder of prepared examples, by file name."""
    return {file.name: _checksum(file) for file in sorted(folder.glob("*.bin"))}


def _checksum(file: pathlib.Path) -> int:
    value = 0
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def check_files(folder: pathlib.Path, meta: Meta) -> None:
    """Compares the checksums of all arrays.

    Raises:
        InputError: A file is missing, cut or changed.
    """
    try:
        _compare_checksums(folder, meta)
    except (OSError, ValueError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: pathlib.Path, error: Exception) -> InputError:
    return InputError(f"{folder} is damaged ({error}). {_REMEDY}")


def _compare_checksums(folder: pathlib.Path, meta: Meta) -> None:
    for name, expected in meta.checksums.items():
        if pathlib.PurePath(name).name != name:
            raise ValueError(f"{META} names {name!r}, which is not beside it")
        if (found := _checksum(folder / name)) != expected:
            raise ValueError(
                f"the checksum of {name} is {found:08x}, not {expected:08x}"
            )
