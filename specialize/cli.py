"""The command line: it parses the arguments and calls one function.

Each room registers its own commands and imports heavy libraries only when one runs.
`--gin.NAME=VALUE` may be anywhere on the line, as with T5X.
"""

import argparse
import contextlib
import errno
import importlib
import io
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from specialize import __version__, processes
from specialize.checks import no_credentials, shown
from specialize.errors import InputError, TerminatedError, did_you_mean, message

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
# Numbers of files that a process may open: too few, and as many as we ask for.
FEWEST_FILES, ENOUGH_FILES = 128, 4096
# Errors of the system that are not defects: the user can correct them.
_OF_A_USER = (FileNotFoundError, NotADirectoryError, PermissionError)
_OF_THE_SYSTEM = (
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EROFS, errno.EBUSY),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.EIO),
)
# A path in the home folder, which the shell replaces only at the beginning of a word.
_HOME = re.compile(r"^(--[\w.-]+=)?~(?=/|$)")
# What argparse says -> what we say.
_SAID = (
    (r"^argument ([^\s:/]+)[^\s:]*: ", r"\1 "),
    (r"^the following arguments are required: (.*)$", r"missing: \1"),
    (r"^ambiguous option: (\S+) could match ", r"\1 is ambiguous: it may be "),
    (r"expected one argument$", "needs a value"),
    (r"expected at least one argument$", "needs at least one value"),
    (r"ignored explicit argument", "takes no value, and has"),
    (r"not allowed with argument ([^\s/]+)\S*$", r"cannot be given beside \1"),
)


