"""Translates values of a recipe for T5X.

Recipes set `MESH`, `MICROBATCHES` and others once for both engines; the run files of
T5X call these functions. They import nothing of T5X.
"""

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from specialize import checks
from specialize.errors import InputError, of_field
from specialize.mesh import MeshSpec


def model_partitions(mesh: Any) -> int:
    """T5X's `num_partitions`: the size of the model axis. T5X derives "data" itself.

    Args:
        mesh: Any spelling that `MeshSpec.read` takes.

    Raises:
        InputError: It is not a mesh, or "model" is -1, which T5X cannot derive.
    """
    size = MeshSpec.read(mesh).model
    if size < 1:
        raise InputError(
            f"MESH is {mesh!r}: T5X derives the data axis; give 'model' a number."
        )
    return size


def parameter_dims(mesh: Any) -> int:
    """T5X's `parameter_partitioning_dims`: 2 splits parameters over the batch's axis.

    T5X has one axis for our "data" and "fsdp": parameters are split over all of it (2)
    or not at all (1).
    """
    return 1 if MeshSpec.read(mesh).fsdp == 1 else 2


def microbatches(number: int) -> int | None:
    """T5X's `num_microbatches`, which is None for one microbatch."""
    return None if number == 1 else number


def shuffle(data: Any) -> bool:
    """Whether T5X's pipeline shuffles; the only order of SeqIO is "random".

    Args:
        data: The `DataSpec` of the run.

    Raises:
        InputError: The run has another order, or its student writes targets.
    """
    if data.rollouts.on:
        raise InputError(
            f"ON_POLICY_SHARE = {data.rollouts.share!r}: under T5X the student writes "
            "no targets. Train with 'specialize train', or set ON_POLICY_SHARE = 0.0."
        )
    if data.order != "random":
        raise InputError(
            f"ORDER = {data.order!r}: under T5X SeqIO shuffles, and keeps nothing "
            "together. Train with 'specialize train', or set ORDER = 'random'."
        )
    return True


def optimizer(
    name: str,
    ema_decay: float | None = None,
    lora_rank: int = 0,
    param_dtype: str = "float32",
    **kinds: Callable[[], Any],
) -> Any:
    """Calls the constructor of T5X's optimizer of this name.

    Args:
        name: One of the keywords.
        ema_decay: None; T5X's trainer keeps no average of the weights.
        lora_rank: 0; T5X's trainer saves and trains all parameters.
        param_dtype: "float32"; T5X's trainer rounds to nearest.
        **kinds: Constructors by name.

    Raises:
        InputError: No constructor has that name, or an average, adapters or narrow
            weights are asked for.
    """
    if lora_rank:
        raise InputError(
            f"LORA_RANK = {lora_rank!r}: T5X's trainer trains all parameters and saves "
            "them. Train adapters with 'specialize train', or set LORA_RANK = 0."
        )
    if ema_decay is not None:
        raise InputError(
            f"EMA_DECAY = {ema_decay!r}: T5X's trainer keeps no average of the "
            "weights. Train with 'specialize train', or set EMA_DECAY = None."
        )
    if param_dtype != "float32":
        raise InputError(
            f"PARAM_DTYPE = {param_dtype!r}: T5X's trainer rounds no weight "
            "stochastically. Train with 'specialize train', or set PARAM_DTYPE = "
            "'float32'."
        )
    if name not in kinds:
        raise InputError(
            f"OPTIMIZER = {name!r}: T5X's run file offers {', '.join(kinds)}."
        )
    return kinds[name]()


def learning_rate(optimizer: Any) -> Callable[[Any], Any]:
    """The schedule of our optimizer, step -> rate, for T5X's trainer."""
    return optimizer.learning_rate


def mixture_name(
    mixture: str | Mapping[str, Any], tasks: Sequence[str | os.PathLike[str]] = ()
) -> str:
    """The SeqIO name of `MIXTURE_OR_TASK_NAME`, which may be shares of corpora.

    Args:
        mixture: A name, or folders and files with shares.
        tasks: Task files, whose tasks are registered.

    Raises:
        InputError: As for `specialize_tasks.mixing.mixture` and
            `specialize_tasks.own.register`.
    """
    # The tasks are above this package; gin files import them.
    if tasks:
        importlib.import_module("specialize_tasks.own").register(*tasks)
    if isinstance(mixture, str):
        return mixture
    return importlib.import_module("specialize_tasks.mixing").mixture(mixture)


def part_of_mixture(given: str) -> tuple[str, str]:
    """A key of a mixture's shares as its path and what follows the colon, or ""."""
    found = re.fullmatch(r"(.+):(\w+)", given, re.DOTALL)
    return (found[1], found[2]) if found else (given, "")


def parts(
    mixture: str | Mapping[str, Any] | None, weights: Mapping[str, float]
) -> tuple[tuple[str, float], ...]:
    """Name and loss weight of each part of a mixture, in its order.

    Args:
        mixture: `MIXTURE_OR_TASK_NAME`; a single name has no parts.
        weights: Loss weights by the parts as the mixture names them; 1 for others.

    Returns:
        The names are those of the files and folders, as metrics show them.

    Raises:
        InputError: A weight is of no part, or not above 0.
    """
    given = [*mixture] if isinstance(mixture, Mapping) else []
    with of_field("weights"):
        _check_weights(given, weights)
    paths = [part_of_mixture(str(one))[0].rstrip("/") for one in given]
    stems = [os.path.basename(path).partition(".")[0] for path in paths]
    names = [
        stem if stems.count(stem) == 1 else str(one)
        for stem, one in zip(stems, given, strict=True)
    ]
    return tuple(
        (n, weights.get(one, 1.0)) for n, one in zip(names, given, strict=True)
    )


def evaluation_task(
    suites: Sequence[str],
    prompt: str,
    tasks: Sequence[str | os.PathLike[str]] = (),
) -> str:
    """The SeqIO task or mixture that T5X evaluates for a recipe's `SUITES`.

    Args:
        suites: Exactly one suite or group: T5X evaluates one mixture per run.
        prompt: Prompt format, unless the suite is written "name:prompt".
        tasks: Task files, whose names are suites too.

    Raises:
        InputError: There is no suite, more than one, or one that is unknown.
    """
    if len(suites) != 1:
        raise InputError(
            f"SUITES = {tuple(suites)!r}: T5X evaluates one task or mixture per run. "
            "Set one suite, as in --gin.SUITES=\"('gsm8k',)\", and run it for each."
        )
    name, _, own = suites[0].partition(":")
    registry = importlib.import_module("specialize_tasks.own")
    return registry.suite_task(name, own or prompt, tasks)


def _check_weights(given: Sequence[Any], weights: Any) -> None:
    if not isinstance(weights, Mapping):
        raise InputError(
            f"the weights of parts are {weights!r}, expected a dictionary such as "
            "{'more.jsonl': 0.5}."
        )
    for name, weight in weights.items():
        if name not in given:
            known = ", ".join(map(repr, given)) or "one task"
            raise InputError(
                f"the weights of parts name {name!r}, but the mixture is {known}. Use "
                "the same names (PART_WEIGHTS, MIXTURE_OR_TASK_NAME)."
            )
        checks.real(f"the loss weight of {name!r}", weight, above=0)
