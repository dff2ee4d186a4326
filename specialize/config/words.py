"""What a word of the command line, or a path of a configuration, means."""

import ast
import os
import re
import warnings
from typing import Any

# A text without quotes: a word, path or URL, without a character of gin's grammar.
_BARE = re.compile(r"^[\w./~:+=,-]+$")


def binding_of_flag(name: str, value: str) -> str:
    """`NAME = value` for one `--gin.NAME=VALUE`; bare words and paths are texts."""
    value = value.strip()
    text = _BARE.match(value) and not _is_literal(value)
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
    """The value of a macro; "~" in one that names a path is the home folder."""
    is_path = name.rpartition("/")[2].endswith(("_DIR", "_PATH"))
    if is_path and isinstance(value, str) and re.match(r"~(/|$)", value):
        return os.path.expanduser(value)
    return value
