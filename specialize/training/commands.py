"""`specialize train`."""

import argparse
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
    config.add_process_flags(command)
    command.add_argument(
        "--profile",
        nargs="?",
        const="10:15",
        metavar="FIRST:LAST",
        help="steps to trace into MODEL_DIR/profile (default: 10:15)",
    )
    command.set_defaults(run=_run, saves_at_sigterm=True)


def _run(flags: argparse.Namespace) -> int:
    from specialize import config, quiet, sharding
    from specialize.errors import message
    from specialize.processes import parts

    # Before gin imports modules that might touch a device.
    sharding.join(flags)
    if flags.profile:
        steps = _steps(flags.profile)
        flags.gin_bindings.append(f"LoggingSpec.profile_steps = {steps}")
    quiet.import_tensorflow()
    config.from_flags(flags, entry="specialize.training.loop.train.train")
    from specialize.training.loop import train
    from specialize.training.loop.interruptions import NonFiniteError

    try:
        result = config.call(train.train)
    except NonFiniteError as error:
        # gin appends lines about its callers.
        text = str(error).partition("\n  In call to configurable")[0]
        print(f"error: {message(text)}", file=sys.stderr)
        return 1
    return parts.status(result.signal)


def _steps(text: str) -> tuple[int, int]:
    from specialize.errors import InputError

    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise InputError(
            f"--profile {text!r}: write FIRST:LAST with FIRST < LAST, such as 10:15."
        )
    return int(first), int(last)
