"""The line of every key of a TOML or JSON file, which their readers do not give."""

import re

Lines = dict[tuple[str, ...], int]

_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*[\w-]+)*)\s*=(.*)$")
_FENCE = re.compile(r"\"\"\"|'''")


def toml_lines(text: str) -> Lines:
    """The line of every table and key of a TOML file."""
    found: Lines = {}
    table: tuple[str, ...] = ()
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        if fence:
            fence = "" if fence in line else fence
            continue
        if header := _HEADER.match(line):
            table = _keys(header[1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            path = (*table, *_keys(key[1]))
            found.setdefault(path, number)
            opened = _FENCE.search(key[2])
            if opened and opened[0] not in key[2][opened.end() :]:
                fence = opened[0]
    return found


def _keys(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,\n]')


def json_lines(text: str) -> Lines:
    """The line of every key of a JSON text; a list's elements have that of its key."""
    found: Lines = {}
    path: list[str] = []  # keys of the objects that are open
    opened: list[str] = []  # "{" or "["
    word, number = "", 1
    for token in _TOKEN.findall(text):
        if token == "\n":
            number += 1
        elif token in "{[":
            opened.append(token)
            if token == "{":
                path.append("")
        elif token in "}]":
            if opened and opened.pop() == "{":
                path.pop()
        elif token == ":" and path and opened[-1] == "{":
            path[-1] = word[1:-1]
            if "[" not in opened:
                found.setdefault(tuple(path), number)
        else:
            word = token
    return found
