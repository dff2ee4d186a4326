"""The state of a run: its shapes, its shardings, its initial values and its step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Shaped

from specialize import sharding
from specialize.training.data.spec import DataSpec
from specialize.training.optimization.optimizers import Optimizer
from specialize.training.optimization.step import (
    TEACHER,
    initial_state,
    make_train_step,
    stack_metrics,
)


class StateLayout(NamedTuple):
    """The state of a run before it has values.

    Attributes:
        mesh: the device mesh.
        rules: the sharding rules that divide this model.
        chain: the optimizer for this model.
        abstract: the state as `jax.ShapeDtypeStruct`s with shardings.
        shardings: the shardings of the state.
    """

    mesh: Mesh
    rules: sharding.Rules
    chain: optax.GradientTransformation
    abstract: Any
    shardings: Any


def plan_state(
    model: Any,
    optimizer: Optimizer,
    batch: Mapping[str, Shaped[np.ndarray, "B ..."]],
    mesh: Mesh,
    rules: sharding.Rules,
) -> StateLayout:
    """Derives shapes and shardings of the whole state, without computing it.

    Only the shapes and types of `batch`, a global batch, are used.
    """
    variables = jax.eval_shape(_variables(model, batch), jax.random.key(0))
    params, axes = variables["params"], variables["params_axes"]
    fitting = sharding.fit_rules(mesh, params, axes, rules)
    chain = optimizer.with_axes(axes)
    state = jax.eval_shape(lambda values: initial_state(values, chain), params)
    places = sharding.state_shardings(mesh, params, axes, fitting, abstract_state=state)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        state,
        places,
    )
    return StateLayout(mesh, fitting, chain, abstract, places)


def create_state(
    model: Any,
    layout: StateLayout,
    batch: Mapping[str, Shaped[np.ndarray, "B ..."]],
    seed: int,
    initial_checkpoint_path: str | None,
) -> Any:
    """Makes the state before the first step, on the mesh.

    The weights are those of `initial_checkpoint_path`, in any layout that `load_params`
    reads. If it is None, they are random; a seed gives the same ones on every mesh.

    Raises:
        InputError: as for `checkpoints.load_params`.
    """
    with sharding.activate(layout.mesh, layout.rules):
        if initial_checkpoint_path is None:
            variables = _variables(model, batch)
            draw = jax.jit(
                lambda key: variables(key)["params"],
                out_shardings=layout.shardings["params"],
            )
            params = draw(jax.random.key(seed))
        else:
            from specialize.checkpoints import load_params

            params = load_params(initial_checkpoint_path, layout.abstract["params"])
        begin = jax.jit(
            lambda values: initial_state(values, layout.chain),
            out_shardings=layout.shardings,
            donate_argnums=0,
        )
        return begin(params)


def lower_step(
    model: Any, optimizer: Optimizer, data: DataSpec, layout: StateLayout, batch: Any
) -> tuple[list[str], Any]:
    """Lowers the optimizer step for a mesh, whose devices need not exist.

    `batch` has the arrays of a batch, or their shapes with shardings. The weights of a
    teacher in it keep their shardings.

    Returns:
        (names of the metrics in the results, `jax.stages.Lowered`).
    """
    names, step = stack_metrics(
        make_train_step(
            model.loss_sums,
            layout.chain,
            seed=data.seed,
            microbatches=data.microbatches,
            learning_rate=optimizer.learning_rate,
        )
    )
    mesh = layout.mesh
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    healthy = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    places = dict.fromkeys(batch, rows)
    if TEACHER in batch:
        places[TEACHER] = jax.tree.map(lambda leaf: leaf.sharding, batch[TEACHER])
    with sharding.activate(mesh, layout.rules):
        lowered = jax.jit(
            step,
            in_shardings=(layout.shardings, whole, places),
            out_shardings=(layout.shardings, whole, whole),
            donate_argnums=0,
        ).lower(layout.abstract, healthy, batch)
    return names, lowered


def _variables(model: Any, batch: Mapping[str, np.ndarray]) -> Any:
    shapes = {name: values.shape for name, values in batch.items()}
    types = {name: jnp.dtype(values.dtype) for name, values in batch.items()}
    return lambda key: model.get_initial_variables(key, shapes, types)
