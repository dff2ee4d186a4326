"""Runs one mutation of one format, and says what is wrong with the outcome."""

import contextlib
import faulthandler
import functools
import io
import os
import pathlib
import random
import shlex
import shutil
import signal
import sys
import traceback
import unittest.mock
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec
from formats import Format

SECONDS = 10
# A hang inside a C library ends the whole process, with its traceback.
LAST_SECONDS = 120
LONGEST_MESSAGE = 4000
# Of /etc/passwd, which mutations name.
SECRET = b"root:x:0:0"
KEPT = ("decoded.jsonl", "metrics.jsonl")
BEFORE = b"what was here before\n"


class HangError(BaseException):
    """A reader took longer than it may."""


class Outcome:
    """What a reader did."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.out = ""
        self.err = ""
        self.failure = ""


class World:
    """A folder with a valid file of every format; the current folder while it is used.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self._content = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        self._stats = self.stat()

    def valid(self, name: str) -> bytes:
        return self._content[name]

    def matching(self, pattern: str) -> list[str]:
        found = sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.glob(pattern)
            if path.is_file()
        )
        assert found, pattern
        return found

    def restore(self, now: dict[str, Any] | None = None) -> None:
        """Makes every file what it was; `now` is what `stat` says."""
        shutil.rmtree(self.root / "out", ignore_errors=True)
        now = self.stat() if now is None else now
        for name in now.keys() - self._stats.keys():
            path = self.root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name, stat in self._stats.items():
            if stat is not None and now.get(name) != stat:
                path = self.root / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._content[name])
                self._stats[name] = _identity(os.lstat(path))

    def changed(self, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        """Names of what is not as it was, outside of the outputs."""
        return sorted(
            name
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        )

    def stat(self) -> dict[str, Any]:
        """What identifies every file that is no output; None for a folder."""
        found: dict[str, Any] = {}
        places = [""]
        while places:
            place = places.pop()
            with os.scandir(self.root / place) as entries:
                for entry in entries:
                    name = place + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        found[name] = None
                        if name != "out":
                            places.append(f"{name}/")
                    else:
                        found[name] = _identity(entry.stat(follow_symlinks=False))
        found.pop("out", None)
        return found


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ino


def tree_of(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Content of every file below a folder; None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def attempt(world: World, format: Format, number: int) -> str | None:
    """Runs mutation `number` of a format; returns what is wrong, or None.

    The mutation depends on the format's name and the number alone.
    """
    rng = random.Random(f"{format.name}/{number}")
    pattern, mutator = rng.choice(list(format.files))
    name = rng.choice(world.matching(pattern))
    reader = rng.choice(list(format.readers))
    file = world.root / name
    out = world.root / "out"
    out.mkdir()
    after = None
    try:
        what = _mutate(file, world.valid(name), mutator, rng)
        if format.prepare is not None:
            format.prepare(world.root)
        for source, place in format.copied:
            _copy(world.root / source, out / place)
        outputs = [w[4:] for w in _words(reader) if w.startswith("OUT/")]
        for place in outputs:
            if "." in place and not os.path.lexists(out / place) and rng.random() < 0.5:
                (out / place).write_bytes(BEFORE)
        earlier, inputs = tree_of(out), world.stat()
        outcome = run(reader, world.root)
        wrong = outcome.failure or _wrong(format, name, reader, outcome)
        after = world.stat()
        if not wrong and (found := world.changed(inputs, after)):
            wrong = f"the inputs changed: {found}"
        if not wrong:
            wrong = _wrong_outputs(format, out, earlier, outputs, outcome.status)
        if not wrong:
            return None
        return (
            f"{format.name} {number} ({what} of {name}, read by {_shown(reader)}): "
            f"{wrong}"
        )
    finally:
        world.restore(after)


def _words(reader: Any) -> list[str]:
    return shlex.split(reader) if isinstance(reader, str) else []


def _shown(reader: Any) -> str:
    return reader if isinstance(reader, str) else reader.__name__


def _mutate(file: pathlib.Path, valid: bytes, mutator: Any, rng: random.Random) -> str:
    if rng.random() < 0.04:
        file.unlink()
        how = rng.choice(("absence", "folder", "loop", "dangling link", "link"))
        if how == "folder":
            file.mkdir()
        elif how == "loop":
            file.symlink_to(file.name)
        elif how == "dangling link":
            file.symlink_to("nowhere")
        elif how == "link":
            file.symlink_to("/etc/hostname")
        return how
    for _ in range(8):
        mutated = mutator(valid, rng)
        if mutated != valid:
            break
    file.write_bytes(mutated)
    return "mutation"


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    elif os.path.lexists(source):
        shutil.copy(source, target, follow_symlinks=False)


def run(reader: Any, root: pathlib.Path) -> Outcome:
    """Runs a command line or a function, as the command line would."""
    from specialize import cli
    from specialize.errors import InputError, message

    outcome = Outcome()
    out, err = _stream(), _stream("backslashreplace")
    try:
        with (
            contextlib.chdir(root),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            _limited(),
        ):
            if isinstance(reader, str):
                words = [w.replace("OUT/", "out/", 1) for w in shlex.split(reader)]
                # Made once: it is a quarter of the time of a small command.
                with unittest.mock.patch.object(cli, "parser", _parser()):
                    outcome.status = cli.main(words)
            else:
                try:
                    reader(root)
                    outcome.status = 0
                except (
                    InputError,
                    FileNotFoundError,
                    NotADirectoryError,
                    PermissionError,
                ) as error:
                    outcome.status = 2
                    print(f"error: {message(error)}", file=err)
            out.flush()
    except SystemExit as error:
        outcome.status = error.code if isinstance(error.code, int) else 1
    except HangError:
        outcome.failure = f"hangs: {_where()}"
    except BaseException as error:  # also pytest's and gin's
        if isinstance(error, KeyboardInterrupt):
            raise
        outcome.failure = f"traceback: {_where()}"
    for stream in (out, err):
        stream.flush()
    outcome.out = out.buffer.getvalue().decode("utf-8", "replace")
    outcome.err = err.buffer.getvalue().decode("utf-8", "replace")
    return outcome


@functools.cache
def _parser() -> Any:
    from specialize import cli

    return functools.cache(cli.parser)


def _stream(errors: str = "strict") -> Any:
    return io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors, newline="\n")


def _where() -> str:
    text = traceback.format_exc(limit=-8)
    return text if len(text) < 3000 else f"{text[:1500]}\n...\n{text[-1200:]}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: Any) -> NoReturn:
        raise HangError

    faulthandler.dump_traceback_later(LAST_SECONDS, file=sys.__stderr__, exit=True)
    before = signal.signal(signal.SIGALRM, stop)
    faulted = signal.signal(signal.SIGPROF, stop)
    # Another process may have the processor for a while; a hang that waits has none.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, faulted)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def _wrong(format: Format, name: str, reader: Any, outcome: Outcome) -> str:
    """What is wrong with the status and the messages."""
    err, status = outcome.err, outcome.status
    if status not in format.statuses:
        return f"exit status {status}: {err[-1500:]}"
    if SECRET in outcome.out.encode() + err.encode():
        return "the content of a file elsewhere is shown"
    if status == 0 and _words(reader)[-1:] == ["--json"] and not _is_json(outcome.out):
        return f"not JSON on standard output: {outcome.out[:500]}"
    for text in (outcome.out, err):
        odd = {c for c in text if not c.isprintable() and c not in "\n\t\u3000\xa0"}
        if odd:
            return f"control characters are shown: {sorted(map(ascii, odd))}"
    if "Warning: " in err:
        return f"a warning is printed: {err[-1500:]}"
    if "Traceback (most recent call last)" in err:
        return f"a traceback is printed: {err[-1500:]}"
    if status != 2:
        return ""
    if _words(reader)[-1:] == ["--json"] and not err and _is_json(outcome.out):
        return ""  # the problems of a configuration are values of it
    # The problems of a configuration are named one by one.
    longest = LONGEST_MESSAGE if format.named else 10 * LONGEST_MESSAGE
    if err.count("error: ") < 1 or len(err) > longest:
        return f"the message has {len(err)} characters: {err[:1500]} ... {err[-200:]}"
    place = pathlib.PurePosixPath(name)
    names = [place.name, *(p.as_posix() for p in place.parents if p.name), *format.also]
    # Two files that do not fit together: the message may name the other one, or the
    # samples that they leave.
    names += [word for word in _words(reader) if "/" in word or "." in word]
    names += ["samples is kept"]
    if format.named and not any(one in err for one in names):
        return f"the message names none of {names}: {err}"
    return ""


def _wrong_outputs(
    format: Format,
    out: pathlib.Path,
    earlier: dict[str, bytes | None],
    outputs: list[str],
    status: int | None,
) -> str:
    """What is wrong with the files that a reader left."""
    later = tree_of(out)
    if status == 0:
        wanted = [place for place in outputs if not _is_optional(place)]
        missing = [place for place in wanted if place not in later]
        stale = [p for p in wanted if later.get(p) == BEFORE]
        stems = {place.partition("/")[0].partition(".")[0] for place in outputs}
        copied = [place for _, place in format.copied]
        stems |= {p.partition("/")[0].partition(".")[0] for p in (*earlier, *copied)}
        stems.add("nowhere")  # where a link pointed
        strange = [
            p for p in later if p.partition("/")[0].partition(".")[0] not in stems
        ]
        hidden = [p for p in later if pathlib.PurePosixPath(p).name.startswith(".")]
        hidden = [p for p in hidden if not p.endswith((".zarray", ".zattrs"))]
        hidden += [p for p in later if p.endswith(("-wal", "-shm", "-journal"))]
        if missing or stale or strange or hidden:
            return f"outputs: {missing=} {stale=} {strange=} {hidden=}"
        for name, content in later.items():
            new = content if content != earlier.get(name) else None
            if new and (fault := _damage(name, new)):
                return f"{name}: {fault}"
        return ""
    if format.changes:
        # A link is written through, also one whose target is not there yet.
        made = {"nowhere", *(place for _, place in format.copied)}
        left = sorted(later.keys() - earlier.keys() - made)
        return f"left behind: {left}" if left else ""
    different = sorted(
        name
        for name in later.keys() | earlier.keys()
        if later.get(name, 0) != earlier.get(name, 0)
    )
    return f"left behind or changed: {different}" if different else ""


def _damage(name: str, content: bytes) -> str:
    """What is wrong with an output of a command that ended well."""
    if SECRET in content:
        return "it has the content of a file elsewhere"
    if b"<script>" in content and name.endswith((".html", ".md")):
        return "it has a script"
    # Scores and metrics may be infinite, as Python writes them.
    if (
        name.endswith((".json", ".jsonl"))
        and name not in KEPT
        and not all(
            _is_json(part)
            for part in (content.splitlines() if name.endswith("l") else [content])
        )
    ):
        return f"it is not JSON: {content[:300]!r}"
    return ""


def _is_json(content: bytes | str) -> bool:
    try:
        raw = content.encode() if isinstance(content, str) else content
        msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _is_optional(place: str) -> bool:
    return place.endswith(".sqlite")
