"""A gin file of version 0.1 is told how the modules it names are called now."""

import importlib.machinery
import importlib.util
import pathlib

import pytest

import specialize
from specialize import cli, config
from specialize.renamed import MOVED

PACKAGE = pathlib.Path(specialize.__file__).parent
OLD_RUN = pathlib.Path(__file__).parent.parent / "golden/old_run"
# Modules that recipes of 0.1 named.
CONFIGURED = [
    "specialize.student.losses",
    "specialize.training.converter",
    "specialize.training.loop",
    "specialize.training.optimizers",
]
HEAD = "from __gin__ import dynamic_registration\n"


def folder_of(module: str) -> str:
    """The folder where the file of a module would be."""
    return str(PACKAGE.joinpath(*module.split(".")[1:-1]))


def problems(path: pathlib.Path, statement: str) -> list[str]:
    """What is wrong with a gin file of this one statement."""
    file = path / "old.gin"
    file.write_text(HEAD + statement + "\n")
    return [str(problem) for problem in config.lint(config.read([str(file)]))]


@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_is_named_with_its_line_and_its_new_import(old, tmp_path):
    package, _, module = old.rpartition(".")
    (problem,) = problems(tmp_path, f"from {package} import {module}")
    new_package, _, new_module = MOVED[old].rpartition(".")
    assert "old.gin:2: " in problem and repr(old) in problem
    new = f"from {new_package} import {new_module}"
    assert f"Write '{new}'" in problem
    if old in CONFIGURED:
        assert problems(tmp_path, new) == []


def test_a_module_with_another_last_name_is_told_in_its_bindings_too(tmp_path):
    (problem,) = problems(tmp_path, "from specialize.training import loop")
    assert problem.endswith("and 'train.' instead of 'loop.' below it.")
    (problem,) = problems(tmp_path, "from specialize.training import loop as mine")
    assert problem.endswith("import train'.")


def test_every_new_name_is_a_module_and_every_old_one_is_not():
    for old, new in MOVED.items():
        assert importlib.util.find_spec(new), new
        # A package that took the name has nothing for gin to configure.
        spec = importlib.machinery.PathFinder.find_spec(old, [folder_of(old)])
        assert spec is None or spec.submodule_search_locations, old


def test_the_imports_of_an_old_run_get_one_error_each(tmp_path, capsys):
    lines = (OLD_RUN / "config.gin").read_text().splitlines(keepends=True)
    head = tmp_path / "config.gin"
    head.write_text("".join(line for line in lines if "import" in line))
    assert cli.main(["config", "--gin_file", str(head)]) == 2
    errors = capsys.readouterr().err
    for old in (
        "specialize.student.losses",
        "specialize.training.loop",
        "specialize.training.optimizers",
    ):
        assert f"Write 'from {MOVED[old].rpartition('.')[0]} import" in errors
    assert "Write 'specialize_tasks' instead of 'tasks'" in errors
    assert "cannot import" not in errors
