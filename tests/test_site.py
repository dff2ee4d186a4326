"""What the documentation quotes from the code is in the code, and its links lead on.

`make docs` checks the rest: it builds the site, and a dead link or name fails.
"""

import ast
import functools
import importlib.util
import pathlib
import re
from types import ModuleType

import pytest

from specialize.config import scanning
from specialize.judging.answers import judge

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
HOLE = "\0"  # a part of a message that depends on the input
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(?:#[^)\s]*)?\)")


def template(node: ast.expr) -> str:
    """The text of a string expression, with a hole for everything computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return HOLE


@functools.cache
def messages() -> tuple[str, ...]:
    """Every text of the code that could be a message."""
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    files = [*(ROOT / "specialize").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]
    return tuple(
        " ".join(template(node).split(" "))
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
    )


def quoted_messages() -> list[str]:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)


@pytest.mark.parametrize("quoted", quoted_messages())
def test_a_message_of_the_troubleshooting_page_is_one_of_the_code(quoted):
    parts = [part for part in re.split(r"\s*…\s*", quoted) if part.strip(" .,:")]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    assert any(pattern.search(message) for message in messages()), quoted


def test_a_message_that_is_not_in_the_code_would_be_noticed():
    assert not any("nothing of this kind is ever said" in m for m in messages())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_relative_links_lead_to_files(page):
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), f"{page} links to {target}"


def test_every_macro_has_a_comment_that_the_reference_shows():
    for name in (
        *("runs/values.gin", "runs/study.gin"),
        *("data/locations.gin", "data/text_to_text.gin"),
    ):
        lines = (scanning.package_folder() / name).read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"[A-Z_]+ = ", line) and not line.startswith("MIXTURE"):
                above = lines[number - 1]
                assert re.match(r"# [^-].*", above), f"{name}:{number + 1}: {line}"


def hook(name: str) -> ModuleType:
    """A module that generates pages of the site; it needs no mkdocs."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_macros_and_files_of_studies_are_in_the_references(monkeypatch):
    monkeypatch.chdir(ROOT)
    pages = hook("gin_files")
    macros, recipes = pages.macros(), pages.recipes()
    for name in ("SEEDS", "PREPARE", "CELL", "ARMS", "GRID", "CLAIMS", "FRONT"):
        assert macros.count(f'id="{name}"') == 1
    assert "*required* by `study`" in macros
    for path in (scanning.package_folder() / "studies").glob("*.gin"):
        assert f"### `studies/{path.name}`" in recipes


def test_a_help_text_in_the_reference_of_commands_makes_no_tag():
    pages = hook("commands").pages()
    assert "as &lt;unk&gt;" in pages["corpus"]
    ours = re.compile(r'</?(code|div)( (id|class)="[^"]*"( markdown)?)?>')
    for page in pages.values():
        text = re.sub(r"```.*?```|`[^`]*`", "", page, flags=re.DOTALL)
        assert "<" not in ours.sub("", text)


def test_the_judge_reads_numbers_as_the_page_on_judging_says():
    page = (DOCS / "explanation" / "judging.md").read_text(encoding="utf-8")
    table = page.partition("| text after the mark |")[2].partition("\n\n")[0]
    rows = [[cell.strip(" `") for cell in r.split("|")[1:3]] for r in table.split("\n")]
    for text, answer in rows[2:]:
        assert judge(f"The answer is {text}.", [answer]).value == answer
