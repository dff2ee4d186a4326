"""The only door through which a server's words enter: the API key does not pass.

A server, or a proxy before it, may repeat the key that it was sent: in an error, in the
body of an answer, in any encoding, cut anywhere. What enters is therefore searched for
the key before it is cut, stored or shown. The time is linear in what enters.
"""

import base64
import re
from collections.abc import Callable, Iterator

import numpy as np

from specialize.errors import InputError

MASK = b"***"
# Shorter keys ("none", "EMPTY") are placeholders, and would be found in any text.
SHORTEST = 8
# Where the key is in a larger text is not searched: all of the text is covered.
_LARGEST = 1 << 20

# A printable character of ASCII in JSON, Python's repr, a URL, HTML; or a line's end.
_ESCAPE = re.compile(
    rb"\\(?:u\{?0*([2-7][0-9a-f])\}?|x([2-7][0-9a-f])|([01][0-7][0-7])|[nrt])"
    rb"|%(?:25)*([2-7][0-9a-f])"
    rb"|&(?:amp;)*#(?:x0*([2-7][0-9a-f])|0*([3-9][0-9]|1[0-2][0-9]));?",
    re.IGNORECASE,
)
_BASES = (0, 16, 16, 8, 16, 16, 10)  # of the groups
_CHARACTERS = [bytes([byte]) for byte in range(128)]
_ROUNDS = 3  # an escape may be escaped
_IGNORED = b"\0\\\r\n\t \"',:"
# Letter case does not count, nor which of the two alphabets of base64 is used.
_ALIKE = bytes(range(256)).lower().translate(bytes.maketrans(b"-_", b"+/"))


class Redactor:
    """Covers one key, and every part of it from its beginning.

    Args:
        key: the API key; "" or fewer than 8 characters covers nothing.
    """

    def __init__(self, key: str):
        # What is searched for, and the whole form, which may follow.
        self._needles: dict[bytes, bytes] = {}
        if len(key) >= SHORTEST:
            forms = zip(
                _written(key[:SHORTEST].encode()), _written(key.encode()), strict=True
            )
            found = {_folded(head): _folded(whole) for head, whole in forms}
            self._needles = {head: whole for head, whole in found.items() if head}

    def holds(self, data: bytes) -> bool:
        """Whether the key, or 8 characters of its beginning, is in the data."""
        if not self._needles:
            return False
        folded = _folded(data)
        return any(needle in folded for needle in self._needles)

    def clean(self, data: bytes) -> bytes:
        """The data with `***` in place of the key.

        All of the data is covered if it is large, or if the key is found, but not
        where.
        """
        if not self.holds(data):
            return data
        if len(data) <= _LARGEST:
            data = self._covered(data)
        return MASK if self.holds(data) else data

    def clean_text(self, text: str) -> str:
        """`clean` for a text."""
        data = self.clean(text.encode("utf-8", "surrogatepass"))
        return data.decode("utf-8", "replace")

    def _covered(self, data: bytes) -> bytes:
        """The data with `***` for every beginning of the key that is found."""
        folded, begins, ends = _traced(data)
        covered = np.zeros(len(data) + 1, bool)
        for head, whole in self._needles.items():
            at = folded.find(head)
            while at >= 0:
                end = at + len(head)
                for byte in whole[len(head) :]:
                    if folded[end : end + 1] != bytes([byte]):
                        break
                    end += 1
                covered[begins[at] : ends[end - 1]] = True
                at = folded.find(head, end)
        edges = np.flatnonzero(np.diff(covered, prepend=False))
        parts: list[bytes] = []
        position = 0
        for begin, end in edges.reshape(-1, 2).tolist():
            # Half an escape would remain: JSON has no "\***".
            parts += [data[position:begin].rstrip(b"\\"), MASK]
            position = end
        return b"".join([*parts, data[position:]])


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
    """The key in every form that is searched for: encoded once, or twice."""
    once = [key, key.hex().encode(), key.hex().upper().encode()]
    once += [*_encoded(key, base64.b64encode, 6), *_encoded(key, base64.b32encode, 5)]
    yield from once
    for spelt in ("{:d}", "0x{:02x}", "={:02x}", "{:03o}", "{:08b}"):
        yield "".join(map(spelt.format, key)).encode()  # a list of bytes
    inner = [*once, key.decode().encode("utf-16-le")]
    inner += [
        b"".join(pattern % byte for byte in key) for pattern in (b"%%%02X", b"%%%02x")
    ]
    for form in inner:
        yield form.hex().encode()
        yield from _encoded(form, base64.b64encode, 6)
        yield from _encoded(form, base64.b32encode, 5)


def _encoded(
    data: bytes, encode: Callable[[bytes], bytes], bits: int
) -> Iterator[bytes]:
    """The characters that depend on the data alone, wherever a text holds it.

    A character encodes `bits` bits, so the place of the data matters modulo 3 bytes
    (base64) or 5 bytes (base32).
    """
    for before in range(3 if bits == 6 else 5):
        begin, end = -(-8 * before // bits), 8 * (before + len(data)) // bits
        yield encode(bytes(before) + data)[begin:end]


def _folded(data: bytes) -> bytes:
    """The data without escapes, letter case and what may separate parts of a text."""
    data = data.replace(b"\0", b"")
    for _ in range(_ROUNDS):
        if (plain := _ESCAPE.sub(_character, data)) == data:
            break
        data = plain
    return data.translate(_ALIKE, _IGNORED)


def _traced(data: bytes) -> tuple[bytes, np.ndarray, np.ndarray]:
    """`_folded`, and where each of its bytes begins and ends in the data."""
    begins = np.arange(len(data))
    ends = begins + 1

    def without(gone: np.ndarray, values: np.ndarray) -> bytes:
        nonlocal begins, ends
        begins, ends = begins[~gone], ends[~gone]
        return values[~gone].tobytes()

    values = np.frombuffer(data, np.uint8)
    data = without(values == 0, values)
    for _ in range(_ROUNDS):
        values = np.frombuffer(data, np.uint8).copy()
        gone = np.zeros(len(data), bool)
        for match in _ESCAPE.finditer(data):
            begin, end = match.span()
            gone[begin:end] = True
            if character := _character(match):
                gone[begin] = False
                values[begin] = character[0]
                ends[begin] = ends[end - 1]
        if not gone.any():
            break
        data = without(gone, values)
    values = np.frombuffer(data, np.uint8)
    ignored = np.isin(values, np.frombuffer(_IGNORED, np.uint8))
    return without(ignored, values).translate(_ALIKE), begins, ends


def _character(match: re.Match[bytes]) -> bytes:
    group = match.lastindex
    if group is None:
        return b""  # the end of a line
    return _CHARACTERS[int(match[group], _BASES[group])]
