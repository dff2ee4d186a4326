"""The command line as a newcomer meets it."""

import os
import pathlib
import re
import subprocess
import sys
import zipfile

import pytest

import specialize
from specialize import cli
from specialize.config import scanning

ROOT = pathlib.Path(__file__).parent.parent
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
        "heavy = {'jax', 'flax', 'tensorflow', 'seqio', 'transformers', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


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


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == specialize.__version__


@pytest.mark.slow
def test_a_wheel_carries_the_gin_files_and_works_outside_the_checkout(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    place = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
        names = archive.namelist()
    folder = scanning.package_folder()
    for path in folder.rglob("*.gin"):
        assert f"t5x_configs/{path.relative_to(folder)}" in names
    assert any(name.endswith("report.html.j2") for name in names)
    assert not any(name.startswith("tests/") for name in names)
    # The checkout is installed in this environment: the wheel's own files come first.
    done = run(
        *("config", "--gin_file", "runs/train.gin"),
        *("--gin_file", "recipes/tiny_gsm8k.gin", "--gin.MODEL_DIR='run'"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
    )
    assert done.returncode == 0, done.stderr
    assert "TRAIN_STEPS" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import specialize; print(specialize.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(place))
