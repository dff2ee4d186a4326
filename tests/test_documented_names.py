"""Every macro, flag, command, file and function that the documentation names exists.

A name counts where it is code: in backticks, in a fenced block, or as a link's target.
Nothing heavy is imported: gin files are read by lines, modules by `ast`, flags from the
parsers of the command line.
"""

import argparse
import ast
import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Iterator

import pytest

from specialize import cli
from specialize.corpus.choices import FORMATS
from specialize.corpus.tasks.spec import Files, Rows

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md") + tuple(
    str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))
)
# Package -> the folder that holds it.
PACKAGES = {"specialize": ROOT, "specialize_tasks": ROOT / "tasks"}

# Words in capitals that are no macro.
NOT_MACROS = {
    # What stands for something in a form.
    *("DIR", "FILE", "FOLDER", "KEY", "NAME", "STEP", "UPPER_CASE", "VALUE", "WORD"),
    # Environment variables of other programs, and a shell's end mark.
    *("HF_HUB_OFFLINE", "JAX_NUM_CPU_DEVICES", "MALLOC_OFF", "OPENAI_API_KEY"),
    *("JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"),
    "JAX_ENABLE_COMPILATION_CACHE",
    *("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"),
    *("END", "JOB", "PIP_EXTRA_INDEX_URL", "PYTHONPATH", "SBATCH", "TERM"),
    # Words of messages that a page quotes.
    *("CPU", "MPI", "RESOURCE_EXHAUSTED", "TPU", "URL"),
    "SPCZ",  # the application id of a response database
    # A slip that a shown message is about.
    "BATCHSIZE",
}
# Flags of other programs, named in a sentence (a command line says whose they are).
FOREIGN_FLAGS = {
    "--gin_bindings": "T5X's spelling, which a sentence compares with ours",
    "--logits_all": "llama.cpp's server",
    "--max-logprobs": "vLLM's server",
    "--requeue": "SLURM's sbatch",
    "--show": "benchmarks/judge_agreement.py, named one line above",
    "--signal": "SLURM's sbatch",
}
# Modules of other projects, and fields of JSON files that formats.md describes.
FOREIGN_MODULES = {"AutoModelForSeq2SeqLM", "seqio", "t5x", "tf", "transformers"}
FOREIGN_MODULES |= {"PeftModel", "content", "fingerprint", "jax"}
# Variables of the pages' Python, and their classes.
VARIABLES = {"student": "LoadedStudent"}
# A dotted name that ends so is a file that some command writes or reads.
ENDINGS = {
    "bin",
    "cff",
    "gin",
    "html",
    "json",
    "jsonl",
    "md",
    "model",
    "pkl",
    "py",
    "safetensors",
    "toml",
    "txt",
}


# ---- Reading pages -------------------------------------------------------------------


