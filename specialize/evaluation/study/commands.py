"""`specialize study`."""

import argparse
import os
import shlex
import sys

from specialize import config, outputs, paths


def register(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Adds `study`."""
    command = subparsers.add_parser(
        "study",
        help="run arms with several seeds; means, intervals and verdicts on claims",
        description="Runs the cells of a study (every arm with every seed) that are "
        "not done, and prints means over seeds with intervals, paired differences and "
        "the verdicts on its claims. A killed study resumes; several processes with "
        "the same --out share the cells.",
    )
    command.add_argument(
        "study", nargs="*", metavar="STUDY.gin", help="gin files; as --gin_file"
    )
    config.add_flags(command)
    command.add_argument("--out", required=True, metavar="DIR", help="its folder")
    command.add_argument(
        "--list",
        action="store_true",
        help="print number, arm, seed and state of each cell, and run nothing",
    )
    command.add_argument(
        "--cell",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="run only this cell, and what it needs; repeatable. With --list: print "
        "its commands",
    )
    command.set_defaults(run=_study, in_buckets=("out",))


def _study(flags: argparse.Namespace) -> int:
    flags.gin_file = [*flags.study, *flags.gin_file]
    if not paths.in_bucket(flags.out):
        flags.out = os.path.abspath(flags.out)  # its commands run in any folder
    config.from_flags(flags, entry="specialize.evaluation.study.running.study")
    from specialize.evaluation.study import running

    if flags.list:
        return _list(flags)
    found = config.call(running.study, out=flags.out, only=tuple(flags.cell))
    from specialize.evaluation.study import tables

    tables.show(found)
    return 0


def _list(flags: argparse.Namespace) -> int:
    from specialize.evaluation.study import running
    from specialize.evaluation.study.cells import cells_of

    spec = config.arguments(running.study)["spec"]
    cells = running.chosen(cells_of(spec, flags.out), flags.cell)
    outputs.check_writable(flags.out, "study")
    for cell in cells:
        if not flags.cell:
            state = running.state(cell, flags.out)
            print(cell.number, cell.arm, cell.seed, state, sep="\t")
            continue
        for work in (*cell.work.stages.values(), cell.work):
            for words in work.commands:
                print(f"specialize {shlex.join(words)}")
    sys.stdout.flush()
    return 0
