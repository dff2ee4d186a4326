import dataclasses
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from specialize.errors import InputError
from specialize.training.optimization import factored, optimizers, spec
from specialize.training.optimization.spec import OptimizerSpec


def test_adamw_is_the_published_update():
    params = {"w": jnp.asarray([1.0, -2.0])}
    chain = optimizers.adamw(0.1, weight_decay=0.01)
    state = chain.init(params)
    mean, square = np.zeros(2), np.zeros(2)
    expected = np.asarray([1.0, -2.0])
    for t, gradient in enumerate(([0.5, -1.0], [0.1, 3.0]), start=1):
        gradient = np.asarray(gradient)
        updates, state = chain.update({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        step = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        expected = expected - 0.1 * (step + 0.01 * expected)
        np.testing.assert_allclose(params["w"], expected, rtol=1e-5)


def test_clipping_bounds_the_global_norm():
    chain = optimizers.make_optimizer(
        OptimizerSpec("adamw", 1.0, schedule="constant", clip_norm=1.0)
    )
    gradient = {"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])}
    clipped, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    state = chain.init(gradient)
    _, state = chain.update(gradient, state, gradient)
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments["a"], 0.1 * clipped["a"], rtol=1e-6)
    np.testing.assert_allclose(moments["b"], 0.1 * 0.8, rtol=1e-6)


def test_schedules_end_at_the_last_optimizer_step():
    for schedule in ("linear", "cosine"):
        spec = OptimizerSpec(
            schedule=schedule,
            learning_rate=2.0,
            total_steps=100,
            warmup_steps=10,
            end_fraction=0.1,
        )
        rate = optimizers.make_optimizer(spec).learning_rate
        values = [float(rate(step)) for step in range(101)]
        assert values[0] > 0
        assert max(values) == values[10] == 2.0
        assert all(a >= b for a, b in zip(values[10:], values[11:], strict=False))
        np.testing.assert_allclose(values[100], 0.2, rtol=1e-5)
        np.testing.assert_allclose(values[55], 1.1, rtol=1e-5)


def test_constant_and_rsqrt_have_no_horizon():
    flat = optimizers.constant(0.5, warmup_steps=4)
    np.testing.assert_allclose(
        [flat(0), flat(3), flat(4), flat(999)], [0.1, 0.4, 0.5, 0.5]
    )
    root = optimizers.rsqrt(0.5, warmup_steps=100)
    np.testing.assert_allclose([root(100), root(400)], [0.5, 0.25], rtol=1e-6)


def test_every_argument_of_an_optimizer_is_a_field_or_an_option():
    fields = {field.name for field in dataclasses.fields(OptimizerSpec)}
    for name, options in spec.OPTIONS.items():
        known = inspect.signature(getattr(optimizers, name)).parameters
        assert known.keys() - fields == options.keys()
        values = {one: known[one].default for one in options}
        OptimizerSpec(name, schedule="constant", options=values)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "adam"}, "adamw, adamw_8bit, adafactor"),
        ({"schedule": "step"}, "constant, linear, cosine, rsqrt"),
        ({"schedule": "cosine"}, "needs total_steps"),
        ({"total_steps": 5, "warmup_steps": 5}, "must be more than warmup_steps = 5"),
        ({"schedule": "constant", "clip_norm": 0.0}, "clip_norm = 0.0"),
        ({"schedule": "constant", "warmup_steps": -1}, "warmup_steps = -1"),
        ({"schedule": "constant", "learning_rate": math.nan}, "learning_rate = nan"),
        (
            {"schedule": "constant", "options": {"beta1": 0.9}},
            "adamw has no option 'beta1'. Its options are b1, b2, eps",
        ),
        *(
            ({"schedule": "constant", "name": name, "options": options}, said)
            for name, options, said in (
                ("adamw", {"weight_decay": 0.1}, "Set the field weight_decay"),
                ("adamw_8bit", {"seed": 1}, "Set the field seed of OptimizerSpec"),
                ("adamw", {"learning_rate": 1.0}, "Set the field learning_rate"),
                ("adamw", {"zz": None}, "no option 'zz'"),
                ("adamw", {"b1": "x"}, r"options\['b1'\] = 'x'; it must be a number"),
                ("adamw_8bit", {"b2": 1.0}, "must be a number below 1"),
                ("adafactor", {"decay_rate": None}, "must be a number above 0"),
                ("adafactor", {"b1": 0.9}, "adafactor has no option 'b1'"),
            )
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(options, said):
    with pytest.raises(InputError, match=said):
        optimizers.make_optimizer(OptimizerSpec(**options))


@pytest.mark.parametrize(
    ("shape", "axes", "rows", "columns", "averaged"),
    [
        ((256, 512), ("embed", "mlp"), (0,), (1,), (0, 1)),
        # Two dimensions: sizes decide, as in the paper, whatever the names.
        ((512, 256), ("embed", "mlp"), (1,), (0,), (0, 1)),
        ((512, 64), ("embed", "mlp"), (), (), (0, 1)),
        ((512,), ("embed",), (), (), (0,)),
        # Scanned layers are a batch of matrices, however small.
        ((64, 3, 8), ("embed", "layers", "mlp"), (0,), (2,), (0, 2)),
        ((64, 3), ("embed", "layers"), (), (), (0,)),
        ((32, 2, 4), ("embed", "heads", "kv"), (0,), (1, 2), (0, 1, 2)),
        ((4, 3, 32), ("heads", "layers", "relpos_buckets"), (), (), (0, 2)),
    ],
)
def test_factoring_follows_the_logical_axes(shape, axes, rows, columns, averaged):
    found = factored.factoring(shape, axes, 128)
    assert found == factored.Factoring(rows, columns, averaged)


def test_a_scanned_parameter_is_updated_as_its_layers_alone_would_be():
    rng = np.random.default_rng(0)
    value = rng.normal(size=(160, 3, 192)).astype(np.float32)
    gradient = rng.normal(size=value.shape).astype(np.float32)
    stacked = factored.scale_by_factored_rms({"w_axes": ("embed", "layers", "mlp")})
    alone = factored.scale_by_factored_rms({"w_axes": ("embed", "mlp")})

    def twice(chain, value, gradient):
        params = {"w": jnp.asarray(value)}
        state = chain.init(params)
        for scale in (1.0, 0.3):
            updates, state = chain.update({"w": scale * gradient}, state, params)
        return updates["w"], state

    together, _ = twice(stacked, value, gradient)
    for layer in range(3):
        single, state = twice(alone, value[:, layer], gradient[:, layer])
        np.testing.assert_allclose(together[:, layer], single, rtol=2e-5, atol=1e-7)
    assert state.v_row["w"].shape == (160,)
    assert state.v_col["w"].shape == (192,)


def test_adafactor_is_the_published_update():
    # Algorithm 4 of Shazeer and Stern (2018), written out with NumPy.
    rng = np.random.default_rng(1)
    x = rng.normal(size=(130, 140))
    chain = factored.scale_by_factored_rms(None)
    state = chain.init({"x": jnp.asarray(x, jnp.float32)})
    row, column = np.zeros(130), np.zeros(140)
    for t in (1, 2, 3):
        g = rng.normal(size=x.shape) * t
        updates, state = chain.update(
            {"x": jnp.asarray(g, jnp.float32)},
            state,
            {"x": jnp.asarray(x, jnp.float32)},
        )
        beta = 1 - t**-0.8
        row = beta * row + (1 - beta) * (g**2 + 1e-30).mean(1)
        column = beta * column + (1 - beta) * (g**2 + 1e-30).mean(0)
        u = g / np.sqrt(np.outer(row, column) / row.mean())
        u = u / max(1.0, np.sqrt((u**2).mean()))
        u = u * max(1e-3, np.sqrt((x**2).mean()))
        np.testing.assert_allclose(updates["x"], u, rtol=1e-4, atol=1e-6)


def test_adafactor_lowers_a_loss():
    spec = OptimizerSpec("adafactor", schedule="constant", learning_rate=0.05)
    chain = optimizers.make_optimizer(spec).with_axes(None)
    params = {"w": jnp.ones((4, 4))}
    state = chain.init(params)

    @jax.jit
    def step(params, state):
        loss, gradient = jax.value_and_grad(lambda p: jnp.square(p["w"] - 3).sum())(
            params
        )
        updates, state = chain.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(60):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.t5x
def test_adafactor_equals_t5xs():
    t5x = pytest.importorskip("t5x.adafactor")
    rng = np.random.default_rng(2)
    shapes = {"w": (160, 3, 192), "v": (150, 140), "b": (7,)}
    axes = {"w": ("embed", "layers", "mlp"), "v": ("embed", "vocab"), "b": ("embed",)}
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    theirs = t5x.Adafactor(
        learning_rate=0.01, logical_factor_rules=t5x.standard_logical_factor_rules()
    )
    theirs.set_param_axes(axes)
    their_state, their_params = theirs.init_state(params), params
    chain = optimizers.adafactor(0.01).with_axes(axes)
    state = chain.init(params)
    for _ in range(3):
        gradient = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
        their_params, their_state = theirs.apply_gradient(
            theirs.hyper_params, their_params, their_state, gradient
        )
        updates, state = chain.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        for name in shapes:
            np.testing.assert_allclose(
                params[name], their_params[name], rtol=1e-5, atol=1e-6
            )
