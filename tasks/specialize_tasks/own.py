"""Tasks of one's own in SeqIO's registries.

`register("cold.toml")` of a task with the name "cold" registers

| name | what |
|---|---|
| `cold_<format>` | one of the four formats of the corpus in `CORPUS_DIR` |
| `cold_four_formats`, `cold_in_context`, `cold_zero_shot` | mixtures of them |
| `cold_eval_<prompt>` | the suite, with the judge of the task |
| `cold_eval_<sub-task>_<prompt>` | the suite of a sub-task, if the task has some |

A run does so for the task files in `TASKS`.
"""

import os
from collections.abc import Sequence

import seqio

from specialize.corpus.tasks.known import find, index, known_suites, mistyped
from specialize.corpus.tasks.spec import TaskSpec
from specialize.errors import InputError
from specialize.evaluation.spec import PROMPTS
from specialize.evaluation.suites import loading

from . import benchmarks, distill

Path = str | os.PathLike[str]

# Task -> what it was registered for, and the SeqIO names.
_REGISTERED: dict[str, tuple[str, list[str]]] = {}


def register(*files: Path) -> list[str]:
    """Registers tasks, or replaces those of the same names.

    Args:
        *files: Task files.

    Returns:
        The names of the tasks.

    Raises:
        InputError: A file is malformed, or a name is taken.
    """
    found = loading.own_tasks(files)
    sources = {find(file).name: os.path.abspath(file) for file in files}
    for name, task in found.items():
        _register(task, sources[name])
    return list(found)


def suite_task(suite: str, prompt: str, tasks: Sequence[Path] = ()) -> str:
    """The SeqIO name of a suite, which is registered if it is of one's own.

    Args:
        suite: A suite or group.
        prompt: One of `spec.PROMPTS`.
        tasks: Task files.

    Raises:
        InputError: As for `register`, or there is no such suite or prompt.
    """
    own = register(*tasks)
    if prompt not in PROMPTS:
        raise InputError(f"unknown prompt {prompt!r}{mistyped(prompt, PROMPTS)}")
    if suite.partition("/")[0] in own:
        name = benchmarks.own_name(suite, prompt)
    else:
        name = benchmarks.task_name(suite, prompt)
    if name not in _names():
        known = [*known_suites(own), *index().groups]
        raise InputError(f"unknown suite {suite!r}{mistyped(suite, known)}")
    return name


def _register(task: TaskSpec, source: str) -> None:
    state = f"{source} {task.digest} {task.files}"
    earlier, names = _REGISTERED.get(task.name, ("", []))
    if earlier == state:
        return
    for name in names:
        seqio.TaskRegistry.remove(name)
        seqio.MixtureRegistry.remove(name)
    before = _names()
    try:
        distill.register(task.name, task=task.name)
        benchmarks.register(task, source)
    except ValueError as error:
        raise InputError(
            f"{source}: the name {task.name!r} is that of other tasks ({error}). "
            "Rename it."
        ) from error
    finally:
        added = sorted(_names() - before)
        _REGISTERED[task.name] = ("", added)  # not done, if there is an error
    _REGISTERED[task.name] = (state, added)


def _names() -> set[str]:
    return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
