"""`specialize bench`: times the real functions and prints one row per case.

Every case and every baseline runs in its own process (`protocol`); the parent runs one
step of each in turn, so that two rows of one run can be compared even if the machine's
speed varies.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from specialize import outputs
from specialize.cost.bench.protocol import Worker, WorkerError
from specialize.cost.bench.shapes import SHAPES, shape_named
from specialize.errors import InputError

ROOT = pathlib.Path(__file__).parents[3]
# The cases of each word of the command line; `matmul` is always added.
WORDS = {
    "train": ("train",),
    "loss": ("loss", "loss_plain"),
    "decode": ("decode",),
    "input": ("input", "input_formats", "input_padded"),
}
LEAST_REPETITIONS = 20
MOST_REPETITIONS = 100_000


@dataclasses.dataclass(frozen=True)
class Peer:
    """A baseline in `benchmarks/`, and how to find an interpreter that can run it.

    Attributes:
        script: file in `benchmarks/`.
        package: package that the interpreter must be able to import.
        variable: environment variable that names the interpreter.
        arguments: arguments of the script, after the shape.
        environment: environment variables of the process.
    """

    script: str
    package: str
    variable: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def command(self, shape: str) -> list[str] | None:
        """The command line, or None if the baseline is not installed."""
        interpreter = os.environ.get(self.variable, sys.executable)
        script = ROOT / "benchmarks" / self.script
        if not script.exists():
            return None
        code = "import importlib.util, sys; "
        code += "sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
        probe = [interpreter, "-c", code, self.package]
        if subprocess.run(probe, check=False).returncode:
            return None
        return [interpreter, str(script), shape, *self.arguments]


def _torch(script: str, threads: int) -> Peer:
    count = str(threads)
    variables = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    return Peer(script, "torch", "SPECIALIZE_TORCH_PYTHON", (count,), variables)


def _seqio(which: str) -> Peer:
    return Peer("seqio_input.py", "seqio", "SPECIALIZE_SEQIO_PYTHON", (which,))


PEERS = {
    "train": {
        "t5x": Peer("t5x_train.py", "t5x", "SPECIALIZE_T5X_PYTHON"),
        "torch dense KL, 1 thread": _torch("torch_train.py", 1),
        "torch dense KL, 2 threads": _torch("torch_train.py", 2),
    },
    "decode": {"transformers generate": _torch("hf_generate.py", 2)},
    "input": {
        "seqio": _seqio("shape"),
        "seqio, four formats": _seqio("formats"),
        "seqio, one a row": _seqio("padded"),
    },
}


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `bench` to the command line."""
    command = subparsers.add_parser(
        "bench",
        help="measure this machine: training step, loss, decoding, input pipeline",
        description="Times the real functions on synthetic input, each in its own "
        "process: the median of the repetitions after warm-up, useful tokens/s, model "
        "FLOP/s with their share of a measured square matrix product (2048 x 2048 "
        "float32 on a CPU) and of the maker's peak (MFU), and peak memory. On a CPU "
        "the processes run step by step in turn, on an accelerator one after another. "
        "With --peers it also times the baselines in benchmarks/ whose packages are "
        "installed here, or in the interpreters that SPECIALIZE_T5X_PYTHON, "
        "SPECIALIZE_TORCH_PYTHON and SPECIALIZE_SEQIO_PYTHON name.",
    )
    command.add_argument(
        "what",
        choices=[*WORDS, "all"],
        metavar="WHAT",
        help=f"what to measure: {', '.join(WORDS)} or all",
    )
    command.add_argument(
        "--shape",
        default="small",
        metavar="NAME[:KEY=VALUE,...]",
        help=f"network and batch: one of {', '.join(SHAPES)}, with changes such as "
        "'xl:batch=32,remat_policy=none'; small has 4 + 4 layers of width 256 and 8 "
        "sequences of 256/128 tokens",
    )
    command.add_argument(
        "--repetitions",
        type=int,
        default=LEAST_REPETITIONS,
        metavar="N",
        help=f"number of timed steps, at least {LEAST_REPETITIONS}",
    )
    command.add_argument("--peers", action="store_true", help="also time the baselines")
    command.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--json", metavar="FILE", help="also write the rows to FILE")
    command.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Measures and prints a table; returns 1 if a case of ours failed.

    Raises:
        InputError: there are too few repetitions for a reliable median.
    """
    if not LEAST_REPETITIONS <= flags.repetitions <= MOST_REPETITIONS:
        raise InputError(
            f"--repetitions {flags.repetitions}: a row is the median of at least "
            f"{LEAST_REPETITIONS}, and at most {MOST_REPETITIONS}."
        )
    shape_named(flags.shape)  # an invalid shape is refused here, not in every worker
    words = list(WORDS) if flags.what == "all" else [flags.what]
    rows: list[dict[str, Any]] = []
    failed = False
    for word in words:
        names = list(WORDS[word])
        if flags.plain and word == "train":
            names.append("train_plain")
        found, errors = measure(
            word, names, flags.shape, flags.repetitions, peers=flags.peers
        )
        rows += found
        for name, error in errors.items():
            failed |= name in names
            print(f"{name}: {error}", file=sys.stderr)
    show(rows)
    if flags.json:
        outputs.write_json(flags.json, rows)
    return int(failed)


def measure(
    word: str, names: list[str], shape: str, repetitions: int, *, peers: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Times cases, `matmul` and baselines in turn.

    Args:
        word: word of the command line, which determines the baselines.
        names: our cases.
        shape: name of the shape, as for `shape_named`.
        repetitions: number of timed steps of each.
        peers: whether to run the baselines.

    Returns:
        The rows, and the errors of failed cases by name.
    """
    from specialize.progress import track

    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        name: ([sys.executable, "-m", "specialize.cost.bench.worker", name, shape], {})
        for name in ("matmul", *names)
    }
    errors: dict[str, str] = {}
    for name, peer in PEERS.get(word, {}).items() if peers else ():
        command = peer.command(shape)
        if command is None:
            print(
                f"{name}: skipped, {peer.package} is not installed here "
                f"({peer.variable} may name an interpreter that has it)",
                file=sys.stderr,
            )
        else:
            commands[name] = (command, {**peer.environment, "PYTHONPATH": str(ROOT)})
    workers: dict[str, Worker] = {}
    facts: dict[str, dict[str, Any]] = {}
    seconds: dict[str, list[float]] = {}
    memory: dict[str, dict[str, int]] = {}

    def attempt(name: str, action: Any) -> Any:
        try:
            return action()
        except WorkerError as error:
            errors[name] = str(error)
            workers.pop(name).close()
            return None

    def time(names: list[str], environment: dict[str, str]) -> None:
        """Times these cases step by step in turn."""
        for name in names:
            command, own = commands[name]
            workers[name] = Worker(name, command, own | environment)
            # One after another: compilations would affect each other's peak memory.
            said = attempt(name, workers[name].ready)
            if said is not None:
                facts[name], seconds[name] = said, []
        for _ in track(range(repetitions), f"bench {', '.join(workers)}"):
            for name in list(workers):
                took = attempt(name, workers[name].run)
                if took is not None:
                    seconds[name].append(took["seconds"])
        for name in list(workers):
            found = attempt(name, workers[name].end)
            if found is not None:
                memory[name] = found
                workers.pop(name)

    on_cpu = platform() == "cpu"
    try:
        if on_cpu:
            time(list(commands), {})
        else:
            # The states do not fit beside each other, and the speed is constant.
            for name in commands:
                time([name], {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"})
    finally:
        for worker in workers.values():
            worker.close()
    peak = None
    if "matmul" in memory:
        peak = facts["matmul"]["flops"] / statistics.median(seconds["matmul"])
    rows = [
        row(name, shape, facts[name], seconds[name], memory[name], peak)
        for name in commands
        if name in memory
    ]
    return rows, errors


def platform() -> str:
    """JAX's platform here, from another process, so that this one holds no device."""
    code = "import jax; print(jax.default_backend())"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return found.stdout.split()[-1]


def row(
    name: str,
    shape: str,
    facts: dict[str, Any],
    seconds: list[float],
    memory: dict[str, int],
    peak: float | None,
) -> dict[str, Any]:
    """One row of the result.

    Args:
        name: name of the case or baseline.
        shape: name of the shape.
        facts: facts from the worker about its case.
        seconds: seconds of the timed steps.
        memory: memory in bytes from the worker.
        peak: FLOP/s of `matmul`, measured in the same run.

    Returns:
        Name, shape, median and range in seconds, repetitions, rates, memory in bytes,
        device and versions.
    """
    median = statistics.median(seconds)
    flops = facts.get("flops")
    useful = facts.get("useful_tokens")
    speed = None if flops is None else flops / median
    published = facts.get("peak_flops")
    rows = facts.get("rows")
    return {
        "name": name,
        "shape": shape,
        "median_s": median,
        "least_s": min(seconds),
        "most_s": max(seconds),
        "repetitions": len(seconds),
        "steps_per_s": 1 / median,
        "useful_tokens_per_s": None if useful is None else useful / median,
        "model_flops_per_s": speed,
        "share_of_matmul_peak": None if not speed or not peak else speed / peak,
        "mfu": None if not speed or not published else speed / published,
        "rows_per_s": None if rows is None else rows / median,
        **memory,
        **{key: value for key, value in facts.items() if key != "flops"},
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the rows, and the devices and versions below them."""
    from rich.table import Table

    from specialize.progress import table_console

    console = table_console(160)
    table = Table(box=None, header_style="bold")
    for heading in (
        "",
        "shape",
        "median s",
        "least - most",
        "useful tok/s",
        "rows/s",
        "GFLOP/s",
        "of peak",
        "MFU",
        "peak MiB",
        "growth MiB",
        "temp MiB",
        "filled",
    ):
        side = "left" if heading in ("", "shape") else "right"
        table.add_column(heading, justify=side)
    for entry in rows:
        table.add_row(*cells(entry))
    console.print(table)
    for line in sorted(
        {f"{r['device']}; {json.dumps(r['versions'])}" for r in rows if "device" in r}
    ):
        console.print(line, markup=False, highlight=False)


def cells(entry: dict[str, Any]) -> list[str]:
    """A row as text."""

    def show(key: str, form: str, scale: float = 1.0) -> str:
        value = entry.get(key)
        return "-" if value is None else format(value / scale, form)

    peak = "device_peak_bytes" if "device_peak_bytes" in entry else "peak_bytes"
    filled = "-"
    if "encoder_filled" in entry:
        filled = f"{entry['encoder_filled']:.1%} / {entry['decoder_filled']:.1%}"
    return [
        entry["name"],
        entry["shape"],
        show("median_s", ".4f"),
        f"{entry['least_s']:.4f} - {entry['most_s']:.4f}",
        show("useful_tokens_per_s", ",.0f"),
        show("rows_per_s", ".1f"),
        show("model_flops_per_s", ",.1f", 1e9),
        show("share_of_matmul_peak", ".0%"),
        show("mfu", ".1%"),
        show(peak, ",.0f", 2.0**20),
        show("growth_bytes", ",.0f", 2.0**20),
        show("temporary_bytes", ",.0f", 2.0**20),
        filled,
    ]
