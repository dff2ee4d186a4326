"""`specialize config`: the effective configuration with the origin of every value."""

import argparse
import json
import os
import sys

from specialize import checks
from specialize.config.problems import counted
from specialize.config.reading import RUN_FILES, Config, add_flags, read, words_of_flags
from specialize.config.rules import lint
from specialize.errors import message, visible


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `config` to the command line."""
    command = subparsers.add_parser(
        "config",
        help="show a configuration, where each value comes from, and what is wrong",
        description="Reads gin files as `train` would, prints every effective value "
        "with the file and line that set it, every function that they would call, and "
        "all problems. It imports the modules that the files name, and calls nothing.",
    )
    add_flags(command)
    command.add_argument("--json", action="store_true", help="print JSON instead")
    command.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="number of chips of the mesh, to check the batch",
    )
    command.add_argument(
        "--no_imports",
        action="store_true",
        help="import nothing: works also for an engine that is not installed here",
    )
    command.add_argument(
        "--for",
        dest="entry",
        choices=[*entries()],
        help="put the run file of this command first, if no run file is given",
    )
    command.set_defaults(run=run)


def entries() -> dict[str, str]:
    """Command -> the function that its run file is for, a key of `RUN_FILES`."""
    found = {
        os.path.basename(file).partition(".")[0]: k for k, file in RUN_FILES.items()
    }
    # 'select' evaluates, with the same run file.
    return {**found, "select": found["evaluate"]}


def run(flags: argparse.Namespace) -> int:
    """Prints the configuration; returns the exit status, 2 if there are problems."""
    checks.whole("--devices", flags.devices, optional=True)
    config = read(*words_of_flags(flags), entry=entries().get(flags.entry))
    problems = lint(config, devices=flags.devices, imports=not flags.no_imports)
    if flags.json:
        report = {
            "gin_files": list(config.scan.files),
            "values": config.rows(),
            "calls": [
                {"function": name, "origin": origin} for name, origin in config.calls()
            ],
            "problems": [
                {
                    "kind": problem.kind,
                    "message": problem.message,
                    "origin": None if problem.origin is None else str(problem.origin),
                }
                for problem in problems
            ],
        }
        print(json.dumps(report, indent=2))
    else:
        _print(config)
        if problems:
            print(f"error: {counted(problems)} in the configuration:", file=sys.stderr)
        for problem in problems:
            print(message(f"{problem.kind}: {problem}"), file=sys.stderr)
    return 2 if problems else 0


def _print(config: Config) -> None:
    from rich.markup import escape
    from rich.table import Table

    from specialize.progress import table_console

    console = table_console(10_000)  # whole paths
    table = Table("value of", "value", "set at", "instead of", box=None)
    for row in config.rows():
        value = str(row["value"])
        shown = f"{value}  ({row['written']})" if "%" in row["written"] else value
        cells = (row["name"], shown, row["origin"], " ".join(row["overrides"]))
        table.add_row(*map(escape, map(visible, cells)))
    console.print(table)
    calls = Table("would call", "first named at", box=None)
    for name, origin in config.calls():
        calls.add_row(*map(escape, map(visible, (f"@{name}()", origin))))
    console.print()
    console.print(calls)
