"""Task files: TOML or JSON, or a dict of a notebook, become a `TaskSpec`.

All that is wrong with a file is one error, each problem with its line and a suggestion.
docs/how-to/own_task.md describes the keys.
"""

import hashlib
import json
import os
import pathlib
import re
import tomllib
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from specialize import paths, typed_json
from specialize.corpus.choices import FORMATS
from specialize.corpus.tasks import fields
from specialize.corpus.tasks.known import index
from specialize.corpus.tasks.positions import json_lines, toml_lines
from specialize.corpus.tasks.spec import (
    SPLITS,
    Choices,
    Field,
    Files,
    Rows,
    TaskSpec,
)
from specialize.corpus.templates import Template
from specialize.corpus.wording import NAMES, PAPER_INPUTS, Wording
from specialize.errors import InputError, did_you_mean
from specialize.judging.choices import ANSWER_TYPES
from specialize.judging.spec import JudgeSpec

Path = str | os.PathLike[str]
REMEDY = "docs/how-to/own_task.md describes task files."


def read_task(
    source: Path | Mapping[str, Any], *, folder: Path | None = None
) -> TaskSpec:
    """Reads a task.

    Args:
        source: A file (`.toml` or `.json`), or its content as a dict. Of a file in a
            bucket, the folder is copied to this machine, with the data in it.
        folder: Where relative paths of data begin; None: the folder of the file.

    Raises:
        InputError: The file is missing or malformed, or a key or value is not valid.
            The message lists every problem with its line.
    """
    if isinstance(source, Mapping):
        try:
            values = _as_in_a_file(source)
        except RecursionError as error:
            raise InputError(f"the task holds itself. {REMEDY}") from error
        return _task(values, "the task", {}, folder)
    if paths.read_from_bucket(source, "The task file"):
        url = paths.checked(source, "The task file")
        source = paths.local(paths.parent_of(url)) / paths.name_of(url)
    file = pathlib.Path(source).expanduser()
    data = typed_json.read_bytes(file, remedy="Name a task file or a shipped task.")
    if file.suffix == ".json":
        values = typed_json.decode(data, dict[str, Any], file, remedy=REMEDY)
        lines = json_lines(data.decode("utf-8-sig"))
        return _task(values, str(file), lines, folder or file.parent)
    text = ""
    try:
        text = data.decode("utf-8-sig")
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is not UTF-8. {REMEDY}"
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        last = f"(at line {len(text.splitlines())}, the last one)"
        said = str(error).replace("(at end of document)", last)
        raise InputError(f"{file} is not TOML: {said}. {REMEDY}") from error
    return _task(values, str(file), toml_lines(text), folder or file.parent)


def _as_in_a_file(value: Any) -> Any:
    """A value of Python as a file would hold it: {1: "yes"} is {"1": "yes"}."""
    if isinstance(value, Mapping):
        items: Mapping[Any, Any] = value  # pyright: ignore
        return {
            str(key).lower() if isinstance(key, bool) else str(key): _as_in_a_file(one)
            for key, one in items.items()
        }
    if isinstance(value, list | tuple):
        return [_as_in_a_file(one) for one in value]  # pyright: ignore
    return os.fspath(value) if isinstance(value, os.PathLike) else value  # pyright: ignore


