"""The responses of a teacher, in one SQLite file that survives a kill.

A response costs money, so it is committed, as the server sent it, in one transaction
before anything else uses it. The database also holds the questions and the settings of
the run, so an export needs nothing else, and two samplings are never mixed.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sqlite3
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from specialize import typed_json, versions
from specialize.corpus.records import Completion, Problem
from specialize.corpus.sampling.teachers import Answer, Ask, Choice
from specialize.corpus.sampling.wire import parse_body
from specialize.errors import InputError
from specialize.outputs import make_parent

Path = str | os.PathLike[str]
T = TypeVar("T")

_APPLICATION = 0x5350435A  # "SPCZ" in the file's header: this database is ours
_LAYOUT = versions.RESPONSES.writes
_DAMAGED = "The database is damaged: restore a copy, or name another --responses."
_UNJUDGED = -1  # value of samples.is_right until the stored sample is judged
_UNWRITABLE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE questions (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, question TEXT NOT NULL);
CREATE TABLE responses (
    id INTEGER PRIMARY KEY, question TEXT NOT NULL, first_sample INTEGER NOT NULL,
    seed INTEGER NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,
    seconds REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE samples (
    question TEXT NOT NULL, sample INTEGER NOT NULL, response INTEGER NOT NULL,
    choice INTEGER NOT NULL, is_right INTEGER NOT NULL,
    PRIMARY KEY (question, sample)) WITHOUT ROWID;
CREATE TABLE failures (
    question TEXT NOT NULL, first_sample INTEGER NOT NULL, reason TEXT NOT NULL,
    message TEXT NOT NULL, PRIMARY KEY (question, first_sample)) WITHOUT ROWID;
"""


_OF_THESE = "AND samples.question IN (SELECT value FROM json_each(?))"


class Usage(NamedTuple):
    """What was paid for so far: responses, and tokens if the server counts them."""

    responses: int
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass
class Standing:
    """What is known about one question: its samples, and how many are right."""

    samples: set[int]
    right: int = 0

    @property
    def solved(self) -> bool:
        """Whether a sample is right."""
        return self.right > 0


