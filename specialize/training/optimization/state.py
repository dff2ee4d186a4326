"""The state of a run: its shapes, its shardings, its initial values and its step.

With adapters only these are state: optimizer and checkpoints hold them alone. The other
parameters, the base, are an argument of the step that it never changes.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh
from jaxtyping import Shaped

from specialize import sharding
from specialize.errors import InputError
from specialize.student.adapters import trees
from specialize.student.adapters.quantization import SCALES
from specialize.student.adapters.spec import AdapterSpec
from specialize.training.data.spec import DataSpec
from specialize.training.optimization.optimizers import Optimizer
from specialize.training.optimization.rounding import ROUNDED
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
        frozen: the parameters beside the adapters, which are no part of the state; {}
            if all are trained. What the network casts has its type already.
    """

    mesh: Mesh
    rules: sharding.Rules
    chain: optax.GradientTransformation
    abstract: Any
    shardings: Any
    frozen: Mapping[str, Any]


def adapted(model: Any, optimizer: Optimizer) -> Any:
    """The student with the adapters that an optimizer trains, if it trains any.

    Raises:
        InputError: they name projections that the network does not have.
    """
    if optimizer.adapters is None:
        return model
    network = dataclasses.replace(model.module.config, adapters=optimizer.adapters)
    changed = copy.copy(model)
    changed.module = model.module.clone(config=network)
    return changed


def plan_state(
    model: Any,
    optimizer: Optimizer,
    batch: Mapping[str, Shaped[np.ndarray, "B ..."]],
    mesh: Mesh,
    rules: sharding.Rules,
) -> StateLayout:
    """Derives shapes and shardings of the whole state, without computing it.

    Only the shapes and types of `batch`, a global batch, are used. If the optimizer
    trains adapters, `model` has them (`adapted`).

    Raises:
        InputError: the mesh would cut the blocks of quantised kernels.
    """
    variables = jax.eval_shape(_variables(model, batch), jax.random.key(0))
    axes = variables["params_axes"]
    fitting = _fitting_rules(model, batch, variables, mesh, rules)
    params, frozen = trees.split(variables["params"])
    if optimizer.param_dtype != "float32":
        params = trees.in_type(params, optimizer.param_dtype, ROUNDED)
    chain = optimizer.with_axes(axes)
    state = jax.eval_shape(lambda values: initial_state(values, chain), params)
    places = sharding.state_shardings(mesh, params, axes, fitting, abstract_state=state)
    if frozen:
        frozen = _placed(
            trees.in_type(frozen, model.module.config.dtype),
            sharding.state_shardings(mesh, frozen, axes, fitting),
        )
    return StateLayout(mesh, fitting, chain, _placed(state, places), places, frozen)


def _fitting_rules(
    model: Any,
    batch: Mapping[str, Shaped[np.ndarray, "B ..."]],
    variables: Mapping[str, Any],
    mesh: Mesh,
    rules: sharding.Rules,
) -> sharding.Rules:
    """The rules that divide a model; quantised kernels must be divided between blocks.

    Raises:
        InputError: the mesh would cut blocks.
    """
    network = model.module.config
    if network.adapters is None or not network.adapters.quantized:
        axes = variables["params_axes"]
        return sharding.fit_rules(mesh, variables["params"], axes, rules)
    # Rules are those of the kernels, as if they were not quantised.
    plain = copy.copy(model)
    whole = dataclasses.replace(network.adapters, quantize_base="none")
    network = dataclasses.replace(network, adapters=whole)
    plain.module = model.module.clone(config=network)
    kernels = jax.eval_shape(_variables(plain, batch), jax.random.key(0))
    fitting = sharding.fit_rules(mesh, kernels["params"], kernels["params_axes"], rules)
    _check_blocks(mesh, variables, fitting)
    return fitting


def _check_blocks(
    mesh: Mesh, variables: Mapping[str, Any], rules: sharding.Rules
) -> None:
    """Refuses a mesh whose shards would hold parts of the blocks of quantised kernels.

    Raises:
        InputError: kernels have a number of blocks that their shards do not divide.
    """
    leaves: dict[Any, Any] = flatten_dict(unfreeze(variables["params"]))
    scales = {path: leaf for path, leaf in leaves.items() if path[-1] == SCALES}
    tree = unflatten_dict(scales)
    places = sharding.param_shardings(
        mesh, tree, variables["params_axes"], rules, fit=False
    )
    shardings: dict[Any, Any] = flatten_dict(places)
    for path, place in shardings.items():
        blocks = scales[path].shape[0]
        shards = sharding.number_of_shards(place, axis=0)
        if blocks % shards:
            raise InputError(
                f"The mesh {dict(mesh.shape)} divides the inputs of "
                f"{'/'.join(path[:-1])} among {shards} devices, but they are {blocks} "
                "quantised blocks, which cannot be cut. Set a smaller "
                "LORA_QUANTIZE_BLOCK, or use another MESH."
            )


def _placed(tree: Any, places: Any) -> Any:
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        tree,
        places,
    )


def load_frozen(
    layout: StateLayout, base: str | None, adapters: AdapterSpec | None
) -> Mapping[str, Any]:
    """Restores the parameters beside the adapters, on the mesh; {} if there are none.

    They are quantised while they are read, if `adapters` say so.

    Raises:
        InputError: as for `checkpoints.load_params`.
    """
    if not layout.frozen or base is None:
        return {}
    from specialize.checkpoints import load_params

    kind = "none" if adapters is None else adapters.quantize_base
    return load_params(base, layout.frozen, quantization=kind)


def create_state(
    model: Any,
    layout: StateLayout,
    batch: Mapping[str, Shaped[np.ndarray, "B ..."]],
    seed: int,
    initial_checkpoint_path: str | None,
) -> Any:
    """Makes the state before the first step, on the mesh.

    The weights are those of `initial_checkpoint_path`, in any layout that `load_params`
    reads. If it is None, they are random; a seed gives the same ones on every mesh. So
    are adapters, whose base `load_frozen` reads.

    Raises:
        InputError: as for `checkpoints.load_params`.
    """
    with sharding.activate(layout.mesh, layout.rules):
        if initial_checkpoint_path is None or layout.frozen:
            variables = _variables(model, batch)
            types = jax.tree.map(lambda leaf: leaf.dtype, layout.abstract["params"])
            draw = jax.jit(
                lambda key: jax.tree.map(
                    lambda leaf, dtype: leaf.astype(dtype),
                    trees.split(variables(key)["params"])[0],
                    types,
                ),
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
    frozen = jax.tree.map(lambda leaf: leaf.sharding, layout.frozen)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    healthy = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    places = dict.fromkeys(batch, rows)
    if TEACHER in batch:
        places[TEACHER] = jax.tree.map(lambda leaf: leaf.sharding, batch[TEACHER])
    with sharding.activate(mesh, layout.rules):
        lowered = jax.jit(
            step,
            in_shardings=(layout.shardings, whole, places, frozen),
            out_shardings=(layout.shardings, whole, whole),
            donate_argnums=0,
        ).lower(layout.abstract, healthy, batch, layout.frozen)
    return names, lowered


def _variables(model: Any, batch: Mapping[str, np.ndarray]) -> Any:
    shapes = {name: values.shape for name, values in batch.items()}
    types = {name: jnp.dtype(values.dtype) for name, values in batch.items()}
    return lambda key: model.get_initial_variables(key, shapes, types)
