import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from flax.traverse_util import flatten_dict

from specialize.training.optimization import step as steps


@pytest.fixture(scope="module")
def world():
    """Student, its parameters and one packed batch of 8 rows."""
    source = tiny_run.source()
    student = tiny_run.student()
    batch = {name: jnp.asarray(v) for name, v in source.batch(0).items()}
    shapes = {name: v.shape for name, v in batch.items()}
    draw = jax.jit(lambda key: student.get_initial_variables(key, shapes)["params"])
    return student, draw(jax.random.key(0)), batch


@pytest.fixture(scope="module")
def one_step(world):
    """One step of plain gradient descent from the world's parameters."""
    student, params, batch = world
    chain = optax.sgd(0.1)
    compiled_step = jax.jit(steps.make_train_step(student.loss_sums, chain, seed=0))

    def run(batch=batch, state=None, healthy=True):
        state = state or steps.initial_state(params, chain)
        return compiled_step(state, jnp.asarray(healthy), batch)

    return run


def gradients(world, microbatches):
    student, params, batch = world
    return jax.jit(
        lambda p, b: steps.gradient_sums(
            student.loss_sums, p, b, jax.random.key(0), microbatches
        )
    )(params, batch)


@pytest.fixture(scope="module")
def undivided(world):
    return gradients(world, 1)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_splitting_a_batch_never_changes_loss_metrics_or_gradient(
    world, undivided, microbatches
):
    whole, gradient = undivided
    sums, parts = gradients(world, microbatches)
    np.testing.assert_allclose(sums.loss, whole.loss, rtol=1e-6)
    assert float(sums.weight) == float(whole.weight)
    for name, (total, count) in whole.metrics.items():
        np.testing.assert_allclose(sums.metrics[name][0], total, rtol=1e-5, atol=1e-5)
        assert float(sums.metrics[name][1]) == float(count)
    for name, values in flatten_dict(gradient, sep="/").items():
        found = flatten_dict(parts, sep="/")[name]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_microbatches_take_every_mth_row_so_that_no_device_sends_any():
    batch = {"x": jnp.arange(8), "y": jnp.arange(16).reshape(8, 2)}
    parts = steps.split_rows(batch, 2)
    np.testing.assert_array_equal(parts["x"], [[0, 2, 4, 6], [1, 3, 5, 7]])
    np.testing.assert_array_equal(parts["y"][1, 0], [2, 3])


def test_dropout_is_on_and_its_mask_follows_seed_and_step(world):
    _, params, batch = world
    student, chain = tiny_run.student(dropout=0.3), optax.sgd(0.1)

    @jax.jit
    def loss(seed_is_1, step):
        state = steps.initial_state(params, chain) | {"step": step}
        found = []
        for seed in (0, 1):
            train_step = steps.make_train_step(student.loss_sums, chain, seed=seed)
            found.append(train_step(state, jnp.asarray(True), batch)[2]["loss"][0])
        return jnp.where(seed_is_1, found[1], found[0])

    first, again = loss(False, 0), loss(False, 0)
    assert float(first) == float(again)
    evaluated = jax.jit(steps.make_eval_step(student.loss_sums))(params, batch)
    others = loss(True, 0), loss(False, 1), evaluated["loss"][0]
    assert len({float(value) for value in (first, *others)}) == 4


def test_after_a_step_that_is_not_finite_the_state_never_changes_again(world, one_step):
    _, params, batch = world
    poisoned = batch | {
        "decoder_teacher_tail": batch["decoder_teacher_tail"].at[0, 0].set(jnp.nan)
    }
    state, healthy, metrics = one_step(batch=poisoned)
    assert not bool(healthy)
    assert float(metrics["finite"][0]) == 0.0
    # The batch that was sent before anybody looked is sound, and must change nothing.
    state, healthy, metrics = one_step(state=state, healthy=healthy)
    assert not bool(healthy)
    assert int(state["step"]) == 0
    for name, values in flatten_dict(state["params"], sep="/").items():
        np.testing.assert_array_equal(values, flatten_dict(params, sep="/")[name])


def test_a_batch_without_targets_changes_nothing(world, one_step):
    _, params, batch = world
    empty = batch | {
        "decoder_loss_weights": jnp.zeros_like(batch["decoder_loss_weights"])
    }
    state, healthy, metrics = one_step(batch=empty)
    assert bool(healthy)
    assert float(metrics["grad_norm"][0]) == 0.0
    for name, values in flatten_dict(state["params"], sep="/").items():
        np.testing.assert_array_equal(values, flatten_dict(params, sep="/")[name])


def test_the_update_is_that_of_the_mean_over_target_tokens(world, one_step):
    student, params, batch = world

    def mean(values):
        sums = student.loss_sums(values, batch, None)
        return sums.loss / sums.weight

    state, _, _ = one_step()
    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, params, jax.jit(jax.grad(mean))(params)
    )
    for name, values in flatten_dict(expected, sep="/").items():
        found = flatten_dict(state["params"], sep="/")[name]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6, err_msg=name)
