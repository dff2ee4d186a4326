"""All problems with the names in a configuration."""

import dataclasses
import functools
import importlib
import inspect
import pathlib
from collections.abc import Sequence
from typing import Any

from specialize import quiet, run_folder
from specialize.config.scanning import (
    REQUIRED,
    Binding,
    Macro,
    Name,
    Origin,
    Scan,
    leaves,
)
from specialize.errors import InputError, did_you_mean

# The packages whose functions a gin file may name. Any other module must be imported
# on the command line, because a gin file can call any function of a module.
PACKAGES = (
    *("specialize", "specialize_tasks", "seqio", "t5x", "t5", "flaxformer"),
    *("flax", "optax", "gin", "__gin__", "__main__"),
)

# The file that declares the macros of every recipe.
VALUES = "runs/values.gin"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of a configuration.

    Attributes:
        kind: Class of problem: "unused macro", "unknown macro", "requirement",
            "import", "parameter", "lengths", "loss", "batch", "vocabulary", ...
        message: What was wrong, the values, the remedy.
        origin: The invalid statement, or None if it is not a single one.
    """

    kind: str
    message: str
    origin: Origin | None = None

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}" if self.origin else self.message


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raises one InputError that lists all problems, if there are any."""
    if not problems:
        return
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise InputError(f"{counted(problems)} in the configuration:\n{lines}")


def counted(problems: Sequence[Problem]) -> str:
    """The number of problems, in words."""
    return "1 problem" if len(problems) == 1 else f"{len(problems)} problems"


def macro_problems(scan: Scan, *, allow_missing: Sequence[str] = ()) -> list[Problem]:
    """Problems with macros: unused, mistyped, undefined, circular or still required.

    A macro is used if the value of a parameter contains it, directly or through other
    macros. A default in the file that uses it may be overridden. `VALUES` declares the
    macros of all runs; a run need not use each of them.
    """
    macros = scan.macros()
    shared = {b.name for b in scan.bindings if _holds_all(b.origin.file)}
    effective = {id(binding) for binding in scan.effective().values()}
    used: set[str] = set()
    used_at: dict[str, set[str]] = {}
    unknown: dict[str, Origin] = {}

    def reach(value: Any, binding: Binding, live: bool) -> None:
        for item in leaves(value):
            if not isinstance(item, Macro) or "." in item.name:
                continue
            used_at.setdefault(item.name, set()).add(binding.origin.file)
            if live and item.name not in used:
                used.add(item.name)
                if item.name in macros:
                    reach(macros[item.name].value, macros[item.name], live)
            if item.name not in macros:
                unknown.setdefault(item.name, binding.origin)

    for binding in scan.bindings:
        if not binding.is_macro:
            reach(binding.value, binding, id(binding) in effective)
    for binding in macros.values():
        reach(binding.value, binding, False)
    problems = []
    for name, origin in unknown.items():
        hint = did_you_mean(name, macros)
        problems.append(
            Problem(
                "unknown macro",
                f"%{name} is used but nothing sets it.{hint} Set {name} in a gin "
                f"file or with --gin.{name}=VALUE.",
                origin,
            )
        )
    for name, binding in macros.items():
        if name in used or binding.origin.file in used_at.get(name, set()):
            continue
        if name in used_at:
            text = (
                f"{name} has no effect: the parameter that uses it is also bound "
                "directly. Remove one of the two."
            )
        elif name in shared:
            continue
        else:
            hint = did_you_mean(name, used | shared)
            text = f"{name} is set but nothing uses it.{hint}"
            text += "" if hint else " Remove it, or give the gin file that uses it."
        problems.append(Problem("unused macro", text, binding.origin))
    for binding in scan.effective().values():
        name = binding.name
        if binding.value != Macro(REQUIRED) or name in allow_missing:
            continue
        if binding.is_macro:
            hint = f"Set it in a gin file or with --gin.{name}=VALUE."
        else:
            hint = "Bind it in a gin file."
        problems.append(
            Problem("requirement", f"{name} is required. {hint}", binding.origin)
        )
    problems += _circles(macros)
    return problems


def _holds_all(file: str) -> bool:
    """Whether a file holds the values of every command, or all those of an old run."""
    saved = (run_folder.CONFIG_GIN, run_folder.OPERATIVE_CONFIG)
    return file.endswith(VALUES) or pathlib.PurePath(file).name in saved


def _circles(macros: dict[str, Binding]) -> list[Problem]:
    problems = []
    for name, binding in macros.items():
        seen, frontier = set(), {name}
        while frontier:
            inner = {
                leaf.name
                for item in frontier
                if item in macros
                for leaf in leaves(macros[item].value)
                if isinstance(leaf, Macro)
            }
            if name in inner:
                text = f"{name} is defined by itself. Give it a value."
                problems.append(Problem("circular macro", text, binding.origin))
                break
            frontier = inner - seen
            seen |= inner
    return problems


