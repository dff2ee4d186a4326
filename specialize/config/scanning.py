"""Reads the statements of gin files with their file and line, and imports nothing.

gin itself keeps neither the line of a value nor unused macros, and it imports every
module that a file names before it reports anything. This module reads the same grammar
with gin's own parser and follows the same includes. It needs no jax, no tensorflow and
no T5X, so a recipe can be checked for both engines on any machine.
"""

import dataclasses
import functools
import io
import os
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from gin import config_parser

from specialize import checks, paths
from specialize.config import finding, limits, repeats, words
from specialize.config.finding import PACKAGE as PACKAGE
from specialize.config.finding import package_folder as package_folder
from specialize.errors import InputError, did_you_mean

REQUIRED = "gin.REQUIRED"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The place of a statement: a file and a line, or the command line."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclasses.dataclass(frozen=True)
class Macro:
    """A use of a macro, `%NAME`; names with a dot are gin's constants."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A use of a configurable, `@scope/module.name` or `@module.name()`."""

    selector: str
    scope: str
    calls: bool

    def __repr__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"@{scope}{self.selector}{'()' if self.calls else ''}"


Key = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Binding:
    """One `NAME = value` or `scope/selector.parameter = value`.

    Attributes:
        scope: Gin scope, "" for none; for a macro the part before its last slash.
        selector: Full dotted name of the configurable; "" for a macro.
        parameter: Name of the parameter or of the macro.
        value: Literal with `Macro` and `Reference` leaves.
        origin: Place of the statement.
        at_home: Whether the statement has "~" for the home folder.
    """

    scope: str
    selector: str
    parameter: str
    value: Any
    origin: Origin
    at_home: bool = False

    @property
    def is_macro(self) -> bool:
        """Whether this sets a macro rather than a parameter."""
        return not self.selector

    @property
    def key(self) -> Key:
        """What this binds; of equal keys the last binding is effective."""
        return (self.scope, self.selector, self.parameter)

    @property
    def name(self) -> str:
        """The key as it is written in a gin file."""
        dotted = ".".join(part for part in (self.selector, self.parameter) if part)
        return f"{self.scope}/{dotted}" if self.scope else dotted


@dataclasses.dataclass(frozen=True)
class Import:
    """One import statement of a gin file."""

    module: str
    name: str
    origin: Origin

    @property
    def on_line(self) -> bool:
        """Whether the command line has this import, rather than a file."""
        return not self.origin.line


@dataclasses.dataclass(frozen=True)
class Name:
    """A configurable that a statement names, and the parameter it binds, if any.

    Attributes:
        selector: Full dotted name.
        parameter: "" for a reference or the heading of a block.
        registered: Whether gin's registry must already have it, because the file does
            not enable dynamic registration.
        origin: Place of the statement.
    """

    selector: str
    parameter: str
    registered: bool
    origin: Origin


@dataclasses.dataclass(frozen=True)
class Scan:
    """Every statement of some gin files and bindings, in the order gin applies them.

    Attributes:
        files: Paths and URLs of the files, in the order in which they are read.
        bindings: All bindings.
        imports: All imports.
        names: All names of configurables.
        places: (path or URL of the including file, or ""; name in the include or on the
            command line) -> path or URL.
    """

    files: tuple[str, ...]
    bindings: tuple[Binding, ...]
    imports: tuple[Import, ...]
    names: tuple[Name, ...]
    places: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def effective(self) -> dict[Key, Binding]:
        """The effective binding of each key: the last one."""
        return {binding.key: binding for binding in self.bindings}

    def macros(self) -> dict[str, Binding]:
        """The effective bindings of macros by name (with scope, if any)."""
        return {b.name: b for b in self.effective().values() if b.is_macro}


