"""The responses of a teacher, in one SQLite file that survives a kill.

A response costs money, so it is committed, as the server sent it, in one transaction
before anything else uses it. The database also holds the questions and the settings of
the run, so an export needs nothing else, and two samplings are never mixed.
"""

import contextlib
import json
import os
import pathlib
import sqlite3
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from specialize import typed_json, versions
from specialize.corpus.records import Completion, Problem
from specialize.corpus.sampling import tables
from specialize.corpus.sampling.tables import DAMAGED, Standing, Usage, explained
from specialize.corpus.sampling.teachers import Answer, Ask, Choice, Unusable
from specialize.corpus.sampling.wire import parse_body
from specialize.errors import InputError
from specialize.outputs import make_parent

Path = str | os.PathLike[str]
T = TypeVar("T")

_LAYOUT = versions.RESPONSES.writes


class ResponseStore:
    """The response database of one sampling. Use it as a context manager.

    One process writes at a time: SQLite's lock is held while the store is open for
    writing, so a second run on the same file is refused instead of paying twice.
    """

    def __init__(self, path: Path, *, create: bool = False, name: Path | None = None):
        """Opens the database.

        Args:
            path: the file.
            create: whether to open it for writing, and to make it if it does not exist.
            name: what messages call it; None: its path.

        Raises:
            InputError: it does not exist, is not ours, has another layout, or is being
                written by another process.
        """
        file = pathlib.Path(path)
        self.path = name or file
        self._writes = create
        # Snapshots are made by another thread than the one that stores responses.
        self._lock = threading.RLock()
        try:
            new = not file.exists()
            if new and not create:
                raise InputError(
                    f"{self.path} does not exist. 'specialize corpus sample' makes it."
                )
            if file.is_dir():
                raise InputError(f"{self.path} is a folder, expected a database file.")
            make_parent(file)
            # A reader opens "rw" too, to read what a killed run left in the log.
            mode = "rwc" if create else "rw" if os.access(file, os.W_OK) else "ro"
            if create:
                # SQLite would make it 0644, even if the umask allows more.
                with contextlib.suppress(OSError):
                    file.touch()
        except InputError:
            raise
        except (OSError, ValueError) as error:  # too long a name, a NUL in it
            raise InputError(
                f"{str(self.path)!r} cannot be opened ({error}). Name another "
                "--responses."
            ) from error
        with explained(self.path):
            # The executor of the event loop writes from another thread.
            self._database = sqlite3.connect(
                f"{file.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=0.5,
            )
        try:
            with explained(self.path):
                self._prepare()
        except InputError:
            self._database.close()
            if new:
                for end in ("", "-wal", "-shm", "-journal"):
                    pathlib.Path(f"{file}{end}").unlink(missing_ok=True)
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
        was, now = ({k: repr(v) for k, v in one.items()} for one in (before, wanted))
        no = "not recorded"
        differing = [
            f"{name} was {was.get(name, no)}, now {now.get(name, no)}"
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
        known = self._questions()
        for problem in problems:
            if known.get(problem.id, problem.question) != problem.question:
                raise InputError(
                    f"{problem.source}: the question of {problem.id!r} has changed "
                    f"since {self.path} was created; it was "
                    f"{known[problem.id][:60]!r}. Name the problem file with which "
                    "the database was created, or another --responses."
                )
        self._add_questions({problem.id: problem.question for problem in problems})

    def add(self, ask: Ask, answer: Answer) -> None:
        """Commits one response; when this returns, no kill can lose it.

        Args:
            ask: the request.
            answer: the response, with at most as many choices as were asked for.

        Raises:
            InputError: the disk is full; everything stored before is kept.
        """
        row = tables.Response(
            ask.problem_id,
            ask.first_sample,
            ask.seed,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.seconds,
            zlib.compress(answer.body),
        )
        samples = enumerate(answer.choices, ask.first_sample)
        with self._transaction() as database:
            tables.insert(
                database, row, ((one, choice.index) for one, choice in samples)
            )

    def adopt(self, other: "ResponseStore") -> int | None:
        """Adds the responses of another database whose samples are all missing here.

        Args:
            other: a database of the same sampling.

        Returns:
            Number of responses that were added; None if settings or questions differ.
        """
        known, theirs = self._questions(), other._questions()
        same = self.settings() == other.settings()
        if not same or any(
            known.get(one, text) != text for one, text in theirs.items()
        ):
            return None
        self._add_questions(theirs)
        query = "SELECT response, question, sample, choice FROM samples ORDER BY 1, 3"
        have = {key[1:3] for key in self._rows(query, tuple[int, str, int, int])}
        found: dict[int, list[tuple[str, int, int]]] = {}
        for row in other._rows(query, tuple[int, str, int, int]):
            found.setdefault(row[0], []).append(row[1:])
        count = 0
        for response, samples in found.items():
            if have.isdisjoint((question, one) for question, one, _ in samples):
                row = other._response(response)
                with self._transaction() as database:
                    choices = ((one, choice) for _, one, choice in samples)
                    tables.insert(database, row, choices)
                count += 1
        return count

    def snapshot(self, path: Path) -> int:
        """Copies the database to a new file, as it is at this moment.

        Returns:
            `changes` of what was copied.
        """
        with (
            self._lock,
            explained(self.path),
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            self._database.backup(target)
            # A reader needs one file, not a log beside it.
            target.execute("PRAGMA journal_mode = DELETE")
            return self.changes

    @property
    def changes(self) -> int:
        """Number of rows that were written since the database was opened."""
        return self._database.total_changes

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

    def add_unscored(self, question: str, text: str, fault: Unusable) -> None:
        """Records that a teacher cannot score a text, whatever its number."""
        with self._transaction() as database:
            database.execute(tables.UNSCORED)
            database.execute(
                "INSERT OR REPLACE INTO unscored VALUES (?, ?, ?, ?)",
                (question, text, fault.reason, str(fault)),
            )

    def unscored(self, of: Iterable[str] | None = None) -> tables.Reasons:
        """(question, text) -> (reason, message), of these questions (None: all)."""
        if (0,) in self._rows(tables.HAVE_UNSCORED, tuple[int]):
            return {}
        these = json.dumps([*(self._questions() if of is None else of)])
        rows = self._rows(tables.UNSCORED_OF, tuple[str, str, str, str], these)
        return {(name, text): (why, said) for name, text, why, said in rows}

    def add_unusable(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Adds the tokens of an answer that was paid for and is not stored."""
        now = prompt_tokens, completion_tokens
        total = [sum(pair) for pair in zip(self.unusable(), now, strict=True)]
        self.note(tables.UNUSABLE, total)

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
        """What was paid for so far, answers of no use included."""
        (row,) = self._rows(
            "SELECT COUNT(*), COALESCE(SUM(prompt_tokens), 0), "
            "COALESCE(SUM(completion_tokens), 0) FROM responses",
            tuple[int, int, int],
        )
        prompt, completion = self.unusable()
        return Usage(row[0], row[1] + prompt, row[2] + completion)

    def unusable(self) -> tuple[int, int]:
        """(prompt tokens, completion tokens) of answers that are of no use."""
        return self._get(f"note/{tables.UNUSABLE}", tuple[int, int]) or (0, 0)

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
            f"WHERE is_right {'=' if unjudged else '>='} {tables.UNJUDGED} "
            f"{tables.OF_THESE if of is not None else ''} "
            "ORDER BY position, sample"
        )
        chosen = () if of is None else (json.dumps([*of]),)
        current, parsed = -1, dict[int, Choice]()
        kind = tuple[str, int, int, int, bytes]
        with contextlib.closing(self._rows(query, kind, *chosen)) as rows:
            for question, sample, response, number, body in rows:
                where = f"{self.path}, response {response}"
                if response != current:
                    choices = parse_body(tables.unpacked(body, where), where)
                    parsed = {choice.index: choice for choice in choices}
                    current = response
                if (found := parsed.get(number)) is None:
                    raise InputError(f"{where} has no choice {number}. {DAMAGED}")
                yield Completion(
                    question,
                    sample,
                    found.text,
                    found.tokens,
                    found.finish_reason,
                    found.reasoning,
                )

    @contextlib.contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._lock, explained(self.path):
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
            explained(self.path),
            contextlib.closing(self._database.execute(query, values)) as cursor,
        ):
            for row in cursor:
                yield typed_json.convert(row, kind, self.path, remedy=DAMAGED)

    def _questions(self) -> dict[str, str]:
        """The text of every question by its id, in order."""
        query = "SELECT id, question FROM questions ORDER BY position"
        return dict(self._rows(query, tuple[str, str]))

    def _add_questions(self, questions: Mapping[str, str]) -> None:
        known = self._questions()
        new = [(name, text) for name, text in questions.items() if name not in known]
        with self._transaction() as database:
            database.executemany(
                "INSERT INTO questions (position, id, question) VALUES (?, ?, ?)",
                [(len(known) + index, *one) for index, one in enumerate(new)],
            )

    def _response(self, number: int) -> tables.Response:
        names = ", ".join(tables.Response._fields)
        with explained(self.path):
            found = self._database.execute(
                f"SELECT {names} FROM responses WHERE id = ?", (number,)
            ).fetchone()
        return typed_json.convert(found, tables.Response, self.path, remedy=DAMAGED)

    def _prepare(self) -> None:
        execute = self._database.execute
        application = execute("PRAGMA application_id").fetchone()[0]
        empty = execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0
        if not empty and application != tables.APPLICATION:
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
                f"BEGIN; PRAGMA application_id = {tables.APPLICATION}; {tables.TABLES} "
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
                return typed_json.decode(value, kind, where, remedy=DAMAGED)
        return None
