"""Every subcommand: bad input is one message, exit status 2, nothing left behind."""

import json
import subprocess
import sys

import pytest

from specialize import cli
from specialize.corpus.problems import read_gsm8k


def run(capfd, *words):
    """Runs one command in this process; (status, standard error)."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as exit_:
        status = exit_.code
    return status, capfd.readouterr().err


@pytest.fixture
def place(tmp_path):
    """An empty folder to write into, and bad files beside it."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "half.jsonl").write_text('{"problem_id": "gsm8k-tr')
    (bad / "empty.jsonl").write_text("")
    (bad / "text.txt").write_text("hello")
    (bad / "theirs").mkdir()
    (bad / "theirs" / "thesis.tex").write_text("years of work")
    (tmp_path / "out").mkdir()
    return tmp_path


def words_of(world, place, command, **changes):
    """A command that would succeed, with some of its options changed."""
    out, data = place / "out", world
    options = {
        "sample": {
            "--problems": data.problems,
            "--responses": out / "r.sqlite",
            "--model": "m",
            "--base_url": "http://127.0.0.1:9/v1",
            "--attempts": 1,
        },
        "export": {"--responses": out / "r.sqlite", "--out": out / "e.jsonl"},
        "verify": {
            "--problems": data.problems,
            "--completions": data.completions,
            "--out": out / "right.jsonl",
            "--processes": 1,
        },
        "align": {
            "--problems": data.problems,
            "--completions": data.completions,
            "--vocabulary": data.vocabulary,
            "--out": out / "aligned.jsonl",
            "--processes": 1,
        },
        "write": {
            "--problems": data.problems,
            "--aligned": out / "aligned.jsonl",
            "--vocabulary": data.vocabulary,
            "--out": out / "corpus",
            "--processes": 1,
        },
        "build": {
            "--problems": data.problems,
            "--completions": data.completions,
            "--vocabulary": data.vocabulary,
            "--out": out / "corpus",
            "--processes": 1,
            "--demonstrations": 1,
        },
        "import-released": {
            "--pickles": out / "x.pkl",
            "--vocabulary": data.vocabulary,
            "--out": out / "corpus",
            "--processes": 1,
        },
        "inspect": {"--corpus": out / "corpus", "--vocabulary": data.vocabulary},
        "stats": {"--corpus": out / "corpus"},
    }[command] | changes
    flat = [word for pair in options.items() for word in pair]
    return ("corpus", command, *flat)


CASES = [
    ("sample", {"--problems": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("sample", {"--problems": "bad/absent"}, "absent does not exist"),
    ("sample", {"--responses": "bad/text.txt"}, "text.txt is not a database"),
    ("sample", {"--prompt": "bad/absent"}, "cannot be read as a prompt"),
    ("sample", {"--temperature": 9}, "temperature is 9"),
    ("sample", {"--n": 0}, "samples is 0"),
    ("sample", {"--concurrency": 5}, "connection"),
    ("export", {}, "r.sqlite does not exist"),
    ("export", {"--responses": "bad/text.txt"}, "text.txt is not a database"),
    ("verify", {"--completions": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("verify", {"--completions": "bad/empty.jsonl"}, "empty.jsonl is empty"),
    ("verify", {"--near_duplicates": 2}, "near_duplicate is 2"),
    ("align", {"--completions": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("align", {"--vocabulary": "bad/text.txt"}, "text.txt"),
    ("align", {"--k": 0}, "k is 0"),
    ("write", {}, "has no card"),
    ("write", {"--out": "bad/theirs"}, "was not written by specialize"),
    ("build", {"--out": "bad/theirs"}, "was not written by specialize"),
    ("build", {"--out": "bad/text.txt"}, "text.txt is a file"),
    ("build", {"--problems": "bad/empty.jsonl"}, "holds no problem"),
    ("build", {"--completions": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("build", {"--vocabulary": "bad/text.txt"}, "text.txt"),
    ("build", {"--demonstrations_from": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("build", {"--shards": 0}, "num_shards is 0"),
    ("import-released", {}, "x.pkl does not exist"),
    ("import-released", {"--pickles": "bad/text.txt"}, "not a readable pickle"),
    ("inspect", {}, "is not a corpus"),
    ("stats", {}, "is not a corpus"),
    ("stats", {"--corpus": "bad/theirs"}, "is not a corpus"),
]


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    CASES,
    ids=[f"{command} {' '.join(map(str, c))}" for command, c, _ in CASES],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    world, place, capfd, command, changes, message
):
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    changed = {
        name: place / value if str(value).startswith("bad/") else value
        for name, value in changes.items()
    }
    status, said = run(capfd, *words_of(world, place, command, **changed))
    assert status == 2
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in said
    left = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    # What a run began to pay for stays: an empty database is no half-written output.
    left = {p: data for p, data in left.items() if "r.sqlite" not in p.name}
    assert left == before


@pytest.mark.parametrize("command", ["build", "sample", "verify", "align", "write"])
def test_a_missing_option_is_named(world, place, capfd, command):
    words = words_of(world, place, command)
    status, said = run(capfd, *words[:2], *words[4:])
    assert status == 2
    assert "--problems" in said


def test_the_commands_go_from_completions_to_a_corpus_one_can_look_at(
    world, place, capfd
):
    out = place / "out"
    assert run(capfd, *words_of(world, place, "verify"))[0] == 0
    right = {"--completions": out / "right.jsonl"}
    assert run(capfd, *words_of(world, place, "align", **right))[0] == 0
    status, said = run(
        capfd, *words_of(world, place, "write", **{"--demonstrations": 1})
    )
    assert status == 0
    assert "records in_context_cot" in said
    assert cli.main(["corpus", "stats", "--corpus", str(out / "corpus"), "--json"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert value["funnel"]["read"] == 24 * 4
    words = words_of(world, place, "inspect", **{"--html": out / "page.html"})
    assert run(capfd, *words)[0] == 0
    assert "<table>" in (out / "page.html").read_text()
    assert run(capfd, *words_of(world, place, "inspect"))[0] == 0


def test_a_build_that_was_refused_succeeds_once_its_input_is_mended(
    world, place, capfd
):
    lines = world.completions.read_text().splitlines()
    file = place / "samples.jsonl"
    file.write_text("\n".join([*lines[:5], lines[5][:40], *lines[6:]]))
    words = words_of(world, place, "build", **{"--completions": file})
    assert run(capfd, *words)[0] == 2
    file.write_text("\n".join(lines))
    assert run(capfd, *words)[0] == 0


def test_importing_the_commands_imports_nothing_heavy():
    code = (
        "import sys, argparse; from specialize.corpus import commands;"
        "commands.register(argparse.ArgumentParser().add_subparsers());"
        "heavy = {'numpy', 'tensorflow', 'jax', 'openai', 'rich', 'sentencepiece'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_world_has_what_the_cases_count_on(world):
    assert len(read_gsm8k(world.problems)) == 24
