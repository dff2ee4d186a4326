"""Resuming a run: what must be as it was, and which other settings changed."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from specialize import checks, config
from specialize.checkpoints.source import AdapterRecord
from specialize.errors import InputError
from specialize.student.adapters.spec import AdapterSpec
from specialize.training.data.batches import BatchSource
from specialize.training.data.spec import DataSpec
from specialize.training.rollouts.spec import identity_of

# Settings that are checked otherwise, or that say only where files are.
_ELSEWHERE = ("CheckpointSpec.dir", "PeriodicEvaluation.mixture")
_NOT_READ = "train.initial_checkpoint_path"
_RANK = "AdapterSpec.rank"
_QUANTIZATION = ("quantize_base", "quantize_block")
# What follows from the number and lengths of the examples and from the batch.
_DERIVED = ("window_rows", "window_examples")


def about(
    source: BatchSource, data: DataSpec, *specifications: Any, **others: Any
) -> dict[str, Any]:
    """What a checkpoint says about its run.

    Args:
        source: The batches.
        data: How they are made.
        *specifications: Dataclasses of other settings; what is not one has none.
        **others: Parameters of `train`.

    Returns:
        "run": what determines the batches, which a resumed run must have, too.
        "tasks": name -> number of examples, and their digest.
        "settings": what a resumed run may change, as "OptimizerSpec.learning_rate".
    """
    run = {"mixture": source.mixture.name, "split": data.split}
    return {
        "run": {**source.identity(), **run},
        "tasks": {one.task: [len(one), one.digest] for one in source.mixture.tasks},
        "settings": _settings(*specifications, **others)
        | {"DataSpec.microbatches": str(data.microbatches)},
    }


def about_adapters(spec: AdapterSpec, base: str, fingerprint: str) -> dict[str, Any]:
    """What a checkpoint of adapters says beside what `about` says.

    Args:
        spec: The adapters.
        base: Name of the weights that they adapt.
        fingerprint: The weights' fingerprint.

    Returns:
        "adapters": a `checkpoints.source.AdapterRecord`, as JSON values.
    """
    record = AdapterRecord(
        base,
        fingerprint,
        spec.rank,
        spec.alpha,
        spec.targets,
        spec.quantize_base,
        spec.quantize_block,
    )
    return {"adapters": dataclasses.asdict(record)}


def teacher_of(about: Mapping[str, Any]) -> Any:
    """What the teacher of the student's own texts is, wherever it is.

    Args:
        about: What a checkpoint says about the run, with `together.other_weights`.

    Returns:
        The fingerprint of its weights, or the digests of what a server reads.
    """
    if teacher := about.get("teacher"):
        return teacher["fingerprint"]
    return about.get("served")


def base_in(about: Mapping[str, Any]) -> str | None:
    """The checkpoint that was identified as the base of adapters; None without any.

    A run whose newest one it was may have saved another one since.
    """
    return about.get("adapters", {}).get("base")


def _settings(*specifications: Any, **others: Any) -> dict[str, str]:
    found = {f"train.{name}": value for name, value in others.items()}
    waiting = list(specifications)
    while waiting:
        one = waiting.pop(0)
        for field in dataclasses.fields(one) if dataclasses.is_dataclass(one) else ():
            value = getattr(one, field.name)
            if dataclasses.is_dataclass(value):
                waiting.append(value)
            else:
                found[f"{type(one).__name__}.{field.name}"] = value
    shown = {
        name: checks.shown(tuple(value) if isinstance(value, list) else value)
        for name, value in found.items()
        if name not in _ELSEWHERE
    }
    # The text of an object without one of its own is its address.
    return {name: text for name, text in shown.items() if " at 0x" not in text}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line for each setting that changed, by the name of its macro if it has one."""
    macros = config.macros_of_parameters()
    not_read = _NOT_READ if now.get(_RANK, "0") == "0" else None
    lines = [
        f"{macros.get(name, name)} was {before[name]}, now it is {value}"
        + " (a resumed run does not read it)" * (name == not_read)
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    return list(dict.fromkeys(lines))  # two parameters may have one macro


def check(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a checkpoint belongs to this run.

    Args:
        saved: metadata of the checkpoint, with what `about` said when it was written;
            an older one has only "run".
        now: what `about` says now.

    Raises:
        InputError: they differ; the message has both values.
    """
    before, run = ({"order": "random"} | one["run"] for one in (saved, now))
    if "server" in (rollouts := before.get("rollouts") or {}):
        # Of an earlier version, which also kept where the teacher is.
        before["rollouts"] = identity_of(**rollouts)
    names = dict.fromkeys([*run, *before])
    differing = [name for name in names if before.get(name) != run.get(name)]
    causes = [name for name in differing if name not in _DERIVED] or differing
    lines = []
    for name in causes:
        if name == "examples":
            lines += _other_examples(saved.get("tasks", {}), now["tasks"])
        else:
            lines.append(f"{name} was {before.get(name)!r}, is {run.get(name)!r}")
    optimizer = "OptimizerSpec.name"
    was, wanted = (one.get("settings", {}).get(optimizer) for one in (saved, now))
    if was is not None and wanted is not None and was != wanted:
        lines.append(f"the optimizer was {was}, is {wanted}, which has another state")
    lines += _other_adapters(saved.get("adapters"), now.get("adapters"))
    lines += _other_teacher(saved.get("teacher"), now.get("teacher"))
    lines += _other_prompts(saved.get("served"), now.get("served"))
    lines += _other_types(saved.get("settings", {}), now.get("settings", {}))
    if line := _other_average(saved.get("settings", {}), now.get("settings", {})):
        lines.append(line)
    if not lines:
        return
    more = ""
    if "examples" in causes:
        more = (
            " To continue the run, name the corpus that it began with as CORPUS_DIR; "
            "a corpus that has grown is for a new run."
        )
    raise InputError(
        f"The checkpoint belongs to another run: {'; '.join(lines)}. Set these back, "
        "or name another MODEL_DIR (INITIAL_CHECKPOINT_PATH can take its weights)."
        f"{more}"
    )


def _other_adapters(
    saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> list[str]:
    """Lines about adapters, or a base, that are not those of the checkpoint."""
    if not saved or not now:
        whole, wanted = ("adapters" if one else "whole weights" for one in (saved, now))
        return [] if whole == wanted else [f"it has {whole}, wanted are {wanted}"]
    # An older checkpoint does not say that its base was not quantised.
    saved = {name: now[name] for name in _QUANTIZATION} | {
        "quantize_base": "none",
        **saved,
    }
    compared = ["rank", "alpha", "targets", "quantize_base"]
    if saved["quantize_base"] != "none":
        compared.append("quantize_block")
    lines = [
        f"the adapters' {name} was {saved[name]}, is {now[name]}"
        for name in compared
        if _listed(saved[name]) != _listed(now[name])
    ]
    weights = ((one["base"], one["fingerprint"]) for one in (saved, now))
    return lines + _other_weights("base weights", *weights)


def _other_teacher(
    saved: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> list[str]:
    """A line if the teacher of the student's own texts has other weights."""
    if not saved or not now:  # an older checkpoint, or another kind of teacher
        return []
    weights = ((one["name"], one["fingerprint"]) for one in (saved, now))
    return _other_weights("teacher's weights", *weights)


def _other_prompts(
    saved: Mapping[str, str] | None, now: Mapping[str, str] | None
) -> list[str]:
    """A line for each part of a served teacher's prompts that has another content."""
    if not saved or not now:  # an older checkpoint, or another kind of teacher
        return []
    return [
        f"{name} had another content or value ({saved[name]}, is {value})"
        for name, value in now.items()
        if saved.get(name, value) != value
    ]


def _other_weights(what: str, was: tuple[str, str], now: tuple[str, str]) -> list[str]:
    """A line if the weights that a run reads have another fingerprint."""
    if was[1] == now[1]:
        return []
    return [
        f"the {what} were those of {was[0]} (fingerprint {was[1]}), are those of "
        f"{now[0]} ({now[1]})"
    ]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _other_types(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """A line if weights are trained in another type than they were."""
    name = "OptimizerSpec.param_dtype"
    if name not in now:
        return []  # an optax chain of the caller
    was, wanted = saved.get(name, "'float32'"), now[name]
    return [] if was == wanted else [f"PARAM_DTYPE was {was}, is {wanted}"]


def _other_average(saved: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """A line if only one of two runs keeps an average of the weights."""
    name = "OptimizerSpec.ema_decay"
    was, wanted = saved.get(name, "None"), now.get(name, "None")
    if not saved or (was == "None") == (wanted == "None"):
        return None
    return f"EMA_DECAY was {was}, is {wanted}: one of them keeps an average"


def _other_examples(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed in the examples of the tasks, in words."""
    if not before:
        return [f"its examples differ from those of {', '.join(now)}"]
    lines = []
    for task in dict.fromkeys([*before, *now]):
        if before.get(task) == now.get(task):
            continue
        if task not in before or task not in now:
            is_new = task not in before
            lines.append(f"the task {task!r} is {'new' if is_new else 'missing'}")
        elif more := now[task][0] - before[task][0]:
            word = "more" if more > 0 else "fewer"
            lines.append(
                f"{task!r} had {before[task][0]:,} examples, now it has "
                f"{now[task][0]:,} ({abs(more):,} {word})"
            )
        else:
            lines.append(f"the {now[task][0]:,} examples of {task!r} have changed")
    return lines or ["the rates of the tasks have changed"]
