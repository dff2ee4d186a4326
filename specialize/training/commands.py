"""`specialize train`."""

import argparse
import os
import sys


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `train`."""
    from specialize import config

    command = subparsers.add_parser(
        "train",
        help="train a student with gin files; the same command resumes the run",
        description="Trains a student in the run's folder (MODEL_DIR), from its newest "
        "checkpoint if it has one. SIGTERM saves a checkpoint and exits with 0.",
    )
    config.add_flags(command)
    processes = command.add_argument_group(
        "several processes", "One run on several machines; give all three, or none."
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
    command.add_argument(
        "--profile",
        nargs="?",
        const="10:15",
        metavar="FIRST:LAST",
        help="steps to trace into MODEL_DIR/profile (default: 10:15)",
    )
    command.set_defaults(run=_run)


def _run(flags: argparse.Namespace) -> int:
    from specialize import config, memory, quiet, sharding

    memory.keep_freed()
    # Before gin imports modules that might touch a device.
    if flags.multiprocess_gpu:
        os.environ["SPECIALIZE_CLUSTER"] = "1"
    sharding.initialize_distributed(
        flags.coordinator, flags.num_processes, flags.process_id
    )
    if flags.profile:
        steps = _steps(flags.profile)
        flags.gin_bindings.append(f"LoggingSpec.profile_steps = {steps}")
    quiet.import_tensorflow()
    config.from_flags(flags, entry="specialize.training.loop.train.train")
    from specialize.training.loop import train
    from specialize.training.loop.interruptions import NonFiniteError

    try:
        config.call(train.train)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _steps(text: str) -> tuple[int, int]:
    from specialize.errors import InputError

    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise InputError(
            f"--profile {text!r}: write FIRST:LAST with FIRST < LAST, such as 10:15."
        )
    return int(first), int(last)
