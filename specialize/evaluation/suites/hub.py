"""Benchmarks from the Hugging Face hub: "hub:<owner>/<dataset>".

A dataset may have the layout of a benchmarks folder (`gsm8k/test.jsonl`, ...), have the
owners' files at its top (`test.jsonl`), or be GSM8K as its owners publish it
(`hub:openai/gsm8k`: Parquet, converted to the same JSON lines). Downloads stay in the
hub's own cache.
"""

import fnmatch
import json
import pathlib
from collections.abc import Sequence

from specialize import outputs
from specialize.corpus.tasks.known import index, shipped
from specialize.corpus.tasks.rows import read_rows
from specialize.corpus.tasks.spec import TaskSpec
from specialize.errors import InputError

PREFIX = "hub:"


def resolve(place: str, suite: str) -> pathlib.Path:
    """A local folder or file for `place`, downloaded if it names a dataset.

    Args:
        place: A path, or "hub:<owner>/<dataset>[@<revision>]".
        suite: The suite whose files are needed.

    Returns:
        The path; for a dataset a folder in the benchmarks layout.

    Raises:
        InputError: The dataset cannot be reached or has no file of the suite.
    """
    if not place.startswith(PREFIX):
        return pathlib.Path(place).expanduser()
    repository, _, revision = place.removeprefix(PREFIX).partition("@")
    tasks = _needed(suite.partition("/")[0])
    patterns = [one for task in tasks for one in _patterns(task)]
    folder = _snapshot(repository, revision or None, sorted(set(patterns)), place)
    return _laid_out(folder, place, suite, tasks)


def _snapshot(
    repository: str, revision: str | None, patterns: list[str], place: str
) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                repository,
                repo_type="dataset",
                revision=revision,
                allow_patterns=patterns,
            )
        )
    except errors.HFValidationError as error:
        raise InputError(
            f"{place} is not the name of a dataset ({error}). Write "
            "hub:<owner>/<dataset>."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise InputError(
            f"{place}: the hub has no such dataset or revision, or it is private. "
            "Check the name, or log in with 'hf auth login'."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise InputError(
            f"{place} cannot be downloaded ({_first_line(error)}). Check the network, "
            "or give a folder with the owners' files instead."
        ) from error


def _needed(family: str) -> list[TaskSpec]:
    """The tasks whose files a suite or group needs; demonstrations are of others."""
    names = list(index().groups.get(family, (family,)))
    known = [shipped(name) for name in names if name in index().tasks]
    names += [task.demonstrations for task in known if task.demonstrations]
    return [shipped(one) for one in dict.fromkeys(names) if one in index().tasks]


def _paths(task: TaskSpec) -> list[str]:
    """The files of a task in the benchmarks layout, as glob patterns."""
    files = task.files
    paths = (files.train, files.validation, files.test, files.prompt)
    return [path.format(subtask="*") for path in paths if path]


def _patterns(task: TaskSpec) -> list[str]:
    """The same also without their first folder, and as the hub has them."""
    paths = _paths(task)
    tops = [path.partition("/")[2] for path in paths]
    return [*paths, *tops, *task.files.hub.values()]


def _laid_out(
    folder: pathlib.Path, place: str, suite: str, tasks: Sequence[TaskSpec]
) -> pathlib.Path:
    """Brings top-level files and Parquet shards into the benchmarks layout."""
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    )
    if not files:
        known = ", ".join(one for task in tasks[:1] for one in _patterns(task))
        raise InputError(
            f"{place} has no file of suite {suite!r} in a known layout ({known})."
        )
    moved: dict[str, str] = {}  # file -> its place in the benchmarks layout
    shards: dict[str, list[str]] = {}  # place -> its Parquet shards
    for task in tasks:
        for path in _paths(task):
            first, _, top = path.partition("/")
            moved |= {
                name: f"{first}/{name}"
                for name in files
                if _matches(name, top) and not _matches(name, path)
            }
        for split, pattern in task.files.hub.items():
            found = [name for name in files if _matches(name, pattern)]
            if found:
                shards[str(getattr(task.files, split))] = found
    if not moved and not shards:
        return folder
    # Beside the snapshot, in the same cache; links need no space.
    target = folder.with_name(f"{folder.name}.specialize")
    taken = {name for found in shards.values() for name in found}
    for name in files:
        if name not in taken:
            _link(folder / name, target / moved.get(name, name))
    for path, found in shards.items():
        _write_lines([folder / name for name in found], target / path)
    return target


def _matches(name: str, pattern: str) -> bool:
    """Whether a path is of a glob pattern; "*" does not cross folders."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.resolve())


def _write_lines(shards: list[pathlib.Path], target: pathlib.Path) -> None:
    if target.exists():
        return
    lines: list[str] = []
    for shard in shards:
        try:
            for _, row in read_rows(shard):
                lines.append(json.dumps(row, ensure_ascii=False))
        except (InputError, TypeError, ValueError) as error:
            raise InputError(
                f"{shard} is damaged, or no table of texts and numbers "
                f"({_first_line(error):.200}). Remove it from the cache and run the "
                "command again."
            ) from error
    outputs.write_text(target, "\n".join(lines) + "\n")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
