"""Another project's `tasks` and our `specialize_tasks` leave each other alone."""

import os
import pathlib
import subprocess
import sys

import pytest

from specialize import config
from specialize.config import scanning

ROOT = pathlib.Path(__file__).parents[2]
FOREIGN = "raise RuntimeError('the tasks of another project were imported')\n"
OLD = """\
import tasks
import tasks.locations
from tasks import distill
tasks.locations.corpus_dir.path = 'corpus'
tasks.distill.held_out.fraction = 0.02
"""


def problems(text, folder, *bindings, **options):
    path = folder / "old.gin"
    path.write_text(text)
    return config.lint(config.read([str(path)], bindings), **options)


@pytest.fixture(params=["module", "package", "namespace"])
def foreign(request, tmp_path, monkeypatch):
    """A `tasks` of another project, first on the path, that must not be imported."""
    place = tmp_path / "theirs"
    (place / "tasks").mkdir(parents=True)
    if request.param == "module":
        (place / "tasks").rmdir()
        (place / "tasks.py").write_text(FOREIGN)
    else:
        (place / "tasks" / "metrics.py").write_text(FOREIGN)
        if request.param == "package":
            (place / "tasks" / "__init__.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{ROOT}")
    return place


def run(code, **options):
    return subprocess.run(
        [sys.executable, *code], capture_output=True, text=True, **options
    )


def test_no_gin_file_names_a_bare_tasks():
    for path in scanning.package_folder().rglob("*.gin"):
        found = scanning.scan([str(path)])
        named = [item.module for item in found.imports]
        named += [name.selector for name in found.names]
        assert not [name for name in named if name.split(".")[0] == "tasks"], path


def test_the_checkout_hides_no_package_called_tasks(tmp_path):
    (tmp_path / "tasks.py").write_text("OWNER = 'another project'\n")
    # The checkout comes first, as in its own folder.
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    code = (
        "import importlib.util, tasks; print(tasks.OWNER); "
        "print(importlib.util.find_spec('specialize_tasks').name)"
    )
    done = run(["-c", code], cwd=ROOT, env=env)
    assert done.stdout.splitlines() == ["another project", "specialize_tasks"]


@pytest.mark.parametrize("foreign", ["package"], indirect=True)
def test_a_run_beside_a_foreign_tasks_uses_ours(foreign):
    words = "--gin_file runs/train.gin --gin_file recipes/tiny_gsm8k.gin".split()
    done = run(
        ["-m", "specialize", "config", *words, "--gin.MODEL_DIR=runs/x"], cwd=foreign
    )
    assert done.returncode == 0, done.stderr
    assert "specialize_tasks.locations.corpus_dir.path" in done.stdout


@pytest.mark.parametrize("imports", [True, False])
def test_a_configuration_of_version_0_1_is_told_the_new_spelling(tmp_path, imports):
    (problem,) = problems(OLD, tmp_path, imports=imports)
    assert problem.kind == "renamed"
    assert "Write 'specialize_tasks' instead of 'tasks'" in str(problem)
    for line in range(1, 6):
        assert f"old.gin:{line}" in str(problem)


def test_a_binding_on_the_command_line_is_told_the_new_spelling():
    found = config.read(
        ["data/locations.gin"], ["tasks.distill.held_out.fraction = 0.1"]
    )
    (problem,) = config.lint(found, imports=False)
    assert "'specialize_tasks' instead of 'tasks'" in str(problem)


def test_an_old_configuration_beside_a_foreign_tasks_is_told_the_same(
    foreign, tmp_path
):
    (problem,) = problems(OLD, tmp_path)
    for line in range(2, 6):
        assert f"old.gin:{line}" in problem.message


def test_what_a_foreign_tasks_holds_is_not_ours(tmp_path, monkeypatch):
    place = tmp_path / "theirs" / "tasks"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    (place / "metrics.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(place.parent)
    text = "import tasks\nfrom tasks import metrics\ntasks.metrics.f.x = 1\n"
    head = "from __gin__ import dynamic_registration\n"
    try:
        assert problems(head + text, tmp_path, "import tasks") == []
        (problem,) = problems(text + "tasks.text.text_files.train = 'a'\n", tmp_path)
        assert "at " in str(problem) and str(problem).endswith("old.gin:4.")
    finally:
        for name in ("tasks", "tasks.metrics"):
            sys.modules.pop(name, None)
