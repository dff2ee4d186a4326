"""Modules that gin files of version 0.1 name, and their present names."""

import importlib.machinery
import importlib.util

from specialize.config.problems import Problem
from specialize.config.scanning import Origin, Scan
from specialize.renamed import MOVED

# Modules of `specialize_tasks` that version 0.1 called `tasks.<module>`.
_TASKS = ("benchmarks", "distill", "locations", "metrics", "preprocessors", "text")


def renamed_problems(scan: Scan) -> list[Problem]:
    """Statements with names of version 0.1; imports nothing."""
    return _package_problems(scan) + _module_problems(scan)


def _module_problems(scan: Scan) -> list[Problem]:
    problems = []
    for item in scan.imports:
        if item.module in MOVED:
            package, _, module = MOVED[item.module].rpartition(".")
            text = (
                f"since version 0.2 the module {item.module!r} is "
                f"{MOVED[item.module]!r}. Write 'from {package} import {module}'"
            )
            if item.name != module and item.module.endswith(f".{item.name}"):
                text += f", and '{module}.' instead of '{item.name}.' below it"
            problems.append(Problem("renamed", text + ".", item.origin))
    return problems


def _package_problems(scan: Scan) -> list[Problem]:
    """Statements that call `specialize_tasks` by its name in version 0.1, `tasks`.

    Modules of another project's `tasks` are not problems.
    """
    named = [(item.module, item.origin) for item in scan.imports]
    named += [(name.selector, name.origin) for name in scan.names]
    named = [
        (dotted.split("."), origin)
        for dotted, origin in named
        if dotted.split(".")[0] == "tasks" and "tasks" in origin.text
    ]
    theirs = importlib.util.find_spec("tasks") if named else None
    folders = (theirs and theirs.submodule_search_locations) or ()
    old: dict[str, Origin] = {}
    for (_, *inner), origin in named:
        if not inner:
            ours = theirs is None or theirs.origin is None
        else:
            module = f"tasks.{inner[0]}"
            found = importlib.machinery.PathFinder.find_spec(module, folders)
            ours = inner[0] in _TASKS and found is None
        if ours:
            old.setdefault(str(origin), origin)
    if not old:
        return []
    text = (
        "since version 0.2 the package 'tasks' of specialize is called "
        "'specialize_tasks', because other projects have a 'tasks' too. Write "
        f"'specialize_tasks' instead of 'tasks' at {', '.join(old)}."
    )
    return [Problem("renamed", text, next(iter(old.values())))]
