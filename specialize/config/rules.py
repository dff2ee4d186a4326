"""All problems of a configuration, before anything compiles.

`problems` checks names. `specifications` makes the specifications of the run and
reports what they reject at the line that set the value. The rules of this module
compare values with the task, the mesh and the vocabulary. They return problems and
neither raise nor compile; a rule returns none if its inputs are unset, or absent on
this machine.
"""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from specialize import checks, paths, run_folder, versions
from specialize.config import neutral
from specialize.config.problems import (
    Problem,
    macro_problems,
    module_problems,
    name_problems,
)
from specialize.config.reading import Config
from specialize.config.renamed import renamed_problems
from specialize.config.scanning import Macro, Reference
from specialize.config.specifications import Specifications
from specialize.digests import file_digest, is_vocabulary, vocabulary_digest
from specialize.errors import InputError, NotNamedError, did_you_mean
from specialize.mesh import MeshSpec, check_batch

# A SentencePiece model beside weights: that of Hugging Face, that of T5X.
VOCABULARIES = ("spiece.model", "sentencepiece.model")


def lint(
    config: Config,
    *,
    devices: int | None = None,
    imports: bool = True,
    allow_missing: Sequence[str] = (),
) -> list[Problem]:
    """All problems of a configuration, in a fixed order; nothing is compiled.

    Args:
        config: The configuration.
        devices: Number of chips of the run, if known.
        imports: Whether to import the modules that it names. If not, only its text and
            our light modules are read, also for an engine that is not installed here.
        allow_missing: Macros that may stay `%gin.REQUIRED`.
    """
    if renamed := renamed_problems(config.scan):
        return renamed  # other problems may follow from it
    if foreign := module_problems(config.scan):
        return foreign  # nothing of theirs is imported
    problems = macro_problems(config.scan, allow_missing=allow_missing)
    problems += path_problems(config)
    if imports:
        problems += name_problems(config.scan)
    specs = Specifications(config, imports=imports, allow_missing=allow_missing)
    data = specs.made.get("DataSpec")
    problems += specs.problems
    if imports and data is not None:
        problems += length_problems(config, data)
    problems += vocabulary_problems(config)
    problems += average_problems(config, specs.made)
    problems += metric_problems(config, specs.made)
    problems += on_policy_problems(config, specs.made)
    if imports and data is not None:
        problems += split_problems(config, data, specs.made.get("PeriodicEvaluation"))
    problems += adapter_problems(config, specs.made)
    problems += rounding_problems(config, specs.made)
    return problems + batch_problems(config, data, devices=devices)


def path_problems(config: Config) -> list[Problem]:
    """Paths that are none, and folders of a run that are URLs."""
    problems = []
    for name, binding in config.scan.macros().items():
        value = config.value(name)
        if not name.endswith(("_DIR", "_PATH")) or isinstance(value, Macro | Reference):
            continue
        try:
            checks.path(name, value)
            if name in ("MODEL_DIR", "OUTPUT_DIR") and paths.scheme_of(value or ""):
                run = name == "MODEL_DIR"
                check = paths.checked_for_checkpoints if run else paths.checked
                check(value, name)
        except InputError as error:
            problems.append(Problem("value", str(error), binding.origin))
    return problems


def length_problems(config: Config, data: Any) -> list[Problem]:
    """Feature lengths of `data`, the `DataSpec`, that do not match the task."""
    lengths, name = data.feature_lengths, data.mixture
    if name is None or not _imports(config, "specialize_tasks"):
        return []
    origin = config.origin("TASK_FEATURE_LENGTHS")
    try:
        name = neutral.mixture_name(name, data.tasks)
    except NotNamedError:
        name = "specialize_base_answers"  # all parts of a mixture have its features
    except InputError as error:
        origin = config.origin("MIXTURE_OR_TASK_NAME")
        return [Problem("task", str(error), origin)]
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
        text = f"these features run along the targets and need one length: {rows}."
        problems.append(Problem("lengths", text, origin))
    return problems


def average_problems(config: Config, made: Mapping[str, Any]) -> list[Problem]:
    """An evaluation of averaged weights where no average is kept."""
    optimizer, evaluation = made.get("OptimizerSpec"), made.get("PeriodicEvaluation")
    if optimizer is None or evaluation is None or evaluation.weights != "ema":
        return []
    if optimizer.ema_decay is not None:
        return []
    text = "EVAL_WEIGHTS = 'ema', but no average is kept. Set EMA_DECAY, such as 0.999."
    return [Problem("value", text, config.origin("EVAL_WEIGHTS"))]


