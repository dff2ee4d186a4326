"""The program of a recipe, lowered for devices that need not exist.

The state, its shardings, the step and its jit options are those of `training.loop`,
with shapes instead of arrays.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from specialize import sharding
from specialize.cost.plan import rollouts
from specialize.errors import InputError
from specialize.inference.spec import DecodingSpec
from specialize.inference.weights import abstract_weights
from specialize.student.adapters.quantization import number_of_weights
from specialize.student.decoding import decoding
from specialize.student.network.architecture import T5Config
from specialize.student.network.transformer import Transformer
from specialize.training.data import packing
from specialize.training.data.spec import DataSpec
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.state import adapted, lower_step, plan_state
from specialize.training.optimization.step import TEACHER
from specialize.training.rollouts.whole import WholeStudent
from specialize.training.rollouts.windows import with_parts
from specialize.typed_json import Count

# K of the published corpora.
TEACHER_K = 5


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
        params: weights: in float32, or frozen (and quantised) ones beside adapters.
        optimizer: the rest of the state.
        batch: the input of the step.
        temporaries: everything that exists only during the step: gradients, stored
            activations, gathered weights, and outputs that reuse no input.
        program: the compiled code.
        teacher: weights of a teacher on the mesh, in the type of the activations.
    """

    params: Count
    optimizer: Count
    batch: Count
    temporaries: Count
    program: Count
    teacher: Count = 0

    @property
    def total(self) -> int:
        """The sum."""
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered step.

    Attributes:
        lowered: result of `jax.jit(...).lower(...)`.
        mesh: the mesh that it was lowered for.
        params: bytes of weights on one chip.
        state: bytes of weights and optimizer on one chip.
        batch: bytes of input on one chip.
        num_params: number of parameters.
        trained: number of them that are trained.
        decoder: bytes of weights on one chip that each decoded token reads.
        teacher: bytes of a teacher's weights on one chip.
        in_step: whether the step reads these, as it reads state and batch.
        reading: the network of a teacher on the mesh.
        moment: bytes of AdamW's first moment on one chip; 0 without one.
    """

    lowered: Any
    mesh: Mesh
    params: int
    state: int
    batch: int
    num_params: int
    trained: int = 0
    decoder: int = 0
    teacher: int = 0
    in_step: bool = False
    reading: T5Config | None = None
    moment: int = 0

    @property
    def beside(self) -> int:
        """Bytes of weights on one chip that the step does not read."""
        return 0 if self.in_step else self.teacher

    @property
    def arguments(self) -> int:
        """Bytes on one chip that the step reads."""
        return self.state + self.batch + self.teacher - self.beside


def train_program(
    model: Any,
    data: DataSpec,
    optimizer: OptimizerSpec,
    devices: Sequence[Any],
    *,
    mesh: Any = None,
    rules: sharding.Rules = sharding.DEFAULT_RULES,
    teacher_k: int = TEACHER_K,
    embedding_lookup: str = "auto",
) -> Program:
    """Lowers the training step of a configuration, without compiling it.

    Of a run with rollouts it is the step that learns from the texts and, if whole
    distributions are compared, has the teacher read them.

    Args:
        model: the student, as for `training.loop.train.train`.
        data: lengths and sizes of the batches.
        optimizer: the optimizer and its schedule.
        devices: devices of a real or a described topology.
        mesh: the device mesh.
        rules: the sharding rules.
        teacher_k: K of the corpus.
        embedding_lookup: as for `rollouts.teacher_of`.

    Raises:
        InputError: mesh, batch and microbatches do not fit each other, or as for
            `rollouts.teacher_of`.
    """
    mesh = sharding.read_mesh(mesh, devices)
    data.check_batch(sharding.batch_shards(mesh))
    k = teacher_k if "teacher_ids" in data.feature_lengths else 0
    if data.rollouts.on:
        k = data.rollouts.entries([k])
    placed = sharding.batch_sharding(mesh)
    shapes = batch_shapes(data.lengths, data.batch_size, packed=data.pack, teacher_k=k)
    batch: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)
        for name, leaf in shapes.items()
    }
    # Arrays of the right shape that use the memory of one number each.
    hollow = {
        name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        for name, leaf in shapes.items()
    }
    made = make_optimizer(optimizer)
    model = adapted(model, made)
    layout = plan_state(model, made, hollow, mesh, rules)
    reading = rollouts.teacher_of(model, data, embedding_lookup=embedding_lookup)
    kept = {} if reading is None else rollouts.weights(reading, mesh)
    learner, fixed = with_parts(model) if data.rollouts.on else model, {}
    if reading is not None and data.rollouts.whole_vocabulary:
        learner, fixed = WholeStudent(learner, Transformer(reading)), {TEACHER: kept}
    _, lowered = lower_step(learner, made, data, layout, {**batch, **fixed})
    trained, frozen = layout.abstract["params"], layout.frozen
    moment = optax.tree.get(layout.abstract["opt_state"], "mu")
    return Program(
        lowered=lowered,
        mesh=mesh,
        params=bytes_per_chip((trained, frozen)),
        state=bytes_per_chip((layout.abstract, frozen)),
        batch=bytes_per_chip(batch),
        num_params=_number((trained, frozen)),
        trained=_number(trained),
        teacher=bytes_per_chip(kept),
        in_step=bool(fixed),
        reading=reading,
        moment=bytes_per_chip(moment) if optimizer.name == "adamw" else 0,
    )


def decode_program(
    model: Any, spec: DecodingSpec, devices: Sequence[Any], *, mesh: Any = None
) -> Program:
    """Lowers the decoding of one batch of prompts of the maximum length.

    It is the program of `inference.engine`. Arguments are those of `train_program`;
    `spec` says how texts are generated.

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
    params = abstract_weights(model, mesh)
    tokens = jax.ShapeDtypeStruct(
        (rows, length), jnp.int32, sharding=sharding.batch_sharding(mesh)
    )
    whole = sharding.replicated(mesh)
    key = jax.eval_shape(jax.random.key, 0)

    def run(params: Any, batch: jax.Array, key: jax.Array) -> Any:
        return decoding.generate(
            model.module, params, batch, spec, max_length=spec.output_length, rng=key
        )

    with jax.set_mesh(mesh):
        lowered = jax.jit(run, out_shardings=whole).lower(params, tokens, key)
    return Program(
        lowered=lowered,
        mesh=mesh,
        params=bytes_per_chip(params),
        state=bytes_per_chip(params),
        batch=bytes_per_chip(tokens),
        num_params=_number(params),
        decoder=bytes_per_chip(params["decoder"]),
    )


def _number(tree: Any) -> int:
    """The number of weights, however they are stored."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return number_of_weights((path[-1].key, leaf) for path, leaf in leaves)


def batch_shapes(
    lengths: Mapping[str, int], rows: int, *, packed: bool, teacher_k: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a training batch, as the packer makes them.

    Args:
        lengths: lengths of a sequence, "inputs" and "targets".
        rows: B, the number of sequences.
        packed: whether sequences hold several examples.
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
    """Bytes on one chip of a tree of leaves with shapes and shardings."""

    def size(leaf: Any) -> int:
        shape = leaf.shape
        if leaf.sharding is not None:
            shape = leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))
