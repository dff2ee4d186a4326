import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from flax.traverse_util import flatten_dict

from specialize.training import step as steps
from specialize.training.batches import BatchSource


@pytest.fixture(scope="module")
def world(compiled):
    """Student, its parameters and one packed batch of 8 rows."""
    source = BatchSource(
        tiny_run.mixture(),
        batch_size=8,
        feature_lengths=tiny_run.LENGTHS,
        window_rows=16,
    )
    student = tiny_run.student(dropout=0.3)
    batch = {name: jnp.asarray(v) for name, v in source.batch(0).items()}
    shapes = {name: v.shape for name, v in batch.items()}
    params = student.get_initial_variables(jax.random.key(0), shapes)["params"]
    return student, params, batch


def gradients(world, microbatches):
    student, params, batch = world

    def without_dropout(values, part, key):
        del key
        return student.loss_sums(values, part, None)

    return jax.jit(
        lambda p, b: steps.gradient_sums(
            without_dropout, p, b, jax.random.key(0), microbatches
        )
    )(params, batch)


@pytest.mark.parametrize("microbatches", [2, 4])
def test_splitting_a_batch_never_changes_loss_metrics_or_gradient(world, microbatches):
    whole, gradient = gradients(world, 1)
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


def taken(world, seed=0, optimizer=None, batch=None, state=None, healthy=True):
    student, params, usual = world
    chain = optimizer or optax.sgd(0.1)
    train_step = steps.make_train_step(student.loss_sums, chain, seed=seed)
    state = state or steps.initial_state(params, chain)
    return jax.jit(train_step)(state, jnp.asarray(healthy), batch or usual)


def test_dropout_is_on_and_its_mask_follows_seed_and_step(world):
    _, _, first = taken(world, seed=0)
    _, _, again = taken(world, seed=0)
    _, _, other_seed = taken(world, seed=1)
    later = steps.initial_state(world[1], optax.sgd(0.1)) | {"step": jnp.int32(1)}
    _, _, other_step = taken(world, seed=0, state=later)
    evaluated = jax.jit(steps.make_eval_step(world[0].loss_sums))(world[1], world[2])
    losses = [float(m["loss"][0]) for m in (first, other_seed, other_step, evaluated)]
    assert float(again["loss"][0]) == losses[0]
    assert len(set(losses)) == 4


def test_after_a_step_that_is_not_finite_the_state_never_changes_again(world):
    student, params, batch = world
    poisoned = batch | {
        "decoder_teacher_tail": batch["decoder_teacher_tail"].at[0, 0].set(jnp.nan)
    }
    state, healthy, metrics = taken(world, batch=poisoned)
    assert not bool(healthy)
    assert float(metrics["finite"][0]) == 0.0
    # The batch that was sent before anybody looked is sound, and must change nothing.
    state, healthy, metrics = taken(world, state=state, healthy=healthy)
    assert not bool(healthy)
    assert int(state["step"]) == 0
    for name, values in flatten_dict(state["params"], sep="/").items():
        np.testing.assert_array_equal(values, flatten_dict(params, sep="/")[name])


def test_a_batch_without_targets_changes_nothing(world):
    _, params, batch = world
    empty = batch | {
        "decoder_loss_weights": jnp.zeros_like(batch["decoder_loss_weights"])
    }
    state, healthy, metrics = taken(world, batch=empty)
    assert bool(healthy)
    assert float(metrics["grad_norm"][0]) == 0.0
    for name, values in flatten_dict(state["params"], sep="/").items():
        np.testing.assert_array_equal(values, flatten_dict(params, sep="/")[name])


def test_the_update_is_that_of_the_mean_over_target_tokens(world):
    student, params, batch = world

    def mean(values):
        sums = student.loss_sums(values, batch, None)
        return sums.loss / sums.weight

    plain = tiny_run.student(dropout=0.0), params, batch
    state, _, metrics = taken(plain)
    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, params, jax.jit(jax.grad(mean))(params)
    )
    for name, values in flatten_dict(expected, sep="/").items():
        found = flatten_dict(state["params"], sep="/")[name]
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6, err_msg=name)
