"""`specialize plan`: whether a recipe fits, how long it runs and what it costs."""

import argparse
import json
import pathlib
from typing import TYPE_CHECKING

from specialize.config import add_flags, words_of_flags
from specialize.errors import InputError

if TYPE_CHECKING:
    from specialize.cost.plan.estimates import Row
    from specialize.cost.plan.planning import Plan


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `plan` to the command line."""
    command = subparsers.add_parser(
        "plan",
        help="predict memory, time and price of a recipe, without the chips",
        description="Compiles the step that a recipe would run for a topology that "
        "need not be present, and reports the memory from the compiler. TPU slices "
        "need the extra 'plan' (libtpu). Time and price are computed from the assumed "
        "MFU (--mfu). GPU rows are modelled.",
    )
    add_flags(command)
    command.add_argument(
        "--topology",
        action="append",
        default=[],
        metavar="KIND:SHAPE",
        help="kind and number of chips, such as v5e:16x4, v5p:4x4x4, v4:2x2x1, "
        "v6e:4x4, h200:8 or cpu:8; repeatable",
    )
    command.add_argument(
        "--smallest",
        action="append",
        default=[],
        metavar="KIND",
        help="kind of chip, such as v5e or h200, whose smallest slice that fits is "
        "searched for; repeatable",
    )
    command.add_argument(
        "--for",
        dest="command_planned",
        choices=("train", "evaluate"),
        default="train",
        help="command that will run the recipe",
    )
    command.add_argument(
        "--questions",
        type=int,
        default=1319,
        metavar="N",
        help="number of questions of an evaluation, such as GSM8K's test set of 1319",
    )
    command.add_argument(
        "--as_written",
        action="store_true",
        help="do not search for the cheapest remat policy and the largest batch",
    )
    command.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        metavar="SHARE",
        help="assumed share of the chips' peak FLOP/s",
    )
    command.add_argument(
        "--price",
        type=float,
        metavar="P",
        help="price of one chip for one hour, in your currency",
    )
    command.add_argument(
        "--peak_flops",
        type=float,
        metavar="F",
        help="peak FLOP/s of one chip (default: the maker's figure)",
    )
    command.add_argument(
        "--teacher_k", type=int, default=5, metavar="K", help="K of the corpus"
    )
    command.add_argument("--json", metavar="FILE", help="also write the plan to FILE")
    command.add_argument(
        "--no_cache", action="store_true", help="compile again, without cached results"
    )
    command.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Prints a table; returns 1 if the recipe fits on none of the topologies."""
    from specialize.cost.plan import topologies

    files, bindings, folders = words_of_flags(flags)
    wanted = [[topologies.parse(text)] for text in flags.topology]
    wanted += [topologies.slices(kind) for kind in flags.smallest]
    if not wanted:
        raise InputError(
            "plan needs chips. Name a slice, such as --topology v5e:4x4, or a kind of "
            "which the smallest slice is searched for, such as --smallest v5e."
        )
    # The number of CPU devices can be set only once: the largest topology sets it.
    every = [topology for group in wanted for topology in group]
    for topology in sorted(every, key=lambda one: -one.chips):
        topologies.prepare(topology)
    from specialize import outputs
    from specialize.cost.plan import planning
    from specialize.cost.plan.estimates import Request

    plans: list[Plan] = []
    for group in wanted:
        request = Request(
            gin_files=tuple(files),
            bindings=tuple(bindings),
            search_paths=tuple(folders),
            topology=group[0],
            mfu=flags.mfu,
            price=flags.price,
            peak_flops=flags.peak_flops,
            teacher_k=flags.teacher_k,
            questions=flags.questions,
        )
        plans.append(
            planning.smallest(
                request,
                group,
                command=flags.command_planned,
                search=not flags.as_written,
                cache=not flags.no_cache,
            )
        )
    show(plans)
    if flags.json:
        outputs.write_json(pathlib.Path(flags.json), [p.to_json() for p in plans])
    return 0 if any(found.fits for found in plans) else 1


COLUMNS = (
    "",
    "topology",
    "mesh",
    "batch",
    "remat",
    "params",
    "optimizer",
    "temporaries",
    "per chip",
    "fits",
    "TFLOP/step",
    "s/step",
    "hours",
    "price",
)


def show(plans: "list[Plan]") -> None:
    """Prints the plans as one table, and the assumptions below it."""
    from rich.table import Table

    from specialize.progress import table_console

    console = table_console(180)
    table = Table(*COLUMNS, box=None, header_style="bold")
    for found in plans:
        labelled = (
            ("as written", found.as_written),
            ("cheapest remat", found.cheapest),
            ("largest batch", found.largest),
        )
        for label, row in labelled:
            if row is not None:
                table.add_row(label, *cells(row))
    console.print(table)
    for source in sorted({p.as_written.source for p in plans}):
        console.print(f"memory: {source}", markup=False, highlight=False)
    assumed = json.dumps(plans[0].assumptions)
    console.print(f"assumed, not measured: {assumed}", markup=False, highlight=False)


def cells(row: "Row") -> list[str]:
    """A row of the table, in the order of `COLUMNS` after the label."""
    memory, verdict = row.verdict.memory, row.verdict
    split = ["-", "-", "-"]
    if memory is not None:
        split = [
            size(memory.params + memory.teacher),
            size(memory.optimizer),
            size(memory.temporaries + memory.batch + memory.program),
        ]
    mesh = " ".join(f"{axis}={size}" for axis, size in row.mesh.items() if size > 1)
    return [
        row.topology,
        mesh or "1",
        f"{row.batch_size} x {row.lengths['inputs']}/{row.lengths['targets']}",
        row.remat_policy,
        *split,
        size(verdict.used) if verdict.used is not None else "?",
        ("yes" if verdict.fits else "no")
        + (" (modelled)" if row.source.startswith("modelled") else ""),
        f"{row.flops / 1e12:,.1f}",
        "-" if row.step_seconds is None else f"{row.step_seconds:.2f}",
        "-" if row.hours is None else f"{row.hours:,.1f}",
        "-" if row.price is None else f"{row.price:,.0f}",
    ]


def size(number: int) -> str:
    """Bytes in GiB, or in MiB if below a tenth of a GiB."""
    if number < 2**30 / 10:
        return f"{number / 2**20:.1f} MiB"
    return f"{number / 2**30:.2f} GiB"
