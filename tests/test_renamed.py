"""Scripts of version 0.1 find its modules and names, with one warning each."""

import ast
import importlib
import importlib.util
import pathlib
import sys
import types
import warnings
from collections.abc import Iterator

import pytest

from specialize import renamed
from specialize.corpus.tasks import known
from specialize.errors import InputError
from specialize.renamed import MOVED

GOLDEN = pathlib.Path(__file__).parent / "golden" / "names_of_0_1.txt"
NAMES = {
    old: names.split()
    for old, _, names in (
        line.partition(":") for line in GOLDEN.read_text().splitlines()
    )
}
# Names that ended with version 0.1: what they meant is no more, or another thing.
GONE = {
    "checkpoints.huggingface": "TOKENIZER_FILES copy_companions write_tokenizer",
    "checkpoints.lazy": "remembered",
    "checkpoints.orbaxes": "STATE",
    "checkpoints.zarrs": "pieces",
    "corpus.alignment_rows": "UNKNOWN_PIECE",
    "corpus.beam": "Judged Path",
    "corpus.cards": "LICENCES",
    "corpus.decisions": "Verdict check_limits decide",
    "corpus.label_answers": "choice_marked choice_unmarked label_marked label_unmarked",
    "corpus.manifest": "NAME",
    "corpus.panel": "snapshot",
    "corpus.parallel": "T",
    "corpus.passages": "first_sentence last_sentence without_tokens",
    "corpus.passes": "Judged Sources judge_all",
    "corpus.pipeline": "Path READERS",
    "corpus.rendering": "Settings",
    "corpus.sample": "read_prompt",
    "corpus.sampling": "Plan",
    "corpus.verification": "near_duplicates",
    "cost.bench_cases": "input_padded loss_plain train_plain",
    "cost.program": "make_mesh",
    "cost.topologies": "CHIPS",
    "evaluation.averages": "MAS",
    "evaluation.bbh": "ANSWER_TYPES TASKS WorkedExample",
    "evaluation.figures": "Interval",
    "evaluation.runs": "METRICS_FILE",
    "evaluation.splits": "VALIDATION_SHARES",
    "evaluation.suites": "DEMONSTRATION_FILE GROUPS MATH_FILES",
    "student.decoding": "Choice",
    "student.layout": "is_scanned scan_params",
    "student.loss_fused": "Plan make_plan",
    "student.loss_rows": "Rows",
    "student.losses": "cross_entropy_loss fused_cross_entropy_loss",
    "training.batches": "Plan",
    "training.examples": "LAYOUT load_examples remove",
    "training.feed": "place put",
    "training.ledger": "Ledger",
    "training.loop": "CHECKPOINTS",
    "training.order": "ORDERS check_order",
    "training.packing": "ENCODER_FEATURE",
    "training.sight": "Interval METRICS_FILE Sight",
    "training.state": "Layout",
    "training.step": "Sums",
    "training.survival": "check_resumable",
    "training.throughput": "PEAKS Shape",
}
# What is imported here: the rooms that need neither JAX nor TensorFlow.
LIGHT = [
    old for old in MOVED if old.startswith("specialize.corpus.") and "beam" not in old
]


def imported(statement: str) -> tuple[dict[str, object], list[str]]:
    """What a statement of a script defines, and its warnings."""
    found: dict[str, object] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile(statement, "script.py", "exec"), found)
    assert {one.filename for one in caught} <= {"script.py"}
    assert {one.category for one in caught} <= {FutureWarning}
    return found, [str(one.message) for one in caught]


_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def gone(old: str) -> list[str]:
    return GONE.get(old.removeprefix("specialize."), "").split()


def names_in(module: str) -> Iterator[str]:
    """The names at the top of a module, which is not imported."""
    spec = importlib.util.find_spec(module)
    for node in ast.parse(pathlib.Path(spec.origin).read_text()).body:
        if isinstance(node, _DEFINITIONS):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (one.asname or one.name for one in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = getattr(node, "targets", None) or [node.target]
            yield from (one.id for one in targets if isinstance(one, ast.Name))


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_has_the_names_that_it_had(old):
    homes = [MOVED[old], *renamed.parts_of(old)]
    found = {name for home in homes for name in names_in(home)}
    if old == "specialize.corpus.problems":  # it makes its readers when they are asked
        found |= {f"read_{task}" for task in known.index().tasks}
    assert [name for name in NAMES.get(old, ()) if name not in found] == gone(old)


PACKAGES = [old for old in LIGHT if MOVED[old].startswith(f"{old}.")]


@pytest.mark.parametrize("old", sorted({*LIGHT} - {*PACKAGES}))
def test_an_old_import_is_the_present_module_with_one_warning(old, monkeypatch):
    package, _, module = old.rpartition(".")
    monkeypatch.delitem(sys.modules, old, raising=False)
    monkeypatch.delattr(importlib.import_module(package), module, raising=False)
    found, (warning,) = imported(f"from {package} import {module}")
    new_package, _, new_module = MOVED[old].rpartition(".")
    assert f"{old!r} is {MOVED[old]!r}" in warning
    assert f"Write 'from {new_package} import {new_module}'" in warning
    present = importlib.import_module(MOVED[old])
    for name in NAMES.get(old, ()):
        if hasattr(present, name):
            assert getattr(found[module], name) is getattr(present, name)
    assert imported(f"import {old}")[1] == []  # once is enough


@pytest.mark.parametrize("old", PACKAGES)
def test_a_package_gives_the_names_of_the_module_that_it_was(old, monkeypatch):
    package = importlib.import_module(old)
    for name in NAMES[old]:
        if name in gone(old) or importlib.util.find_spec(f"{old}.{name}"):
            continue  # no more, or now the name of a module
        monkeypatch.delitem(vars(package), name, raising=False)
        found, (warning,) = imported(f"from {old} import {name}")
        assert f"{old!r} is {MOVED[old]!r}" in warning
        assert imported(f"from {old} import {name}")[1] == []
        assert not isinstance(found[name], types.ModuleType)
    with pytest.raises(ImportError, match="cannot import name 'never_there'"):
        imported(f"from {old} import never_there")


def test_only_modules_of_the_table_are_found():
    for name in (
        "specialize.corpus.answer",
        "specialize.nothing.here",
        "corpus.answers",
    ):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_what_scripts_of_0_1_call_works_as_it_did(tmp_path):
    warnings.simplefilter("ignore", FutureWarning)
    from specialize.corpus.answers import judge

    from specialize.inference.engine import Engine, Generation
    from specialize.inference.resumable import decode_to_file

    class Old(Engine):
        def __init__(self):
            pass

        def generate(self, prompts, *, done=()):
            for index in range(len(prompts)):
                yield Generation(index, ("text",), (0.0,), (3,), 0)

    assert judge("The answer is 72.", ["72"], "number", "exact").correct
    (line,) = decode_to_file(Old(), ["q"], tmp_path / "x.jsonl", {"w": 1}, sampling={})
    assert line["num_tokens"] == [3]
    with pytest.raises(InputError, match="decoding=DecodingSpec"):
        decode_to_file(
            Old(), ["q"], tmp_path / "y.jsonl", {}, sampling={"method": "sample"}
        )
