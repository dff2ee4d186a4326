"""An output at a URL is refused, before any work, where a command cannot write."""

import argparse
import os

import pytest

from specialize import cli, outputs
from specialize.config import words as known
from specialize.errors import InputError


def commands(parser, words=()):
    """(words, options) of every command that runs."""
    options = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, (*words, name))
            return
        options.append(action)
    yield words, options


def value_of(action):
    """Words with which an option or argument is given."""
    value = next(iter(action.choices)) if action.choices else "1"
    return [*action.option_strings[:1], value]


CASES = [
    (words, action.option_strings[0])
    for words, options in commands(cli.parser())
    for action in options
    if action.dest in known.OUTPUTS and action.nargs is None and action.option_strings
]

# These write into a bucket; tests/pods shows it.
IN_BUCKETS = [
    (("corpus", "build"), "--out"),
    (("corpus", "write"), "--out"),
    (("corpus", "import-released"), "--out"),
    (("corpus", "sample"), "--responses"),
    (("corpus", "score"), "--responses"),
    (("corpus", "export"), "--responses"),
    (("corpus", "export"), "--out"),
    (("corpus", "import"), "--out"),
    (("corpus", "verify"), "--out"),
    (("corpus", "verify"), "--rejected"),
    (("corpus", "align"), "--out"),
    (("corpus", "inspect"), "--html"),
    (("sample",), "--responses"),
    (("evaluate",), "--json"),
    (("select",), "--json"),
    (("infer",), "--out"),
    (("label",), "--out"),
    (("study",), "--out"),
    (("report",), "--out"),
    (("convert",), "--target"),
    (("merge",), "--target"),
]


def test_the_commands_that_write_are_found():
    assert len(CASES) >= 15
    assert (("corpus", "build"), "--out") in CASES
    assert (("convert",), "--target") in CASES


@pytest.mark.parametrize(("words", "option"), CASES, ids=lambda one: str(one))
@pytest.mark.parametrize("url", ["gs://b/x", "s3://u:HUNTER2@b/x", "hdfs:/x"])
def test_a_url_as_output_is_refused_and_nothing_is_made(
    words, option, url, tmp_path, monkeypatch, capsys
):
    if (words, option) in IN_BUCKETS and url == "gs://b/x":
        url = "gs://b/../x"
    monkeypatch.chdir(tmp_path)
    assert cli.main(line_with(words, option, url)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {option} is ")
    assert "a URL" in said or "names no bucket" in said or "'..'" in said
    assert "HUNTER2" not in said
    assert os.listdir() == []


def line_with(words, option, value):
    """A command line with what a command must be given, and one more option."""
    (options,) = [found for one, found in commands(cli.parser()) if one == words]
    line = list(words)
    for action in options:
        positional = not action.option_strings and action.nargs not in ("*", "?")
        if (action.required or positional) and option not in action.option_strings:
            line += value_of(action)
    return [*line, f"{option}={value}"]


def is_file(words, option):
    """Whether an output is a file, not a folder."""
    (options,) = [found for one, found in commands(cli.parser()) if one == words]
    return any(
        option in one.option_strings and one.metavar == "FILE" for one in options
    )


FILES = [case for case in CASES if is_file(*case)]


def test_the_outputs_that_are_files_are_found():
    for case in (("infer",), "--out"), (("plan",), "--json"), (("bench",), "--json"):
        assert case in FILES
    assert (("corpus", "build"), "--out") not in FILES
    assert (("evaluate",), "--json") in FILES


@pytest.mark.parametrize(("words", "option"), FILES, ids=lambda one: str(one))
def test_a_folder_where_a_file_is_written_is_refused_before_the_work(
    words, option, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert cli.main(line_with(words, option, "folder")) == 2
    assert capsys.readouterr().err == (
        f"error: {option}: folder is a folder, expected the name of a file to write.\n"
    )
    assert os.listdir() == ["folder"]


@pytest.mark.parametrize("path", ["a:b", "C:", "x/y:/z", "gs", "./gs://b", "7z:/x"])
def test_a_path_with_a_colon_is_no_url(path):
    outputs.refuse_url(path)


@pytest.mark.parametrize("write", [outputs.write_text, outputs.write_json])
def test_a_file_at_another_url_is_not_written_from_python(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a URL"):
        write("hdfs://bucket/file", "text")
    with (
        pytest.raises(InputError, match="a URL"),
        outputs.staged_directory("ftp://bucket/corpus", "corpus"),
    ):
        pass
    assert os.listdir() == []
