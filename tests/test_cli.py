"""The command line as a newcomer meets it."""

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
        (["trian"], "invalid choice: 'trian'"),
        (["train", "--gin_fiel", "x.gin"], "unrecognized arguments"),
        (["corpus", "stats", "--corpus", "x", "--gin.SEED=1"], "takes no gin settings"),
        ([], "required: COMMAND"),
    ],
)
def test_a_line_that_cannot_be_read_ends_with_2(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


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