@functools.cache
def code(page: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(inline code, fenced lines with continuations joined) of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fences = re.findall(r"^```(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^(    .*\n)+", "\n", prose, flags=re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = [
        re.sub(r"(^|\s+)#\s.*", "", line)  # a comment is prose
        for fence in fences
        for line in fence.replace("\\\n", " ").splitlines()
    ]
    return tuple(spans), tuple(lines)


def snippets(page: str) -> tuple[str, ...]:
    """Every piece of code of a page, except a lone flag of XLA (`--xla_NAME=VALUE`)."""
    spans, lines = code(page)
    return tuple(text for text in spans + lines if not text.startswith("--xla_"))


# ---- Macros --------------------------------------------------------------------------


@functools.cache
def macros() -> frozenset[str]:
    found: set[str] = set()
    for path in (ROOT / "t5x_configs").rglob("*.gin"):
        found |= set(re.findall(r"^([A-Z][A-Z0-9_]*) *=", path.read_text(), re.M))
    return frozenset(found)


@functools.cache
def source() -> str:
    files = itertools.chain(
        *((ROOT / part).rglob("*.py") for part in ("specialize", "tasks", "tests"))
    )
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def unknown_macros(text: str) -> list[str]:
    """Words in capitals that no gin file sets and that nothing else explains."""
    # Neither a part of a longer word or path, nor text in quotes, nor a file's name.
    words = re.findall(r"(?<![\w'\"./\\$])([A-Z][A-Z0-9_]{2,})\b(?!\.\w|')", text)
    words += re.findall(r"--gin\.(\w+)", text)
    formats = members(ROOT / "specialize/versions.py").keys()
    return [
        word
        for word in words
        if word not in macros() | NOT_MACROS | formats
        and not (word.startswith("SPECIALIZE_") and f'"{word}"' in source())
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_macro_is_set_by_a_gin_file(page):
    found = {text: unknown_macros(text) for text in snippets(page)}
    assert {text: words for text, words in found.items() if words} == {}


# ---- Flags and commands --------------------------------------------------------------


def commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command as its words, with its parser."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield from commands(one, (*words, name))


@functools.cache
def flags() -> dict[tuple[str, ...], frozenset[str]]:
    """Command's words -> its flags; "--gin.NAME" goes to every one with gin files."""
    return {
        words: frozenset(flag for a in parser._actions for flag in a.option_strings)
        for words, parser in commands(cli.parser())
    }


def flags_of_script(path: str) -> set[str]:
    """The flags that a benchmark's own file adds."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", "") == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value)[:2] == "--"
    }


def unknown_flags(text: str) -> list[str]:
    """Flags that the command of a line does not have, and commands there are not."""
    text = re.sub(r"'--[^']*'", "", text)  # what is passed on
    ours = re.search(r"(?<![\w/.'-])specialize((?: [a-z][\w-]*)+)", text)
    script = re.search(r"\bbenchmarks/\w+\.py", text)
    if ours:
        words, text = tuple(ours[1].split())[:2], text[ours.end() :]
        nested = any(len(one) == 2 and one[0] == words[0] for one in flags())
        found = words if nested else words[:1]
        if found not in flags():
            return [f"specialize {' '.join(words)}"]
        known = flags()[found]
    elif script:
        known = flags_of_script(script[0])
    elif text.startswith("--"):
        known = frozenset().union(*flags().values(), FOREIGN_FLAGS)
    else:
        return []  # another program's command line, or no flag at all
    known = {*known, *(["--gin"] if "--gin_file" in known else [])}
    said = re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)
    return [flag for flag in said if flag not in known]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_flag_is_the_parsers(page):
    found = {text: unknown_flags(text) for text in snippets(page)}
    assert {text: words for text, words in found.items() if words} == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_target_of_make_is_the_makefiles(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    said = {
        word for text in snippets(page) for word in re.findall(r"^make ([\w-]+)", text)
    }
    assert said <= targets


# ---- Files ---------------------------------------------------------------------------

FOLDERS = ("benchmarks", "docs", "specialize", "t5x_configs", "tasks", "tests")


def expanded(path: str) -> list[str]:
    """The paths that "a_{b,c}.gin" stands for."""
    braces = re.search(r"\{([^{}]*)\}", path)
    if not braces:
        return [path]
    return [
        path[: braces.start()] + one + path[braces.end() :]
        for one in braces[1].split(",")
    ]


def missing_files(text: str) -> list[str]:
    """Paths into the repository, or of gin files, where nothing is."""
    inside = rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./*{{}},-]*"
    gin = r"(?<![\w./*{},-])[\w./*{},-]+\.gin\b"
    root = r"^(?:[A-Z]+\.md|Makefile|pyproject\.toml|setup\.py)$"
    found = [
        path
        for match in re.findall(f"{inside}|{gin}|{root}", text)
        for path in expanded(match.rstrip(".,"))
        if path.split("/")[-1] not in ("config.gin", "operative_config.gin")
        and not path.startswith("own/")  # what the second tutorial makes
    ]
    return [
        path
        for path in found
        if not any(
            list(base.glob(path))
            for base in (ROOT, ROOT / "t5x_configs", ROOT / "t5x_configs/data")
        )
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_repository_is_there(page):
    found = {text: missing_files(text) for text in snippets(page)}
    assert {text: paths for text, paths in found.items() if paths} == {}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        # `make docs` writes these folders, and fails itself on a dead link into them.
        made = re.match(r"(\.\./)*(project|reference)/", target)
        if "://" not in target and not made:
            assert (ROOT / page).parent.joinpath(target).exists(), target


# ---- Modules and functions -----------------------------------------------------------


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """Dotted name -> file of every module and package of ours, benchmarks too."""
    found: dict[str, pathlib.Path] = {}
    for part, base in {**PACKAGES, "benchmarks": ROOT}.items():
        for path in (base / part).rglob("*.py"):
            dotted = ".".join(path.relative_to(base).with_suffix("").parts)
            found[dotted.removesuffix(".__init__")] = path
    return found


@functools.cache
def members(path: pathlib.Path) -> dict[str, frozenset[str]]:
    """What a module defines or imports -> names inside it: attributes, parameters."""
    found: dict[str, set[str]] = {}

    def names(node: ast.AST) -> list[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return [node.name]
        if isinstance(node, ast.Assign):
            return [one.id for one in node.targets if isinstance(one, ast.Name)]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            return [node.target.id]
        if isinstance(node, ast.ImportFrom):
            return [one.asname or one.name for one in node.names]
        return []

    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in [
        *body,
        *(one for at in body if isinstance(at, ast.If) for one in at.body),
    ]:
        inside: set[str] = set()
        if isinstance(node, ast.ClassDef):
            inside = {name for one in node.body for name in names(one)}
            inside |= {
                one.attr
                for one in ast.walk(node)
                if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
            }
        if isinstance(node, ast.FunctionDef):
            inside = {one.arg for one in node.args.args + node.args.kwonlyargs}
        for name in names(node):
            found.setdefault(name, set()).update(inside)
    return {name: frozenset(inside) for name, inside in found.items()}


def resolves(dotted: str) -> bool:
    """Whether a module, what it defines, or a member of that has this name.

    The name may begin at any package, at a module, or at a class.
    """
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        prefix, rest = ".".join(parts[:length]), parts[length:]
        for name, path in modules().items():
            if name != prefix and not name.endswith(f".{prefix}"):
                continue
            if not rest or (len(rest) == 1 and rest[0] in members(path)):
                return True
            if len(rest) == 2 and rest[1] in members(path).get(rest[0], ()):
                return True
    return len(parts) == 2 and any(
        parts[1] in members(path).get(parts[0], ()) for path in modules().values()
    )


@functools.cache
def keys_of_task_files() -> frozenset[str]:
    """ "table.key" for every key that a task file may have."""
    found = {f"formats.{name}" for name in (*FORMATS, "closing", "target", "separator")}
    for table, kind in (("files", Files), ("fields", Rows)):
        found |= {f"{table}.{one.name}" for one in dataclasses.fields(kind)}
    return frozenset(found | {"answer.type", "answer.judge", "fields.records"})


def unknown_names(text: str) -> list[str]:
    """Dotted names of ours that nothing has."""
    inside = re.findall(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+", text)
    alone = re.fullmatch(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?", text)
    found = set(inside)
    if alone:
        name, _, rest = alone[1].partition(".")
        found.add(f"{VARIABLES.get(name, name)}.{rest}")
    return [
        name
        for name in sorted(found)
        if name.split(".")[0] not in FOREIGN_MODULES
        and name.split(".")[-1] not in ENDINGS
        and name not in keys_of_task_files()
        and not resolves(name)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_module_and_function_is_defined(page):
    found = {text: unknown_names(text) for text in snippets(page)}
    assert {text: names for text, names in found.items() if names} == {}


# ---- The checks themselves -----------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (unknown_macros, "`MESH = '2x4'`", "SAMPLING_TEMPERATURE"),
        (unknown_macros, "specialize train --gin.SEED=1", "x --gin.SEDE=1"),
        (unknown_macros, "SPECIALIZE_CACHE=a", "SPECIALIZE_CASH=a"),
        (
            unknown_flags,
            "specialize evaluate --split all",
            "specialize evaluate --spilt",
        ),
        (
            unknown_flags,
            "specialize corpus build --k 5",
            "specialize corpus bild --k 5",
        ),
        (
            unknown_flags,
            "specialize train --gin.SEED=1",
            "specialize report --gin.SEED=1",
        ),
        (unknown_flags, "pip install --no-deps x", "--no-depths"),
        (
            unknown_flags,
            "python benchmarks/decoding.py --data d",
            "python benchmarks/decoding.py --dat d",
        ),
        (missing_files, "specialize/cli.py", "specialize/clay.py"),
        (
            missing_files,
            "recipes/flan_t5_{base,xl}.gin",
            "recipes/flan_t5_{base,xs}.gin",
        ),
        (missing_files, "runs/t5x_*.gin", "runs/t6x_*.gin"),
        (missing_files, "runs/xl", "runs/xl.gin"),
        (unknown_names, "specialize.outputs.write_json", "specialize.outputs.write"),
        (unknown_names, "sharding.DEFAULT_RULES", "sharding.RULES"),
        (unknown_names, "T5Config.emb_dim", "T5Config.emb_dims"),
        (
            unknown_names,
            "specialize_tasks.distill.held_out.fraction",
            "specialize_tasks.distill.held_out.share",
        ),
        (unknown_names, "config.json", "config.jason"),
    ],
)
def test_a_wrong_name_is_found_and_a_right_one_is_not(check, right, wrong):
    assert check(right) == []
    assert check(wrong) != []