def metric_problems(config: Config, made: Mapping[str, Any]) -> list[Problem]:
    """A metric of the best checkpoint that nothing measures."""
    checkpoints, evaluation = made.get("CheckpointSpec"), made.get("PeriodicEvaluation")
    if checkpoints is None or evaluation is None or checkpoints.best_metric is None:
        return []
    loss, data = made.get("LossConfig"), made.get("DataSpec")
    # A run whose student writes texts has a part more.
    parts = None
    if loss is not None and data is not None and not data.rollouts.on:
        parts = [name for name, _ in loss.parts]
    try:
        evaluation.check_metric(checkpoints.best_metric, parts)
    except InputError as error:
        return [Problem("value", str(error), config.origin("BEST_METRIC"))]
    return []


def on_policy_problems(config: Config, made: Mapping[str, Any]) -> list[Problem]:
    """A loss without a form for texts of the student, or over the whole vocabulary."""
    loss, data = made.get("LossConfig"), made.get("DataSpec")
    if loss is None or data is None or not data.rollouts.on:
        return []
    try:
        loss.check_written()
        if data.rollouts.whole_vocabulary:
            loss.check_whole_vocabulary()
    except InputError as error:
        return [Problem("value", f"LOSS_MODE: {error}", config.origin("LOSS_MODE"))]
    return []


def split_problems(config: Config, data: Any, evaluation: Any) -> list[Problem]:
    """A split of the evaluation that no task of the mixture has."""
    if evaluation is None or evaluation.split is None:
        return []
    mixture = evaluation.mixture or data.mixture
    if mixture is None or not _imports(config, "specialize_tasks"):
        return []
    try:
        splits = task_splits(neutral.mixture_name(mixture, data.tasks))
    except (InputError, NotNamedError):
        return []  # `length_problems` says so
    # Whether problems are held out is known to gin only when it has the configuration.
    if splits is None or (evaluation.split == "validation" and _holds_out(config)):
        return []
    if evaluation.split in splits:
        return []
    text = (
        f"EVAL_SPLIT = {evaluation.split!r}, but no task of the mixture has this "
        f"split; they have {', '.join(splits)}."
        f"{did_you_mean(evaluation.split, splits)} A corpus has 'validation' if "
        "specialize_tasks.distill.held_out.fraction is above 0."
    )
    return [Problem("task", text, config.origin("EVAL_SPLIT"))]


def _holds_out(config: Config) -> bool:
    return any(
        one.selector.endswith("distill.held_out") and one.parameter == "fraction"
        for one in config.scan.effective().values()
    )


def adapter_problems(config: Config, made: Mapping[str, Any]) -> list[Problem]:
    """Adapters without a base, or that do not fit the network."""
    optimizer, network = made.get("OptimizerSpec"), made.get("T5Config")
    adapters = None if optimizer is None else optimizer.adapters
    if adapters is None or not adapters.rank:
        return []
    problems = []
    if config.value("INITIAL_CHECKPOINT_PATH") is None:
        text = (
            f"LORA_RANK = {adapters.rank}, but INITIAL_CHECKPOINT_PATH names no "
            "weights to adapt. Name a checkpoint, or set LORA_RANK = 0."
        )
        problems.append(Problem("value", text, config.origin("LORA_RANK")))
    if network is None:
        return problems
    checked = {
        "LORA_TARGETS": adapters.check_targets,
        "LORA_QUANTIZE_BLOCK": adapters.check_blocks,
    }
    for macro, check in checked.items():
        try:
            check(network)
        except InputError as error:
            problems.append(Problem("value", f"{macro}: {error}", config.origin(macro)))
    return problems


def rounding_problems(config: Config, made: Mapping[str, Any]) -> list[Problem]:
    """A rounding of weights that are not rounded."""
    optimizer = made.get("OptimizerSpec")
    if optimizer is None or optimizer.param_dtype != "float32":
        return []
    if optimizer.stochastic_rounding:
        return []
    text = (
        "STOCHASTIC_ROUNDING = False, but weights with PARAM_DTYPE = 'float32' are not "
        "rounded. Set PARAM_DTYPE = 'bfloat16', or STOCHASTIC_ROUNDING = True."
    )
    return [Problem("value", text, config.origin("STOCHASTIC_ROUNDING"))]


