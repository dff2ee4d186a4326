"""Every file that a command reads, with one mutation: a result, or one message.

No traceback, no hang over 10 s, no 8 GiB of memory, no partial output, exit status 0 or
2. A mutation is a function of format and number. One is repeated by

    python tests/fuzz/test_fuzz.py FORMAT NUMBER [COUNT]
"""

import contextlib
import pathlib
import sys
import tempfile
import time

import formats
import harness
import pytest

from specialize import memory

TOTAL = sum(one.share for one in formats.FORMATS)
FEW, MANY = 2_000, 100_000
MOST_FAILURES = 5
# Bytes of memory beside what the process has: a file may state any size.
EXTRA = 8 << 30


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz") / "world"
    formats.make(root)
    with memory.bounded(EXTRA):
        yield harness.World(root)


def numbers(format, total):
    """How many of all mutations are those of a format."""
    return -(-total * format.share // TOTAL)


def failures(world, format, first, count):
    found = []
    for number in range(first, first + count):
        if wrong := harness.attempt(world, format, number):
            found.append(wrong)
        if len(found) == MOST_FAILURES:
            break
    return found


@pytest.mark.parametrize("format", formats.FORMATS, ids=lambda one: one.name)
def test_a_valid_file_is_read_by_every_reader(world, format):
    for reader in format.readers:
        out = world.root / "out"
        out.mkdir()
        try:
            for source, place in format.copied:
                harness._copy(world.root / source, out / place)
            outcome = harness.run(reader, world.root)
        finally:
            world.restore()
        assert outcome.status == 0, (reader, outcome.failure, outcome.err)


@pytest.mark.parametrize("format", formats.FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "total", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_mutated_file_gives_a_result_or_one_message(world, format, total):
    found = failures(world, format, 0, numbers(format, total))
    assert not found, "\n\n".join(found)


def main(name: str, first: str, count: str = "1") -> None:
    """Runs some mutations of a format, or of all, and prints their failures."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        root = pathlib.Path(folder) / "world"
        formats.make(root)
        world = harness.World(root)
        stack.enter_context(memory.bounded(EXTRA))
        for format in formats.FORMATS:
            if name != "all" and format.name not in name.split(","):
                continue
            began, cpu = time.monotonic(), time.process_time()
            failed = 0
            for number in range(int(first), int(first) + int(count)):
                if wrong := harness.attempt(world, format, number):
                    failed += 1
                    print(wrong, end="\n\n", flush=True)
            seconds = time.monotonic() - began
            cpu = time.process_time() - cpu
            print(
                f"{format.name}: {count} mutations, {failed} failures, {seconds:.1f} s,"
                f" {cpu / int(count) * 1000:.0f} ms of CPU each",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
