"""A gin file calls only what the user trusts, and nothing is imported before that."""

import json

import pytest

from specialize import cli, config
from specialize.errors import InputError

DYNAMIC = "from __gin__ import dynamic_registration\n"
USE = "from specialize.config import neutral\nneutral.microbatches.number = %SEED\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module beside the gin file that leaves a mark when it is imported."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text=""):
        mark = tmp_path / "imported"
        (tmp_path / f"{name}.py").write_text(
            f"open({str(mark)!r}, 'w').close()\ndef f(cmd=''):\n    return 3\n{text}"
        )
        return mark

    return write


def lint(tmp_path, text, *bindings, **options):
    path = tmp_path / "a.gin"
    path.write_text(DYNAMIC + text)
    found = config.lint(config.read([str(path)], bindings), **options)
    return {problem.kind: str(problem) for problem in found}


@pytest.mark.parametrize("imports", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "import evil_one\nSEED = @evil_one.f()\n",
        "import evil_one as specialize\nSEED = @specialize.f()\n",
        "from evil_one import f\nSEED = @f()\n",
        "import evil_one\nevil_one.f.cmd = 'x'\nSEED = 1\n",
        "import evil_one.inner\nSEED = 1\n",
    ],
)
def test_a_foreign_module_is_refused_and_not_imported(tmp_path, module, text, imports):
    mark = module("evil_one")
    found = lint(tmp_path, text + USE, imports=imports)
    assert list(found) == ["module"] and not mark.exists()
    assert "a.gin:2: " in found["module"]
    assert "--gin_bindings 'import evil_one'" in found["module"]


@pytest.mark.parametrize(
    "call",
    [
        "from specialize import outputs\nSEED = @outputs.tempfile.mkdtemp()\n",
        "from specialize import outputs\nSEED = @outputs.os.system()\n",
        "import specialize.outputs\nSEED = @specialize.outputs.os.getcwd()\n",
        "import seqio\nSEED = @seqio.utils.os.getcwd()\n",
    ],
)
def test_a_function_that_a_trusted_module_imports_is_not_trusted(tmp_path, call):
    found = lint(tmp_path, call + USE)
    assert list(found) == ["module"], found
    assert "a.gin:3: " in found["module"]


def test_a_module_that_the_command_line_names_is_called(tmp_path, module):
    from specialize.config import neutral

    mark = module("my_own_one")
    path = tmp_path / "a.gin"
    path.write_text(DYNAMIC + "import my_own_one\nSEED = @my_own_one.f()\n" + USE)
    with pytest.raises(InputError, match="my_own_one"):
        config.parse([str(path)])
    assert not mark.exists()
    config.parse([str(path)], ["import my_own_one"])
    assert config.call(neutral.microbatches) == 3


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("exits", "raise SystemExit(7)\n"),
        ("is_odd", "def\n"),
        ("fails", "raise KeyError('x')\n"),
        ("asks_for_none", "import no_such_module_here\n"),
    ],
)
def test_a_module_that_ends_while_it_is_imported_is_one_message(
    tmp_path, module, name, last
):
    module(name, last)
    found = lint(
        tmp_path, f"import {name}\nSEED = @{name}.f()\n{USE}", f"import {name}"
    )
    assert list(found) == ["import"]
    assert f"a.gin:2: cannot import '{name}'" in found["import"]


def test_the_message_for_a_module_that_is_not_found_says_where_it_may_be(tmp_path):
    found = lint(tmp_path, f"import no_such_tasks\n{USE}", "import no_such_tasks")
    assert "Install it, or set PYTHONPATH to its folder." in found["import"]


def test_config_says_what_would_be_called(tmp_path, capsys):
    path = tmp_path / "a.gin"
    path.write_text(
        DYNAMIC + "import subprocess\nSEED = @subprocess.getoutput()\n" + USE
    )
    assert cli.main(["config", "--json", "--gin_file", str(path)]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["calls"] == [
        {"function": "subprocess.getoutput", "origin": f"{path}:3"}
    ]
    assert cli.main(["config", "--gin_file", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "@subprocess.getoutput()" in out and "error: " in err


def test_reading_includes_imports_no_package(tmp_path, module):
    mark = module("evil_package")
    (tmp_path / "evil_package.py").rename(tmp_path / "init.py")
    package = tmp_path / "evil_package" / "configs"
    package.mkdir(parents=True)
    (tmp_path / "init.py").rename(tmp_path / "evil_package" / "__init__.py")
    (package / "x.gin").write_text(DYNAMIC + "SEED = 1\n" + USE)
    path = tmp_path / "a.gin"
    path.write_text("include 'evil_package/configs/x.gin'\n")
    assert config.read([str(path)]).value("SEED") == 1
    assert not mark.exists()