def batch_problems(
    config: Config, data: Any, *, devices: int | None = None
) -> list[Problem]:
    """An invalid mesh, or a batch that does not divide over it.

    Args:
        config: The configuration.
        data: The `DataSpec` of a training run. None: the batch of decoding is checked;
            training itself rounds the batch of its evaluations up.
        devices: Number of chips of the run, if known.
    """
    value = config.value("MESH")
    if value is None:
        return []
    try:
        mesh = MeshSpec.read(value)
        mesh = mesh if devices is None else mesh.fit(devices, exact=True)
    except InputError as error:
        return [Problem("mesh", str(error), config.origin("MESH"))]
    name = "EVAL_BATCH_SIZE" if data is None else "BATCH_SIZE"
    rows = config.value(name) if data is None else data.batch_size
    parts = 1 if data is None else data.microbatches
    try:
        if isinstance(rows, int):
            check_batch(rows, mesh.batch_shards, parts, name=name)
    except InputError as error:
        return [Problem("batch", f"{error} (mesh: {mesh})", config.origin(name))]
    return []


def vocabulary_problems(config: Config) -> list[Problem]:
    """A vocabulary that differs from that of the checkpoint or of the corpus."""
    path = config.value("VOCABULARY_PATH")
    if not isinstance(path, str):
        return []
    try:
        file = str(paths.local(path)) if paths.in_bucket(path) else path
    except InputError:
        return []  # the command that reads it says why
    if "://" in file:
        return []
    origin = config.origin("VOCABULARY_PATH")
    if not is_vocabulary(file):
        shown = checks.shown(path)
        text = (
            f"VOCABULARY_PATH {shown} does not exist. Name the student's SentencePiece "
            "model (for T5 its spiece.model), or 'byt5' for ByT5's bytes."
        )
        return [Problem("vocabulary", text, origin)]
    mine = vocabulary_digest(file)
    problems = []
    for macro in ("INITIAL_CHECKPOINT_PATH", "CHECKPOINT_PATH", "CORPUS_DIR"):
        folder = config.value(macro)
        if not isinstance(folder, str):
            continue
        folder = folder.removesuffix(run_folder.AVERAGE)
        if not (paths.in_bucket(folder) or os.path.isdir(folder)):
            continue
        for theirs, source in _vocabularies_of(os.fspath(folder)):
            if theirs != mine:
                text = (
                    f"VOCABULARY_PATH {path!r} (sha256 {mine[:12]}) is not the "
                    f"vocabulary of {macro} {folder!r} ({theirs[:12]}, {source}). "
                    "Use the vocabulary the weights and the corpus were made with."
                )
                problems.append(Problem("vocabulary", text, origin))
    return problems


def _vocabularies_of(folder: str) -> list[tuple[str, str]]:
    """(sha256, file that says it) of the vocabulary that a folder belongs to.

    A conversion writes the tokenizer beside its `checkpoint_7`, and a run writes its
    configuration above its `checkpoints/7`: the nearest folder that has one decides.
    """
    place = folder if paths.in_bucket(folder) else os.path.realpath(folder)
    wanted = (*VOCABULARIES, versions.CORPUS.file, run_folder.CONFIG)
    for _ in range(3):
        try:
            here = paths.local(place, only=wanted)
        except InputError:
            return []  # the command that reads it says why
        found = [
            (file_digest(here / name), name)
            for name in VOCABULARIES
            if (here / name).is_file()
        ]
        if digest := _corpus_digest(run_folder.read_json(here / versions.CORPUS.file)):
            found.append((digest, versions.CORPUS.file))
        with contextlib.suppress(InputError):  # a configuration of another version
            named = run_folder.saved_values(here).get("VOCABULARY_PATH")
            named = str(paths.local(named)) if paths.in_bucket(named) else named
            if isinstance(named, str) and is_vocabulary(named):
                found.append((vocabulary_digest(named), run_folder.CONFIG))
        name = paths.name_of(place)
        if found or not re.fullmatch(r"checkpoint_\d+|checkpoints|\d+", name):
            return found
        place = paths.parent_of(place)
    return []


def _corpus_digest(manifest: Any) -> str | None:
    """The vocabulary's sha256, wherever it is in the manifest of a corpus."""
    if not isinstance(manifest, Mapping):
        return None
    digest = manifest.get("vocabulary_sha256")
    if isinstance(digest, str):
        return digest
    return next(filter(None, map(_corpus_digest, manifest.values())), None)


def task_features(name: str) -> set[str] | None:
    """Output features of a registered task or mixture, or None if there is none.

    The gin files have imported the package that registers tasks.
    """
    import seqio

    try:
        task = seqio.get_mixture_or_task(name)
    except ValueError:
        return None
    return set(task.output_features)


def task_splits(name: str) -> list[str] | None:
    """Splits of a registered task, or of the tasks of a mixture; None if unknown.

    They are unknown where a data set would be opened to know them.
    """
    import seqio

    try:
        tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
    except ValueError:
        return None
    if any(isinstance(task.source, seqio.TfdsDataSource) for task in tasks):
        return None
    return sorted({split for task in tasks for split in task.splits})


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
