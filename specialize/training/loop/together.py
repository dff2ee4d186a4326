"""What the processes of a run must have in common: their inputs and settings."""

from collections.abc import Mapping
from typing import Any

from specialize import processes, sharding
from specialize.checkpoints import opening
from specialize.errors import InputError
from specialize.training.data.mixtures import Mixture
from specialize.training.data.spec import DataSpec
from specialize.training.loop import resuming
from specialize.training.optimization.optimizers import Optimizer
from specialize.training.rollouts.making import read_by_server


def check_same_everywhere(about: Mapping[str, Any], held_out: Mixture | None) -> None:
    """Checks that every process has the same examples and settings.

    Args:
        about: What a checkpoint says about the run.
        held_out: The examples whose loss is measured, if any.

    Raises:
        InputError: They differ; it names the processes and what differs.
    """
    values = {**about, "held-out examples": held_out and held_out.digest}
    processes.agree(
        processes.comparable(values),
        what="examples or settings",
        remedy="Give every process the same files and options, such as one corpus in "
        "a bucket or an equal copy of it.",
    )


def other_weights(chain: Optimizer, base: str | None, data: DataSpec) -> dict[str, Any]:
    """What a checkpoint says about weights that are read and not trained."""
    return _adapters(chain, base) | _teacher(data)


def _adapters(chain: Optimizer, base: str | None) -> dict[str, Any]:
    """What a checkpoint of adapters says about them and their base; {} without any.

    Raises:
        InputError: the base is not named, cannot be opened, or has adapters itself.
    """
    if chain.adapters is None:
        return {}
    if base is None:
        raise InputError(
            "Adapters need weights to adapt, but no checkpoint is named. Set "
            "INITIAL_CHECKPOINT_PATH (initial_checkpoint_path), or LORA_RANK = 0."
        )
    name, fingerprint = sharding.by_leader(lambda: opening.identified(base))
    return resuming.about_adapters(chain.adapters, name, fingerprint)


def _teacher(data: DataSpec) -> dict[str, Any]:
    """What a checkpoint says about a teacher on the mesh or on a server; {} without.

    Raises:
        InputError: it, or what a server reads, cannot be opened.
    """
    source = data.rollouts.teacher
    if not data.rollouts.on:
        return {}
    if source is None:
        return {"served": sharding.by_leader(lambda: read_by_server(data.rollouts))}
    name, fingerprint = sharding.by_leader(lambda: opening.identified(source))
    return {"teacher": {"name": name, "fingerprint": fingerprint}}
