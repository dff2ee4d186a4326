"""Every option that names a path takes one in a bucket, and refuses other URLs."""

import argparse

import pytest

from specialize import cli
from specialize.config import words
from specialize.errors import InputError

# Options that the command line leaves to the code that reads them, which reads buckets.
READ_IN_PLACE = {"gin_file", "gin_search_paths", "task", "tasks", "base", "runs"}
READ_IN_PLACE |= {"study", "sources", "start", "also"}
OF_PATHS = ("FILE", "DIR", "DIR[,DIR]", "TASK", "RUN", "CHECKPOINT", "STUDY.gin")


def options(parser=None, name="specialize"):
    for action in (parser or cli.parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from options(command, f"{name} {word}")
        else:
            yield name, action


def test_every_option_of_a_path_is_copied_from_a_bucket_or_read_there():
    known = {*words.INPUTS, *words.OUTPUTS, *READ_IN_PLACE}
    found = [(name, one.dest) for name, one in options() if one.metavar in OF_PATHS]
    assert len(found) > 80
    assert [one for one in found if one[1] not in known] == []


@pytest.mark.parametrize("name", words.INPUTS)
@pytest.mark.parametrize("several", [False, True])
def test_an_input_in_a_bucket_is_copied_and_another_url_is_refused(
    name, several, monkeypatch, tmp_path
):
    monkeypatch.setattr("specialize.paths.local", lambda url, **_: tmp_path / url[-1])
    given = argparse.Namespace(**{name: ["s3://b/x", "y"] if several else "s3://b/x"})
    cli._copy_inputs(given)
    copy = str(tmp_path / "x")
    assert getattr(given, name) == ([copy, "y"] if several else copy)
    given = argparse.Namespace(**{name: "https://b/x"})
    with pytest.raises(InputError, match=f"--{name} is 'https://b/x', a URL of https:"):
        cli._copy_inputs(given)


def test_what_is_read_in_place_refuses_other_urls():
    from specialize.corpus.tasks.files import read_task
    from specialize.evaluation.report import runs
    from specialize.evaluation.results import Results

    for reader in (read_task, runs._local, Results.load):
        with pytest.raises(InputError, match="'https://b/x.json', a URL of https:"):
            reader("https://b/x.json")