class ResponseStore:
    """The response database of one sampling. Use it as a context manager.

    One process writes at a time: SQLite's lock is held while the store is open for
    writing, so a second run on the same file is refused instead of paying twice.
    """

    def __init__(self, path: Path, *, create: bool = False):
        """Opens the database.

        Args:
            path: the file.
            create: whether to open it for writing, and to make it if it does not exist.

        Raises:
            InputError: it does not exist, is not ours, has another layout, or is being
                written by another process.
        """
        self.path = pathlib.Path(path)
        self._writes = create
        try:
            new = not self.path.exists()
            if new and not create:
                raise InputError(
                    f"{self.path} does not exist. 'specialize corpus sample' makes it."
                )
            if self.path.is_dir():
                raise InputError(f"{self.path} is a folder, expected a database file.")
            make_parent(self.path)
            # A reader opens "rw" too, to read what a killed run left in the log.
            mode = "rwc" if create else "rw" if os.access(self.path, os.W_OK) else "ro"
            if create:
                # SQLite would make it 0644, even if the umask allows more.
                with contextlib.suppress(OSError):
                    self.path.touch()
        except InputError:
            raise
        except (OSError, ValueError) as error:  # too long a name, a NUL in it
            raise InputError(
                f"{str(self.path)!r} cannot be opened ({error}). Name another "
                "--responses."
            ) from error
        with self._explained():
            # The executor of the event loop writes from another thread.
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=0.5,
            )
        try:
            with self._explained():
                self._prepare()
        except InputError:
            self._database.close()
            if new:
                for end in ("", "-wal", "-shm", "-journal"):
                    pathlib.Path(f"{self.path}{end}").unlink(missing_ok=True)
            raise

    def __enter__(self) -> "ResponseStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; everything that was committed is kept."""
        self._database.close()

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Stores what is asked for, or checks that it equals what was asked for before.

        Args:
            settings: JSON values of everything that changes the teacher's completions.

        Raises:
            InputError: naming every setting that differs, with both values.
        """
        before = self.settings()
        text = json.dumps(dict(settings))
        wanted = typed_json.decode(text, dict[str, Any], "the settings")
        if before is None:
            self._set("settings", wanted)
            return
        differing = [
            f"{name} was {before.get(name)!r}, now {wanted.get(name)!r}"
            for name in sorted(before.keys() | wanted.keys())
            if before.get(name) != wanted.get(name)
        ]
        if differing:
            raise InputError(
                f"{self.path} was sampled with other settings: {'; '.join(differing)}. "
                "Continue with the same settings, or name another --responses."
            )

    def settings(self) -> dict[str, Any] | None:
        """What is asked for; None in a new database."""
        return self._get("settings", dict[str, Any])

    def note(self, name: str, value: Any) -> None:
        """Stores a fact about the run, such as the log-probabilities' convention."""
        self._set(f"note/{name}", value)

    def noted(self, name: str) -> Any:
        """The fact that `note` stored, or None."""
        return self._get(f"note/{name}", object)

    def add_questions(self, problems: Sequence[Problem]) -> None:
        """Adds the new questions, after those that are there.

        Raises:
            InputError: an id belongs to another question than before.
        """
        rows = self._rows("SELECT id, question FROM questions", tuple[str, str])
        known = dict(rows)
        new = [problem for problem in problems if problem.id not in known]
        for problem in problems:
            if known.get(problem.id, problem.question) != problem.question:
                raise InputError(
                    f"{problem.source}: the question of {problem.id!r} has changed "
                    f"since {self.path} was created; it was "
                    f"{known[problem.id][:60]!r}. Name the problem file with which "
                    "the database was created, or another --responses."
                )
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO questions (position, id, question) VALUES (?, ?, ?)",
                [
                    (len(known) + index, problem.id, problem.question)
                    for index, problem in enumerate(new)
                ],
            )

    def add(self, ask: Ask, answer: Answer) -> None:
        """Commits one response; when this returns, no kill can lose it.

        Args:
            ask: the request.
            answer: the response, with at most as many choices as were asked for.

        Raises:
            InputError: the disk is full; everything stored before is kept.
        """
        with self._transaction() as database:
            row = database.execute(
                "INSERT INTO responses (question, first_sample, seed, prompt_tokens, "
                "completion_tokens, seconds, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    ask.problem_id,
                    ask.first_sample,
                    ask.seed,
                    answer.prompt_tokens,
                    answer.completion_tokens,
                    answer.seconds,
                    zlib.compress(answer.body),
                ),
            ).lastrowid
            database.executemany(
                "INSERT INTO samples (question, sample, response, choice, is_right) "
                "VALUES (?, ?, ?, ?, ?)",
                [
                    (ask.problem_id, sample, row, choice.index, _UNJUDGED)
                    for sample, choice in enumerate(answer.choices, ask.first_sample)
                ],
            )
            database.execute(
                "DELETE FROM failures WHERE question = ? AND first_sample = ?",
                (ask.problem_id, ask.first_sample),
            )

    def set_right(self, problem_id: str, right: Mapping[int, bool]) -> None:
        """Stores which samples of a question have the right answer."""
        with self._transaction() as database:
            database.executemany(
                "UPDATE samples SET is_right = ? WHERE question = ? AND sample = ?",
                [(is_right, problem_id, sample) for sample, is_right in right.items()],
            )

    def add_failure(self, ask: Ask, reason: str, message: str) -> None:
        """Records that a request was given up; a rerun sends it again."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?)",
                (ask.problem_id, ask.first_sample, reason, message),
            )

    def standings(self) -> dict[str, Standing]:
        """What is stored, by question."""
        found: dict[str, Standing] = {}
        for question, sample, is_right in self._rows(
            "SELECT question, sample, is_right FROM samples", tuple[str, int, int]
        ):
            standing = found.setdefault(question, Standing(set()))
            standing.samples.add(sample)
            standing.right += is_right > 0
        return found

    def usage(self) -> Usage:
        """What was paid for so far."""
        (row,) = self._rows(
            "SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), "
            "COALESCE(SUM(completion_tokens), 0) FROM responses",
            tuple[int, int, int],
        )
        return Usage(*row)

    def failures(self) -> list[tuple[str, int, str, str]]:
        """(question, first sample, reason, message) of every request given up."""
        return list(
            self._rows(
                "SELECT question, first_sample, reason, message FROM failures "
                "ORDER BY 1, 2",
                tuple[str, int, str, str],
            )
        )

    def completions(
        self, *, unjudged: bool = False, of: Iterable[str] | None = None
    ) -> Iterator[Completion]:
        """Every sample, ordered by question and number.

        Args:
            unjudged: whether to leave out those that are judged.
            of: ids of the questions. None: all.

        Raises:
            InputError: the database is damaged.
        """
        query = (
            "SELECT questions.id, sample, response, choice, body FROM samples "
            "LEFT JOIN questions ON questions.id = samples.question "
            "LEFT JOIN responses ON responses.id = response "
            f"WHERE is_right {'=' if unjudged else '>='} {_UNJUDGED} "
            f"{_OF_THESE if of is not None else ''} "
            "ORDER BY position, sample"
        )
        chosen = () if of is None else (json.dumps([*of]),)
        current, parsed = -1, dict[int, Choice]()
        kind = tuple[str, int, int, int, bytes]
        with contextlib.closing(self._rows(query, kind, *chosen)) as rows:
            for question, sample, response, number, body in rows:
                where = f"{self.path}, response {response}"
                if response != current:
                    choices = parse_body(_unpacked(body, where), where)
                    parsed = {choice.index: choice for choice in choices}
                    current = response
                if (found := parsed.get(number)) is None:
                    raise InputError(f"{where} has no choice {number}. {_DAMAGED}")
                yield Completion(
                    question,
                    sample,
                    found.text,
                    found.tokens,
                    found.finish_reason,
                    found.reasoning,
                )

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        """Turns SQLite's errors into one message each."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # its own messages, too
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code in _BUSY:
                text = (
                    "is being written by another process. Wait for it, or name another "
                    "--responses."
                )
            elif code in _UNWRITABLE:
                text = (
                    f"cannot be written: {error}. Everything before it is stored; make "
                    "room and run the same command again to continue."
                )
            elif code == sqlite3.SQLITE_CANTOPEN:
                text = f"cannot be opened: {error}. Name another --responses."
            elif code == sqlite3.SQLITE_NOTADB:
                text = (
                    f"is not a database of 'specialize corpus sample' ({error}). Name "
                    "another --responses."
                )
            else:
                text = f"cannot be read: {error}. {_DAMAGED}"
            raise InputError(f"{self.path} {text}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # SQLite did it itself
                    self._database.execute("ROLLBACK")
                raise

    def _rows(self, query: str, kind: type[T], *values: str) -> Generator[T]:
        # An open cursor would leave the log beside the database.
        with (
            self._explained(),
            contextlib.closing(self._database.execute(query, values)) as cursor,
        ):
            for row in cursor:
                yield typed_json.convert(row, kind, self.path, remedy=_DAMAGED)

    def _prepare(self) -> None:
        execute = self._database.execute
        application = execute("PRAGMA application_id").fetchone()[0]
        empty = execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
        if not empty and application != _APPLICATION:
            raise InputError(
                f"{self.path} is a database of another program. Name another "
                "--responses; nothing was changed."
            )
        # A view or trigger is a program, which may never end.
        programs = (
            "SELECT COUNT(*) FROM sqlite_master WHERE type IN ('view', 'trigger')"
        )
        if execute(programs).fetchone()[0]:
            raise InputError(
                f"{self.path} holds views or triggers, which our databases do not. "
                "Name another --responses; nothing was changed."
            )
        if not empty:
            versions.RESPONSES.check(self._get("layout", object), self.path)
        elif not self._writes:
            raise InputError(
                f"{self.path} holds no responses. Run 'specialize corpus sample' first."
            )
        if not self._writes:
            return
        # FULL: a response that was paid for survives a power cut too.
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        if empty:
            self._database.executescript(
                f"BEGIN; PRAGMA application_id = {_APPLICATION}; {_TABLES} "
                f"INSERT INTO meta VALUES ('layout', '{_LAYOUT}'); COMMIT;"
            )
        execute("BEGIN IMMEDIATE")  # takes the lock for as long as we are open
        execute("COMMIT")

    def _set(self, name: str, value: Any) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                (name, json.dumps(value, ensure_ascii=False, sort_keys=True)),
            )

    def _get(self, name: str, kind: type[T]) -> T | None:
        for known, value in self._rows("SELECT * FROM meta", tuple[str, str]):
            if known == name:
                where = f"{self.path}, {name}"
                return typed_json.decode(value, kind, where, remedy=_DAMAGED)
        return None


def _unpacked(body: bytes, where: str) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(body, typed_json.MOST_BYTES)
    except zlib.error as error:
        raise InputError(f"{where}: {error}. {_DAMAGED}") from error
    if not unpacker.eof:
        raise InputError(f"{where} is cut or over 1 GiB. {_DAMAGED}")
    return data
