"""The references of gin macros and recipes, from the gin files and their comments."""

import pathlib
import re
from collections.abc import Iterator, Sequence

from specialize.config import scanning

# The files that give macros their defaults, and the run files that require some.
DEFAULTS = ("t5x_configs/runs/values.gin", "t5x_configs/data/text_to_text.gin")
STUDY = "t5x_configs/runs/study.gin"
RUNS = ("train", "evaluate", "infer", "sample", "label")
SECTION = re.compile(r"# -+ (.*?) -+$")
NAME = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")

MACROS = """# Gin macros

A macro is a name in capitals. Set it in a recipe (`BATCH_SIZE = 32`) or on the command
line (`--gin.BATCH_SIZE=32`). Every command that reads gin files knows every macro, so
one recipe serves training and evaluation on both engines. [Configure a
run](../how-to/configuration.md) explains files, their order, and errors. The macros of
a [study](#studies) are set in the file of the study.
"""
RECIPES = """# Recipes

A recipe is a gin file that people launch. The text of each is the comment at its head.
An ablation is given after a recipe and changes one thing of it. `specialize study` runs
a [study](../how-to/study.md).
"""
TABLE = '<div class="stacked" markdown>\n\n| macro | meaning | default |\n|---|---|---|'


def macros() -> str:
    """The page of all macros, in the order and the sections of the files."""
    bindings = _macros_of(DEFAULTS)
    studies = _macros_of([STUDY])
    needed = _required()
    needed |= {
        name: ["study"]
        for name, binding in studies.items()
        if binding.value == scanning.Macro(scanning.REQUIRED)
    }
    lines, last = [MACROS], None
    for name, binding in (bindings | studies).items():
        section, meaning = _comment(binding.origin)
        section = "Studies" if name in studies else section or "Plain text"
        if section != last:
            closed = "" if last is None else "\n</div>\n"
            lines.append(f"{closed}\n## {section}\n\n{TABLE}")
            last = section
        default = f"`{binding.value!r}`"
        if name in needed:
            default = f"*required* by {', '.join(f'`{run}`' for run in needed[name])}"
        meaning = _marked_up(meaning, bindings | studies)
        lines.append(f'| <code id="{name}">{name}</code> | {meaning} | {default} |')
    return "\n".join([*lines, "\n</div>\n"])


def _macros_of(files: Sequence[str]) -> dict[str, scanning.Binding]:
    """The first binding of every macro of some files, in their order."""
    found: dict[str, scanning.Binding] = {}
    for binding in scanning.scan(files).bindings:
        if binding.is_macro:
            found.setdefault(binding.name, binding)
    return found


def _required() -> dict[str, list[str]]:
    """Macro -> the commands whose run file requires it."""
    found: dict[str, list[str]] = {}
    for run in RUNS:
        effective = scanning.scan([f"t5x_configs/runs/{run}.gin"]).macros()
        for name, binding in effective.items():
            if binding.value == scanning.Macro(scanning.REQUIRED):
                found.setdefault(name, []).append(run)
    return found


def _comment(origin: scanning.Origin) -> tuple[str, str]:
    """The section of a statement, and the comment directly above it."""
    text = pathlib.Path(origin.file).read_text(encoding="utf-8")
    above = text.splitlines()[: origin.line - 1]
    section = next((m[1] for line in reversed(above) if (m := SECTION.match(line))), "")
    comment: list[str] = []
    while above and above[-1].startswith("#") and not SECTION.match(above[-1]):
        comment.insert(0, above.pop().lstrip("# "))
    return section, " ".join(comment)


def _marked_up(meaning: str, known: Sequence[str] | dict[str, scanning.Binding]) -> str:
    """Values as code, and names of macros as links to their entries."""
    meaning = re.sub(r"'[\w/:.]+'", lambda m: f"`{m[0]}`", meaning)
    return NAME.sub(
        lambda m: f"[`{m[0]}`](#{m[0]})" if m[0] in known else f"`{m[0]}`", meaning
    )


def recipes() -> str:
    """The page of all recipes, with the comment at the head of each."""
    folder = scanning.package_folder() / "recipes"
    lines = [RECIPES]
    for title, found in (
        ("Recipes", folder.glob("*.gin")),
        ("Ablations", (folder / "ablations").glob("*.gin")),
        ("Studies", (folder.parent / "studies").glob("*.gin")),
    ):
        lines.append(f"## {title}\n")
        for path in sorted(found):
            lines += _recipe(path, str(path.relative_to(folder.parent)))
    return "\n".join(lines)


def _recipe(path: pathlib.Path, name: str) -> Iterator[str]:
    head: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").removeprefix(" "))
    title, _, rest = "\n".join(head).partition("\n\n")
    yield f"### `{name}`\n\n{title}\n"
    if rest.strip():
        yield f"```text\n{rest.rstrip()}\n```\n"
