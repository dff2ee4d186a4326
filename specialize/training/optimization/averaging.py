"""An exponential moving average of the weights, kept as state of the optimizer.

So it is saved, restored, sharded and planned as the moments are, and a step that is not
finite does not change it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from specialize.errors import InputError


class EmaState(NamedTuple):
    """State of the average.

    Attributes:
        count: number of steps averaged.
        ema: the averaged weights, a tree like that of the parameters.
    """

    count: Int[Array, ""]
    ema: Any


def with_ema(
    chain: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """The chain, with an average of the weights that it makes.

    After step t (from 1) the average is `d * average + (1 - d) * weights` with
    `d = min(decay, (1 + t) / (10 + t))`, as in TensorFlow's `ExponentialMovingAverage`
    with `num_updates`: the first steps forget the initial weights quickly.

    Args:
        chain: the optimizer; its updates are those that are added to the weights.
        decay: share of the old average that a step keeps, in (0, 1).
    """
    return optax.chain(chain, _average(decay))


def weights_of(state: Any, which: str) -> Any:
    """The weights of a training state.

    Args:
        state: a dict of "params" and "opt_state".
        which: "last" or "ema".

    Raises:
        InputError: the state has no average.
    """
    if which == "last":
        return state["params"]
    parts = jax.tree.leaves(state["opt_state"], is_leaf=_is_average)
    found = [part.ema for part in parts if _is_average(part)]
    if not found:
        raise InputError(
            "the average of the weights is to be evaluated, but none is kept. Set "
            "EMA_DECAY (OptimizerSpec.ema_decay), or EVAL_WEIGHTS = 'last'."
        )
    return found[0]


def _copied(leaf: Any) -> Any:
    return jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32), copy=True)


def _is_average(part: Any) -> bool:
    return isinstance(part, EmaState)


def _average(decay: float) -> optax.GradientTransformation:
    def init(params: Any) -> EmaState:
        # Copies: the step donates weights and average as two buffers. They are wide,
        # because a step changes an average by less than a bfloat16 can show.
        return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(_copied, params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        count = jnp.asarray(optax.safe_increment(state.count))
        kept = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
        new = optax.apply_updates(params, updates)
        ema = jax.tree.map(
            lambda old, now: kept * old + (1.0 - kept) * now.astype(old.dtype),
            state.ema,
            new,
        )
        return updates, EmaState(count, ema)

    return optax.GradientTransformation(init, update)
