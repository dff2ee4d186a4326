"""The program of a recipe, lowered for devices that need not exist.

Nothing here is a model of training: the state, its shardings, the step and the way it
is jitted are those of `training.loop`, with shapes in the place of arrays.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from jax.sharding import Mesh

from specialize import sharding
from specialize.errors import InputError
from specialize.inference.spec import DecodingSpec
from specialize.student.decoding import decoding
from specialize.training.data import packing
from specialize.training.data.spec import DataSpec
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.state import lower_step, plan_state

# Alternatives a position that the published corpora keep.
TEACHER_K = 5


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
        params: float32 master weights.
        optimizer: the rest of the state.
        batch: the step's input.
        temporaries: everything that lives only during the step: gradients, what the
            backward pass keeps, gathered weights, and outputs that reuse no input.
        program: the compiled code.
    """

    params: int
    optimizer: int
    batch: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered step.

    Attributes:
        lowered: of `jax.jit(...).lower(...)`.
        mesh: what it was lowered for.
        params: bytes of weights on one chip.
        state: bytes of weights and optimizer on one chip.
        batch: bytes of input on one chip.
        num_params: numbers in the weights.
        decoder: bytes of weights on one chip that each decoded token reads.
    """

    lowered: Any
    mesh: Mesh
    params: int
    state: int
    batch: int
    num_params: int
    decoder: int = 0


def train_program(
    model: Any,
    data: DataSpec,
    optimizer: OptimizerSpec,
    devices: Sequence[Any],
    *,
    mesh: Any = None,
    rules: sharding.Rules = sharding.DEFAULT_RULES,
    teacher_k: int = TEACHER_K,
) -> Program:
    """Lowers the training step of a configuration.

    Args:
        model: as `training.loop.train.train` takes it, like `data`, `optimizer`,
            `mesh` and `rules`.
        data: lengths and sizes of the batches.
        optimizer: the optimizer and its schedule.
        devices: what to lower for; of a real or a described topology.
        mesh: the device mesh.
        rules: logical axes to mesh axes.
        teacher_k: K of the corpus.

    Returns:
        The step, lowered but not compiled.

    Raises:
        InputError: mesh, batch and microbatches do not fit each other.
    """
    mesh = sharding.read_mesh(mesh, devices)
    data.check_batch(sharding.batch_shards(mesh))
    placed = sharding.batch_sharding(mesh)
    shapes = batch_shapes(
        data.feature_lengths,
        data.batch_size,
        packed=data.pack,
        teacher_k=teacher_k if "teacher_ids" in data.feature_lengths else 0,
    )
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)
        for name, leaf in shapes.items()
    }
    # Arrays of the right shape that occupy one number each.
    hollow = {
        name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        for name, leaf in shapes.items()
    }
    made = make_optimizer(optimizer)
    layout = plan_state(model, made, hollow, mesh, rules)
    _, lowered = lower_step(model, made, data, layout, batch)
    return Program(
        lowered=lowered,
        mesh=mesh,
        params=bytes_per_chip(layout.abstract["params"]),
        state=bytes_per_chip(layout.abstract),
        batch=bytes_per_chip(batch),
        num_params=sum(
            leaf.size for leaf in jax.tree.leaves(layout.abstract["params"])
        ),
    )


def decode_program(
    model: Any, spec: DecodingSpec, devices: Sequence[Any], *, mesh: Any = None
) -> Program:
    """Lowers the decoding of one batch of prompts of the greatest length.

    Args:
        model: the student.
        spec: how texts are generated.
        devices: what to lower for.
        mesh: the device mesh, in any spelling of `specialize.mesh`.

    Returns:
        The program `inference.engine` runs a batch with, lowered but not compiled.

    Raises:
        InputError: mesh and batch do not fit each other.
    """
    mesh = sharding.read_mesh(mesh, devices)
    rows, length = spec.batch_size, spec.input_length
    if rows % sharding.batch_shards(mesh):
        raise InputError(
            f"batch_size={rows} does not divide over the "
            f"{sharding.batch_shards(mesh)} devices along data x fsdp of mesh "
            f"{dict(mesh.shape)}. Use a multiple of it."
        )
    shapes = {"encoder_input_tokens": (1, 8), "decoder_input_tokens": (1, 8)}
    abstract = jax.eval_shape(
        lambda key: model.get_initial_variables(key, shapes), jax.random.key(0)
    )
    axes, params = unfreeze(abstract["params_axes"]), unfreeze(abstract["params"])
    rules = sharding.fit_rules(mesh, params, axes)
    params = _placed(params, sharding.state_shardings(mesh, params, axes, rules))
    tokens = jax.ShapeDtypeStruct(
        (rows, length), jnp.int32, sharding=sharding.batch_sharding(mesh)
    )
    whole = sharding.replicated(mesh)
    key = jax.eval_shape(jax.random.key, 0)

    def run(params: Any, batch: jax.Array, key: jax.Array) -> Any:
        return decoding.generate(
            model.module,
            params,
            batch,
            spec,
            max_length=spec.output_length,
            rng=key,
        )

    with jax.set_mesh(mesh):
        lowered = jax.jit(run, out_shardings=whole).lower(params, tokens, key)
    return Program(
        lowered=lowered,
        mesh=mesh,
        params=bytes_per_chip(params),
        state=bytes_per_chip(params),
        batch=bytes_per_chip(tokens),
        num_params=sum(leaf.size for leaf in jax.tree.leaves(params)),
        decoder=bytes_per_chip(params["decoder"]),
    )


def _placed(tree: Any, shardings: Any) -> Any:
    """Shapes with where they lie."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        tree,
        shardings,
    )


def batch_shapes(
    lengths: Mapping[str, int], rows: int, *, packed: bool, teacher_k: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a training batch, as the packer makes them.

    Args:
        lengths: of the task's features; "inputs" and "targets" at least.
        rows: B.
        packed: whether rows hold several examples.
        teacher_k: K, or 0 for a corpus without a teacher.
    """
    features: dict[str, np.ndarray] = {
        "inputs": np.ones(1, np.int32),
        "targets": np.ones(1, np.int32),
    }
    if teacher_k:
        features |= {
            "teacher_ids": np.ones((1, teacher_k), np.int32),
            "teacher_probs": np.ones((1, teacher_k), np.float32),
            "teacher_tail": np.ones(1, np.float32),
            "format_id": np.ones(1, np.int32),
        }
    one = {part: np.ones(1, np.int64) for part in ("inputs", "targets")}
    begin = {part: np.zeros(1, np.int64) for part in ("inputs", "targets")}
    row = packing.pack(
        features, begin, one, np.zeros(1, np.int64), 1, lengths, segments=packed
    )
    return {
        name: jax.ShapeDtypeStruct((rows, *values.shape[1:]), values.dtype)
        for name, values in row.items()
    }


def bytes_per_chip(tree: Any) -> int:
    """Bytes that the shards of a tree of shaped, sharded leaves take on one chip."""

    def size(leaf: Any) -> int:
        shape = leaf.shape
        if leaf.sharding is not None:
            shape = leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
