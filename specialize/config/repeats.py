"""Finds a key that a dictionary of a gin file has twice; gin keeps its last value.

A copied line whose key was not changed would take an arm from a study, or a task from
a mixture, in silence.
"""

import ast
import dataclasses
import io
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

_SPACE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT),
}
_CLOSED = {"{": "}", "[": "]", "(": ")"}


class Repeat(NamedTuple):
    """A key that one dictionary has twice.

    Attributes:
        key: The key, as it is written.
        first: The line of its first occurrence, from 1.
        line: The line of the next.
    """

    key: str
    first: int
    line: int


@dataclasses.dataclass
class _Bracket:
    """A bracket that is open.

    Attributes:
        end: What closes it.
        key: What has been read of a key; None outside a key.
        lines: The line of each key, by its value.
    """

    end: str
    key: list[str] | None
    lines: dict[Any, int] = dataclasses.field(default_factory=dict)


def repeats(text: str) -> Iterator[Repeat]:
    """Yields the keys that a dictionary has twice, in the order of their lines.

    Args:
        text: What gin's parser reads without an error.
    """
    opened: list[_Bracket] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in _SPACE:
            continue
        word, last = token.string, opened[-1] if opened else None
        if last is not None and last.end == "}" and word == ":":
            yield from _end_of_key(last, token.start[0])
            continue
        if last is not None and word == last.end:
            opened.pop()
            last = None
        for bracket in opened:  # a key may be a tuple
            if bracket.key is not None:
                bracket.key.append(word)
        if word in _CLOSED:
            opened.append(_Bracket(_CLOSED[word], [] if word == "{" else None))
        elif last is not None and last.end == "}" and word == ",":
            last.key = []


def _end_of_key(bracket: _Bracket, line: int) -> Iterator[Repeat]:
    written = " ".join(bracket.key or ())
    bracket.key = None
    try:
        key = ast.literal_eval(written)
    except (
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
    ):  # it has a macro or a reference
        key = (written,)
    if key in bracket.lines:
        yield Repeat(written, bracket.lines[key], line)
    bracket.lines.setdefault(key, line)
