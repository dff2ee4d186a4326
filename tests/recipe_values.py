"""What a recipe really sets: macros, and the values that reach the entry functions.

`snapshot` flattens both into one dictionary under names that outlive a refactoring:

    "macro BATCH_SIZE": [32, "recipes/flan_t5_xl.gin"]      value, file that set it
    "optimizer.learning_rate": 0.0005                       what the entry received

On our engine the command itself runs until it calls its entry function; what gin would
pass there is recorded. T5X need not be installed: `OnT5X` evaluates the run file as gin
would, calls what is ours and keeps what is T5X's by name.

The part under "The adapter" knows today's signatures and classes. When they change,
change it, and leave the golden files (tests/golden/recipes) alone.
"""

import contextlib
import dataclasses
import functools
import inspect
import io
import json
import sys
from collections.abc import Collection, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from recipe_cases import (
    EVALUATIONS,
    LAUNCH,
    QUICKSTART,
    QUICKSTART_LAUNCH,
    TRAININGS,
    combinations,
    evaluation,
    quickstart_run,
)

from specialize import cli, config
from specialize.config.problems import target_of
from specialize.config.reading import plain, resolve
from specialize.config.scanning import PACKAGE, Reference, map_leaves
from specialize.errors import InputError
from specialize.student.decoding.spec import GenerationSpec
from specialize.student.model import Student
from specialize.training.optimization.optimizers import Optimizer, make_optimizer
from specialize.training.optimization.spec import OptimizerSpec

# Commands of our engine with the words they need, and their run files.
COMMANDS = {
    "train": ("train",),
    "evaluate": ("evaluate",),
    "select": ("select",),
    "infer": ("infer", "--prompts", "prompts", "--out", "out"),
    "sample": ("sample", "--problems", "problems", "--responses", "responses"),
}
# Run files of T5X and the entry function that each of them configures.
T5X_ENTRIES = {"t5x_train": "train", "t5x_evaluate": "evaluate", "t5x_infer": "infer"}
RUNS = (*COMMANDS, *T5X_ENTRIES)

Flat = dict[str, Any]


