"""GPU kernels of fused attention: one forward, three backward.

FlashAttention-2 (Dao 2023, arXiv 2307.08691) with T5's additions: a learned bias that
all sequences of a batch share, and any mask. Scores exist only as tiles in registers;
the gradient computes each tile again from the logarithm of its row's sum. Tiles that
the mask hides completely (between packed examples, or in the future) are skipped.

The kernels are written in Pallas for its Triton backend. On a CPU, for tests, they are
interpreted. Scores, softmax and sums are float32; operands have the inputs' type.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Float, Int

from specialize.errors import InputError
from specialize.student.ambient import ambient_mesh, platform_of

# A tile: number of positions that a program owns, number of positions that it reads at
# a time, warps, and stages of the load pipeline. In all four kernels the fastest or
# nearly the fastest of thirty choices on an H200 for heads of 64, packed or not.
ROWS = 64
COLUMNS = 32
WARPS = 4
STAGES = 3
# Wider heads take twice the shared memory per stage.
STAGES_OF_WIDE_HEADS = 2
# The score of a masked key: its weight is 0 next to any real one. It is finite because
# the difference of two infinities is NaN.
MASKED = -1e30
# The index of an element is a 32-bit number in the kernels.
MOST_ELEMENTS = 2**31 - 1
# The kernels compute powers of 2, for which the hardware has an instruction.
LOG2_E = math.log2(math.e)


def forward(
    queries: Float[Array, "B Q H d"],
    keys: Float[Array, "B K H d"],
    values: Float[Array, "B K H d"],
    bias: Float[Array, "1 H Q K"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
) -> tuple[Float[Array, "B Q H d"], Float[Array, "B H Q"]]:
    """Returns the weighted values and, per query, log2 of the sum of exponentials.

    Raises:
        InputError: an array is too large for one kernel, or the device is a TPU.
    """
    most = most_elements(queries.shape, keys.shape)
    if most > MOST_ELEMENTS:
        raise InputError(
            f"attention is 'fused' over queries {queries.shape} and keys {keys.shape}: "
            f"an array has {most:,} elements on one device; the kernels index at most "
            f"{MOST_ELEMENTS:,}. Raise MICROBATCHES, or use 'auto'."
        )
    length = queries.shape[1]
    queries, keys, values, bias, mask = _filled(queries, keys, values, bias, mask)
    batch, rows, heads, depth = queries.shape
    mixed, logs = _call(
        _forward_kernel,
        (rows // ROWS, heads, batch),
        [_own(queries), _all(keys), _all(values), *_scored(bias, mask)],
        [
            (_own(queries), jax.ShapeDtypeStruct(queries.shape, queries.dtype)),
            (_OWN_LOGS, jax.ShapeDtypeStruct((batch, heads, rows), jnp.float32)),
        ],
        depth,
    )(queries, keys, values, bias, mask, _ranges(mask))
    return mixed[:, :length], logs[:, :, :length]


def most_elements(queries: Sequence[int], keys: Sequence[int]) -> int:
    """Elements of the largest array, for queries [B Q H d] and keys [B K H d]."""
    (batch, rows, heads, depth), columns = queries, keys[1]
    rows, columns = (-(-length // ROWS) * ROWS for length in (rows, columns))
    positions = batch * heads * depth * max(rows, columns)
    return max(positions, max(batch, heads) * rows * columns)  # mask or bias


def gradients(
    queries: Float[Array, "B Q H d"],
    keys: Float[Array, "B K H d"],
    values: Float[Array, "B K H d"],
    bias: Float[Array, "1 H Q K"] | None,
    mask: Bool[Array, "B 1 Q K"] | None,
    mixed: Float[Array, "B Q H d"],
    logs: Float[Array, "B H Q"],
    gradient: Float[Array, "B Q H d"],
) -> tuple[Array, Array, Array, Array | None]:
    """Returns the gradients of queries, keys, values and, unless it is None, bias.

    `mixed` and `logs` are what `forward` returned for the first five arguments;
    `gradient` is the gradient of `mixed`.
    """
    length, sources = queries.shape[1], keys.shape[1]
    # The gradient of a softmax subtracts the mean of its weights' gradients.
    means = jnp.einsum(
        "bqhd,bqhd->bhq", mixed, gradient, preferred_element_type=jnp.float32
    )
    means, logs = _lengthened(means, 2), _lengthened(logs, 2)
    gradient = _lengthened(gradient, 1)
    queries, keys, values, bias, mask = _filled(queries, keys, values, bias, mask)
    batch, rows, heads, depth = queries.shape
    columns = keys.shape[1]
    like_queries = jax.ShapeDtypeStruct(queries.shape, queries.dtype)
    like_keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype)

    [d_queries] = _call(
        _queries_kernel,
        (rows // ROWS, heads, batch),
        [
            *(_own(queries), _all(keys), _all(values), *_scored(bias, mask)),
            *(_own(gradient), _OWN_LOGS, _OWN_LOGS),
        ],
        [(_own(queries), like_queries)],
        depth,
    )(queries, keys, values, bias, mask, _ranges(mask), gradient, logs, means)

    # The keys are the rows here: transpose once instead of per tile.
    turned_bias = None if bias is None else jnp.swapaxes(bias, 1, 2)
    turned_mask = None if mask is None else jnp.swapaxes(mask, 1, 2)
    d_keys, d_values = _call(
        _keys_kernel,
        (columns // ROWS, heads, batch),
        [
            *(_own(keys), _own(values), _all(queries)),
            *_scored(turned_bias, turned_mask),
            *(_all(gradient), _all_logs(logs), _all_logs(means)),
        ],
        [(_own(keys), like_keys), (_own(values), like_keys)],
        depth,
    )(
        *(keys, values, queries, turned_bias, turned_mask, _ranges(turned_mask)),
        *(gradient, logs, means),
    )

    d_bias = None
    if bias is not None:
        seen = _rows_that_see(mask)
        part = pl.BlockSpec((None, ROWS, COLUMNS), lambda j, i, h: (h, i, j))
        of_query = pl.BlockSpec(
            (batch, ROWS, None, depth), lambda j, i, h: (0, i, h, 0)
        )
        of_key = pl.BlockSpec(
            (batch, COLUMNS, None, depth), lambda j, i, h: (0, j, h, 0)
        )
        of_log = pl.BlockSpec((batch, None, ROWS), lambda j, i, h: (0, h, i))
        masked = pl.BlockSpec((batch, ROWS, COLUMNS), lambda j, i, h: (0, i, j))
        listed = pl.BlockSpec((None, None, batch + 1), lambda j, i, h: (i, j, 0))
        [d_bias] = _call(
            _bias_kernel,
            (columns // COLUMNS, rows // ROWS, heads),
            [
                *(of_query, of_key, of_key, part),
                *(None if mask is None else spec for spec in (masked, listed)),
                *(of_query, of_log, of_log),
            ],
            [(part, jax.ShapeDtypeStruct(bias.shape, jnp.float32))],
            depth,
        )(queries, keys, values, bias, mask, seen, gradient, logs, means)
        d_bias = d_bias[None, :, :length, :sources]
    return d_queries[:, :length], d_keys[:, :sources], d_values[:, :sources], d_bias


# The kernels. "Rows" are the positions that a program owns, "columns" those it reads.


def _forward_kernel(
    q_ref, k_ref, v_ref, bias_ref, mask_ref, range_ref, out_ref, log_ref
):
    q = q_ref[...]
    rows = q.shape[0]

    def turn(index, carry):
        total, top, count = carry
        at = pl.ds(index * COLUMNS, COLUMNS)
        scores = _scores(q, k_ref[at, :], bias_ref, mask_ref, at)
        higher = jnp.maximum(top, jnp.max(scores, axis=1))
        shrink = jnp.exp2(top - higher)
        weights = jnp.exp2(scores - higher[:, None])
        v = v_ref[at, :]
        total = total * shrink[:, None] + _product(weights.astype(v.dtype), v)
        return total, higher, count * shrink + jnp.sum(weights, axis=1)

    total = jnp.zeros(q.shape, jnp.float32)
    top = jnp.full((rows,), MASKED, jnp.float32)
    count = jnp.zeros((rows,), jnp.float32)
    turns = _turns(range_ref, k_ref)
    total, top, count = jax.lax.fori_loop(*turns, turn, (total, top, count))
    sees = top > MASKED
    mixed = jnp.where(sees[:, None], total / count[:, None], 0.0)
    out_ref[...] = mixed.astype(out_ref.dtype)
    # Queries that see nothing: in the gradient every weight is 2^(MASKED - 0) = 0.
    log_ref[...] = jnp.where(sees, top + jnp.log2(count), 0.0)


def _queries_kernel(
    q_ref,
    k_ref,
    v_ref,
    bias_ref,
    mask_ref,
    range_ref,
    gradient_ref,
    log_ref,
    mean_ref,
    dq_ref,
):
    q, gradient = q_ref[...], gradient_ref[...]
    logs, means = log_ref[...][:, None], mean_ref[...][:, None]

    def turn(index, total):
        at = pl.ds(index * COLUMNS, COLUMNS)
        k = k_ref[at, :]
        weights = jnp.exp2(_scores(q, k, bias_ref, mask_ref, at) - logs)
        d_weights = _product(gradient, v_ref[at, :], turned=True)
        d_scores = weights * (d_weights - means)
        return total + _product(d_scores.astype(k.dtype), k)

    total = jnp.zeros(q.shape, jnp.float32)
    total = jax.lax.fori_loop(*_turns(range_ref, k_ref), turn, total)
    dq_ref[...] = total.astype(dq_ref.dtype)


def _keys_kernel(
    k_ref,
    v_ref,
    q_ref,
    bias_ref,
    mask_ref,
    range_ref,
    gradient_ref,
    log_ref,
    mean_ref,
    dk_ref,
    dv_ref,
):
    k, v = k_ref[...], v_ref[...]

    def turn(index, totals):
        at = pl.ds(index * COLUMNS, COLUMNS)
        q, gradient = q_ref[at, :], gradient_ref[at, :]
        scores = _scores(k, q, bias_ref, mask_ref, at)
        weights = jnp.exp2(scores - log_ref[at][None, :])
        d_weights = _product(v, gradient, turned=True)
        d_scores = weights * (d_weights - mean_ref[at][None, :])
        return (
            totals[0] + _product(d_scores.astype(q.dtype), q),
            totals[1] + _product(weights.astype(v.dtype), gradient),
        )

    zeros = jnp.zeros(k.shape, jnp.float32)
    turns = _turns(range_ref, q_ref)
    d_keys, d_values = jax.lax.fori_loop(*turns, turn, (zeros, zeros))
    dk_ref[...] = d_keys.astype(dk_ref.dtype)
    dv_ref[...] = d_values.astype(dv_ref.dtype)


def _bias_kernel(
    q_ref,
    k_ref,
    v_ref,
    bias_ref,
    mask_ref,
    list_ref,
    gradient_ref,
    log_ref,
    mean_ref,
    total_ref,
):
    bias = bias_ref[...]

    def turn(index, total):
        row = index if list_ref is None else list_ref[index + 1]
        scores = LOG2_E * _product(q_ref[row], k_ref[row], turned=True) + bias
        if mask_ref is not None:
            scores = jnp.where(mask_ref[row] != 0, scores, MASKED)
        weights = jnp.exp2(scores - log_ref[row][:, None])
        d_weights = _product(gradient_ref[row], v_ref[row], turned=True)
        return total + weights * (d_weights - mean_ref[row][:, None])

    turns = q_ref.shape[0] if list_ref is None else list_ref[0]
    total = jnp.zeros(bias.shape, jnp.float32)
    total_ref[...] = jax.lax.fori_loop(0, turns, turn, total)


def _turns(range_ref: Any, columns_ref: Any) -> tuple[Any, Any]:
    """The first tile of columns, and the tile after the last."""
    if range_ref is None:
        return 0, columns_ref.shape[0] // COLUMNS
    return range_ref[0], range_ref[1]


def _scores(rows: Any, columns: Any, bias_ref: Any, mask_ref: Any, at: Any) -> Any:
    """Scores of the rows with the columns `at`, times log2(e)."""
    scores = LOG2_E * _product(rows, columns, turned=True)
    if bias_ref is not None:
        scores = scores + bias_ref[:, at]
    if mask_ref is not None:
        scores = jnp.where(mask_ref[:, at] != 0, scores, MASKED)
    return scores


def _product(a: Any, b: Any, *, turned: bool = False) -> Any:
    """The product of a and b, or of a and b transposed, in float32."""
    dimensions = (((1,), (1 if turned else 0,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


# The arguments of the kernels.


def _filled(queries, keys, values, bias, mask):
    """Pads the lengths to whole tiles; bias [H Q K] times log2(e), mask [B Q K]."""
    if mask is None and keys.shape[1] % ROWS:
        mask = jnp.ones((queries.shape[0], 1, queries.shape[1], keys.shape[1]), bool)
    if bias is not None:
        bias = _lengthened(_lengthened(LOG2_E * bias[0], 1), 2)
    if mask is not None:
        mask = _lengthened(_lengthened(mask[:, 0].astype(jnp.int8), 1), 2)
    queries, keys, values = (_lengthened(x, 1) for x in (queries, keys, values))
    return queries, keys, values, bias, mask


def _lengthened(x: Array, axis: int) -> Array:
    """Appends zeros to an axis, up to a multiple of `ROWS`."""
    missing = -x.shape[axis] % ROWS
    widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    return jnp.pad(x, widths) if missing else x


def _visible(mask: Int[Array, "B Q K"]) -> Bool[Array, "B q k"]:
    """Whether the mask shows any part of a tile."""
    batch, rows, columns = mask.shape
    tiles = mask.reshape(batch, rows // ROWS, ROWS, columns // COLUMNS, COLUMNS)
    return jnp.max(tiles, axis=(2, 4)) > 0


def _ranges(mask: Int[Array, "B Q K"] | None) -> Int[Array, "B q 2"] | None:
    """The first tile of columns that a tile of rows reads, and the last + 1.

    Packed examples follow one another: the tiles that a mask hides come before or after
    those that it shows.
    """
    if mask is None:
        return None
    visible = _visible(mask)
    first = jnp.argmax(visible, axis=2)
    hidden = jnp.argmax(visible[:, :, ::-1], axis=2)
    last = jnp.where(jnp.any(visible, axis=2), visible.shape[2] - hidden, first)
    return jnp.stack([first, last], axis=2).astype(jnp.int32)


def _rows_that_see(mask: Int[Array, "B Q K"] | None) -> Int[Array, "q k N"] | None:
    """Per tile: how many sequences the mask shows a part of it, then their numbers."""
    if mask is None:
        return None
    visible = jnp.moveaxis(_visible(mask), 0, 2)
    order = jnp.argsort(~visible, axis=2, stable=True)
    count = jnp.sum(visible, axis=2, keepdims=True)
    return jnp.concatenate([count, order], axis=2).astype(jnp.int32)


# The blocks of the arguments. A program is (tile of rows, head, sequence).

_OWN_LOGS = pl.BlockSpec((None, None, ROWS), lambda i, h, b: (b, h, i))


def _own(x: Array) -> pl.BlockSpec:
    return pl.BlockSpec((None, ROWS, None, x.shape[3]), lambda i, h, b: (b, i, h, 0))


def _all(x: Array) -> pl.BlockSpec:
    shape = (None, x.shape[1], None, x.shape[3])
    return pl.BlockSpec(shape, lambda i, h, b: (b, 0, h, 0))


def _all_logs(x: Array) -> pl.BlockSpec:
    return pl.BlockSpec((None, None, x.shape[2]), lambda i, h, b: (b, h, 0))


def _scored(bias: Array | None, mask: Array | None) -> list[pl.BlockSpec | None]:
    """The blocks of bias, mask and `_ranges`."""
    specs: list[pl.BlockSpec | None] = [None, None, None]
    if bias is not None:
        specs[0] = pl.BlockSpec((None, ROWS, bias.shape[2]), lambda i, h, b: (h, i, 0))
    if mask is not None:
        specs[1] = pl.BlockSpec((None, ROWS, mask.shape[2]), lambda i, h, b: (b, i, 0))
        specs[2] = pl.BlockSpec((None, None, 2), lambda i, h, b: (b, i, 0))
    return specs


def _call(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    given: Sequence[pl.BlockSpec | None],
    returned: Sequence[tuple[pl.BlockSpec, jax.ShapeDtypeStruct]],
    depth: int,
) -> Callable[..., Any]:
    platform = platform_of(ambient_mesh())
    if platform == "tpu":
        raise InputError(
            "attention is 'fused' on a TPU, but its kernels are for GPUs. Use 'auto' "
            "or 'plain'."
        )
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=given,
        out_specs=[spec for spec, _ in returned],
        out_shape=[shape for _, shape in returned],
        compiler_params=triton.CompilerParams(
            num_warps=WARPS, num_stages=STAGES if depth <= 64 else STAGES_OF_WIDE_HEADS
        ),
        interpret=platform == "cpu",
    )
