"""The only door through which a server's words enter: the API key does not pass.

A server, or a proxy before it, may repeat the key that it was sent: in an error, in the
body of an answer, in any encoding, cut anywhere. What enters is therefore searched for
the key before it is cut, stored or shown.
"""

import base64
import re
from collections.abc import Iterator

from specialize.errors import InputError

MASK = b"***"
# Shorter keys ("none", "EMPTY") are placeholders, and would be found in any text.
SHORTEST = 8

# A printable character of ASCII in JSON, Python's repr, a URL, HTML; or a line's end.
_ESCAPE = re.compile(
    rb"\\+(?:u\{?0*([2-7][0-9a-f])\}?|x([2-7][0-9a-f])|([01][0-7][0-7])|[nrt])"
    rb"|%(?:25)*([2-7][0-9a-f])"
    rb"|&#(?:x0*([2-7][0-9a-f])|0*([3-9][0-9]|1[0-2][0-9]));?",
    re.IGNORECASE,
)
_IGNORED = b"\0\\\r\n\t \"',"


class Redactor:
    """Covers one key, and every part of it from its beginning.

    Args:
        key: the API key; "" or fewer than 8 characters covers nothing.
    """

    def __init__(self, key: str):
        needles = dict.fromkeys(_written(key.encode())) if len(key) >= SHORTEST else ()
        self._needles = [_folded(needle[:SHORTEST]) for needle in needles]
        if needles:  # a list of bytes: found, but never cut out
            self._needles.append(
                b"".join(b"%d" % byte for byte in key.encode()[:SHORTEST])
            )
        self._units = [[_unit(byte) for byte in needle] for needle in needles]
        self._heads = [
            re.compile(b"".join(one.pattern for one in units[:SHORTEST]), re.IGNORECASE)
            for units in self._units
        ]

    def holds(self, data: bytes) -> bool:
        """Whether the key, or 8 characters of its beginning, is in the data."""
        if not self._needles:
            return False
        folded = _folded(data)
        return any(needle in folded for needle in self._needles)

    def clean(self, data: bytes) -> bytes:
        """The data with `***` in place of the key.

        All of the data is covered if the key is found, but not where.
        """
        if not self.holds(data):
            return data
        for head, units in zip(self._heads, self._units, strict=True):
            data = _covered(data, head, units[SHORTEST:])
        return MASK if self.holds(data) else data

    def clean_text(self, text: str) -> str:
        """`clean` for a text."""
        data = self.clean(text.encode("utf-8", "surrogatepass"))
        return data.decode("utf-8", "replace")


def checked_key(value: str, name: str) -> str:
    """The key of an environment variable, without the whitespace around it.

    A file with Windows line ends leaves a carriage return, which no header may have.

    Raises:
        InputError: a character inside cannot be sent. The message does not print it.
    """
    key = value.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InputError(
            f"the key in {name} has a space, a line break or another character that "
            "no HTTP header can have. Set it to the key alone; it is not printed."
        )
    return key


def _written(key: bytes) -> Iterator[bytes]:
    """The key as it is, in hexadecimal digits and in base64."""
    yield key
    yield key.hex().encode()
    # Base64 of a text that holds the key depends on the key's place modulo 3.
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(bytes(before) + key)
            first, end = (0, 2, 3)[before], 4 * ((before + len(key)) // 3)
            if end - first >= SHORTEST:
                yield whole[first:end]


def _folded(data: bytes) -> bytes:
    """The data without escapes, letter case and what may separate parts of a text."""
    data = data.replace(b"\0", b"")
    for _ in range(3):  # an escape may be escaped
        if (plain := _ESCAPE.sub(_character, data)) == data:
            break
        data = plain
    return data.translate(None, _IGNORED).lower()


def _character(match: re.Match[bytes]) -> bytes:
    *_, decimal = match.groups()
    octal = match[3]
    digits = match[1] or match[2] or match[4] or match[5] or octal or decimal
    if digits is None:
        return b""  # the end of a line
    base = 8 if octal else 10 if decimal else 16
    return bytes([int(digits, base)])


def _covered(
    data: bytes, head: re.Pattern[bytes], rest: list[re.Pattern[bytes]]
) -> bytes:
    """The data with `***` for every `head` and as much of the rest as follows it."""
    parts: list[bytes] = []
    position = 0
    while (found := head.search(data, position)) is not None:
        parts += [data[position : found.start()], MASK]
        position = found.end()
        for unit in rest:
            if (more := unit.match(data, position)) is None:
                break
            position = more.end()
    return b"".join([*parts, data[position:]])


def _unit(byte: int) -> re.Pattern[bytes]:
    """One character in any of its escapes, and the line ends before it."""
    digits = b"%02x" % byte
    written = [
        rb"\\+%03o" % byte,
        rb"\\+(?:u\{?0*|x)%s\}?" % digits,
        rb"%%(?:25)*%s" % digits,
        rb"&#(?:x0*%s|0*%d);?" % (digits, byte),
        rb"\\*%s" % re.escape(bytes([byte])),
    ]
    return re.compile(rb"(?:\s|\0|\\+[nrt])*(?:%s)" % b"|".join(written), re.IGNORECASE)
