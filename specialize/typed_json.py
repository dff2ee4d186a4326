"""The decoder of all JSON: bytes become a checked, typed object, or one `InputError`.

A type is a dataclass, a `msgspec.Struct`, or any other annotation that msgspec
decodes. A field of another type, a missing key, a number outside its range, NaN, deep
nesting, a text that is not Unicode and a cut file are errors that name the file, the
line, the field, what was expected and what to do.
"""

import errno
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec

from specialize.errors import InputError

T = TypeVar("T")
Path = str | os.PathLike[str]
Object = dict[str, Any]

# Python's integers have no limit, but those of arrays and databases do.
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

# A longer file or line is not one of ours: /dev/zero has no end.
MOST_BYTES = 1 << 30

# A terminal is a device, too.
_OPEN = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_AT = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


def decode(
    data: bytes | str,
    kind: type[T],
    where: object,
    *,
    remedy: str = "",
    infinities: bool = False,
) -> T:
    """Decodes one JSON value.

    Args:
        data: The value as UTF-8; a byte order mark is allowed.
        kind: The type of the value; fields that it does not have are ignored.
        where: File, or file and line, for the message.
        remedy: A sentence for the message: what to do.
        infinities: Whether `NaN` and `Infinity`, which Python writes and JSON does
            not have, are accepted where the type is a float.

    Raises:
        InputError: The data are not JSON, or not of this type.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            if infinities and re.search(rb"NaN|Infinity", raw):
                return msgspec.convert(_parsed_by_python(raw), kind)
            raise InputError(_complete(where, _syntax(raw, error), remedy)) from error
    except msgspec.ValidationError as error:
        raise InputError(_complete(where, _mismatch(error), remedy)) from error
    except RecursionError as error:
        raise InputError(_complete(where, "nested too deeply", remedy)) from error
    except UnicodeError as error:
        raise InputError(_complete(where, _syntax(raw, error), remedy)) from error


def convert(value: Any, kind: type[T], where: object, *, remedy: str = "") -> T:
    """Checks a value that was read from another format, as `decode` does.

    Raises:
        InputError: The value is not of this type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(_complete(where, _mismatch(error), remedy)) from error
    except RecursionError as error:
        raise InputError(_complete(where, "nested too deeply", remedy)) from error


def read(path: Path, kind: type[T], *, remedy: str = "") -> T:
    """Reads a file that is one JSON value.

    Raises:
        InputError: The file is missing, unreadable, over 1 GiB, not JSON, or not of
            this type.
    """
    return decode(read_bytes(path, remedy=remedy), kind, path, remedy=remedy)


def read_bytes(path: Path, *, remedy: str = "") -> bytes:
    """The bytes of a file of at most 1 GiB.

    Raises:
        InputError: The file is missing, unreadable or larger.
    """
    refuse_device(path, remedy=remedy)
    try:
        with open(path, "rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, remedy=remedy) from error
    if len(data) > MOST_BYTES:
        raise InputError(_complete(path, "over 1 GiB", remedy))
    return data


def read_lines(
    path: Path,
    kind: type[T],
    *,
    remedy: str = "",
    cut: bool = False,
    infinities: bool = False,
) -> Iterator[tuple[str, T]]:
    r"""Reads a file with one JSON value per line.

    Lines end at `\n` alone: U+2028, U+2029 and U+0085 are part of a text.

    Args:
        path: The file.
        kind: The type of each value.
        remedy: A sentence for the message: what to do.
        cut: Whether a last line without its end, as a kill leaves it, is ignored.
        infinities: As for `decode`.

    Yields:
        ("file:line", value) for each line that is not empty.

    Raises:
        InputError: As for `read`, with the line.
    """
    refuse_device(path, remedy=remedy)
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(_lines(stream, path, remedy), 1):
                if cut and not line.endswith(b"\n"):
                    return
                if line.strip():
                    where = f"{path}:{number}"
                    yield (
                        where,
                        decode(line, kind, where, remedy=remedy, infinities=infinities),
                    )
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error, remedy=remedy) from error


def refuse_device(path: Path, *, remedy: str = "") -> None:
    """Raises an `InputError` for a device such as /dev/zero, which has no end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return  # opening it says why
    if stat.S_ISCHR(mode) and not os.fspath(path).startswith(_OPEN):
        text = "is a device, expected a file"
        raise InputError(_complete(path, text, remedy, colon=False))


def unreadable(path: Path, error: Exception, *, remedy: str = "") -> InputError:
    """The error to raise for a file that the system does not open or read."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return InputError(_complete(path, "does not exist", remedy, colon=False))
    if number == errno.EISDIR or (
        number == errno.EACCES and pathlib.Path(path).is_dir()
    ):
        text = "is a folder, expected a file"
        return InputError(_complete(path, text, remedy, colon=False))
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(
        _complete(path, f"cannot be read ({reason})", remedy, colon=False)
    )


def _lines(stream: BinaryIO, path: Path, remedy: str) -> Iterator[bytes]:
    while line := stream.readline(MOST_BYTES + 1):
        if len(line) > MOST_BYTES:
            raise InputError(_complete(path, "a line is over 1 GiB", remedy))
        yield line


def _parsed_by_python(raw: bytes) -> Any:
    try:
        value = json.loads(raw)
    except UnicodeError:
        raise
    except ValueError as error:
        raise msgspec.ValidationError(f"not JSON ({error})") from error
    json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is a UnicodeError
    return value


def _syntax(raw: bytes, error: Exception) -> str:
    if not raw.strip():
        return "empty, expected JSON"
    try:
        raw.decode()
    except UnicodeDecodeError as damage:
        return f"not UTF-8 ({damage.reason} at byte {damage.start})"
    try:
        json.dumps(json.loads(raw), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "a text holds half of a surrogate pair, which is no character"
    except (ValueError, RecursionError):
        pass
    said = str(error).removeprefix("JSON is malformed: ")
    at = re.search(r"\(byte (\d+)\)$", said)
    line = raw.count(b"\n", 0, int(at[1])) + 1 if at else 1
    return f"not JSON ({said}{f', line {line}' if line > 1 else ''})"


def _mismatch(error: Exception) -> str:
    text = str(error)
    found = _AT.search(text)
    text = text[: found.start()] if found else text
    for name, words in _WORDS.items():
        text = text.replace(f"`{name}", f"`{words}").replace(f"| {name}", f"or {words}")
    text = text.replace("Expected ", "expected ").replace(", got ", ", found ")
    text = text.replace("`", "")
    text = re.sub(
        r"Object missing required field (.*)", r"the key '\1' is missing", text
    )
    return f"{found[1]}: {text}" if found and found[1] else text


def _complete(where: object, what: str, remedy: str, *, colon: bool = True) -> str:
    text = f"{where}{':' if colon else ''} {what}."
    return f"{text} {remedy}" if remedy else text
