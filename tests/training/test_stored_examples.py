"""Prepared examples whose bytes have changed are refused when they are opened."""

import json
import random

import pytest

from specialize.errors import InputError
from specialize.training.data.stored_examples import META, checksums, open_examples


@pytest.fixture
def folder(of_0_1):
    """Prepared examples with the checksums that are written today."""
    found = sorted((of_0_1 / "examples").iterdir())[0]
    content = json.loads((found / META).read_text())
    content["checksums"] = checksums(found)
    (found / META).write_text(json.dumps(content))
    return found


def test_a_flipped_bit_in_any_file_is_named(folder):
    draw = random.Random(0)
    files = sorted(folder.glob("*.bin"))
    assert len(files) >= 8 and open_examples(folder, "golden")
    for file in files:
        whole = file.read_bytes()
        for _ in range(5):
            place, bit = draw.randrange(len(whole)), draw.randrange(8)
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            with pytest.raises(InputError) as caught:
                open_examples(folder, "golden")
            message = str(caught.value)
            assert file.name in message and "Remove the folder" in message, message
        file.write_bytes(whole)
    assert open_examples(folder, "golden")


def test_a_checksum_reads_no_file_of_another_folder(folder, tmp_path):
    (tmp_path / "other.bin").write_bytes(b"secret")
    content = json.loads((folder / META).read_text())
    for name in ("../../other.bin", str(tmp_path / "other.bin")):
        checks = {name: 0, **content["checksums"]}
        (folder / META).write_text(json.dumps({**content, "checksums": checks}))
        with pytest.raises(InputError, match="not beside it"):
            open_examples(folder, "golden")
