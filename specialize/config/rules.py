"""Everything that is wrong with a configuration, before anything compiles.

Beyond its names (`problems`), each rule reads values that recipes set by name and
compares them with what they must agree with: the mesh, the task, the loss, the
checkpoint. Rules return problems; none raises, none compiles, and a rule whose inputs
are unset or absent on this machine is silent.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specialize.config.problems import (
    Problem,
    macro_problems,
    name_problems,
    renamed_problems,
    target_of,
)
from specialize.config.reading import Config
from specialize.errors import InputError, did_you_mean
from specialize.mesh import MeshSpec


def lint(
    config: Config,
    *,
    devices: int | None = None,
    imports: bool = True,
    allow_missing: Sequence[str] = (),
) -> list[Problem]:
    """All that is wrong with a configuration; nothing is compiled.

    Args:
        config: what `read` returned.
        devices: number of chips of the run, if known.
        imports: whether the modules it names may be imported. Without, it is judged
            by its text alone: also for an engine that is not installed here.
        allow_missing: macros that may stay `%gin.REQUIRED`.

    Returns:
        Problems in a fixed order; empty for a sound configuration.
    """
    if renamed := renamed_problems(config.scan):
        return renamed  # what else is wrong may follow from it
    problems = macro_problems(config.scan, allow_missing=allow_missing)
    if imports:
        problems += name_problems(config.scan)
        problems += loss_problems(config) + length_problems(config)
    problems += vocabulary_problems(config)
    return problems + batch_problems(config, devices=devices)


def loss_problems(config: Config) -> list[Problem]:
    """A loss mode that contradicts temperature or weights.

    The loss's own constructor is the judge; it is found through the configuration, so
    nothing here repeats its rules.
    """
    values = {
        field: config.value(macro)
        for field, macro in (
            ("mode", "LOSS_MODE"),
            ("kl_weight", "KL_WEIGHT"),
            ("ce_weight", "CE_WEIGHT"),
            ("z_loss", "Z_LOSS"),
            ("temperature", "TEMPERATURE"),
        )
        if config.value(macro) is not None
    }
    build = _configured(config, "LossConfig")
    if not values or build is None:
        return []
    try:
        build(**values)
    except (InputError, TypeError) as error:
        places = ("LOSS_MODE", "TEMPERATURE", "KL_WEIGHT", "CE_WEIGHT", "Z_LOSS")
        origin = next((config.origin(m) for m in places if config.origin(m)), None)
        return [Problem("loss", str(error), origin)]
    return []


def length_problems(config: Config) -> list[Problem]:
    """TASK_FEATURE_LENGTHS that do not list exactly the task's features."""
    lengths = config.value("TASK_FEATURE_LENGTHS")
    name = config.value("MIXTURE_OR_TASK_NAME")
    if lengths is None:
        return []
    origin = config.origin("TASK_FEATURE_LENGTHS")
    if not isinstance(lengths, Mapping) or not all(
        _positive(length) for length in lengths.values()
    ):
        text = (
            f"TASK_FEATURE_LENGTHS is {lengths!r}; it must map each feature to a "
            "positive number of tokens, as {'inputs': 1024, 'targets': 256}."
        )
        return [Problem("lengths", text, origin)]
    if name is None or not _imports(config, "specialize_tasks"):
        return []
    features = task_features(name)
    if features is None:
        hint = did_you_mean(name, _task_names())
        text = f"there is no task or mixture {name!r}.{hint}"
        return [Problem("task", text, config.origin("MIXTURE_OR_TASK_NAME"))]
    problems = []
    for missing in sorted(features - set(lengths)):
        text = f"TASK_FEATURE_LENGTHS lacks {missing!r}, a feature of {name}."
        problems.append(Problem("lengths", text + f" Add {missing!r}: LENGTH.", origin))
    for extra in sorted(set(lengths) - features):
        text = f"TASK_FEATURE_LENGTHS names {extra!r}; {name} has {sorted(features)}."
        hint = did_you_mean(extra, features) or " Remove it."
        problems.append(Problem("lengths", text + hint, origin))
    rows = {n: lengths[n] for n in features & set(lengths) if n not in ("inputs",)}
    if len(set(rows.values())) > 1:
        text = (
            f"these features run along the targets and must be of one length: {rows}."
        )
        problems.append(Problem("lengths", text, origin))
    return problems


