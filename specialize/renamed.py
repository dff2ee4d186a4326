"""Modules of version 0.1 by their present names: imports of old scripts keep working.

A module of the table is imported under its old name with one `FutureWarning` that names
the new one. Gin files are refused instead, with the same names (`config.renamed`).
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

_MOVED = {
    "checkpoints.huggingface": "checkpoints.formats.huggingface",
    "checkpoints.initial": "checkpoints.loading",
    "checkpoints.lazy": "checkpoints.lazy_tensors",
    "checkpoints.nearby": "checkpoints.opening",
    "checkpoints.orbaxes": "checkpoints.formats.orbax_folders",
    "checkpoints.t5x": "checkpoints.formats.t5x",
    "checkpoints.zarrs": "checkpoints.formats.zarr_arrays",
    "config.places": "config.locations",
    "corpus.aligned": "corpus.building.aligned",
    "corpus.alignment": "corpus.alignment.aligning",
    "corpus.alignment_bytes": "corpus.alignment.byte_offsets",
    "corpus.alignment_dtw": "corpus.alignment.time_warping",
    "corpus.alignment_rows": "corpus.alignment.rows",
    "corpus.answers": "judging.answers",
    "corpus.beam": "corpus.building.beam",
    "corpus.cards": "corpus.storage.cards",
    "corpus.commands_looking": "corpus.inspection.commands",
    "corpus.commands_sampling": "corpus.sampling.commands",
    "corpus.dataset_card": "corpus.storage.dataset_card",
    "corpus.decisions": "corpus.building.decisions",
    "corpus.endpoint": "corpus.sampling.endpoint",
    "corpus.funnel": "corpus.storage.funnel",
    "corpus.inspection": "corpus.inspection.view",
    "corpus.label_answers": "judging.readers.labels",
    "corpus.limits": "corpus.sampling.limits",
    "corpus.looking": "corpus.inspection.lookup",
    "corpus.manifest": "corpus.storage.manifest",
    "corpus.miniature": "quickstart.miniature",
    "corpus.mixing": "corpus.storage.record_order",
    "corpus.number_answers": "judging.readers.numbers",
    "corpus.number_words": "judging.readers.number_words",
    "corpus.panel": "corpus.sampling.panel",
    "corpus.parallel": "corpus.building.parallel",
    "corpus.passages": "judging.ranks",
    "corpus.passes": "corpus.building.passes",
    "corpus.pipeline": "corpus.building.pipeline",
    "corpus.problems": "corpus.tasks.known",
    "corpus.quantities": "judging.quantities",
    "corpus.readings": "corpus.alignment.readings",
    "corpus.reference_rule": "judging.paper_judge",
    "corpus.released": "corpus.building.released",
    "corpus.rendering": "corpus.building.rendering",
    "corpus.responses": "corpus.sampling.responses",
    "corpus.safe_pickle": "corpus.building.safe_pickle",
    "corpus.sample": "corpus.sampling.sample",
    "corpus.sampling": "corpus.sampling.sampler",
    "corpus.shards": "corpus.storage.shards",
    "corpus.stages": "corpus.building.stages",
    "corpus.statements": "judging.readers.statements",
    "corpus.statistics": "corpus.storage.statistics",
    "corpus.stored_record": "corpus.storage.stored_record",
    "corpus.teachers": "corpus.sampling.teachers",
    "corpus.tfrecord": "corpus.storage.tfrecord",
    "corpus.verification": "corpus.building.verification",
    "corpus.wire": "corpus.sampling.wire",
    "cost.bench": "cost.bench.commands",
    "cost.bench_batch": "cost.bench.batch",
    "cost.bench_cases": "cost.bench.cases",
    "cost.bench_protocol": "cost.bench.protocol",
    "cost.bench_shapes": "cost.bench.shapes",
    "cost.bench_stream": "cost.bench.stream",
    "cost.bench_worker": "cost.bench.worker",
    "cost.compiling": "cost.plan.compiling",
    "cost.plan": "cost.plan.planning",
    "cost.program": "cost.plan.program",
    "cost.rows": "cost.plan.estimates",
    "cost.topologies": "cost.plan.topologies",
    "evaluation.averages": "evaluation.scoring.averages",
    "evaluation.bbh": "evaluation.suites.official_prompts",
    "evaluation.elsewhere": "evaluation.judge_predictions",
    "evaluation.figures": "evaluation.report.figures",
    "evaluation.hub": "evaluation.suites.hub",
    "evaluation.judges": "evaluation.scoring.judging",
    "evaluation.report": "evaluation.report.report",
    "evaluation.runs": "evaluation.report.runs",
    "evaluation.splits": "evaluation.suites.splits",
    "evaluation.statistics": "evaluation.scoring.statistics",
    "evaluation.suites": "evaluation.suites.loading",
    "quickstart": "quickstart.walk",
    "student.architecture": "student.network.architecture",
    "student.attention": "student.attention.attention",
    "student.attention_fused": "student.attention.fused_attention",
    "student.attention_kernel": "student.attention.gpu_kernels",
    "student.cache": "student.attention.cache",
    "student.decoding": "student.decoding.decoding",
    "student.layout": "student.network.layout",
    "student.loss_fused": "student.loss.fused_loss",
    "student.loss_kernel": "student.loss.logit_statistics",
    "student.loss_metrics": "student.loss.diagnostics",
    "student.loss_modes": "student.loss.divergences",
    "student.loss_rows": "student.loss.teacher_rows",
    "student.losses": "student.loss.losses",
    "student.relative_bias": "student.attention.relative_bias",
    "student.vocabulary_search": "student.decoding.vocabulary_search",
    "training.batches": "training.data.batches",
    "training.converter": "training.data.converter",
    "training.evaluating": "training.loop.evaluating",
    "training.examples": "training.data.examples",
    "training.factored": "training.optimization.factored",
    "training.feed": "training.data.feed",
    "training.ledger": "training.logging.step_results",
    "training.loop": "training.loop.train",
    "training.mixtures": "training.data.mixtures",
    "training.optimizers": "training.optimization.optimizers",
    "training.order": "training.data.order",
    "training.packing": "training.data.packing",
    "training.profiling": "training.loop.profiling",
    "training.sight": "training.logging.run_log",
    "training.state": "training.optimization.state",
    "training.step": "training.optimization.step",
    "training.survival": "training.loop.interruptions",
    "training.throughput": "training.logging.throughput",
}
MOVED = {f"specialize.{old}": f"specialize.{new}" for old, new in _MOVED.items()}
# For modules that were split: the further ones, as above.
_PARTS = {
    "checkpoints.huggingface": ("checkpoints.formats.huggingface_companions",),
    "corpus.alignment_rows": ("corpus.records", "corpus.alignment.targets"),
    "corpus.label_answers": ("judging.readers.lists",),
    "corpus.miniature": ("quickstart.exact_teacher",),
    "corpus.passages": ("judging.segments", "judging.marks", "judging.sentences"),
    "corpus.quantities": ("judging.readers.equal_quantities",),
    "evaluation.statistics": ("evaluation.scoring.paired",),
    "evaluation.report": ("evaluation.report.origins", "evaluation.report.section"),
    "student.loss_rows": ("student.loss.spec",),
    "student.decoding": ("student.decoding.spec", "student.decoding.source"),
    "training.optimizers": ("training.optimization.spec",),
}


def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
    """Of a module that has moved; None for every other name."""
    return importlib.util.spec_from_loader(name, _Loader()) if name in MOVED else None


def moved_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of a module that had further names in version 0.1.

    Args:
        module: the module.
        names: where each of the names is now, as "room.module".
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = f"specialize.{names[name]}"
        warnings.warn(
            f"since version 0.2 {name!r} of {module!r} is in {home!r}; the old name "
            "will be removed.",
            FutureWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(home), name)

    return find


def names_of(package: str) -> Callable[[str], Any]:
    """`__getattr__` of a package that has the name of a module of version 0.1."""

    def find(name: str) -> Any:
        inside = name.startswith("_") or importlib.util.find_spec(f"{package}.{name}")
        if inside or not hasattr(module := _module(package), name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(package, stacklevel=3)
        found = getattr(module, name)
        setattr(sys.modules[package], name, found)  # one warning per name
        return found

    return find


class _Loader(importlib.abc.Loader):
    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """The default module; `exec_module` replaces it."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Puts the present module in the place of the old one."""
        _warn(module.__name__, stacklevel=3)
        sys.modules[module.__name__] = _module(module.__name__)


def parts_of(old: str) -> list[str]:
    """Further modules with names that the old module had."""
    parts = _PARTS.get(old.removeprefix("specialize."), ())
    return [f"specialize.{part}" for part in parts]


def _warn(old: str, *, stacklevel: int) -> None:
    package, _, module = MOVED[old].rpartition(".")
    warnings.warn(
        f"since version 0.2 the module {old!r} is {MOVED[old]!r}. Write 'from "
        f"{package} import {module}'; the old name will be removed.",
        FutureWarning,
        stacklevel=stacklevel,
    )


def _module(old: str) -> types.ModuleType:
    """The module itself; if it was split, a module with the names of all parts."""
    modules = [importlib.import_module(one) for one in (MOVED[old], *parts_of(old))]
    if len(modules) == 1:
        return modules[0]
    joined = types.ModuleType(old, modules[0].__doc__)
    for module in reversed(modules):
        vars(joined).update((k, v) for k, v in vars(module).items() if k[:2] != "__")
    return joined