def default_of(action: argparse.Action) -> str | None:
    """The default of an option as help shows it; None if there is none to show."""
    value = action.default
    if action.required or not action.option_strings or value == argparse.SUPPRESS:
        return None
    if value is None or value is False or value in ([], (), {}):
        return None
    if isinstance(value, list | tuple):
        return " ".join(map(repr, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Formatter(argparse.HelpFormatter):
    """Help with the default of each option whose text does not name it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, value = action.help, default_of(action)
        if text is None or value is None or "default" in text.lower():
            return text
        return f"{text} (default: {value.replace('%', '%%')})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Keeps the lines of a description that has lines."""
        if "\n" in text:
            return "".join(f"{indent}{line}\n" for line in text.strip().split("\n"))
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser whose error is one message, also of a command inside a command."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """As for `argparse.ArgumentParser`."""
        super().__init__(*args, **{"formatter_class": _Formatter, **options})

    def error(self, message: str) -> NoReturn:
        """Raises an `InputError` in the words of our other messages."""
        for pattern, replacement in _SAID:
            message = re.sub(pattern, replacement, message)
        nested = any(isinstance(a, argparse._SubParsersAction) for a in self._actions)
        what = "commands" if nested else "options"
        stop = "" if message.endswith((".", "?")) else "."
        raise InputError(f"{message}{stop} '{self.prog} --help' lists the {what}.")

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parses; words that are left are an error of the innermost command.

        The result also has `output_files`, the names of the options that are files.
        """
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            word = next((one for one in rest if one.startswith("-")), None)
            if word is None:
                self.error(f"{self.prog!r} takes no {' '.join(rest)!r}")
            name = word.partition("=")[0]
            known = [flag for action in self._actions for flag in action.option_strings]
            self.error(
                f"{self.prog!r} has no option {name}.{did_you_mean(name, known)}"
            )
        if not hasattr(found, "output_files"):
            found.output_files = {a.dest for a in self._actions if a.metavar == "FILE"}
        return found, rest

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        kinds = {int: "a whole number", float: "a number"}
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            if action.type not in kinds:
                raise
            text = f"= {shown(arg_string)}; it must be {kinds[action.type]}"
            raise argparse.ArgumentError(action, text) from None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            text = f"is {shown(value)}, expected one of {', '.join(known)}."
            raise argparse.ArgumentError(action, text + did_you_mean(str(value), known))


def parser() -> Parser:
    """The whole command line, with every room's commands."""
    top = Parser(
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
        raise TerminatedError(128 + number)

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
    except TerminatedError as ended:
        raise SystemExit(ended.status) from None
    finally:
        for number in taken:
            if signal.getsignal(number) == leave:
                signal.signal(number, signal.SIG_DFL)


class _Output(io.RawIOBase):
    """Standard output, which keeps the error of a write that failed.

    argparse ignores such errors, and after them a stream has nothing left to flush.
    """

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self.error: OSError | None = None
        self.is_abandoned = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def isatty(self) -> bool:
        return self.is_open and os.isatty(1)

    def write(self, data: Any) -> int:
        if self.is_abandoned:
            return len(data)
        try:
            if not self.is_open:
                raise OSError(errno.EBADF, "it is closed")
            return os.write(1, data)
        except OSError as error:
            self.error = error
            raise


def _prepare_streams() -> _Output | None:
    """Makes the standard streams usable, whatever the parent process made of them.

    A closed one is opened on the null device; otherwise the next file that is opened
    would have its number, and what libraries print would be written into that file.
    Characters that the encoding of standard output lacks are printed as escapes.

    Returns:
        Standard output; None if a caller in this process has redirected it.
    """
    is_open = True
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            is_open &= number != 1
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    now = sys.stdout
    if now is None or now is sys.__stdout__:
        output = _Output(is_open=is_open)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding=now.encoding if now else "utf-8",
            errors="backslashreplace",
            line_buffering=output.isatty() or getattr(now, "write_through", False),
        )
        return output
    raw = getattr(getattr(now, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Output) else None


def _allow_open_files() -> None:
    """Raises the limit of open files, of which TensorFlow and SQLite need many.

    Raises:
        InputError: The system allows too few.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if most < 0 else min(ENOUGH_FILES, most)
    if 0 <= limit < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            limit = wanted
    if 0 <= limit < FEWEST_FILES:
        raise InputError(
            f"A process may open only {limit} files here, and a command needs "
            f"{FEWEST_FILES}. Raise the limit with 'ulimit -n {ENOUGH_FILES}'."
        )


def _refuse_credentials(words: Sequence[str]) -> None:
    """Refuses a URL with a password in any word, before anything repeats the word."""
    option = ""
    for word in words:
        name, _, value = word.partition("=")
        if word.startswith("--"):
            option = name
            no_credentials(name, value)
        else:
            no_credentials(option or "An argument", word)
            option = ""


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuses an output that the command cannot write, before any work."""
    from specialize.config import words

    in_buckets = getattr(arguments, "in_buckets", ())
    given = [(name, getattr(arguments, name, None)) for name in words.OUTPUTS]
    for name, value in given:
        if isinstance(value, str):  # --json of some commands is a switch
            from specialize import outputs, paths

            if name in in_buckets and paths.scheme_of(value):
                paths.checked(value, f"--{name}")
            else:
                outputs.refuse_url(value, f"--{name}")
            if name in arguments.output_files:
                outputs.check_file(value, f"--{name}")


def _copy_inputs(arguments: argparse.Namespace) -> None:
    """Replaces the URLs of inputs in buckets by the paths of their local copies."""
    from specialize import paths
    from specialize.config import words

    def copied(name: str, value: Any) -> Any:
        if isinstance(value, str) and paths.scheme_of(value):
            if "://" in value or paths.scheme_of(value) in paths.SCHEMES:
                paths.checked(value, f"--{name}")
        if not paths.in_bucket(value):
            return value
        companion = None
        if name == "completions":
            companion = importlib.import_module(
                "specialize.corpus.storage.cards"
            ).SUFFIX
        return str(paths.local(value, companion=companion))

    for name in words.INPUTS:
        value = getattr(arguments, name, None)
        if isinstance(value, list):
            setattr(arguments, name, [copied(name, one) for one in value])
        elif value is not None:
            setattr(arguments, name, copied(name, value))


def _in_words(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    name = error.filename
    path = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes) else ""
    return f"{path}{error.strerror}. Correct this, or name another file or folder."


def _complain(text: str) -> int:
    processes.tell(text)
    with contextlib.suppress(OSError):  # the same full disk
        print(f"error: {message(text)}", file=sys.stderr)
    return 2


def at_home(word: str) -> str:
    """A word of the command line, with the home folder for "~" as in `--out=~/x`."""
    return _HOME.sub(lambda found: (found[1] or "") + os.path.expanduser("~"), word)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of all commands of a parser."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)


def with_underscores(parser: Parser, words: Sequence[str]) -> list[str]:
    """The words of a command line, with "_" for "-" in the names of options."""
    known = set(_options(parser))
    end = words.index("--") if "--" in words else len(words)
    found = list(words)
    for place, word in enumerate(words[:end]):
        name, equals, value = word.partition("=")
        meant = name[:2] + name[2:].replace("-", "_")
        if meant in known:
            found[place] = meant + equals + value
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments. None: those of the process.

    Returns:
        0; 2 after invalid input, with one message on standard error; or 130 after an
        interrupt. Defects keep their traceback.
    """
    with processes.ending_together() as end:
        end.status = _main(argv)
    return end.status


def _main(argv: Sequence[str] | None) -> int:
    output = _prepare_streams()
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
            if output is not None and output.error is not None:
                raise output.error
    except InputError as error:
        return _complain(str(error))
    except processes.LostError as error:
        if processes.may_say():
            _complain(str(error))
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        if output is not None and output.error is not None:
            output.is_abandoned = True  # the end of the process would try again
            if isinstance(output.error, BrokenPipeError):
                return 0  # the reader of our output has ended (`| head`)
            return _complain(
                f"standard output cannot be written: {output.error.strerror}. Send it "
                "to another file or program, and run the same command again."
            )
        if isinstance(error, BrokenPipeError):
            return 0
        if isinstance(error, _OF_A_USER) or error.errno in _OF_THE_SYSTEM:
            return _complain(_in_words(error))
        raise


def _run(argv: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    words = [at_home(word) for word in given]
    _refuse_credentials(words)
    overrides = [word for word in words if word.startswith(_OVERRIDE)]
    top = parser()
    others = [word for word in words if word not in overrides]
    arguments = top.parse_args(with_underscores(top, others))
    if overrides and not hasattr(arguments, "gin_file"):
        raise InputError(
            f"'specialize {arguments.command}' takes no gin settings: "
            f"{' '.join(overrides)}. Leave them out."
        )
    arguments.gin_overrides = overrides
    arguments.main = main
    with _cleaning_up(), processes.naming_the_lost():
        if processes.are_several(arguments):
            # Whatever fails on one machine then ends the others, too.
            importlib.import_module("specialize.sharding").join(arguments)
        _check_outputs(arguments)
        _allow_open_files()
        _copy_inputs(arguments)
        try:
            return int(arguments.run(arguments) or 0)
        finally:
            importlib.import_module("specialize.config").forget()
