"""What rollouts add to a plan: a teacher on the mesh, and FLOPs."""

import dataclasses
import os
from typing import Any

import jax
from jax.sharding import Mesh

from specialize.checkpoints.opening import open_checkpoint
from specialize.config import scanning
from specialize.errors import InputError
from specialize.inference.weights import abstract_weights
from specialize.student.model import Student
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer
from specialize.training.data.spec import DataSpec
from specialize.training.logging import throughput
from specialize.training.rollouts import mesh_teacher


def teacher_of(
    model: Any, data: DataSpec, *, embedding_lookup: str = "auto"
) -> T5Config | None:
    """The network of a run's teacher on the mesh; None if there is none.

    Args:
        model: the student.
        data: the rollouts of the run.
        embedding_lookup: what "auto" is on the chips that are planned for.

    Raises:
        InputError: the teacher's network is not known here, or its distributions cannot
            be compared with the student's.
    """
    spec, student = data.rollouts, model.module.config
    if not spec.on or spec.teacher is None:
        return None
    network = network_of(spec.teacher)
    if spec.whole_vocabulary:
        mesh_teacher.check_rows(spec.teacher, network, student.vocab_size)
    network = dataclasses.replace(network, embedding_lookup=embedding_lookup)
    return mesh_teacher.reading(network, student.dtype)


def flops(model: Any, data: DataSpec, teacher: T5Config | None) -> float:
    """Model FLOPs of a step besides those of learning: of writing and of reading.

    A text counts with as many tokens as the target that it replaces, so texts are a
    share of the batch. A teacher that compares whole distributions reads all of the
    batch, within the step. Writing reads every weight once per token, which no FLOPs
    show; a served teacher has no part of the chips.

    Args:
        model: the student.
        data: the rollouts of the run.
        teacher: the network of a teacher on the mesh (`teacher_of`).
    """
    spec = data.rollouts
    sizes = (data.batch_size, *data.lengths.values())
    found = spec.share * throughput.forward_flops(model.module.config, *sizes)
    if teacher is not None:
        read = 1.0 if spec.whole_vocabulary else spec.share
        found += read * throughput.forward_flops(teacher, *sizes)
    return found


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


def weights(network: T5Config, mesh: Mesh) -> Any:
    """A teacher's weights as `jax.ShapeDtypeStruct`s, in the type of the activations.

    They are sharded over a mesh, whose devices need not exist.
    """
    found = abstract_weights(Student(Transformer(network)), mesh)
    return jax.tree.map(lambda leaf: leaf.update(dtype=network.dtype), found)
