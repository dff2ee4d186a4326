"""The command line as a newcomer meets it."""

import argparse
import json
import os
import re
import subprocess
import sys

import pytest

import specialize
from specialize import cli, config

COMMANDS = (
    "quickstart",
    "corpus",
    "convert",
    "train",
    "evaluate",
    "select",
    "infer",
    "report",
    "config",
    "plan",
    "bench",
)


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "specialize", *words],
        capture_output=True,
        text=True,
        **options,
    )


def test_help_lists_every_command_within_half_a_second_of_computing():
    began = os.times()
    done = run("--help", check=True)
    ended = os.times()
    for command in COMMANDS:
        assert re.search(rf"^    {command}\b", done.stdout, re.MULTILINE)
    # Time of the processor, not of the clock: other tests run beside this one.
    computed = ended.children_user + ended.children_system
    assert computed - began.children_user - began.children_system < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from specialize.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = 'jax flax tensorflow seqio transformers scipy numpy rich'.split()\n"
        "print(sorted(set(heavy) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


HEAVY = "jax flax orbax tensorflow seqio t5x transformers scipy numpy torch".split()


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        # Judging a file of predictions, as whole as it is called.
        (
            "from specialize.cli import main\n"
            "assert main(['evaluate', '--predictions', 'p.jsonl', '--split', 'all', "
            "'--benchmarks', '.', '--json', 'out.json']) == 0",
            "",
        ),
        ("import specialize.checkpoints.convert", "flax jax numpy orbax"),
        ("import specialize.corpus.building.pipeline", "numpy"),
        ("import specialize.evaluation.report.report", "numpy"),
    ],
    ids=["evaluate --predictions", "convert", "corpus build", "report"],
)
def test_a_command_imports_only_what_it_uses(code, needed, tmp_path):
    (tmp_path / "gsm8k").mkdir()
    problem = {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps(problem))
    said = {"suite": "gsm8k", "id": "gsm8k-test-0", "prediction": "The answer is 2."}
    (tmp_path / "p.jsonl").write_text(json.dumps(said))
    code += f"\nimport sys; print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == needed


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("trian", "COMMAND is 'trian', expected one of quickstart, corpus,"),
        ("trian", "Did you mean 'train'? 'specialize --help' lists the commands."),
        ("", "missing: COMMAND. 'specialize --help' lists the commands."),
        ("corpus", "missing: STEP. 'specialize corpus --help' lists the commands."),
        (
            "train --gin_fiel x",
            "'specialize train' has no option --gin_fiel. Did you mean",
        ),
        ("train --steps 3", "'specialize train --help' lists the options."),
        ("corpus stats --corpus x y", "'specialize corpus stats' takes no 'y'."),
        (
            "corpus stats --corpus x --gin.SEED=1",
            "takes no gin settings: --gin.SEED=1.",
        ),
        ("corpus build --k abc", "--k = 'abc'; it must be a whole number, at least 1."),
        ("corpus build --k 0", "--k = '0'; it must be a whole number, at least 1."),
        ("label --k 0", "--k = '0'; it must be a whole number, at least 1."),
        ("corpus build --processes 0", "--processes = '0'; it must be a whole number"),
        (
            "corpus build --processes 1025",
            "--processes = 1025; it must be at most 1024.",
        ),
        ("corpus build --shards x", "--shards = 'x'; it must be a whole number. 'spec"),
        ("corpus sample --top_p x", "--top_p = 'x'; it must be a number. 'specialize"),
        (
            "corpus sample --log_every x",
            "--log_every = 'x'; it must be a number of sec",
        ),
        (
            "corpus sample --extra_body {",
            "--extra_body must be a JSON object; what was",
        ),
        (
            "corpus sample --api cht",
            "expected one of completions, chat. Did you mean 'c",
        ),
        ("corpus sample --ma 3", "--ma is ambiguous: it may be --max_n, --max_tokens,"),
        (
            "corpus build --task",
            "--task needs a value. 'specialize corpus build --help'",
        ),
        ("report", "missing: RUN. 'specialize report --help' lists the options."),
        ("quickstart --prepare=3", "--prepare takes no value, and has '3'."),
        (
            "merge a b --target c --alpha 1 --weights 1",
            "--weights cannot be given beside --alpha.",
        ),
    ],
)
def test_a_line_that_cannot_be_read_is_one_message(words, said, capsys):
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert shown.err.startswith("error: ") and said in shown.err


def test_what_an_option_with_a_json_object_holds_is_not_printed(capsys):
    assert cli.main(["corpus", "sample", "--extra_body", '["HUNTER2"']) == 2
    assert "HUNTER2" not in capsys.readouterr().err


def actions(parser):
    """(program, action) of every command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions(inner)
        else:
            yield parser.prog, action


def test_every_option_says_what_it_means_and_its_default_once():
    for program, action in actions(cli.parser()):
        where = program, action.dest
        if action.help == argparse.SUPPRESS:
            continue
        assert action.help, where
        shown = cli.Parser(prog="x")._get_formatter()._expand_help(action)
        # The text itself names only a default that is computed.
        assert shown.lower().count("default") <= 1, where
        assert not re.search(r"None|\[\]|\{\}|\(\)|False", shown), where
        value = cli.default_of(action)
        if value is not None:
            assert shown.endswith(f"(default: {value})"), where


def test_an_option_is_documented_with_underscores_and_read_with_dashes_too():
    parser = cli.parser()
    names = [name for _, one in actions(parser) for name in one.option_strings]
    assert [name for name in names if "-" in name.lstrip("-")] == []
    words = "convert --source a-b --shard-size 3 --quantized-base --target=--x-y"
    assert cli.with_underscores(parser, words.split()) == [
        *("convert", "--source", "a-b", "--shard_size", "3", "--quantized_base"),
        "--target=--x-y",
    ]
    # A value with a space is no option, and nothing after "--" is.
    words = ["--beam", "--my-runner=x --flink-master=y", "--", "--a-b"]
    assert cli.with_underscores(parser, words) == words
    words = cli.with_underscores(parser, ["evaluate", "--max-examples=3"])
    flags = parser.parse_args(words)
    assert flags.max_examples == 3


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--out=~/x", "--out=/home/ann/x"),
        ("~/x", "/home/ann/x"),
        ("~", "/home/ann"),
        ("--gin.MODEL_DIR=~/run", "--gin.MODEL_DIR=/home/ann/run"),
        ("--gin.MODEL_DIR='~/run'", "--gin.MODEL_DIR='~/run'"),  # gin's text
        ("--teacher=a~/b", "--teacher=a~/b"),
        ("~b/x", "~b/x"),
        ("x/~", "x/~"),
    ],
)
def test_a_tilde_that_begins_a_path_is_the_home_folder(word, meant, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert cli.at_home(word) == meant


def test_the_folders_of_gin_files_may_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    words = ["config", "--gin_search_paths=~/a,~/b,c", "--gin_search_paths", "~/d"]
    flags = cli.parser().parse_args([cli.at_home(word) for word in words])
    _, _, folders = config.words_of_flags(flags)
    assert folders == ["/home/ann/a", "/home/ann/b", "c", "/home/ann/d"]


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == specialize.__version__
