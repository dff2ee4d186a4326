"""TFRecord files and `tf.train.Example` messages, without tensorflow.

Importing tensorflow takes seconds and half a gigabyte in every process; a corpus is
written by many processes and read by tools that do not need it. Both formats are small
and frozen: a TFRecord is length, checksum, data, checksum; an Example is a protocol
buffer with a map from names to lists. The tests compare with tensorflow's own reader.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import google_crc32c

Value = bytes | int

_crc32c = cast(Callable[[bytes], int], google_crc32c.value)  # pyright: ignore[reportUnknownMemberType]

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_PART = 1 << 24


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Serialises a `tf.train.Example`, names sorted, so equal input gives equal bytes.

    Args:
        features: values by name; bytes become a bytes_list, integers an int64_list,
            each of length 1.
    """
    entries: list[bytes] = []
    for name in sorted(features):
        value = features[name]
        if isinstance(value, int):
            # int64_list = 3 of a packed varint; negative numbers take ten bytes.
            feature = _field(3, _field(1, _varint(value & (1 << 64) - 1)))
        else:
            feature = _field(1, _field(1, value))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode_example(data: bytes) -> dict[str, Value]:
    """Reads what `encode_example` or tensorflow wrote, for lists of length 1.

    Raises:
        ValueError: the bytes are not such an Example.
    """
    features: dict[str, Value] = {}
    try:
        for _, group in _fields(data):
            for _, entry in _fields(_message(group)):
                parts = dict(_fields(_message(entry)))
                name = str(_message(parts[1]), "utf-8")
                ((kind, values),) = _fields(_message(parts[2]))
                ((_, value),) = _fields(_message(values))
                if kind == 3 and not isinstance(value, int):
                    value, _ = _read_varint(value, 0)
                if kind == 3 and isinstance(value, int):
                    features[name] = value - (1 << 64) if value >> 63 else value
                elif kind == 1:
                    features[name] = bytes(_message(value))
                else:
                    raise ValueError(f"feature {name!r} has list type {kind}")
    except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    return features


def frame(data: bytes) -> bytes:
    """One TFRecord: length, its masked CRC-32C, data, its masked CRC-32C."""
    length = len(data).to_bytes(8, "little")
    pack = _FOOTER.pack
    return b"".join((length, pack(_masked_crc(length)), data, pack(_masked_crc(data))))


def compress(frames: Iterable[bytes], level: int = 6) -> bytes:
    """One gzip member: no time stamp or name, so equal input gives equal bytes.

    tensorflow, gzip and `read_frames` read concatenated members as one file.
    """
    # 31: a gzip header around the largest window.
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return b"".join([*map(packer.compress, frames), packer.flush()])


def read_frames(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Yields the records of a gzipped TFRecord stream and verifies their checksums.

    Args:
        stream: the compressed bytes. Memory stays within a megabyte and one record.

    Raises:
        ValueError: the stream is damaged or truncated.
    """
    data = gzip.GzipFile(fileobj=stream)
    while header := _read(data, _HEADER.size, optional=True):
        length, crc = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != crc:
            raise ValueError("the checksum of a record's length is wrong")
        record = _read(data, length)
        (crc,) = _FOOTER.unpack(_read(data, _FOOTER.size))
        if _masked_crc(record) != crc:
            raise ValueError("the checksum of a record is wrong")
        yield record


def _read(data: gzip.GzipFile, size: int, *, optional: bool = False) -> bytes:
    """Exactly `size` bytes; nothing at the end of the stream if `optional`."""
    found = b""
    try:
        # In parts: a stated size asks for no memory that the data do not fill.
        while len(found) < size and (part := data.read(min(size - len(found), _PART))):
            found = found + part if found else part
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"the compressed data are damaged: {error}") from error
    if len(found) != size and (found or not optional):
        raise ValueError("it ends within a record")
    return found


def _masked_crc(data: bytes) -> int:
    crc = _crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _field(number: int, content: bytes) -> bytes:
    # Wire type 2: a length, then that many bytes.
    return bytes((number << 3 | 2,)) + _varint(len(content)) + content


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes | memoryview) -> Iterator[tuple[int, memoryview | int]]:
    view = memoryview(data)
    at = 0
    while at < len(view):
        key, at = _read_varint(view, at)
        size, at = _read_varint(view, at)
        if key & 7 == 0:
            yield key >> 3, size
        elif key & 7 == 2 and at + size <= len(view):
            yield key >> 3, view[at : at + size]
            at += size
        else:
            raise ValueError("not a tf.train.Example: a field leads out of it")


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a message was expected")
    return value
