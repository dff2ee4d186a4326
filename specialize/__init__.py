r"""Concentrate a large teacher's chain of thought in a small Flan-T5.

The names that a notebook needs are here; everything else is private to its room:

    student = specialize.load("runs/student")
    student.generate(["Q: ...\nLet's think step by step"])
    student.loss(specialize.Corpus("runs/corpus"))
    specialize.judge("The answer is 18.", gold="18")

Importing this package imports no other module; a name is imported at its first use.
`README.md` has the map of the rooms.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specialize.checkpoints.convert import convert as convert
    from specialize.checkpoints.merging import merge as merge
    from specialize.checkpoints.spec import CheckpointSpec as CheckpointSpec
    from specialize.corpus.alignment.targets import DistillRecord as DistillRecord
    from specialize.corpus.opened import Corpus as Corpus
    from specialize.errors import InputError as InputError
    from specialize.evaluation.evaluate import evaluate as evaluate
    from specialize.evaluation.selection import select as select
    from specialize.evaluation.spec import EvaluationSpec as EvaluationSpec
    from specialize.inference.loaded import Generated as Generated
    from specialize.inference.loaded import LoadedStudent as LoadedStudent
    from specialize.inference.loaded import load as load
    from specialize.inference.spec import DecodingSpec as DecodingSpec
    from specialize.judging.answers import Verdict as Verdict
    from specialize.judging.spec import JudgeSpec as JudgeSpec
    from specialize.judging.text import judge as judge
    from specialize.mesh import MeshSpec as MeshSpec
    from specialize.student.adapters.spec import AdapterSpec as AdapterSpec
    from specialize.training.data.spec import DataSpec as DataSpec
    from specialize.training.logging.spec import LoggingSpec as LoggingSpec
    from specialize.training.loop.spec import PeriodicEvaluation as PeriodicEvaluation
    from specialize.training.loop.train import train as train
    from specialize.training.optimization.spec import OptimizerSpec as OptimizerSpec
    from specialize.training.rollouts.spec import RolloutSpec as RolloutSpec

__version__ = "0.2.0"  # setup.py and the reports read it here

_HOMES = {
    "load": "inference.loaded",
    "LoadedStudent": "inference.loaded",
    "Generated": "inference.loaded",
    "judge": "judging.text",
    "Verdict": "judging.answers",
    "Corpus": "corpus.opened",
    "DistillRecord": "corpus.alignment.targets",
    "train": "training.loop.train",
    "evaluate": "evaluation.evaluate",
    "select": "evaluation.selection",
    "convert": "checkpoints.convert",
    "merge": "checkpoints.merging",
    "DataSpec": "training.data.spec",
    "OptimizerSpec": "training.optimization.spec",
    "AdapterSpec": "student.adapters.spec",
    "RolloutSpec": "training.rollouts.spec",
    "CheckpointSpec": "checkpoints.spec",
    "PeriodicEvaluation": "training.loop.spec",
    "LoggingSpec": "training.logging.spec",
    "EvaluationSpec": "evaluation.spec",
    "DecodingSpec": "inference.spec",
    "JudgeSpec": "judging.spec",
    "MeshSpec": "mesh",
    "InputError": "errors",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'specialize' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"specialize.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


class _MovedModules:
    """Asked last: modules of version 0.1 are found by their old names."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name.startswith("specialize."):
            return importlib.import_module("specialize.renamed").find_spec(name)
        return None


sys.meta_path.append(_MovedModules)
