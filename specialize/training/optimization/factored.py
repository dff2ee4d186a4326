"""Adafactor's second moment, factored by the logical axes of a parameter.

optax factors the two largest dimensions of any parameter. That is wrong for stacked
parameters: it would average over the layers of a scanned kernel [embed, layers, mlp],
or even factor them. Here, as in T5X, the names of the axes decide: "layers" is a batch
of matrices, "embed" is the row, and every wide axis is the column.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

# The roles of logical axes in a factored second moment, as in T5X's standard rules.
ROWS = frozenset({"embed"})
COLUMNS = frozenset(
    {
        "vocab",
        "mlp",
        "heads",
        "kv",
        "joined_kv",
        "q_wi_fused",
        "o_wo_fused",
        "multiquery_heads",
        "kv_fused",
        "mlp_activations",
    }
)
BATCHES = frozenset({"layers", "stack"})

Dims = tuple[int, ...]


class FactoredState(NamedTuple):
    """Second moments; a leaf that a parameter does not need is a single 0.

    Attributes:
        count: number of steps taken.
        v_row: means over the column dimensions.
        v_col: means over the row dimensions.
        v: full second moments of the parameters that are not factored.
    """

    count: Float[Array, ""] | Any
    v_row: Any
    v_col: Any
    v: Any


class Factoring(NamedTuple):
    """The roles of one parameter's dimensions.

    Attributes:
        rows: row dimensions; empty if the second moment is not factored.
        columns: column dimensions.
        averaged: dimensions over which scale and clipping are measured.
    """

    rows: Dims
    columns: Dims
    averaged: Dims


def factoring(
    shape: tuple[int, ...], axes: tuple[str, ...] | None, min_dim_size_to_factor: int
) -> Factoring:
    """Decides which dimensions of a parameter are rows and columns.

    If the logical names are unknown (`axes` is None), or the rank is at most 2 and no
    dimension is a batch, the two largest dimensions are factored if both have at least
    `min_dim_size_to_factor`. Otherwise the names decide, for any size.
    """
    rank = len(shape)
    every = tuple(range(rank))
    batch = tuple(i for i in every if axes is not None and axes[i] in BATCHES)
    if axes is None or (rank <= 2 and not batch):
        # As in optax, the two largest dimensions.
        by_size = sorted(every, key=lambda i: shape[i])
        if rank < 2 or shape[by_size[-2]] < min_dim_size_to_factor:
            return Factoring((), (), every)
        return Factoring((by_size[-2],), (by_size[-1],), every)
    averaged = tuple(i for i in every if i not in batch)
    rows = tuple(i for i in every if axes[i] in ROWS)
    columns = tuple(i for i in every if axes[i] in COLUMNS)
    if not rows or not columns:
        return Factoring((), (), averaged)
    return Factoring(rows, columns, averaged)


def scale_by_factored_rms(
    params_axes: Any,
    *,
    decay_rate: float = 0.8,
    step_offset: int = 0,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
    epsilon1: float = 1e-30,
    epsilon2: float = 1e-3,
) -> optax.GradientTransformation:
    """Adafactor's update (Shazeer and Stern, 2018, algorithm 4) without momentum.

    Args:
        params_axes: flax's "params_axes" collection; None factors by size alone.
        decay_rate: c in the decay 1 - t^-c.
        step_offset: subtracted from the step before it is raised.
        clipping_threshold: greatest root mean square of an update. None: no clipping.
        multiply_by_parameter_scale: whether to multiply by the parameter's root mean
            square, at least `epsilon2`.
        min_dim_size_to_factor: see `factoring`.
        epsilon1: added to squared gradients.
        epsilon2: smallest parameter scale.

    Returns:
        A transformation whose updates are not yet multiplied by the learning rate.
    """
    names = _names(params_axes)

    def plan(path: tuple[str, ...], leaf: Any) -> Factoring:
        axes = None if names is None else names[path]
        return factoring(tuple(leaf.shape), axes, min_dim_size_to_factor)

    def init(params: Any) -> FactoredState:
        flat: dict[Any, Any] = flatten_dict(unfreeze(params))
        unused = jnp.zeros((1,), jnp.float32)
        v_row, v_col, v = {}, {}, {}
        for path, leaf in flat.items():
            way = plan(path, leaf)
            v_row[path] = v_col[path] = v[path] = unused
            if way.rows:
                v_row[path] = jnp.zeros(_without(leaf.shape, way.columns), jnp.float32)
                v_col[path] = jnp.zeros(_without(leaf.shape, way.rows), jnp.float32)
            else:
                v[path] = jnp.zeros(leaf.shape, jnp.float32)
        return FactoredState(
            jnp.zeros((), jnp.int32), *map(unflatten_dict, (v_row, v_col, v))
        )

    def update(
        updates: Any, state: FactoredState, params: Any = None
    ) -> tuple[Any, FactoredState]:
        if params is None:
            raise ValueError("Adafactor needs the parameters. Pass params to update.")
        t = jnp.asarray(state.count - step_offset, jnp.float32) + 1.0
        decay = 1.0 - t ** (-decay_rate)
        gradients: dict[Any, Any] = flatten_dict(unfreeze(updates))
        values: dict[Any, Any] = flatten_dict(unfreeze(params))
        rows: dict[Any, Any] = flatten_dict(state.v_row)
        cols: dict[Any, Any] = flatten_dict(state.v_col)
        full: dict[Any, Any] = flatten_dict(state.v)
        out = {}
        for path, gradient in gradients.items():
            way = plan(path, gradient)
            gradient = gradient.astype(jnp.float32)
            squared = jnp.square(gradient) + epsilon1
            if way.rows:
                row = _blend(decay, rows[path], squared.mean(way.columns))
                col = _blend(decay, cols[path], squared.mean(way.rows))
                rows[path], cols[path] = row, col
                inner = tuple(d - sum(c < d for c in way.columns) for d in way.rows)
                row = row / row.mean(inner, keepdims=True)
                step = (
                    gradient
                    * jnp.expand_dims(jax.lax.rsqrt(row), way.columns)
                    * jnp.expand_dims(jax.lax.rsqrt(col), way.rows)
                )
            else:
                full[path] = _blend(decay, full[path], squared)
                step = gradient * jax.lax.rsqrt(full[path])
            if clipping_threshold is not None:
                size = _root_mean_square(step, way.averaged)
                step = step / jnp.maximum(1.0, size / clipping_threshold)
            if multiply_by_parameter_scale:
                value = values[path].astype(jnp.float32)
                step = step * jnp.maximum(
                    _root_mean_square(value, way.averaged), epsilon2
                )
            out[path] = step
        new = FactoredState(state.count + 1, *map(unflatten_dict, (rows, cols, full)))
        return unflatten_dict(out), new

    # optax's protocol names its arguments in another way than it passes them.
    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _names(params_axes: Any) -> dict[tuple[str, ...], tuple[str, ...]] | None:
    if params_axes is None:
        return None
    flat: dict[Any, Any] = flatten_dict(unfreeze(params_axes))
    return {
        (*path[:-1], path[-1].removesuffix("_axes")): tuple(
            getattr(meta, "names", meta)
        )
        for path, meta in flat.items()
    }


def _without(shape: tuple[int, ...], dims: Dims) -> tuple[int, ...]:
    return tuple(size for i, size in enumerate(shape) if i not in dims)


def _blend(decay: Any, old: Any, new: Any) -> Any:
    return decay * old + (1.0 - decay) * new


def _root_mean_square(value: Any, dims: Dims) -> Any:
    return jnp.sqrt(jnp.mean(jnp.square(value), axis=dims, keepdims=True))
