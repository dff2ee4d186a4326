"""The identity of code follows all that the code refers to, in every process."""

import importlib
import os
import subprocess
import sys

import pytest

from specialize.training.data import code_identity

# How a step comes to a value: the module of the step, and one that it imports.
WAYS = {
    "attribute of a module": (
        "import other\ndef step(x): return other.value + x",
        "value = {value}",
    ),
    "a name of a module": (
        "from other import value\ndef step(x): return value + x",
        "value = {value}",
    ),
    "a function of a module": (
        "import other\ndef step(x): return other.rule(x)",
        "def rule(x): return x, {value}",
    ),
    "a call of a call": (
        "import other\ndef step(x): return other.rule(x)",
        "value = {value}\ndef inner(x): return x, value\ndef rule(x): return inner(x)",
    ),
    "an inner function": (
        "import other\ndef step(x):\n    def one(y): return other.rule(y)\n"
        "    return one",
        "value = {value}\ndef rule(x): return lambda: value",
    ),
    "a comprehension": (
        "import other\ndef step(x): return [other.value for _ in x]",
        "value = {value}",
    ),
    "an import in the function": (
        "def step(x):\n    import other\n    return other.rule(x)",
        "value = {value}\ndef rule(x): return x, value",
    ),
    "a name imported in the function": (
        "def step(x):\n    from other import rule as one\n    return one(x)",
        "value = {value}\ndef rule(x): return x, value",
    ),
    "a module as a value": (
        "import other\ndef step(x): return getattr(other, x)",
        "value = {value}",
    ),
    "a module in a table": (
        "import other\nTABLE = {{'a': other}}\ndef step(x): return TABLE[x].value",
        "value = {value}",
    ),
    "a method of a class": (
        "import other\ndef step(x): return other.Rule().rule(x)",
        "class Rule:\n    def rule(self, x): return x, {value}",
    ),
    "an inherited attribute": (
        "import other\nclass Rule(other.Base): pass\nstep = Rule()",
        "class Base:\n    value = {value}\n"
        "    def __call__(self, x): return self.value",
    ),
    "a static method": (
        "import other\nstep = other.Rule.rule",
        "class Rule:\n    @staticmethod\n    def rule(x): return x, {value}",
    ),
    "a class method": (
        "import other\nstep = other.Rule.rule",
        "class Rule:\n    value = {value}\n    @classmethod\n"
        "    def rule(cls, x): return x, cls.value",
    ),
    "a property": (
        "import other\ndef step(x): return other.rule.value",
        "class Rule:\n    @property\n    def value(self): return {value}\n"
        "rule = Rule()",
    ),
    "a method of an object": (
        "import other\nstep = other.Rule({value}).rule",
        "class Rule:\n    def __init__(self, value): self.value = value\n"
        "    def rule(self, x): return x, self.value",
    ),
    "an object with slots": (
        "import other\nstep = other.Rule({value})",
        "class Rule:\n    __slots__ = ('value',)\n"
        "    def __init__(self, value): self.value = value\n"
        "    def __call__(self, x): return self.value",
    ),
    "a data class": (
        "import other\nrule = other.Rule()\ndef step(x): return rule.value",
        "import dataclasses\n@dataclasses.dataclass\n"
        "class Rule:\n    value: object = {value}",
    ),
    "what makes a field of a data class": (
        "import other\ndef step(x): return other.Rule().value",
        "import dataclasses\ndef make(): return {value}\n@dataclasses.dataclass\n"
        "class Rule:\n    value: int = dataclasses.field(default_factory=make)",
    ),
    "an enumeration": (
        "import other\ndef step(x): return other.Rule.A",
        "import enum\nclass Rule(enum.Enum):\n    A = {value}",
    ),
    "a class in the function": (
        "import other\ndef step(x):\n    class One:\n        value = other.value\n"
        "    return One",
        "value = {value}",
    ),
    "a bound argument": (
        "import functools, other\nstep = functools.partial(other.rule, y={value})",
        "def rule(x, y): return x, y",
    ),
    "a bound function": (
        "import functools, other\nstep = functools.partial(other.rule, 1)",
        "value = {value}\ndef rule(x, y): return x, y, value",
    ),
    "a lambda": (
        "import other\nstep = lambda x: other.rule(x)",
        "rule = lambda x: (x, {value})",
    ),
    "a closure": (
        "import other\nstep = other.maker({value})",
        "def maker(value): return lambda x: (x, value)",
    ),
    "a default argument": (
        "import other\ndef step(x, rule=other.rule): return rule(x)",
        "def rule(x, *, y={value}): return x, y",
    ),
    "a decorator": (
        "import other\n@other.decorated\ndef step(x): return x",
        "import functools\ndef decorated(f):\n    @functools.wraps(f)\n"
        "    def g(x): return f(x), {value}\n    return g",
    ),
    "an argument of a decorator": (
        "import other\n@other.decorated({value})\ndef step(x): return x",
        "import functools\ndef decorated(v):\n    def outer(f):\n"
        "        @functools.wraps(f)\n        def g(x): return f(x), v\n"
        "        return g\n    return outer",
    ),
    "a cached function": (
        "import other\ndef step(x): return other.rule(x)",
        "import functools\nvalue = {value}\n@functools.cache\n"
        "def rule(x): return value",
    ),
    "a table of functions": (
        "import other\ndef step(x): return other.RULES[0]['a'](x)",
        "RULES = [{{'a': lambda x: (x, {value})}}]",
    ),
    "a mapping": (
        "import other\ndef step(x): return other.TABLE[x]",
        "TABLE = {{'a': [1, {{'b': {value}}}]}}",
    ),
    "a set": (
        "import other\ndef step(x): return x in other.TABLE",
        "TABLE = {{'a', 'b', str({value})}}",
    ),
    "an array": (
        "import other\ndef step(x): return other.TABLE[x]",
        "import numpy as np\nTABLE = np.zeros(5000, object)\nTABLE[2500] = {value}",
    ),
    "a pattern": (
        "import other\ndef step(x): return other.PATTERN.sub('', x)",
        "import re\nPATTERN = re.compile(str({value}))",
    ),
    "a file that is read at import": (
        "import other\ndef step(x): return other.TEMPLATES[x]",
        "import json, pathlib\nTEMPLATES = json.loads("
        "pathlib.Path(__file__).with_name('data.json').read_text())",
    ),
    "the environment at import": (
        "import other\ndef step(x): return other.value + x",
        "import os\nvalue = os.environ['VALUE_OF_TEST']",
    ),
    "a function that refers to itself": (
        "import other\ndef step(x): return other.rule(x)",
        "value = {value}\ndef rule(x): return rule(x) if x else other(x)\n"
        "def other(x): return rule, value",
    ),
}


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Gives the step of two modules as if each call were in a process of its own."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = ("steps", "other")

    def load(step, other, value):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "steps.py").write_text(step.format(value=value))
        (folder / "other.py").write_text(other.format(value=value))
        (folder / "data.json").write_text(f'{{"a": {value}}}')
        monkeypatch.setenv("VALUE_OF_TEST", str(value))
        for name in known:
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module("steps").step

    yield load
    for name in known:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("way", WAYS)
