"""From hidden states and head to loss and gradients, one chunk of tokens at a time.

Logits of T5's vocabulary take 125.5 KiB per token in float32, and an ordinary vjp keeps
several copies. Here a loop over chunks of tokens computes their logits, statistics,
cost and, when differentiated, both gradients, and drops the logits. The value is a
scalar, so its gradient is known up to one factor before the backward pass begins.

On a mesh each device loops over its own tokens and its own columns of the head. Devices
exchange the statistics of every chunk, and both gradients once, at the end.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from specialize.errors import InputError
from specialize.mesh import AXES
from specialize.student.ambient import ambient_mesh, platform_of
from specialize.student.loss import (
    diagnostics,
    divergences,
    logit_statistics,
    whole_vocabulary,
)
from specialize.student.loss.spec import LossConfig
from specialize.student.loss.teacher_rows import TeacherRows
from specialize.student.loss.whole_vocabulary import WholeRows

# What a teacher says: K probabilities, or states to which its head is applied.
Rows = TeacherRows | WholeRows

# Bytes of a chunk's float32 logits. On a CPU they stay in the last cache; elsewhere a
# chunk is so large that products run at their peak and that adding to the head's
# gradient once per chunk is cheap in comparison.
CHUNK_BYTES = {"cpu": 16 * 2**20}
OTHER_CHUNK_BYTES = 256 * 2**20


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The division of a loss computation; static under jit.

    Attributes:
        chunk: number of tokens at a time on one device.
        mesh: the devices. None: the compiler decides.
        batch_axes: mesh axes over which the tokens are split.
        vocabulary_axis: mesh axis over which the vocabulary is split, if any.
    """

    chunk: int
    mesh: Mesh | AbstractMesh | None = None
    batch_axes: tuple[str, ...] = ()
    vocabulary_axis: str | None = None

    @property
    def token_shards(self) -> int:
        """The number of parts into which the tokens are split."""
        if self.mesh is None:
            return 1
        return math.prod(self.mesh.shape[axis] for axis in self.batch_axes)


class Gradients(NamedTuple):
    """The gradients of the loss; None for one that is not wanted."""

    hidden: Any
    head: Any


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which gradients are computed."""

    hidden: bool
    head: bool

    def of(self, hidden: Any, head: Any) -> Gradients:
        """What belongs to the gradients that are wanted."""
        return Gradients(hidden if self.hidden else None, head if self.head else None)


NOTHING = Wanted(hidden=False, head=False)


def make_tiling(
    mesh: Mesh | AbstractMesh | None, vocabulary_size: int, chunk: int | None
) -> Tiling:
    """Chooses axes and chunk; see `losses.fused_distillation_loss`."""
    *batch_axes, vocabulary_axis = AXES
    mesh = ambient_mesh() if mesh is None else mesh
    platform = platform_of(mesh)
    if mesh is None or mesh.size == 1:
        mesh, batch_axes, split = None, [], None
    else:
        sizes = dict(mesh.shape)
        batch_axes = [axis for axis in batch_axes if sizes.get(axis, 1) > 1]
        shards = sizes.get(vocabulary_axis, 1)
        splits = shards > 1 and vocabulary_size % shards == 0
        split = vocabulary_axis if splits else None
        if split is not None:
            vocabulary_size //= shards
        if not batch_axes and split is None:
            mesh = None
    if chunk is None:
        size = CHUNK_BYTES.get(platform, OTHER_CHUNK_BYTES)
        chunk = max(16, size // (4 * vocabulary_size) // 16 * 16)
    elif chunk < 1:
        raise InputError(f"chunk is {chunk}; it must be at least 1 token.")
    return Tiling(chunk, mesh, tuple(batch_axes), split)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fused(
    config: LossConfig,
    tiling: Tiling,
    hidden: Float[Array, "N D"],
    head: Float[Array, "D V"],
    rows: Rows,
    teacher_head: Float[Array, "E V"] | None = None,
) -> Any:
    """Returns the loss sum and the metrics (`diagnostics.tabulate`) of `hidden @ head`.

    Only the loss is differentiable, with respect to `hidden` and `head`. `WholeRows`
    need `teacher_head`, which is applied to their states in the same loop.
    """
    heads = (head, teacher_head)
    loss, table, _ = _split(config, tiling, hidden, heads, rows, wanted=NOTHING)
    return loss, table


def _forward(config, tiling, hidden, head, rows, teacher_head=None):
    # A frozen head has no gradient, which would be as large as the head in float32.
    wanted = Wanted(hidden=True, head=head.perturbed)
    hidden, head, rows, teacher_head = jax.tree.map(
        lambda one: one.value, (hidden, head, rows, teacher_head)
    )
    loss, table, gradients = _split(
        config, tiling, hidden, (head, teacher_head), rows, wanted=wanted
    )
    return (loss, table), gradients


def _backward(config, tiling, gradients, cotangents):
    del config, tiling
    loss = cotangents[0]

    def scaled(x: Any) -> Any:
        if x is None or isinstance(loss, SymbolicZero):
            return None
        wide = jnp.promote_types(x.dtype, jnp.float32)
        return (x.astype(wide) * loss).astype(x.dtype)

    return scaled(gradients.hidden), scaled(gradients.head), None, None


fused.defvjp(_forward, _backward, symbolic_zeros=True)


def _split(config, tiling: Tiling, hidden, heads, rows: Rows, *, wanted: Wanted):
    """Runs `_loop` on every device of the tiling and adds the results."""
    tokens = hidden.shape[0]
    if tiling.mesh is None:
        return _loop(config, tiling, hidden, heads, rows, wanted=wanted)
    missing = -tokens % tiling.token_shards
    hidden, rows = jax.tree.map(lambda x: _padded(x, missing), (hidden, rows))
    lines = P(tiling.batch_axes or None)
    columns = P(None, tiling.vocabulary_axis)
    loss, table, gradients = jax.shard_map(
        functools.partial(_loop, config, tiling, wanted=wanted),
        mesh=tiling.mesh,
        in_specs=(lines, columns, lines),
        out_specs=(P(), P(), wanted.of(lines, columns)),
        check_vma=False,
    )(hidden, heads, rows)
    if wanted.hidden:
        gradients = gradients._replace(hidden=gradients.hidden[:tokens])
    return loss, table, gradients


def _loop(
    config, tiling: Tiling, hidden, heads, rows: Rows, *, wanted: Wanted
) -> tuple[Array, Array, Gradients]:
    """Returns loss, metrics and, if wanted, gradients of this device's tokens."""
    head, teacher_head = heads
    dtype = rows.weights.dtype
    vocabulary = logit_statistics.WHOLE
    if tiling.vocabulary_axis is not None:
        start = jax.lax.axis_index(tiling.vocabulary_axis) * head.shape[1]
        vocabulary = logit_statistics.Vocabulary(tiling.vocabulary_axis, start)
    weight = head.astype(hidden.dtype)
    tokens = hidden.shape[0]
    chunk = min(tiling.chunk, tokens)

    def step(hidden, rows) -> tuple[Array, Gradients]:
        logits = jnp.dot(hidden, weight, preferred_element_type=dtype)
        if isinstance(rows, WholeRows):
            states, columns = rows.hidden, teacher_head.astype(rows.hidden.dtype)
            teacher = jnp.dot(states, columns, preferred_element_type=dtype)
            metrics, gradient = whole_vocabulary.compare(
                logits, teacher, rows, config, vocabulary
            )
        else:
            metrics, gradient = _on_events(logits, rows, config, vocabulary)
        table = diagnostics.tabulate(metrics, rows, config)
        d_hidden = d_head = None
        gradient = gradient.astype(hidden.dtype)
        if wanted.hidden:
            d_hidden = jnp.dot(gradient, weight.T, preferred_element_type=dtype)
        if wanted.head:
            d_head = jnp.dot(hidden.T, gradient, preferred_element_type=dtype)
        return table, Gradients(d_hidden, d_head)

    if chunk == tokens:
        table, gradients = step(hidden, rows)
    else:
        table, gradients = _chunked(step, tiling, hidden, rows, chunk)
    if tiling.batch_axes:
        table = jax.lax.psum(table, tiling.batch_axes)
    d_hidden, d_head = gradients
    if d_hidden is not None:
        d_hidden = vocabulary.sum(d_hidden).astype(hidden.dtype)
    if d_head is not None:
        if tiling.batch_axes:
            d_head = jax.lax.psum(d_head, tiling.batch_axes)
        d_head = d_head.astype(head.dtype)
    return table[0, 0, 0], table, Gradients(d_hidden, d_head)


