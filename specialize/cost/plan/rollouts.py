"""What rollouts add to a plan: the weights of a teacher on the mesh, and its FLOPs."""

import dataclasses
import os
from typing import Any

import jax
from jax.sharding import Mesh

from specialize.checkpoints.opening import open_checkpoint
from specialize.config import scanning
from specialize.cost.plan.program import bytes_per_chip
from specialize.errors import InputError
from specialize.inference.weights import abstract_weights
from specialize.student.model import Student
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer
from specialize.training.data.spec import DataSpec
from specialize.training.logging import throughput


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """What a step costs besides learning.

    Attributes:
        teacher: bytes of the teacher's weights on one chip, all the time.
        flops: model FLOPs of writing the texts of a step and of reading them.
    """

    teacher: int
    flops: float


def of_run(model: Any, data: DataSpec, mesh: Mesh) -> Rollouts:
    """What the rollouts of a run add; a served teacher has no part of the chips.

    Its texts count with as many tokens as the targets that they replace: a share of the
    batch. Writing reads every weight once per token, which no FLOPs show.

    Raises:
        InputError: the teacher's network is not known here.
    """
    spec, rows = data.rollouts, data.batch_size
    if not spec.on:
        return Rollouts(0, 0.0)
    lengths = tuple(data.lengths.values())
    writing = throughput.training_flops(model.module.config, rows, *lengths) / 3
    if spec.teacher is None:
        return Rollouts(0, spec.share * writing)
    network = dataclasses.replace(
        network_of(spec.teacher), dtype=model.module.config.dtype, scan_layers=False
    )
    reading = throughput.training_flops(network, rows, *lengths) / 3
    flops = spec.share * (writing + reading)
    return Rollouts(_weights(network, mesh), flops)


def network_of(checkpoint: str) -> T5Config:
    """The network of a checkpoint, which need not be on this machine.

    A checkpoint that is not here and has the name of a file in `models/`, as
    google/flan-t5-xxl has, is that model.

    Raises:
        InputError: neither is the case.
    """
    stem = os.path.basename(checkpoint.rstrip("/")).lower()
    stem = stem.replace("-", "_").replace(".", "_")
    folder = scanning.package_folder() / "models"
    if not os.path.exists(checkpoint) and (folder / f"{stem}.gin").is_file():
        scan = scanning.scan([os.fspath(folder / f"{stem}.gin")])
        fields = {field.name for field in dataclasses.fields(T5Config)}
        values = {
            one.parameter: one.value
            for one in scan.effective().values()
            if one.selector.endswith("T5Config") and one.parameter in fields
        }
        return T5Config(**values)
    try:
        return open_checkpoint(checkpoint).config
    except InputError as error:
        raise InputError(
            f"the teacher's network is not known here ({error}) Name a checkpoint on "
            "this machine, or one called as a file in models/ (flan-t5-xxl)."
        ) from error


def _weights(network: T5Config, mesh: Mesh) -> int:
    """Bytes of a teacher's weights on one chip, in the type of the activations."""
    weights = abstract_weights(Student(Transformer(network)), mesh)
    kept = jax.tree.map(lambda leaf: leaf.update(dtype=network.dtype), weights)
    return bytes_per_chip(kept)
