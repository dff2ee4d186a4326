"""TFRecord files and Examples without tensorflow."""

import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specialize.corpus.storage import tfrecord

FEATURES = st.dictionaries(
    st.text(max_size=8),
    st.binary(max_size=300) | st.integers(-(1 << 63), (1 << 63) - 1),
)


@settings(deadline=None)
@given(features=FEATURES)
def test_an_example_comes_back_as_it_was(features: dict[str, tfrecord.Value]) -> None:
    data = tfrecord.encode_example(features)
    assert tfrecord.decode_example(data) == features
    shuffled = dict(reversed(features.items()))
    assert tfrecord.encode_example(shuffled) == data


@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=60))
def test_bytes_that_are_no_example_are_refused_or_read_but_never_crash(
    data: bytes,
) -> None:
    try:
        tfrecord.decode_example(data)
    except ValueError:
        pass


def test_records_come_back_from_several_gzip_members() -> None:
    records = [b"", b"a", b"long" * 500_000, b"b"]
    members = [tfrecord.compress([tfrecord.frame(record)]) for record in records]
    data = b"".join(members)
    assert list(tfrecord.read_frames(io.BytesIO(data))) == records
    assert gzip.decompress(data) == b"".join(map(tfrecord.frame, records))
    # No time stamp, no name: bytes 4 to 8 of a gzip header, and its flags.
    assert data[3:8] == bytes(5)
    empty = tfrecord.compress(())
    assert list(tfrecord.read_frames(io.BytesIO(empty))) == []


def test_every_truncation_is_noticed() -> None:
    data = tfrecord.compress(map(tfrecord.frame, (b"one", b"two" * 50)))
    for size in range(1, len(data)):
        with pytest.raises(ValueError):
            list(tfrecord.read_frames(io.BytesIO(data[:size])))


def test_every_flipped_byte_of_the_data_is_noticed() -> None:
    data = tfrecord.compress(map(tfrecord.frame, (b"one", b"two" * 50)))
    # The first ten bytes are gzip's header, some of which mean nothing to a reader.
    for at in range(10, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x55
        with pytest.raises(ValueError):
            list(tfrecord.read_frames(io.BytesIO(bytes(damaged))))
    whole = b"".join(map(tfrecord.frame, (b"one", b"two")))
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x01
        with pytest.raises(ValueError):
            list(tfrecord.read_frames(io.BytesIO(tfrecord.compress([bytes(damaged)]))))
