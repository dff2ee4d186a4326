"""Gin files and flags as one `Config`: effective values, and where each was set."""

import argparse
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from specialize.config import scanning, words
from specialize.config.scanning import (
    REQUIRED,
    Binding,
    Macro,
    Origin,
    Reference,
    Scan,
    map_leaves,
)
from specialize.errors import InputError

# The run file of each function that a command calls; so a recipe alone is enough.
RUN_FILES = {
    "specialize.training.loop.train.train": f"{scanning.PACKAGE}/runs/train.gin",
    "specialize.evaluation.evaluate.evaluate": f"{scanning.PACKAGE}/runs/evaluate.gin",
    "specialize.evaluation.inferring.infer": f"{scanning.PACKAGE}/runs/infer.gin",
    "specialize.inference.labelling.label": f"{scanning.PACKAGE}/runs/label.gin",
    "specialize.evaluation.study.running.study": f"{scanning.PACKAGE}/runs/study.gin",
    "specialize.inference.t5_teacher.sample_checkpoint": (
        f"{scanning.PACKAGE}/runs/sample.gin"
    ),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """A parsed configuration: effective values, and where each was set."""

    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]
    scan: Scan

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a macro such as "BATCH_SIZE", with macros inside it replaced.

        References to configurables stay `Reference` objects. A macro that is unset or
        still required has the value `default`.
        """
        macros = self.scan.macros()
        if name not in macros:
            return default
        value = resolve(macros[name].value, macros)
        return default if value == Macro(REQUIRED) else value

    def origin(self, name: str) -> Origin | None:
        """Where the effective value of a macro was set."""
        binding = self.scan.macros().get(name)
        return binding.origin if binding else None

    def calls(self) -> list[tuple[str, str]]:
        """(function, origin) of every function that a value calls, without scopes."""
        found: dict[str, str] = {}
        for binding in self.scan.effective().values():
            for leaf in scanning.leaves(binding.value):
                if isinstance(leaf, Reference) and leaf.calls:
                    found.setdefault(leaf.selector, str(binding.origin))
        return sorted(found.items())

    def rows(self) -> list[dict[str, Any]]:
        """The effective configuration, one dictionary per value, macros first.

        The keys are "name", "value" (with macros replaced), "written", "origin",
        "overrides" (the origins of the values that it replaced, latest last), "macro".
        """
        macros = self.scan.macros()
        replaced: dict[Any, list[Binding]] = {}
        for binding in self.scan.bindings:
            replaced.setdefault(binding.key, []).append(binding)
        rows = [
            {
                "name": binding.name,
                "value": plain(resolve(binding.value, macros)),
                "written": repr(binding.value),
                "origin": str(binding.origin),
                "overrides": [str(b.origin) for b in replaced[key][:-1]],
                "macro": binding.is_macro,
            }
            for key, binding in self.scan.effective().items()
        ]
        return sorted(rows, key=lambda row: (not row["macro"], row["name"]))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds T5X's gin flags; the command line itself collects --gin.NAME=VALUE."""
    group = parser.add_argument_group("configuration (T5X's flags)")
    group.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file; repeatable, later files win; found here, in "
        "--gin_search_paths or among the installed t5x_configs",
    )
    group.add_argument(
        "--gin_search_paths",
        action="append",
        default=[],
        metavar="DIR[,DIR]",
        help="folders for relative gin files and includes",
    )
    group.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="'NAME = VALUE'",
        help="one binding, which wins over files; also written --gin.NAME=VALUE; "
        "'import MODULE' lets the files call functions of MODULE",
    )


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a command that runs in several processes."""
    processes = parser.add_argument_group(
        "several processes", "One command on several machines; give all three, or none."
    )
    processes.add_argument(
        "--coordinator_address",
        "--coordinator",
        dest="coordinator",
        metavar="HOST:PORT",
        help="address of process 0",
    )
    processes.add_argument(
        "--process_count",
        "--num_processes",
        dest="num_processes",
        type=int,
        metavar="N",
        help="number of processes",
    )
    processes.add_argument(
        "--process_index",
        "--process_id",
        dest="process_id",
        type=int,
        metavar="I",
        help="number of this process, from 0",
    )
    processes.add_argument(
        "--multiprocess_gpu",
        action="store_true",
        help="take all three from the cluster (Slurm, MPI, TPU pod)",
    )


def words_of_flags(
    flags: argparse.Namespace,
) -> tuple[list[str], list[str], list[str]]:
    """The gin files, bindings and search paths of a parsed command line.

    A bare word, path or URL gets quotes, so that `--gin.MODEL_DIR=/data/run` works.

    Raises:
        InputError: A `--gin.` word has no `=`.
    """
    folders = [f for entry in flags.gin_search_paths for f in entry.split(",") if f]
    folders = [os.path.expanduser(folder) for folder in folders]
    bindings = list(flags.gin_bindings)
    for word in getattr(flags, "gin_overrides", ()):
        name, equals, value = word.removeprefix("--gin.").partition("=")
        if not equals:
            raise InputError(f"{word!r} has no value. Write --gin.{name}=VALUE.")
        bindings.append(words.binding_of_flag(name, value))
    return list(flags.gin_file), bindings, folders


def read(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    *,
    entry: str | None = None,
) -> Config:
    """Reads a configuration; it imports nothing and does not change gin.

    Args:
        gin_files: Names as given to --gin_file; at least one.
        bindings: `NAME = value` strings.
        search_paths: Folders for relative names, before the installed t5x_configs.
        entry: A key of `RUN_FILES`: the function that will be called. Its run file
            is read first if no given file binds a parameter of it.

    Raises:
        InputError: No file is given, or as for `scanning.scan`.
    """
    if not gin_files:
        raise InputError("No gin file given. Add --gin_file FILE (repeatable).")
    paths = (*search_paths, str(scanning.package_folder()))
    found = scanning.scan(gin_files, bindings, paths)
    if entry and not any(b.selector == entry for b in found.bindings):
        gin_files = (RUN_FILES[entry], *gin_files)
        found = scanning.scan(gin_files, bindings, paths)
    return Config(tuple(gin_files), tuple(bindings), paths, found)


def resolve(value: Any, macros: dict[str, Binding]) -> Any:
    """Replaces macros inside `value` by their values; unknown macros stay."""

    def leaf(item: Any, seen: tuple[str, ...] = ()) -> Any:
        if isinstance(item, Macro) and item.name in macros and item.name not in seen:
            inner = macros[item.name].value
            return map_leaves(inner, lambda i: leaf(i, (*seen, item.name)))
        return item

    return map_leaves(value, leaf)


def plain(value: Any) -> Any:
    """`value` for JSON: what JSON does not have, such as a reference, becomes text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    return value if isinstance(value, str | int | None) else repr(value)