def test_a_change_of_what_code_refers_to_changes_its_identity(way, loaded):
    first, again, second = (
        code_identity.identity(loaded(*WAYS[way], value)) for value in (3, 3, 4)
    )
    assert first == again and first[1] == []
    assert second[0] != first[0] and second[1] == []


# Code that has a module as a value may use all of it.
ALL_OF_IT = {"a module as a value", "a module in a table", "an import in the function"}


@pytest.mark.parametrize("way", sorted(WAYS.keys() - ALL_OF_IT))
def test_what_code_does_not_refer_to_may_change(way, loaded):
    step, other = WAYS[way]
    first, second = (
        code_identity.identity(loaded(step, f"{other}\n{more}", 3))
        for more in ("", "# a comment\nUNRELATED = 5\ndef unrelated(): return open")
    )
    assert first == second


@pytest.mark.parametrize(
    "body",
    [
        "import os\ndef rule(x): return os.environ[x]",
        "from os import getenv\ndef rule(x): return lambda: getenv(x)",
        "def rule(x): return open(x).read()",
        "import pathlib\ndef rule(x): return pathlib.Path(x).read_text()",
        "def rule(x): return eval(x)",
        "import importlib\ndef rule(x): return importlib.import_module(x)",
        "import threading\nLOCK = threading.Lock()\ndef rule(x): return LOCK",
        "import os\nFILE = open(os.devnull)\ndef rule(x): return FILE.read()",
        "ROWS = (n for n in range(3))\ndef rule(x): return next(ROWS)",
        "def rule(x):\n    import there_is_no_such_module\n    return x",
        "ONE = object()\ndef rule(x): return x is ONE",
    ],
)
def test_code_that_uses_what_cannot_be_compared_says_so(body, loaded):
    step = "import other\ndef step(x): return other.rule(x)"
    first, again = (code_identity.identity(loaded(step, body, 3)) for _ in range(2))
    assert first[0] == again[0]
    assert first[1] and again[1]


class Hostile:
    """Raises whatever is looked at, as a proxy of something that is gone."""

    def __getattribute__(self, name):
        raise RuntimeError(f"no {name}")


def test_an_object_that_cannot_be_looked_at_says_so():
    _, unknown = code_identity.identity([Hostile(), 1])
    assert unknown and "no " in unknown[0]


def test_a_source_may_read_its_files(loaded):
    step = loaded("def step(x): return open(x)", "", 3)
    assert code_identity.identity(step, may_read=True)[1] == []


def test_code_that_has_run_is_the_same(loaded):
    step = loaded("def step(x): return [x + n for n in range(9)]", "", 3)
    cold = code_identity.identity(step)
    for n in range(1000):  # Python specializes its instructions
        step(n)
    assert code_identity.identity(step) == cold


@pytest.mark.parametrize(
    "cycle",
    [
        "ALL = []\nALL.append(ALL)",
        "ALL = {{}}\nALL['a'] = (ALL,)",
        "ALL = set()\nclass One:\n    all = ALL\nALL |= {{One(), One(), One}}",
    ],
)
def test_an_object_that_has_itself_ends(cycle, loaded):
    step = cycle + "\nVALUE = {value}\ndef step(x): return ALL, step, VALUE"
    first, again, second = (
        code_identity.identity(loaded(step, "", value)) for value in (3, 3, 4)
    )
    assert first == again and first[1] == []
    assert first[0] != second[0]


MANY = """
import functools, re
WORDS = {"a", "b", "c", ("d", "e"), frozenset({"f", "g"})}
class Rule:
    table = {len: WORDS, re.compile("a"): 2}
    def rule(self, x): return x in {"h", "i", "j"}, sorted, self.table, re.sub
rule = functools.partial(Rule().rule)
"""


def test_all_processes_give_the_same_identity(tmp_path):
    (tmp_path / "other.py").write_text(MANY)
    code = (
        "import other; from specialize.training.data.code_identity import identity;"
        "print(identity(other.rule))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ
            | {"PYTHONHASHSEED": seed, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (one.communicate()[0] for one in running)
    assert first == second and first.endswith(", [])\n")