def leaves(value: Any) -> Iterator[Any]:
    """Yields the literals, macros and references inside a (nested) value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(key)
            yield from leaves(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def scan(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
) -> Scan:
    """Reads gin files and their includes, then single bindings.

    Args:
        gin_files: Names for `finding.find`.
        bindings: `NAME = value` strings of the command line.
        search_paths: Folders for relative names, local or in buckets.

    Raises:
        InputError: A file is missing, includes itself, or does not parse, or a text has
            a URL with a password; with the file and line.
    """
    gin_files, search_paths = ([*map(os.fspath, x)] for x in (gin_files, search_paths))
    for name in gin_files:
        checks.no_credentials("--gin_file", name)
    for folder in search_paths:
        checks.no_credentials("--gin_search_paths", folder)
        if finding.is_url(folder):
            paths.checked(folder, "--gin_search_paths")
    reader = _Reader(search_paths)
    for name in gin_files:
        reader.read_file(name, included_from=None)
    for text in bindings:
        reader.read_binding(text)
    files, bound = tuple(reader.files), tuple(reader.bindings)
    names = tuple(reader.names)
    found = Scan(files, bound, tuple(reader.imports), names, reader.places)
    for binding in _too_large(found):
        raise InputError(
            f"{binding.origin}: {binding.name} is made of more than "
            f"{limits.MOST_LEAVES:,} values, or of more than {limits.MOST_NESTED} "
            "macros inside macros. Write it out."
        )
    return found


def _too_large(found: Scan) -> Iterator[Binding]:
    """Yields bindings whose macros name macros that name macros ("a billion laughs").

    A circle, which the lint reports, counts once.
    """
    macros = found.macros()
    sizes: dict[str, limits.Size] = {}  # of the macros that are known so far

    def inner(binding: Binding) -> Iterator[limits.Size]:
        for leaf in leaves(binding.value):
            named = isinstance(leaf, Macro) and leaf.name in macros
            yield sizes.get(leaf.name, limits.ONE) if named else limits.ONE

    for start in macros:
        stack, begun = [start], set[str]()
        while stack:
            name = stack[-1]
            if name not in sizes and name not in begun:
                begun.add(name)
                names = (x.name for x in leaves(macros[name].value) if type(x) is Macro)
                stack += [x for x in names if x in macros and x not in sizes]
                continue
            stack.pop()
            if name not in sizes:
                sizes[name] = limits.joined(inner(macros[name]))
    for binding in found.bindings:
        if limits.too_large(limits.joined(inner(binding))):
            yield binding


class _Delegate(config_parser.ParserDelegate):
    """Turns gin's two kinds of reference into `Reference` and `Macro`."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool):
        scope, _, selector = scoped_configurable_name.rpartition("/")
        return Reference(selector=selector, scope=scope, calls=evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


class _Reader:
    def __init__(self, search_paths: Sequence[str]):
        self.search_paths = search_paths
        self.files: list[str] = []
        self.bindings: list[Binding] = []
        self.imports: list[Import] = []
        self.names: list[Name] = []
        self.places: dict[tuple[str, str], str] = {}
        self.open_files: list[str] = []

    def read_file(self, name: str, included_from: Origin | None) -> None:
        where = f"{included_from}: " if included_from else ""
        including = self.open_files[-1] if self.open_files else ""
        place = finding.find(name, self.search_paths, including)
        if place is None and finding.is_url(name):
            raise InputError(
                f"{where}gin file {name!r} does not exist. Check the name of bucket "
                "and file."
            )
        if place is None:
            hint = did_you_mean(name, finding.available(self.search_paths))
            folders = ", ".join(finding.searched(self.search_paths, including))
            raise InputError(
                f"{where}gin file {name!r} not found in {folders}.{hint} Add its "
                "folder with --gin_search_paths."
            )
        if finding.identity(place) in map(finding.identity, self.open_files):
            raise InputError(f"{where}{name!r} includes itself; remove the include.")
        self.places[including, name] = place
        self.open_files.append(place)
        self.files.append(place)
        text, file = finding.text_of(place), finding.displayed(place)
        # The whole text, comments too: the parser prints the line that it refuses.
        for number, line in enumerate(text.splitlines(), start=1):
            checks.no_credentials(f"{file}:{number}", line)
        self._read(text, file)
        self.open_files.pop()

    def read_binding(self, text: str) -> None:
        name = text.partition("=")[0].strip()
        checks.no_credentials(f"--gin.{name}", text)
        known = {name.selector for name in self.names}
        self._read(text, f"--gin.{name}", known_selectors=known, numbered=False)

    def _read(
        self,
        text: str,
        file: str,
        known_selectors: Iterable[str] = (),
        numbered: bool = True,
    ) -> None:
        symbols: dict[str, str] = {}
        dynamic = False

        def full(selector: str) -> str:
            head, _, rest = selector.partition(".")
            if head in symbols:
                return f"{symbols[head]}.{rest}" if rest else symbols[head]
            matches = {k for k in known_selectors if f".{k}".endswith(f".{selector}")}
            return matches.pop() if len(matches) == 1 else selector

        for statement in _parsed(text, file, numbered):
            line = statement.location.line_num if numbered else 0
            content = statement.location.line_content.strip()
            origin = Origin(file, line, content)
            if isinstance(statement, config_parser.ImportStatement):
                if statement.module.startswith("__gin__."):
                    dynamic = True
                    continue
                name = statement.bound_name()
                plain = not statement.is_from and not statement.alias
                symbols[name] = name if plain else statement.module
                self.imports.append(Import(statement.module, name, origin))
            elif isinstance(statement, config_parser.IncludeStatement):
                self.read_file(statement.filename, included_from=origin)
            elif isinstance(statement, config_parser.BlockDeclaration):
                selector = full(statement.selector)
                self.names.append(Name(selector, "", not dynamic, origin))
            else:
                limits.check_literal(statement.value, origin)
                self._bind(statement, origin, full, registered=not dynamic)

    def _bind(
        self, statement: Any, origin: Origin, full: Any, registered: bool
    ) -> None:
        value = map_leaves(
            statement.value,
            lambda leaf: (
                dataclasses.replace(leaf, selector=full(leaf.selector))
                if isinstance(leaf, Reference)
                else leaf
            ),
        )
        for leaf in leaves(value):
            if isinstance(leaf, Reference):
                self.names.append(Name(leaf.selector, "", registered, origin))
            elif isinstance(leaf, str):  # made of several, or of escapes
                checks.no_credentials(str(origin), leaf)
        scope, selector = statement.scope or "", statement.selector
        parameter = statement.arg_name
        if parameter:
            selector = full(selector)
            self.names.append(Name(selector, parameter, registered, origin))
        else:  # a macro
            selector, parameter = "", selector
        at_home = words.at_home(parameter, value)
        self.bindings.append(
            Binding(scope, selector, parameter, at_home, origin, at_home != value)
        )


@functools.lru_cache(maxsize=128)
def _parsed(text: str, file: str, numbered: bool) -> tuple[Any, ...]:
    """The statements of a file, which a study reads again for each of its cells."""
    statements = tuple(_statements(text, file, numbered))
    for key, first, line in repeats.repeats(text):
        place = f"{file}:{line}" if numbered else file
        before = f", first in line {first}" if numbered and first != line else ""
        raise InputError(
            f"{place}: the key {limits.shortened(key)} occurs twice in one "
            f"dictionary{before}. Remove or rename one of them."
        )
    return statements


def _statements(text: str, file: str, numbered: bool) -> Iterator[Any]:
    def place(line: int | None) -> str:
        return f"{file}:{line}" if numbered and line else file

    stream = io.StringIO(text)
    try:
        yield from config_parser.ConfigParser(stream, _Delegate())
    except SyntaxError as error:
        content = limits.shortened((error.text or "").strip())
        quoting = "" if numbered else " Quote text values: --gin.NAME='\"value\"'."
        reason = limits.shortened(error.msg.strip().splitlines()[-1].strip())
        raise InputError(
            f"{place(error.lineno)}: not gin: {reason}\n"
            f"    {content}\n  Correct this line.{quoting}"
        ) from error
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = "nested too deeply"
        if isinstance(error, ValueError | TypeError):
            reason = f"a value that Python does not read ({str(error)[:200]})"
        raise InputError(f"{file}: not gin: {reason}. Correct this value.") from error
    except tokenize.TokenError as error:
        message, (line, _) = error.args
        raise InputError(
            f"{place(line)}: not gin: {message}. Close the bracket or string."
        ) from error


def map_leaves(value: Any, function: Callable[[Any], Any]) -> Any:
    """`value` with `function` applied to each of its `leaves`."""
    if isinstance(value, Mapping):
        return {
            map_leaves(k, function): map_leaves(v, function) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(map_leaves(item, function) for item in value)
    return function(value)