def cases(run: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Label -> (gin files, bindings) of every recipe that a run is meant for."""
    found: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    if run.endswith("train"):
        found |= {files: (files, ()) for files in combinations()}
    else:
        for name in [*EVALUATIONS, *TRAININGS]:
            files, bindings = evaluation(name)
            found[files[-1:]] = (files, bindings)
    for name in QUICKSTART:
        if quickstart_run(name) == run:
            files = (f"recipes/{name}",)
            found[files] = (files, QUICKSTART_LAUNCH)
    return {" + ".join(label): case for label, case in found.items()}


def snapshots(run: str) -> dict[str, Flat]:
    """Label -> snapshot of every recipe that a run is meant for."""
    return {label: snapshot(run, *case) for label, case in cases(run).items()}


def snapshot(run: str, files: tuple[str, ...], bindings: tuple[str, ...] = ()) -> Flat:
    """The macros of one recipe, and what they reach."""
    launch = [*_unset(files), *bindings]
    files = (f"runs/{'evaluate' if run == 'select' else run}.gin", *files)
    if run in T5X_ENTRIES:
        found = config.read(files, launch)
        flat = OnT5X(found).flat(T5X_ENTRIES[run])
    else:
        words = [f"--gin_file={name}" for name in files]
        words += [f"--gin_bindings={binding}" for binding in launch]
        arguments, found = called([*COMMANDS[run], *words])
        flat = described(run, arguments) | elsewhere(found)
    if run != "select":  # `select` reads the macros of `evaluate`
        macros = found.scan.macros()
        for name, binding in macros.items():
            file = binding.origin.file.rpartition(f"{PACKAGE}/")[2]
            value = _literal(resolve(binding.value, macros))
            flat[f"macro {name}"] = [value, file]
    return flat


@functools.cache
def _unset(files: tuple[str, ...]) -> tuple[str, ...]:
    """What a launch adds, without what a recipe says itself."""
    said = config.read(files).scan.macros()
    return tuple(b for b in LAUNCH if b.partition(" = ")[0] not in said)


class _Called(BaseException):
    """Carries what an entry function would have been called with."""


def called(words: list[str]) -> tuple[Flat, config.Config]:
    """The arguments of the entry function of a command line, and its configuration."""

    def call(function: Any, **options: Any) -> None:
        given = {**config.arguments(function), **options}
        raise _Called(function, given, config.current())

    errors = io.StringIO()
    with mock.patch.object(config, "call", call), contextlib.redirect_stderr(errors):
        try:
            status = cli.main(words)
        except _Called as reached:
            function, given, found = reached.args
            return {**_defaults(function), **given}, found
    raise AssertionError(f"{words} ended with {status}: {errors.getvalue()}")


def elsewhere(found: config.Config, reached: Collection[tuple[str, str]] = ()) -> Flat:
    """Bindings beside what was reached, of modules that are not ours or are tasks'.

    They say where the data lie. What is ours and was not reached has no effect.
    """
    macros = found.scan.macros()
    return {
        f"{b.selector.rpartition('.')[2]}.{b.parameter}": _literal(
            resolve(b.value, macros)
        )
        for b in found.scan.effective().values()
        if not b.is_macro
        and b.selector.partition(".")[0] != "specialize"
        and (b.scope, b.selector) not in reached
    }


def _defaults(function: Any) -> Flat:
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }


def _literal(value: Any) -> Any:
    """`value` as JSON has it; a class or configurable is its last name."""

    def leaf(item: Any) -> Any:
        if isinstance(item, Reference):
            return f"@{item.selector.rpartition('.')[2]}{'()' if item.calls else ''}"
        if isinstance(item, Foreign):
            return str(item)
        return f"@{item.__name__}" if callable(item) else item

    return plain(map_leaves(value, leaf))


# ---- The adapter: today's parameters and classes under lasting names -----------------

_PLACES = {
    "model_dir": "places.run",
    "initial_checkpoint_path": "places.initial_weights",
    "benchmarks_dir": "places.benchmarks",
    "vocabulary_path": "places.vocabulary",
    "checkpoint": "places.weights",
    "output_dir": "places.output",
    "json_path": "places.results_copy",
    "base": "places.base_results",
    "prompts_path": "places.prompts",
    "out": "places.texts",
    "responses": "places.responses",
}
_DECODING = {
    name: f"decoding.{name}"
    for name in (
        *("method", "temperature", "top_p", "num_samples", "num_beams", "seed"),
        *("batch_size", "input_length", "output_length"),
    )
}
_SUITES = {
    "suites": "evaluation.suites",
    "prompt": "evaluation.prompt",
    "split": "evaluation.split",
    "max_examples": "evaluation.max_examples",
    "demonstrations": "evaluation.demonstrations",
    "benchmarks_dir": "places.benchmarks",
    "vocabulary_path": "places.vocabulary",
}
_TRAIN = {
    "total_steps": "run.total_steps",
    "rules": "run.sharding_rules",
    "evaluators": "evaluation.further",
}
_SAMPLING = {
    name: f"sampling.{name}"
    for name in (
        *("dataset", "limit", "samples", "max_samples", "samples_per_request"),
        *("top_logprobs", "name", "log_every_s", "upload_every_s"),
    )
}
NAMES = {
    "train": {**_PLACES, **_TRAIN},
    "evaluate": _PLACES,
    "select": {**_PLACES, "by": "selection.by"},
    "infer": _PLACES,
    "sample": {**_PLACES, **_SAMPLING},
}
# Class of a specification -> lasting names of its fields. Fields without a name did not
# exist when the golden files were made, or have no effect in a run.
SPECS = {
    "EvaluationSpec": _SUITES,
    "DecodingSpec": _DECODING,
    "JudgeSpec": {"judge": "judge.rule", "answer_type": "judge.answer_type"},
    "RolloutSpec": {
        name: f"rollouts.{name}"
        for name in (
            *("share", "teacher", "server", "model", "prompt_path", "problems_path"),
            *("task", "steps", "batch_size", "temperature", "top_k", "concurrency"),
            *("api_key_env", "whole_vocabulary"),
        )
    },
    "DataSpec": {
        "mixture": "data.mixture",
        "feature_lengths": "data.feature_lengths",
        "batch_size": "data.batch_size",
        "split": "data.split",
        "pack": "data.pack",
        "window_rows": "data.window_rows",
        "order": "data.order",
        "reuse_examples": "data.reuse_examples",
        "examples_dir": "places.examples",
        "seed": "run.seed",
        "microbatches": "run.microbatches",
    },
    "CheckpointSpec": {
        "dir": "places.checkpoints",
        "period": "checkpoints.period",
        "keep": "checkpoints.keep",
        "best_metric": "checkpoints.best_metric",
        "best_mode": "checkpoints.best_mode",
    },
    "LoggingSpec": {
        "period": "logging.period",
        "tensorboard": "logging.tensorboard",
        "peak_flops": "logging.peak_flops",
        "profile_steps": "logging.profile_steps",
    },
    "PeriodicEvaluation": {
        "period": "evaluation.period",
        "split": "evaluation.held_out_split",
        "mixture": "evaluation.held_out_mixture",
        "batch_size": "evaluation.batch_size",
        "max_examples": "evaluation.max_examples",
    },
    "Questions": {
        **_SAMPLING,
        "problems_path": "places.problems",
        "prompt_path": "places.worked_examples",
    },
    "SamplingSpec": _SAMPLING,
    "PaceSpec": {},
    "PriceSpec": {},
}
# `select` asks both splits; a suite has answer types of its own.
_UNUSED = {("select", "split"), ("evaluate", "answer_type"), ("select", "answer_type")}
# What sampling a checkpoint takes of the decoding: it draws, as its plan says.
_DRAWN = ("temperature", "top_p", "seed", "batch_size", "input_length", "output_length")
# What training takes of an evaluation: the rest is its own (`PeriodicEvaluation`).
_DURING = ("suites", "prompt", "benchmarks_dir", "vocabulary_path")


def of_spec(spec: Any, run: str) -> Flat:
    """The fields of a specification, and of those inside it, under lasting names."""
    names = SPECS[type(spec).__name__]
    if run == "sample" and names is _DECODING:
        names = {name: names[name] for name in _DRAWN}
    if run == "train" and names is _SUITES:
        return {names[name]: _literal(getattr(spec, name)) for name in _DURING}
    flat: Flat = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if dataclasses.is_dataclass(value):
            flat |= of_spec(value, run)
        elif field.name in names and (run, field.name) not in _UNUSED:
            flat[names[field.name]] = _literal(value)
    return flat


def described(run: str, arguments: Flat) -> Flat:
    """The arguments of an entry function of ours under lasting names."""
    flat: Flat = {}
    for name, value in arguments.items():
        if isinstance(value, Student):
            flat |= of_student(value)
        elif isinstance(value, OptimizerSpec):
            flat |= of_optimizer(value)
        elif dataclasses.is_dataclass(value):
            flat |= of_spec(value, run)
        elif name == "mesh":
            flat["mesh"] = {"data": -1, "fsdp": 1, "model": 1, **(value or {})}
        else:
            flat[NAMES[run][name]] = _literal(value)
    return flat


_NO_ADAPTERS = ("adapters", None)


def of_student(student: Student) -> Flat:
    """The network, its loss, and how the loss is applied and divided."""
    network: Any = student.module.config
    flat: Flat = {"network": type(student.module).__name__}
    for part, record in (("network", network), ("loss", student.loss)):
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            # Only umT5's; and `train` adds what the optimizer says.
            if (field.name, value) not in (("relpos_per_layer", False), _NO_ADAPTERS):
                flat[f"{part}.{field.name}"] = _literal(value)
    flat["network.dtype"] = jnp.dtype(network.dtype).name
    flat["loss.fused"] = student.fused
    flat["loss.divided_by"] = student._normalizer
    return flat


def decoding_of_student(student: Student) -> Flat:
    """How the student itself decodes, which only T5X asks for."""
    fields = {f.name for f in dataclasses.fields(GenerationSpec)} - {"top_k"}
    values = {name: getattr(student.decoding, name) for name in fields}
    values["eos_id"] = (
        student._eos_id or 1
    )  # or its vocabulary's, which is no file here
    return {f"decoding.{name}": value for name, value in values.items()}


def of_optimizer(spec: OptimizerSpec) -> Flat:
    """The settings, and what they do: rates by step, updates of a small tree."""
    fields = [f.name for f in dataclasses.fields(spec)]
    fields = [name for name in fields if name not in ("options", "adapters")]
    flat = {f"optimizer.{name}": getattr(spec, name) for name in fields}
    if spec.adapters is not None and spec.adapters.rank:
        own = dataclasses.asdict(spec.adapters)
        flat |= {f"adapters.{name}": value for name, value in own.items()}
    optimizer = make_optimizer(spec)
    key = tuple(sorted(flat.items()))
    if key not in _EFFECTS:
        last = (spec.total_steps or 0) - 1
        steps = (0, spec.warmup_steps, last // 2, last)
        _EFFECTS[key] = {
            "optimizer.rates": rates(optimizer.learning_rate, steps),
            "optimizer.updates": updates(optimizer),
        }
    return flat | _EFFECTS[key]


_EFFECTS: dict[Any, Flat] = {}


# ---- What an optimizer does ----------------------------------------------------------
def rates(schedule: Any, steps: tuple[int, ...]) -> dict[str, float]:
    """Learning rate by step."""
    return {str(step): float(f"{float(schedule(step)):.7g}") for step in steps}


def updates(optimizer: Any) -> dict[str, float]:
    """Mean size of the third update of a matrix that is factored, and of a vector."""
    params = {
        "matrix": jnp.linspace(-1.0, 1.0, 128 * 128).reshape(128, 128),
        "vector": jnp.linspace(0.5, 1.0, 4),
    }

    @jax.jit
    def run(params: Any) -> Any:
        state, found = optimizer.init(params), params
        for step in range(3):
            grads = jax.tree.map(lambda p, k=step: jnp.cos((k + 3) * p), params)
            found, state = optimizer.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, found)
        return jax.tree.map(lambda u: jnp.abs(u).mean(), found)

    return {name: float(f"{float(u):.7g}") for name, u in run(params).items()}


# ---- T5X, without T5X ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A configurable that is not ours, with the parameters bound to it."""

    name: str
    parameters: Mapping[str, Any]
    called: bool

    def __call__(self) -> "Foreign":
        return dataclasses.replace(self, called=True)

    def __str__(self) -> str:
        return f"@{self.name}{'()' if self.called else ''}"


class OnT5X:
    """Evaluates a run file of T5X as gin would, as far as it is ours."""

    def __init__(self, found: config.Config) -> None:
        self.config = found
        self.macros = found.scan.macros()
        self.bindings = [b for b in found.scan.effective().values() if not b.is_macro]
        self.reached: set[tuple[str, str]] = set()

    def flat(self, entry: str) -> Flat:
        """What reaches the entry function, and what is bound beside it."""
        reference = Reference(f"__main__.{entry}", "", True)
        flat = self._flat("", self._built(reference))
        del flat[""]
        return flat | elsewhere(self.config, self.reached)

    def _flat(self, name: str, value: Any) -> Flat:
        if isinstance(value, Foreign):
            flat = {name: str(value)}
            for key, item in value.parameters.items():
                flat |= self._flat(f"{name}.{key}" if name else key, item)
            return flat
        if isinstance(value, Student):
            flat = of_student(value) | decoding_of_student(value)
            for part in (
                *("optimizer_def", "FEATURE_CONVERTER_CLS"),
                *("input_vocabulary", "output_vocabulary"),
            ):
                flat |= self._flat(f"student.{part.lower()}", getattr(value, part))
            return flat
        if isinstance(value, Optimizer):
            spec = f"{OptimizerSpec.__module__}.{OptimizerSpec.__qualname__}"
            return of_optimizer(self._built(Reference(spec, "", True)))
        if name.endswith("learning_rate_fn"):
            return {name: rates(value, (0, 10, 1000))}
        return {name: _literal(value)}

    def _built(self, reference: Reference) -> Any:
        selector = reference.selector
        parameters: Flat = {}
        for scope in dict.fromkeys(("", reference.scope)):
            for binding in self.bindings:
                if (binding.scope, binding.selector) == (scope, selector):
                    self.reached.add((scope, selector))
                    parameters[binding.parameter] = self._value(binding.value)
        if reference.calls and selector.startswith("specialize."):
            try:
                return target_of(selector)(**parameters)
            except InputError:
                return "refused"  # what T5X has no counterpart for
        name = selector.rpartition(".")[2]
        return Foreign(name, parameters, reference.calls)

    def _value(self, written: Any) -> Any:
        value = resolve(written, self.macros)
        return map_leaves(
            value, lambda i: self._built(i) if isinstance(i, Reference) else i
        )


if __name__ == "__main__":
    # Started by the tests with [[run, files, bindings], ...] to add to all recipes: as
    # a process of its own, without the shape checks that make gin files slow to read.
    asked = [snapshot(r, tuple(f), tuple(b)) for r, f, b in json.loads(sys.argv[1])]
    print(json.dumps({"runs": {run: snapshots(run) for run in RUNS}, "asked": asked}))
