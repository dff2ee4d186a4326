"""What a word of the command line, or a path of a configuration, means."""

import ast
import os
import re
import warnings
from typing import Any

# The options that name a file or folder to read; one in a bucket is copied first.
INPUTS = (
    *("problems", "completions", "demonstrations_from", "corpus", "vocabulary"),
    *("predictions", "benchmarks", "prompts", "texts", "prompt", "requests"),
    "pickles",
)
# The options that name a file or folder to write, of all commands.
OUTPUTS = ("out", "json", "html", "rejected", "responses", "target")
# A text without quotes: a word or path without a character of gin's grammar, where "@"
# begins a reference; or a URL, which begins nothing else. On a command line "#" begins
# no comment: it is in the names of averaged weights.
_BARE = re.compile(r"^([\w./~:+=,-][\w./~:+=,@#-]*|[A-Za-z][\w+.-]*:/.*)$")


def binding_of_flag(name: str, value: str) -> str:
    """`NAME = value` for one `--gin.NAME=VALUE`; bare words and paths are texts.

    A number is a text, too, if it is the name of a folder or file.
    """
    value = value.strip()
    literal = value == "None" if _is_path(name) else _is_literal(value)
    text = _BARE.match(value) and (not literal or "#" in value)
    return f"{name} = {value!r}" if text else f"{name} = {value}"


def _is_literal(value: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return False
    return True


def at_home(name: str, value: Any) -> Any:
    """The value of a macro or parameter; "~" in a path is the home folder."""
    if _is_path(name) and isinstance(value, str) and re.match(r"~(/|$)", value):
        return os.path.expanduser(value)
    return value


def _is_path(name: str) -> bool:
    return re.search(r"(?i)(^|[_./])(dir|path)$", name) is not None
