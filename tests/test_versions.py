"""Every format is known by its version, and documented with it."""

import pathlib
import re

import pytest

from specialize import cli, versions
from specialize.errors import InputError

ROOT = pathlib.Path(__file__).parent.parent
FORMATS = {
    name: value
    for name, value in vars(versions).items()
    if isinstance(value, versions.Format)
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_reads_what_it_writes_and_what_0_1_wrote(name):
    format = FORMATS[name]
    format.check(format.writes, "here")
    format.check(1, "here")
    assert list(format.reads) == sorted(set(format.reads))


@pytest.mark.parametrize("found", [0, 2, 99, None, "1", "next", [1], {}])
def test_a_version_that_is_not_known_is_refused(found):
    with pytest.raises(InputError, match=f"of version {re.escape(repr(found))};"):
        versions.CORPUS.check(found, "here")


def test_every_format_is_documented_with_the_versions_that_are_read():
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d, ]+) \|", page, re.MULTILINE)
    assert dict(rows) == {
        name: ", ".join(map(str, format.reads)) for name, format in FORMATS.items()
    }


def test_the_tests_that_the_page_names_are_there():
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert len(named) >= 6
    assert all((ROOT / name).is_file() for name in named)


def test_the_command_line_ends_with_that_message_and_status_2(of_0_1, restate, capfd):
    restate(of_0_1 / "corpus" / "corpus.json", version=2)
    assert cli.main(["corpus", "stats", "--corpus", str(of_0_1 / "corpus")]) == 2
    said = capfd.readouterr().err
    assert "corpus.json is a corpus of version 2; specialize" in said
    assert "reads version 1" in said and "specialize corpus build" in said
    assert "Traceback" not in said
