"""What a wheel installs works beside a distribution that brings a `tasks` of its own.

The ordinary tests lay out the wheel's files without a package index; the slow one
builds the wheel and installs it in an empty environment (`make test-wheel`).
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import specialize

ROOT = pathlib.Path(__file__).parent.parent
# A distribution of another project. Our commands must not import its package.
THEIR_SETUP = "import setuptools\nsetuptools.setup(name='theirs', packages=['tasks'])\n"
THEIR_PACKAGE = (
    "import os\nOWNER = 'another project'\n"
    "if 'NO_FOREIGN_TASKS' in os.environ:\n"
    "    raise RuntimeError('the tasks of another project were imported')\n"
)
WHERE = (
    "import importlib.util, specialize, tasks; "
    "names = ('specialize', 'specialize_tasks', 't5x_configs'); "
    "print(tasks.OWNER, specialize.__version__, "
    "*(importlib.util.find_spec(name).origin for name in names), sep='\\n')"
)


def outside(**variables):
    """The environment of a user who has no checkout."""
    names = ("PYTHONPATH", "JAX_NUM_CPU_DEVICES", "PJRT_NPROC")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | variables


def run(*words, **options):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def check_where(text, place):
    owner, version, *origins = text.splitlines()
    assert (owner, version) == ("another project", specialize.__version__)
    for origin in origins:
        assert pathlib.Path(origin).is_relative_to(place), origin


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site-packages with our wheel's files and another project's `tasks`."""
    place = tmp_path_factory.mktemp("wheel") / "site"
    words = ("setup.py", "--quiet", "build_py", "--build-lib", place)
    run(sys.executable, *words, cwd=ROOT)
    (place / "tasks").mkdir()
    (place / "tasks" / "__init__.py").write_text(THEIR_PACKAGE)
    return place


def test_a_wheel_holds_every_file_of_the_packages_and_nothing_else(site):
    sources = {
        "specialize": ROOT / "specialize",
        "specialize_tasks": ROOT / "tasks" / "specialize_tasks",
        "t5x_configs": ROOT / "t5x_configs",
    }
    listed = run("git", "ls-files", "-z", *sources.values(), cwd=ROOT).split("\0")
    wanted = {
        f"{name}/{(ROOT / path).relative_to(folder)}"
        for path in filter(None, listed)
        for name, folder in sources.items()
        if (ROOT / path).is_relative_to(folder)
    }
    found = {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    assert found - {"tasks/__init__.py"} == wanted


def test_a_wheel_and_a_foreign_tasks_are_imported_beside_each_other(site, tmp_path):
    env = outside(PYTHONPATH=str(site))
    check_where(run(sys.executable, "-c", WHERE, cwd=tmp_path, env=env), site)
    words = ("config", "--gin_file", "runs/train.gin", "--gin.MODEL_DIR=runs/x")
    words += ("--gin_file", "recipes/tiny_gsm8k.gin", "--no_imports", "--json")
    found = run(sys.executable, "-m", "specialize", *words, cwd=tmp_path, env=env)
    for file in json.loads(found)["gin_files"]:
        assert pathlib.Path(file).is_relative_to(site), file


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_runs_the_quickstart(tmp_path):
    uv = (sys.executable, "-m", "uv")
    run(*uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    theirs = tmp_path / "theirs"
    (theirs / "tasks").mkdir(parents=True)
    (theirs / "setup.py").write_text(THEIR_SETUP)
    (theirs / "tasks" / "__init__.py").write_text(THEIR_PACKAGE)

    venv = tmp_path / "venv"
    run(*uv, "venv", "--quiet", "--python", sys.executable, venv)
    python = venv / "bin" / "python"
    install = (*uv, "pip", "install", "--quiet", "--python", python)
    # Theirs last: a wheel with a `tasks` of its own would be overwritten now.
    run(*install, wheel)
    run(*install, theirs)
    check_where(run(python, "-c", WHERE, cwd=tmp_path, env=outside()), venv)

    here = tmp_path / "here"
    here.mkdir()
    # As in a checkout of another project: its tasks come first on the path.
    (here / "tasks.py").write_text(THEIR_PACKAGE)
    env = outside(NO_FOREIGN_TASKS="1", PYTHONPATH=str(here))
    # Long enough for a base student that knows its tasks; the whole quickstart is in
    # tests/quickstart.
    sizes = ("--problems", "600", "--test_problems", "25", "--base_steps", "200")
    run(
        *(venv / "bin" / "specialize", "quickstart", *sizes, "--steps", "30"),
        cwd=here,
        env=env,
    )
    folder = here / "runs" / "quickstart"
    scores = json.loads((folder / "results.json").read_text())["suites"]
    assert scores["unreplayed_tasks"]["base"]["low"] > 0.5
    assert (folder / "report.html").stat().st_size > 0
