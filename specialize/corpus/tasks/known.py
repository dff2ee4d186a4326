"""Tasks by name: those that come with the package, and files of one's own."""

import dataclasses
import functools
import os
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specialize.digests import file_digest
from specialize.errors import InputError, did_you_mean, nearest, suggestion

if TYPE_CHECKING:
    from specialize.corpus.records import Problem
    from specialize.corpus.tasks.spec import TaskSpec

Path = str | os.PathLike[str]

UNKNOWN = "unknown"
# Digits of the SHA-256 in `TaskSpec.published`.
DIGITS = 16

_FOLDER = pathlib.Path(__file__).parent / "shipped"


@dataclasses.dataclass(frozen=True)
class Index:
    """The tasks that come with the package.

    Attributes:
        tasks: Their names, in the order of tables.
        default: The task of a command that names none.
        generic: The task whose accuracy is generic ability in reports.
        groups: Names of groups and their tasks.
        averages: Groups whose mean accuracy is reported.
    """

    tasks: tuple[str, ...]
    default: str
    generic: str
    groups: Mapping[str, tuple[str, ...]]
    averages: tuple[str, ...]


@functools.cache
def index() -> Index:
    """Reads the list of shipped tasks; quick, so that command lines can offer them."""
    found = tomllib.loads((_FOLDER / "index.toml").read_text("utf-8"))
    groups = {name: tuple(members) for name, members in found["groups"].items()}
    averages = tuple(found["averages"])
    return Index(
        tuple(found["tasks"]), found["default"], found["generic"], groups, averages
    )


@functools.cache
def shipped(name: str) -> "TaskSpec":
    """A task that comes with the package; its data are in the benchmarks folder."""
    from specialize.corpus.tasks.files import read_task

    found = read_task(_FOLDER / f"{name}.toml")
    return dataclasses.replace(found, folder=None)


def find(task: "TaskSpec | Path | Mapping[str, Any]") -> "TaskSpec":
    """A task by name, file or content.

    Args:
        task: The name of a shipped task, a task file, its content, or a task.

    Raises:
        InputError: There is no such task or file, or the file is malformed.
    """
    from specialize.corpus.tasks.files import read_task
    from specialize.corpus.tasks.spec import TaskSpec

    if isinstance(task, TaskSpec):
        return task
    if isinstance(task, Mapping):
        return read_task(task)
    name = os.fspath(task)
    if name in index().tasks:
        return shipped(name)
    if pathlib.Path(name).suffix in (".toml", ".json") or os.path.sep in name:
        return read_task(name)
    raise InputError(
        f"{name!r} is no task. Name one of {', '.join(index().tasks)}, or a task file "
        f"(.toml or .json).{did_you_mean(name, index().tasks)}"
    )


def read_problems(
    path: Path, task: "TaskSpec | Path | Mapping[str, Any]"
) -> "list[Problem]":
    """Reads the questions of a file, as `task` says.

    Raises:
        InputError: The task is unknown, or the file is malformed.
    """
    from specialize.corpus.tasks import problems

    spec = find(task)
    return problems.read_problems(path, of_file(spec, path))


def known_suites(own: Sequence[str] = ()) -> list[str]:
    """Names of suites: tasks of one's own, shipped tasks, and their sub-tasks."""
    found = [*own, *index().tasks]
    for one in index().tasks:
        found += [f"{one}/{part}" for part in shipped(one).subtasks]
    return found


def mistyped(name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """The end of a message about a mistyped name."""
    names = list(dict.fromkeys(known))
    close = nearest(name, names, count=3, cutoff=0.5)
    if not close:
        # "navigate" for "bbh/navigate".
        close = [one for one in names if one.rpartition("/")[2] == name.lower()]
    if close:
        return f".{suggestion(close)}"
    short = [one for one in names if "/" not in one]
    return f". Known: {', '.join(short)}."


def __getattr__(name: str) -> Any:
    """`read_<task>` of a shipped task, as scripts of version 0.1 call it."""
    task = name.removeprefix("read_")
    if task == name or task not in index().tasks:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _reader(task)


@functools.cache
def _reader(task: str) -> Any:
    return functools.partial(read_problems, task=task)


def of_file(task: "TaskSpec", path: Path) -> "TaskSpec":
    """A task with sub-tasks, with the type of the answers of this file."""
    if not task.subtasks:
        return task
    stem = pathlib.Path(path).name.partition(".")[0]
    judge = dataclasses.replace(task.judge, answer_type=task.subtasks.get(stem))
    return dataclasses.replace(task, judge=judge)


def licence_of(task: "TaskSpec", problems: Path | None = None) -> str:
    """The licence of a task's files.

    Args:
        task: The task.
        problems: A file; if it is not one that the owners publish, its licence is
            unknown. None: the owners' file.
    """
    if problems is None or not task.published:
        return task.licence
    if file_digest(problems)[:DIGITS] not in task.published:
        return f"{UNKNOWN}: not a file of {task.name} as its owners publish it"
    return task.licence