def batch_problems(config: Config, *, devices: int | None = None) -> list[Problem]:
    """A mesh that is none, and batches or microbatches that it does not divide."""
    mesh = config.value("MESH")
    if mesh is None:
        return []
    try:
        spec = MeshSpec.read(mesh)
        spec = spec if devices is None else spec.fit(devices, exact=True)
    except InputError as error:
        return [Problem("mesh", str(error), config.origin("MESH"))]
    # Without the number of chips a free axis still obliges the batch to the others.
    rows = spec.batch_shards
    problems = []
    microbatches = config.value("MICROBATCHES", 1)
    if not _positive(microbatches):
        text = f"MICROBATCHES is {microbatches!r}; it must be a positive number."
        return [Problem("batch", text, config.origin("MICROBATCHES"))]
    # Training rounds its evaluations' batch up by itself, and evaluation ignores the
    # batch of training.
    called = {binding.selector for binding in config.scan.bindings}
    trains = bool(called & {"specialize.training.loop.train.train", "__main__.train"})
    decoders = (".evaluate", ".infer", ".sample_checkpoint")
    evaluates = any(name.endswith(decoders) for name in called)
    for name, parts in (("BATCH_SIZE", microbatches), ("EVAL_BATCH_SIZE", 1)):
        batch = config.value(name)
        if batch is None or (trains if name.startswith("EVAL") else evaluates):
            continue
        if not _positive(batch):
            text = f"{name} is {batch!r}; it must be a positive number of rows."
            problems.append(Problem("batch", text, config.origin(name)))
        elif batch % (rows * parts):
            each = f" and {parts} microbatches" if parts > 1 else ""
            shape = ", ".join(f"{axis} {size}" for axis, size in spec.sizes.items())
            text = (
                f"{name} = {batch} does not divide over data x fsdp = {rows}{each} "
                f"(mesh: {shape}). Use a multiple of {rows * parts}."
            )
            problems.append(Problem("batch", text, config.origin(name)))
    return problems


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def vocabulary_problems(config: Config) -> list[Problem]:
    """A vocabulary that is not the one of the checkpoint or of the corpus."""
    path = config.value("VOCABULARY_PATH")
    if not isinstance(path, str) or "://" in path:
        return []
    origin = config.origin("VOCABULARY_PATH")
    if not os.path.isfile(path):
        text = f"VOCABULARY_PATH {path!r} does not exist. Name T5's spiece.model."
        return [Problem("vocabulary", text, origin)]
    mine = _sha256(pathlib.Path(path))
    problems = []
    for macro in ("INITIAL_CHECKPOINT_PATH", "CHECKPOINT_PATH", "CORPUS_DIR"):
        folder = config.value(macro)
        if not isinstance(folder, str) or not os.path.isdir(folder):
            continue
        for theirs, source in _vocabularies_of(pathlib.Path(folder)):
            if theirs != mine:
                text = (
                    f"VOCABULARY_PATH {path!r} (sha256 {mine[:12]}) is not the "
                    f"vocabulary of {macro} {folder!r} ({theirs[:12]}, {source}). "
                    "Use the vocabulary the weights and the corpus were made with."
                )
                problems.append(Problem("vocabulary", text, origin))
    return problems


def _vocabularies_of(folder: pathlib.Path) -> list[tuple[str, str]]:
    """(sha256, where it is written) of the vocabulary a folder belongs to.

    A conversion puts the tokenizer beside its `checkpoint_7`, and a run keeps its
    configuration above its `checkpoints/7`: the nearest folder that says is asked.
    """
    place = folder.resolve()
    for _ in range(3):
        found = [
            (_sha256(place / name), name)
            for name in ("spiece.model", "sentencepiece.model")
            if (place / name).is_file()
        ]
        for name in ("corpus.json", "config.json"):
            if digest := _digest_in(_json(place / name)):
                found.append((digest, name))
        if found or not re.fullmatch(r"checkpoint_\d+|checkpoints|\d+", place.name):
            return found
        place = place.parent
    return []


def _digest_in(content: Any) -> str | None:
    """The vocabulary's sha256 in a corpus's manifest or a run's configuration."""
    if not isinstance(content, Mapping):
        return None
    digest = content.get("vocabulary_sha256")
    if isinstance(digest, str):
        return digest
    values = content.get("values")
    for row in values if isinstance(values, list) else ():
        path = row["value"] if row.get("name") == "VOCABULARY_PATH" else None
        if isinstance(path, str) and os.path.isfile(path):
            return _sha256(pathlib.Path(path))
    inner = (_digest_in(value) for value in content.values())
    return next(filter(None, inner), None)


def _sha256(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _json(file: pathlib.Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def task_features(name: str) -> set[str] | None:
    """Output features of a registered task or mixture, or None if there is none.

    The gin files have imported the package that registers tasks.
    """
    import seqio

    try:
        task = seqio.get_mixture_or_task(name)
    except ValueError:
        return None
    features = task.output_features
    return set(features)


def _task_names() -> list[str]:
    import seqio

    return [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]


def _imports(config: Config, package: str) -> bool:
    import importlib

    for item in config.scan.imports:
        if item.module == package or item.module.startswith(package + "."):
            try:
                importlib.import_module(package)
            except ImportError:
                return False
            return True
    return False


def _configured(config: Config, class_name: str) -> Callable[..., Any] | None:
    """The class of this name that the configuration refers to."""
    for name in config.scan.names:
        if name.selector.rpartition(".")[2] == class_name:
            return target_of(name.selector)
    return None
