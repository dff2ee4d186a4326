"""Decodes many prompts into a file, and resumes where a killed run stopped."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import msgspec

from specialize import outputs, paths, processes, sharding, typed_json, versions
from specialize.checks import shown
from specialize.errors import InputError
from specialize.inference.engine import Engine
from specialize.progress import track

# Settings of which only a digest is known.
_DIGESTS = ("prompts", "weights", "vocabulary")


@dataclasses.dataclass(frozen=True)
class _Head:
    """The first line of a file of decoded texts."""

    settings: typed_json.Object


@dataclasses.dataclass(frozen=True)
class _Line:
    """What was decoded from one prompt."""

    index: typed_json.Count
    texts: Annotated[list[str], msgspec.Meta(min_length=1)]
    scores: list[float]
    num_tokens: list[typed_json.Count]
    truncated: typed_json.Count
    steps: list[typed_json.Object] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def unfinished(
    out: str | os.PathLike[str],
) -> Iterator[tuple[pathlib.Path, Callable[[], None]]]:
    """The file of finished batches of an output, and what is called after each.

    It is beside the output. In a bucket it is in a folder of that name, from which any
    machine resumes, and which is removed when the block succeeds.

    Raises:
        InputError: Another command goes on with it.
    """
    name = f"{os.fspath(out)}.decoded.jsonl"
    leader = jax.process_index() == 0
    if not paths.in_bucket(out):
        file = pathlib.Path(name)
        with outputs.only_writer_of(file) if leader else contextlib.nullcontext():
            yield file, lambda: None
        return
    with outputs.working_folder(name, "decoded", leader=leader) as working:
        yield working.path / "decoded.jsonl", working.publish
        working.clear()


def decode_to_file(
    engine: Engine,
    prompts: Sequence[str],
    path: str | os.PathLike[str],
    settings: dict[str, Any],
    *,
    sampling: Mapping[str, Any] | None = None,
    alternatives: int = 0,
    description: str = "decode",
    publish: Callable[[], None] = lambda: None,
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
        sampling: always empty; in version 0.1 it held what `engine.decoding` holds.
        alternatives: K of the distributions to keep of every token. 0: none.
        description: text of the progress bar.
        publish: called after each line that was written.

    Returns:
        For each prompt, in order: index, texts, scores, num_tokens, truncated; and
        "steps" if there are alternatives: of each text "ids" [L], "top_ids" [L K] and
        "top_logprobs" [L K], EOS included.

    Raises:
        InputError: the file has other settings, another version, or a malformed line,
            `sampling` is not empty, or another process has other prompts or settings.
    """
    if sampling:
        raise InputError(
            f"sampling is {dict(sampling)}. Since version 0.2 an engine holds how it "
            "decodes: write Engine(..., decoding=DecodingSpec(...)) with these values."
        )
    processes.agree(
        {**settings, "number of prompts": len(prompts), "alternatives": alternatives},
        what="prompts, weights or settings",
        remedy="Give every process the same files and options.",
    )
    file = pathlib.Path(path)
    # Every process decodes; one reads and writes. All must agree on what is done.
    leader = jax.process_index() == 0
    read = _read(file, settings) if leader else {}
    found = {line["index"]: line for line in sharding.from_leader([*read.values()])}
    beyond = [index for index in found if not 0 <= index < len(prompts)]
    if beyond:
        raise InputError(
            f"{file} holds prompt {beyond[0]}, but there are {len(prompts)} prompts. "
            "Remove the file, or name another output."
        )
    if leader:
        file.parent.mkdir(parents=True, exist_ok=True)
        _rewrite(file, settings, found)
    missing = len(prompts) - len(found)
    if missing:
        # Engines of scripts may know no alternatives.
        more: dict[str, Any] = {"alternatives": alternatives} if alternatives else {}
        stream = engine.generate(prompts, done=set(found), **more)
        with open(file if leader else os.devnull, "a", encoding="utf-8") as out:
            for one in track(stream, description, total=missing):
                line = {
                    "index": one.index,
                    "texts": list(one.texts),
                    "scores": list(one.scores),
                    "num_tokens": list(one.num_tokens),
                    "truncated": one.truncated,
                }
                if alternatives:
                    line["steps"] = list(one.steps)
                found[one.index] = line
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
                out.flush()
                publish()
    return [found[index] for index in range(len(prompts))]


def _read(file: pathlib.Path, settings: dict[str, Any]) -> dict[int, dict[str, Any]]:
    if not file.is_file():
        return {}
    remedy = "Remove the file to decode again."
    lines = typed_json.read_lines(
        file, typed_json.Object, remedy=remedy, cut=True, infinities=True
    )
    where, first = next(lines, (str(file), None))
    if first is None:
        return {}
    versions.DECODED.check(first.get("version", 1), file)
    head = typed_json.convert(first, _Head, where, remedy=remedy)
    # JSON has no tuples, so compare what a file can hold.
    wanted = msgspec.json.decode(msgspec.json.encode(settings))
    before = head.settings
    if "network" in wanted and "network" not in before:
        raise InputError(
            f"{file} was begun by an earlier version, which did not record the network "
            "that decoded it. Finish it with that version, or remove it to decode "
            "again, or name another output."
        )
    if differing := _differing(before, wanted):
        raise InputError(
            f"{file} was decoded with other settings: {'; '.join(differing)}. Set "
            "these back to continue it, or remove it to decode again, or name another "
            "output."
        )
    found: dict[int, dict[str, Any]] = {}
    for where, line in lines:
        one = typed_json.convert(line, _Line, where, remedy=remedy)
        found[one.index] = dataclasses.asdict(one)
        if not one.steps:
            del found[one.index]["steps"]
    return found


def names_network(file: pathlib.Path) -> bool:
    """Whether a file of decoded texts says which network decoded them.

    Versions before 0.2 did not say it. A file that cannot be read is for `_read`.
    """
    try:
        with open(file, "rb") as stream:
            head = msgspec.json.decode(stream.readline(), type=_Head)
    except (OSError, msgspec.MsgspecError):
        return True
    return "network" in head.settings


def _differing(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Which settings differ, in words; of the network its fields."""
    found = []
    for name in dict.fromkeys((*wanted, *before)):
        old, new = before.get(name), wanted.get(name)
        if old == new:
            continue
        if name in _DIGESTS:
            found.append(f"other {name}")
        elif isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}.{text}" for text in _differing(old, new)]
        else:
            found.append(f"{name} was {shown(old)}, now {shown(new)}")
    return found


def _rewrite(
    file: pathlib.Path, settings: dict[str, Any], found: dict[int, dict[str, Any]]
) -> None:
    """Writes only the complete lines, so that appending starts on a new line."""
    head = {"version": versions.DECODED.writes, "settings": settings}
    lines = (head, *found.values())
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    outputs.write_text(file, text)
