"""The house stays one that a newcomer can read: sizes of rooms, modules, functions."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("specialize", "tasks")
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

MOST_MODULES = 16
MOST_LINES = 450
MOST_LINES_OF_A_FUNCTION = 120
MOST_PARAMETERS = 12

# Longer than the limit, each for a reason.
LONG_FUNCTIONS: dict[str, str] = {}


def functions(path: pathlib.Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def number_of_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_no_room_has_more_modules_than_a_reader_takes_in():
    rooms = {path.parent for path in MODULES}
    sizes = {str(room): len(list(room.glob("*.py"))) for room in rooms}
    assert {room: n for room, n in sizes.items() if n > MOST_MODULES} == {}


def test_no_module_is_longer_than_one_idea():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for path in MODULES
    }
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}


def test_no_function_is_longer_than_a_page_unless_a_reason_is_given():
    found = {
        f"{path.relative_to(ROOT)}:{function.name}": lines
        for path in MODULES
        for function in functions(path)
        if (lines := (function.end_lineno or 0) - function.lineno + 1)
        > MOST_LINES_OF_A_FUNCTION
    }
    assert found.keys() == LONG_FUNCTIONS.keys(), found
    assert all(LONG_FUNCTIONS.values())


def test_no_function_takes_more_than_a_dozen_parameters():
    found = {
        f"{path.relative_to(ROOT)}:{function.name}": number_of_parameters(function)
        for path in MODULES
        for function in functions(path)
    }
    assert {name: n for name, n in found.items() if n > MOST_PARAMETERS} == {}


def test_json_comes_in_by_one_door():
    """`typed_json` refuses nesting, huge numbers and wrong types in one message."""
    readers = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("load", "loads", "JSONDecoder")
            and isinstance(node.value, ast.Name)
            and node.value.id == "json"
        )
        or (isinstance(node, ast.ImportFrom) and node.module == "json")
    }
    assert readers == {"specialize/typed_json.py"}


# Modules that name a benchmark, each for a reason. Everything else reads task files.
BENCHMARKS_NAMED = {
    "specialize/corpus/building/released.py": "the authors asked GSM8K",
    "specialize/quickstart/miniature.py": "writes small files in the owners' layouts",
    "specialize/quickstart/walk.py": "asks the suites of these files",
    "specialize/renamed.py": "names of modules of 0.1",
    "tasks/specialize_tasks/distill.py": "SeqIO names of 0.1",
}


def test_no_code_names_a_benchmark():
    """In identifiers, and in texts that are no sentences (docs, messages, help)."""
    from specialize.corpus.tasks.known import index

    named = re.compile("|".join(index().tasks), re.IGNORECASE)
    found = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            words = [
                getattr(node, field, None)
                for field in ("id", "attr", "arg", "name", "module", "value")
            ]
            if any(
                isinstance(word, str) and " " not in word and named.search(word)
                for word in words
            ):
                found.add(str(path.relative_to(ROOT)))
    assert found == BENCHMARKS_NAMED.keys()


@pytest.mark.parametrize("name", ("utils", "helpers", "helper", "common", "misc"))
def test_no_room_is_without_a_name(name):
    assert not [path for path in MODULES if path.stem == name]


def test_a_reader_of_the_tree_alone_finds_the_parts_they_ask_for():
    for path in (
        "judging/marks.py",  # the rule that reads "\\boxed{}"
        "student/loss/divergences.py",  # the K+1-event KL
        "training/data/packing.py",  # the packer
        "corpus/sampling/responses.py",  # the SQLite of responses
        "chips.py",  # the chip table
        "corpus/tasks/shipped/gsm8k.toml",  # how GSM8K is read
    ):
        assert (ROOT / "specialize" / path).is_file(), path


def test_every_module_with_shapes_is_checked_while_tests_run(pytestconfig):
    checked = tuple(pytestconfig.getoption("jaxtyping_packages").split(",")[:-1])
    for path in MODULES:
        if "from jaxtyping import" in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert f"{name}.".startswith(tuple(f"{one}." for one in checked)), name
