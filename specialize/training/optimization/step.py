"""One optimizer step and one evaluation step, as pure functions of arrays.

The loss is a pair (sum, weight), so that microbatches, devices and hosts add, and one
division follows. A step whose loss or gradient is not finite changes nothing, nor does
any step after it. The state therefore stays the last good one, although the host sends
the next batch before it reads the results.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Shaped

from specialize.student.adapters.trees import join

Batch = Mapping[str, Array]
Metrics = dict[str, tuple[Array, Array]]
# (params, batch, dropout key) -> sums over target positions (`losses.LossSums`).
LossSums = Callable[[Any, Batch, Array | None], Any]


# What in a batch has no rows: the weights of a teacher (`rollouts.whole`).
TEACHER = "teacher"


def split_rows(batch: Batch, microbatches: int) -> dict[str, Shaped[Array, "M b ..."]]:
    """[B ...] -> [M B/M ...]; microbatch m has the sequences m, m + M, m + 2M, ...

    With this stride every device's sequences are divided among the microbatches, and
    none is sent to another device.
    """

    def split(values: Array) -> Array:
        rows = values.shape[0] // microbatches
        parts = values.reshape(rows, microbatches, *values.shape[1:])
        return jnp.swapaxes(parts, 0, 1)

    return {name: split(values) for name, values in batch.items()}


def gradient_sums(
    loss_sums: LossSums, params: Any, batch: Batch, key: Array, microbatches: int
) -> tuple[Any, Any]:
    """Returns (sums over a batch, gradient of the loss sum).

    The microbatches, which must divide the batch, are processed one after another; each
    folds its number into the dropout key. The gradient has the parameters' types; the
    sum of several microbatches is float32.
    """

    def part_sums(part: Batch, number: Any) -> tuple[Any, Any]:
        def scalar(values: Any) -> tuple[Array, Any]:
            sums = loss_sums(values, part, jax.random.fold_in(key, number))
            return sums.loss, sums

        (_, sums), gradient = jax.value_and_grad(scalar, has_aux=True)(params)
        return sums, gradient

    if microbatches == 1:
        return part_sums(batch, 0)
    whole = {name: batch[name] for name in (TEACHER,) if name in batch}
    rows = {name: values for name, values in batch.items() if name not in whole}
    parts = split_rows(rows, microbatches)

    def add(total: Any, item: tuple[Any, Any]) -> tuple[Any, None]:
        part, number = item
        sums = part_sums({**part, **whole}, number)
        return jax.tree.map(jnp.add, total, sums), None

    first = {**jax.tree.map(lambda values: values[0], parts), **whole}
    rest = jax.tree.map(lambda values: values[1:], parts)
    numbers = jnp.arange(1, microbatches)
    sums, gradient = part_sums(first, 0)
    wide = jax.tree.map(
        lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), gradient
    )
    total, _ = jax.lax.scan(add, (sums, wide), (rest, numbers))
    return total


def make_train_step(
    loss_sums: LossSums,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    microbatches: int = 1,
    learning_rate: Callable[[Any], Any] | None = None,
) -> Callable[..., tuple[Any, Bool[Array, ""], Metrics]]:
    """Makes the function of one optimizer step, ready for `jax.jit`.

    Args:
        loss_sums: (params, batch, dropout key) -> sums.
        optimizer: an optax chain.
        seed: seed of dropout; each step folds in its number.
        microbatches: number of parts of a batch; they change the result by rounding.
        learning_rate: step -> rate, for the metrics; the chain has its own.

    Returns:
        (state, healthy, batch, frozen=None) -> (state, healthy, metrics). The state is
        a dict of "params", "opt_state" and "step" (int32, number of steps taken).
        `frozen` has the parameters that do not change, if "params" has adapters.
        `healthy` is False after the first step that is not finite. Metrics are (sum,
        count) pairs.
    """

    def train_step(
        state: dict[str, Any],
        healthy: Bool[Array, ""],
        batch: Batch,
        frozen: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], Bool[Array, ""], Metrics]:
        number = state["step"]
        key = jax.random.fold_in(jax.random.key(seed), number)
        sums, gradient = gradient_sums(
            lambda params, *rest: loss_sums(join(params, frozen), *rest),
            *(state["params"], batch, key, microbatches),
        )
        # The one division. A batch without targets (all weights 0) changes nothing.
        weight = jnp.maximum(sums.weight, jnp.finfo(jnp.float32).tiny)
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient)]
        norm = jnp.sqrt(sum(squares, jnp.zeros((), jnp.float32)))
        updates, opt_state = optimizer.update(
            gradient, state["opt_state"], state["params"]
        )
        new = {
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "step": number + 1,
        }
        finite = jnp.isfinite(sums.loss) & jnp.isfinite(norm)
        healthy = healthy & finite
        state = jax.tree.map(lambda a, b: jnp.where(healthy, a, b), new, state)
        one = jnp.ones((), jnp.float32)
        metrics = {
            **dict(sums.metrics),
            "loss": (sums.loss, sums.weight),
            "grad_norm": (norm, one),
            "finite": (finite.astype(jnp.float32), one),
        }
        if learning_rate is not None:
            rate = jnp.asarray(learning_rate(number), jnp.float32)
            metrics["learning_rate"] = (rate, one)
        return state, healthy, metrics

    return train_step


def stack_metrics(
    train_step: Callable[..., Any],
) -> tuple[list[str], Callable[..., Any]]:
    """Makes the metrics of a step one array: one transfer instead of a hundred.

    Returns:
        (names, step): the step returns float32 [n 2], sum and count of each metric, and
        fills the list of their names when it is traced.
    """
    names: list[str] = []

    def stacked(
        state: dict[str, Any], healthy: Bool[Array, ""], batch: Batch, *frozen: Any
    ) -> tuple[dict[str, Any], Bool[Array, ""], Float[Array, "n 2"]]:
        state, healthy, metrics = train_step(state, healthy, batch, *frozen)
        names[:] = sorted(metrics)
        rows = [jnp.stack([v.astype(jnp.float32) for v in metrics[n]]) for n in names]
        return state, healthy, jnp.stack(rows)

    return names, stacked


def make_eval_step(loss_sums: LossSums) -> Callable[[Any, Batch], Metrics]:
    """Makes (params, batch) -> (sum, count) metrics of a batch, without dropout."""

    def eval_step(params: Any, batch: Batch) -> Metrics:
        sums = loss_sums(params, batch, None)
        return {**dict(sums.metrics), "loss": (sums.loss, sums.weight)}

    return eval_step


def initial_state(
    params: Any, optimizer: optax.GradientTransformation
) -> dict[str, Any]:
    """The state before the first step."""
    step: Int[Array, ""] = jnp.zeros((), jnp.int32)
    return {"params": params, "opt_state": optimizer.init(params), "step": step}