def trusted(module: str, scan: Scan) -> bool:
    """Whether a gin file may name what is in a module."""
    package = module.partition(".")[0]
    named = {item.module.partition(".")[0] for item in scan.imports if item.on_line}
    return package in PACKAGES or package in named


def module_problems(scan: Scan) -> list[Problem]:
    """Modules that gin files import, and that the user has not named; imports none."""
    problems: dict[str, Problem] = {}
    for item in scan.imports:
        if trusted(item.module, scan) or item.module in problems:
            continue
        package = item.module.partition(".")[0]
        text = (
            f"a gin file can call any function of {item.module!r}, which is not one of "
            "the packages that gin files may use. If you trust the files, name it on "
            f"the command line: --gin_bindings 'import {package}'."
        )
        problems[item.module] = Problem("module", text, item.origin)
    return list(problems.values())


def name_problems(scan: Scan) -> list[Problem]:
    """Imports, configurables and parameters that do not exist; imports the modules."""
    import gin

    problems = []
    broken: set[str] = set()
    if any(
        item.module.split(".")[0] in ("specialize_tasks", "seqio")
        for item in scan.imports
    ):
        quiet.import_tensorflow()
    for item in scan.imports:
        if item.module in broken or item.module == "__main__":
            continue
        try:
            with gin.unlock_config():  # an earlier configuration may have locked it
                importlib.import_module(item.module)
        except (Exception, SystemExit) as error:
            # `from package import function` names an attribute, not a module.
            if not isinstance(error, ImportError) or target_of(item.module) is None:
                broken.add(item.module)
                reason = str(error)
                if not isinstance(error, ImportError):
                    reason = f"the import ends with {type(error).__name__} ({reason})"
                text = f"cannot import {item.module!r}: {reason}."
                if getattr(error, "name", None) == item.module.partition(".")[0]:
                    text += " Install it, or set PYTHONPATH to its folder."
                problems.append(Problem("import", text, item.origin))
    checked: set[tuple[str, str]] = set()
    for name in scan.names:
        unsure = any(name.selector.startswith(module) for module in broken)
        if unsure or (name.selector, name.parameter) in checked:
            continue
        checked.add((name.selector, name.parameter))
        problems += _check_name(name, scan)
    return problems


def _check_name(name: Name, scan: Scan) -> list[Problem]:
    target = (registered(name.selector) if name.registered else None) or target_of(
        name.selector
    )
    if target is not None and not trusted(_module(target), scan):
        text = (
            f"{name.selector} is a function of {_module(target)!r}, which is not one "
            "of the packages that gin files may use. If you trust the files, name it "
            f"on the command line: --gin_bindings 'import {_module(target)}'."
        )
        return [Problem("module", text, name.origin)]
    if name.selector.startswith(("__main__.", "gin.")):
        return []  # T5X's own script, which does not run here, or gin itself
    if target is None:
        parent, _, last = name.selector.rpartition(".")
        owner = target_of(parent) if parent else None
        known = {one.selector.rpartition(".")[2] for one in scan.names}
        known = known if owner is None else dir(owner)
        hint = did_you_mean(last, known)
        text = f"there is no {name.selector!r} to configure.{hint}"
        return [Problem("unknown name", text, name.origin)]
    parameters = _parameters(target)
    if not name.parameter or parameters is None or name.parameter in parameters:
        return []
    hint = did_you_mean(name.parameter, parameters)
    text = f"{name.selector} has no parameter {name.parameter!r}.{hint}"
    return [Problem("parameter", text, name.origin)]


def _module(target: Any) -> str:
    """The module that defines an object."""
    found = getattr(inspect.unwrap(target), "__module__", None)
    return found or getattr(target, "__name__", None) or type(target).__module__


def registered(selector: str) -> Any:
    """The configurable with this name in gin's registry, or None."""
    import gin

    try:
        return gin.get_configurable(selector)
    except (ValueError, KeyError):
        return None


@functools.lru_cache(maxsize=1024)
def target_of(dotted: str) -> Any:
    """The object with this dotted name, or None."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except (Exception, SystemExit):
            continue
        for name in parts[split:]:
            found = getattr(found, name, None)
            if found is None:
                return None
        return found
    return None


@functools.lru_cache(maxsize=1024)
def _parameters(target: Any) -> frozenset[str] | None:
    """Parameter names of a function or class; None if it accepts any."""
    try:
        signature = inspect.signature(inspect.unwrap(target))
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    return frozenset(signature.parameters)