def _on_events(
    logits: Float[Array, "N V"],
    rows: TeacherRows,
    config: LossConfig,
    vocabulary: logit_statistics.Vocabulary,
) -> tuple[Any, Float[Array, "N V"]]:
    """Metrics and gradient of the K+1 events; the gradient is dropped if not used."""
    statistics, exponentials = logit_statistics.summarise(
        logits, rows, config.temperature, vocabulary
    )
    value, cotangent = divergences.objective(statistics, rows, config)
    metrics = diagnostics.per_position(value, statistics, rows, config)
    gradient = logit_statistics.logits_gradient(
        statistics, exponentials, cotangent, rows, config.temperature, vocabulary
    )
    return metrics, gradient


def _chunked(
    step, tiling: Tiling, hidden, rows: Rows, chunk: int
) -> tuple[Array, Gradients]:
    """Applies `step` to chunks of the tokens with a weight, and adds the results."""
    tokens = hidden.shape[0]
    hidden, rows = jax.tree.map(lambda x: _padded(x, -tokens % chunk), (hidden, rows))
    # Tokens of weight 0 go to the end, in order, and the loop stops before them.
    order = jnp.argsort(rows.weights == 0, stable=True)
    used = jnp.sum(rows.weights != 0, dtype=jnp.int32)
    chunks = -(-used // chunk)
    if tiling.mesh is not None:
        # Devices exchange statistics in the loop, so all need the same number of turns.
        axes = (*tiling.batch_axes, tiling.vocabulary_axis)
        chunks = jax.lax.pmax(chunks, tuple(axis for axis in axes if axis))

    def turn(index, carry):
        at = jax.lax.dynamic_slice_in_dim(order, index * chunk, chunk)
        table, (d_hidden, d_head) = step(*jax.tree.map(lambda x: x[at], (hidden, rows)))
        total, sums = carry
        if d_hidden is not None:
            d_hidden = sums.hidden.at[at].set(d_hidden)
        if d_head is not None:
            d_head = sums.head + d_head
        return total + table, Gradients(d_hidden, d_head)

    shapes = jax.eval_shape(step, *jax.tree.map(lambda x: x[:chunk], (hidden, rows)))
    table, gradients = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    if (d_hidden := gradients.hidden) is not None:
        d_hidden = jnp.zeros(hidden.shape, d_hidden.dtype)
        gradients = gradients._replace(hidden=d_hidden)
    table, gradients = jax.lax.fori_loop(0, chunks, turn, (table, gradients))
    if (d_hidden := gradients.hidden) is not None:
        gradients = gradients._replace(hidden=d_hidden[:tokens])
    return table, gradients


def _padded(x: Array, count: int) -> Array:
    """Appends `count` tokens of weight 0."""
    return jnp.pad(x, [(0, count)] + [(0, 0)] * (x.ndim - 1)) if count else x
