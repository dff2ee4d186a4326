"""What a run carries from step to step: its shapes, its places, its first values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Shaped

from specialize import sharding
from specialize.training.optimization.optimizers import Optimizer
from specialize.training.optimization.step import initial_state


class StateLayout(NamedTuple):
    """The state of a run before it has values.

    Attributes:
        rules: logical axes to mesh axes, those that divide this model.
        chain: the optimizer for this model.
        abstract: `jax.ShapeDtypeStruct`s with shardings, in the tree of the state.
        shardings: the shardings alone.
    """

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
    """Derives shapes and shardings of the whole state; nothing is computed.

    Args:
        model: the student.
        optimizer: with its schedule.
        batch: any global batch; its shapes and types count.
        mesh: the device mesh.
        rules: logical axes to mesh axes.
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
    return StateLayout(fitting, chain, abstract, places)


def create_state(
    model: Any,
    layout: StateLayout,
    batch: Mapping[str, Shaped[np.ndarray, "B ..."]],
    mesh: Mesh,
    *,
    seed: int,
    initial_checkpoint_path: str | None,
) -> Any:
    """The state before the first step, on the mesh.

    Args:
        model: the student.
        layout: of `plan_state`.
        batch: as there.
        mesh: the device mesh.
        seed: of random weights, which are the same on every mesh.
        initial_checkpoint_path: weights in any layout that `load_params` reads; None
            draws random ones.

    Raises:
        InputError: as `checkpoints.load_params`.
    """
    with sharding.activate(mesh, layout.rules):
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


def _variables(model: Any, batch: Mapping[str, np.ndarray]) -> Any:
    shapes = {name: values.shape for name, values in batch.items()}
    types = {name: jnp.dtype(values.dtype) for name, values in batch.items()}
    return lambda key: model.get_initial_variables(key, shapes, types)
