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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specialize.config.problems import (
    Problem,
    macro_problems,
    name_problems,
    target_of,
)
from specialize.config.reading import Config
from specialize.config.scanning import did_you_mean
from specialize.errors import InputError

AXES = ("data", "fsdp", "model")


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
        isinstance(n, int) and not isinstance(n, bool) and n > 0
        for n in lengths.values()
    ):
        text = (
            f"TASK_FEATURE_LENGTHS is {lengths!r}; it must map each feature to a "
            "positive number of tokens, as {'inputs': 1024, 'targets': 256}."
        )
        return [Problem("lengths", text, origin)]
    if name is None or not _imports(config, "tasks"):
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
    """Batches and microbatches that the mesh does not divide."""
    mesh = config.value("MESH")
    if mesh is None:
        return []
    origin = config.origin("MESH")
    if not isinstance(mesh, Mapping) or set(mesh) - set(AXES):
        hint = "".join(did_you_mean(str(a), AXES) for a in set(mesh) - set(AXES))
        text = f"MESH is {mesh!r}; it maps {', '.join(AXES)} to numbers of chips.{hint}"
        return [Problem("mesh", text, origin)]
    sizes = {axis: mesh.get(axis, -1 if axis == "data" else 1) for axis in AXES}
    free = [axis for axis, size in sizes.items() if size == -1]
    known = 1
    for size in sizes.values():
        known *= size if size != -1 else 1
    if len(free) > 1 or any(
        not isinstance(size, int) or (size < 1 and size != -1)
        for size in sizes.values()
    ):
        text = (
            f"MESH is {mesh!r}; sizes are positive, and at most one may be -1 (rest)."
        )
        return [Problem("mesh", text, origin)]
    if devices is not None:
        if free and devices % known == 0:
            sizes[free[0]] = devices // known
        elif free or known != devices:
            text = (
                f"MESH {sizes} needs a multiple of" if free else f"MESH {sizes} needs"
            )
            return [
                Problem("mesh", f"{text} {known} chips; there are {devices}.", origin)
            ]
    # Without the number of chips a free axis still obliges the batch to the others.
    rows = 1
    for axis in ("data", "fsdp"):
        rows *= sizes[axis] if sizes[axis] != -1 else 1
    problems = []
    microbatches = config.value("MICROBATCHES", 1) or 1
    for name, parts in (("BATCH_SIZE", microbatches), ("EVAL_BATCH_SIZE", 1)):
        batch = config.value(name)
        if batch is None:
            continue
        if not isinstance(batch, int) or batch < 1:
            text = f"{name} is {batch!r}; it must be a positive number of sequences."
            problems.append(Problem("batch", text, config.origin(name)))
        elif not isinstance(parts, int) or parts < 1 or batch % parts:
            text = f"MICROBATCHES = {parts!r} does not divide {name} = {batch}."
            problems.append(Problem("batch", text, config.origin("MICROBATCHES")))
        elif (batch // parts) % rows:
            each = f" / {parts} microbatches" if parts > 1 else ""
            text = (
                f"{name} = {batch}{each} is not a multiple of data x fsdp = {rows} "
                f"(MESH {sizes}). Use a multiple of {rows * parts}."
            )
            problems.append(Problem("batch", text, config.origin(name)))
    return problems


def vocabulary_problems(config: Config) -> list[Problem]:
    """A vocabulary that is not the one of the checkpoint or of the corpus."""
    path = config.value("VOCABULARY_PATH")
    if not isinstance(path, str) or "://" in path:
        return []
    origin = config.origin("VOCABULARY_PATH")
    if not os.path.isfile(path):
        text = f"VOCABULARY_PATH {path!r} does not exist. Name T5's spiece.model."
        return [Problem("vocabulary", text, origin)]
    mine = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
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
    """(sha256, where it is written) of the vocabulary a folder belongs to."""
    found = []
    for name in ("spiece.model", "sentencepiece.model"):
        if (folder / name).is_file():
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            found.append((digest, name))
    # A run keeps its configuration; a corpus its fingerprint.
    for name in ("corpus.json", "config.json", "specialize.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        digest = _digest_in(content)
        if digest:
            found.append((digest, name))
    return found


def _digest_in(content: Any) -> str | None:
    """The vocabulary's sha256 in a manifest, wherever its fingerprint stands."""
    if isinstance(content, Mapping):
        for key in ("vocabulary_sha256", "vocabulary"):
            if isinstance(content.get(key), str) and len(content[key]) == 64:
                return content[key]
        for value in content.values():
            if digest := _digest_in(value):
                return digest
    return None


def task_features(name: str) -> set[str] | None:
    """Output features of a registered task or mixture, or None if there is none.

    The gin files have imported the package that registers tasks.
    """
    # TensorFlow greets on standard error otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