class _Table:
    """A table of the file: reads its keys and notes what is wrong with them."""

    def __init__(
        self, values: Mapping[str, Any], path: tuple[str, ...], report: "_Report"
    ) -> None:
        self._values = values
        self._path = path
        self._report = report
        self._known: set[str] = set()

    def get(self, key: str, kinds: type | tuple[type, ...], what: str) -> Any:
        """The value of a key, or None if it is absent or of another kind."""
        self._known.add(key)
        value = self._values.get(key)
        wrong = isinstance(value, bool) and kinds is not bool
        if value is not None and (wrong or not isinstance(value, kinds)):
            self.note(f"is {value!r}, expected {what}", key)
            return None
        return value

    def text(self, key: str) -> str | None:
        """A text that is not empty."""
        value = self.get(key, str, "a text")
        if value is not None and not value:
            self.note("is empty", key)
            return None
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A text or a list of texts."""
        value = self.get(key, (str, list), "a text or a list of texts")
        values: list[Any] = [value] if isinstance(value, str) else value or []
        if not all(isinstance(one, str) for one in values):
            self.note(f"is {value!r}, expected a list of texts", key)
            return ()
        if not all(values):
            self.note("has an empty text", key)
            return ()
        return tuple(values)

    def mapping(self, key: str) -> dict[str, str]:
        """A table of texts."""
        value: dict[str, Any] = self.get(key, dict, "a table of texts") or {}
        if not all(isinstance(one, str) for one in value.values()):
            self.note(f"is {value!r}, expected a table of texts", key)
            return {}
        return dict(value)

    def one_of(self, key: str, choices: Collection[str]) -> str | None:
        """One of some words."""
        value = self.get(key, str, f"one of {', '.join(choices)}")
        if value is not None and value not in choices:
            hint = did_you_mean(value, choices)
            self.note(f"is {value!r}, expected one of {', '.join(choices)}.{hint}", key)
            return None
        return value

    def table(self, key: str) -> "_Table":
        """A table in this one; empty if it is absent."""
        value: dict[str, Any] = self.get(key, dict, "a table") or {}
        return _Table(value, (*self._path, key), self._report)

    def note(self, what: str, *keys: str) -> None:
        """Notes a problem of a key."""
        self._report.note((*self._path, *keys), what)

    def made(self, *keys: str) -> "_Made":
        """A context that notes an `InputError` as a problem of a key."""
        return _Made(self, keys)

    def close(self) -> None:
        """Notes the keys that nothing asked for."""
        for key in self._values.keys() - self._known:
            self.note(f"is no key of a task.{did_you_mean(key, self._known)}", key)

    def keys(self) -> list[str]:
        """The keys of the table."""
        return list(self._values)

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) is not None


class _Made:
    def __init__(self, table: _Table, keys: tuple[str, ...]) -> None:
        self._table = table
        self._keys = keys

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, InputError):
            self._table.note(f"cannot be used: {str(error).rstrip('.')}", *self._keys)
            return True
        return False


class _Report:
    """The problems of a file, in the order of its lines."""

    def __init__(self, name: str, lines: Mapping[tuple[str, ...], int]) -> None:
        self._name = name
        self._lines = lines
        self._problems: list[tuple[int, str]] = []

    def note(self, path: tuple[str, ...], what: str) -> None:
        line, near = 0, path
        while near and not (line := self._lines.get(near, 0)):
            near = near[:-1]
        where = f"{self._name}:{line}" if line else self._name
        text = f"{where}: {'.'.join(path)} {what}".rstrip(".") + "."
        self._problems.append((line, text))

    def raise_all(self) -> None:
        if self._problems:
            texts = [text for _, text in sorted(dict.fromkeys(self._problems))]
            raise InputError("\n".join([*texts, REMEDY]))


def _task(
    values: Mapping[str, Any],
    name: str,
    lines: Mapping[tuple[str, ...], int],
    folder: Path | None,
) -> TaskSpec:
    report = _Report(name, lines)
    top = _Table(values, (), report)
    title = top.text("name")
    if "name" not in top:
        report.note(("name",), "is missing; the task needs a name")
    top.text("description")
    wording = _wording(top.table("formats"))
    found: dict[str, Any] = {
        "rows": _rows(top.table("fields")),
        "judge": _judge(top.table("answer"), wording, folder),
        "wording": wording,
        "files": _files(top.table("files")),
        "subtasks": _subtasks(top.table("subtasks")),
        "demonstrations": top.one_of("demonstrations", index().tasks),
        "licence": top.text("licence") or "unknown",
        "published": top.texts("published"),
    }
    top.close()
    spec: TaskSpec | None = None
    with top.made("name"):
        spec = TaskSpec(
            name=title or "unnamed",
            folder=None if folder is None else os.fspath(folder),
            digest=_digest(values),
            **{key: value for key, value in found.items() if value is not None},
        )
    report.raise_all()
    assert spec is not None  # otherwise a problem was noted
    return spec


def _rows(table: _Table) -> Rows:
    question = _field(table, "question", required=True)
    answer = _field(table, "answer", required=True)
    rationale, identity = _field(table, "rationale"), _field(table, "id")
    unique = table.one_of("unique", ("id", "question"))
    found = Rows(
        question=question or Field(""),
        answer=answer or Field(""),
        rationale=rationale,
        id=identity,
        choices=_choices(table),
        records=table.text("records"),
        unique=unique or ("id" if identity else "question"),
        unanswerable=bool(table.get("unanswerable", bool, "true or false")),
    )
    table.close()
    return found


def _field(table: _Table, key: str, *, required: bool = False) -> Field | None:
    value = table.get(key, (str, dict), "a column, a template or a table")
    if value is None:
        if required and key not in table:
            table.note("is missing; name the column that holds it", key)
        return None
    if isinstance(value, str):
        field = Field(_template(value))
    else:
        part = table.table(key)
        column = part.text("from")
        if column is None:
            part.note("is missing; name the column", "from")
        default = part.text("default")
        field = Field(
            _template(column or ""),
            part.text("pattern"),
            part.texts("remove"),
            part.mapping("values"),
            None if default is None else _template(default),
        )
        for name in ("pattern", "remove"):
            _check_patterns(part, name)
        part.close()
    for template in (field.template, field.default or ""):
        with table.made(key):
            for name in Template(template).names:
                column, _, filter = name.partition("|")
                if filter and filter not in fields.FILTERS:
                    table.note(
                        f"has the filter {filter!r}, expected {fields.FILTERS[0]!r}",
                        key,
                    )
                if column[:1] == "@" and column not in (fields.FILE, fields.INDEX):
                    table.note(f"has {column!r}, expected '@file' or '@index'", key)
    return field


def _template(text: str) -> str:
    """A name alone is that of a column."""
    return text if "{" in text or "}" in text else f"{{{text}}}"


def _check_patterns(table: _Table, key: str) -> None:
    for pattern in table.texts(key):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", FutureWarning)
                re.compile(pattern)
        except FutureWarning as error:
            reason = str(error)
            text = f"{pattern!r} is ambiguous ({reason}): write \\[ for a bracket"
            table.note(text, key)
        except (re.error, RecursionError, OverflowError) as error:
            table.note(f"{pattern!r} is no regular expression ({error})", key)


def _choices(table: _Table) -> Choices | None:
    value = table.get("choices", (str, list, dict), "a column, columns or a table")
    if value is None:
        return None
    if not isinstance(value, dict):
        return Choices(table.texts("choices"))
    part = table.table("choices")
    columns = part.texts("from")
    if not columns:
        part.note("is missing; name the column or columns of the options", "from")
    template = part.text("template") or Choices.template
    with part.made("template"):
        Template(template).require("it", ["label", "choice"])
    first = part.get("first", int, "a whole number")
    found = Choices(
        columns,
        template,
        part.text("separator") or Choices.separator,
        Choices.first if first is None else first,
    )
    part.close()
    return found


def _judge(table: _Table, wording: Wording, folder: Path | None) -> JudgeSpec:
    answer_type = table.one_of("type", ANSWER_TYPES)
    judge = table.text("judge") or JudgeSpec.judge
    table.close()
    if ":" in judge and judge.partition(":")[0].endswith(".py") and folder is not None:
        judge = os.fspath(pathlib.Path(folder) / judge)
    with table.made("judge"):
        return JudgeSpec(judge, answer_type or "number", wording.judged_mark)
    return JudgeSpec()


def _wording(table: _Table) -> Wording:
    inputs = dict(PAPER_INPUTS)
    for name in FORMATS:
        if template := table.text(name):
            with table.made(name):
                Template(template).require("it", ["question"])
                inputs[name] = template
    found: dict[str, Any] = {"inputs": inputs}
    for key, needed in NAMES.items():
        if template := table.text(key):
            with table.made(key):
                Template(template).require("it", needed)
                found[key] = template
    if separator := table.text("separator"):
        with table.made("separator"):
            Wording(separator=separator)
            found["separator"] = separator
    table.close()
    return Wording(**found)


def _files(table: _Table) -> Files:
    share = table.get("validation_share", list, "two whole numbers")
    if share is not None:
        whole = all(isinstance(one, int) for one in share) and len(share) == 2
        if not whole or not 0 < share[0] < share[1]:
            table.note(
                f"is {share!r}, expected [a, b] for a of b questions",
                "validation_share",
            )
            share = None
    splits = {split: table.text(split) for split in SPLITS}
    prompt = table.text("prompt")
    for key, path in {**splits, "prompt": prompt}.items():
        with table.made(key):
            for name in Template(path or "").names:
                if name != "subtask":
                    table.note(f"has {{{name}}}, expected {{subtask}}", key)
    seen: dict[str, str] = {}
    for split, path in splits.items():
        if path is not None:
            other = seen.setdefault(os.path.normpath(path), split)
            if other != split:
                table.note(
                    f"is the file of files.{other}; a question must be in one split",
                    split,
                )
    found = Files(
        **splits,
        validation_share=tuple(share) if share else Files.validation_share,
        prompt=prompt,
        hub=table.mapping("hub"),
    )
    table.close()
    return found


def _subtasks(table: _Table) -> dict[str, str]:
    found = {name: table.one_of(name, ANSWER_TYPES) for name in table.keys()}
    return {name: kind for name, kind in found.items() if kind is not None}


def _digest(values: Mapping[str, Any]) -> str:
    """Of what determines records: not of files, licences and words for people."""
    found = {key: values.get(key) for key in ("fields", "answer", "formats")}
    if "subtasks" in values:
        found["subtasks"] = values["subtasks"]
    text = json.dumps(found, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
