"""The command line: it parses the arguments and calls one function.

Each room registers its own commands and imports heavy libraries only when one runs.
`--gin.NAME=VALUE` may be anywhere on the line, as with T5X.
"""

import argparse
import contextlib
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from specialize import __version__
from specialize.errors import InputError, visible

# In the order of use, which is the order of `--help`.
ROOMS = (
    "specialize.quickstart.walk",
    "specialize.corpus.commands",
    "specialize.inference.commands",
    "specialize.checkpoints.commands",
    "specialize.training.commands",
    "specialize.evaluation.commands",
    "specialize.config",
    "specialize.cost.commands",
    "specialize.cost.bench.commands",
)
_OVERRIDE = "--gin."
# A path in the home folder, which the shell replaces only at the beginning of a word.
_HOME = re.compile(r"^(--[\w.]+=)?~(?=/|$)")


def parser() -> argparse.ArgumentParser:
    """The whole command line, with every room's commands."""
    top = argparse.ArgumentParser(
        prog="specialize",
        description="Specialise small Flan-T5 models towards multi-step reasoning.",
        epilog="'specialize COMMAND --help' shows a command's options.",
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for room in ROOMS:
        importlib.import_module(room).register(commands)
    return top


@contextlib.contextmanager
def _cleaning_up() -> Iterator[None]:
    """Lets a command that is terminated end its workers and remove partial files.

    Only signals that nobody handles or ignores get a handler, and a command may
    install another one.
    """

    def leave(number: int, frame: Any) -> NoReturn:
        del frame
        signal.signal(number, signal.SIG_IGN)  # a second one must not cut this short
        raise SystemExit(128 + number)

    taken = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) == signal.SIG_DFL
        and threading.current_thread() is threading.main_thread()
    ]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) == leave:
                signal.signal(number, signal.SIG_DFL)


def _at_home(found: re.Match[str]) -> str:
    return (found[1] or "") + os.path.expanduser("~")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments. None: those of the process.

    Returns:
        0; 2 after invalid input, with one message on standard error; or 130 after an
        interrupt. Defects keep their traceback.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    words = [_HOME.sub(_at_home, word) for word in given]
    overrides = [word for word in words if word.startswith(_OVERRIDE)]
    top = parser()
    arguments = top.parse_args([word for word in words if word not in overrides])
    if overrides and not hasattr(arguments, "gin_file"):
        top.error(f"{arguments.command} takes no gin settings: {' '.join(overrides)}")
    arguments.gin_overrides = overrides
    arguments.main = main
    try:
        with _cleaning_up():
            return int(arguments.run(arguments) or 0)
    except (
        InputError,
        FileNotFoundError,
        NotADirectoryError,
        PermissionError,
    ) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has ended (`| head`), which is no failure.
        sys.stderr.close()
        return 0
