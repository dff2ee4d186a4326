"""Training in less memory: bfloat16 weights, moments in 8 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run
from hypothesis import given, settings, strategies
from test_loop import survive_kills
from tiny_run import losses

from specialize import config, sharding
from specialize.checkpoints import step_folder
from specialize.checkpoints.convert import convert
from specialize.checkpoints.opening import open_checkpoint, verify_run
from specialize.config import neutral
from specialize.errors import InputError
from specialize.inference.weights import load_student
from specialize.student.loss.losses import LossSums
from specialize.training.optimization import eight_bit, rounding
from specialize.training.optimization.averaging import weights_of
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.step import gradient_sums

NARROW = {"param_dtype": "bfloat16"}
# The feed-forward matrices of this width have moments in 8 bits.
LEAN = {
    "lean": NARROW,
    "optimizer": "adamw_8bit",
    "width": 64,
    "ema_decay": 0.9,
    "dropout": 0.2,
    "log_period": 1,
}
EVERY = np.arange(2**16, dtype=np.uint16)


def rounded(value, bits=EVERY):
    return np.asarray(
        rounding.stochastically_rounded(
            jnp.full(bits.shape, value, jnp.float32), jnp.asarray(bits)
        )
    )


@settings(max_examples=60, deadline=None)
@given(
    strategies.floats(2.0**-100, 2.0**100, width=32), strategies.sampled_from((1, -1))
)
def test_stochastic_rounding_is_unbiased(size, sign):
    """Over all random bits, the mean is the value, and there are two results."""
    value = np.float32(size * sign)
    found = rounded(value)
    assert len(set(found.tolist())) <= 2
    np.testing.assert_array_equal(found, np.float32(jnp.asarray(found, jnp.bfloat16)))
    assert np.abs(found - value).max() <= np.abs(value) * 2**-7
    assert np.mean(found, dtype=np.float64) == pytest.approx(value, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(strategies.integers(0, 2**16 - 1))
def test_a_bfloat16_is_left_as_it_is(number):
    value = np.array([number], np.uint16).view(jnp.bfloat16).astype(np.float32)[0]
    if np.isfinite(value) and abs(value) < np.finfo(np.float32).tiny:
        return  # a CPU takes it for 0
    np.testing.assert_array_equal(rounded(value), np.full(2**16, value))


def test_small_updates_are_kept_on_average_and_lost_by_rounding_to_nearest():
    params = {"kernel": jnp.ones(4096, jnp.bfloat16), "scale": jnp.ones(3)}
    gradient = jax.tree.map(jnp.ones_like, params)
    ends = []
    for stochastic in (True, False):
        chain = rounding.with_rounding(optax.sgd(1e-4), seed=0, stochastic=stochastic)

        def step(_, carry, chain=chain):
            values, state = carry
            updates, state = chain.update(gradient, state, values)
            return optax.apply_updates(values, updates), state

        start = (params, chain.init(params))
        values, state = jax.lax.fori_loop(0, 300, step, start)
        assert values["kernel"].dtype == jnp.bfloat16
        assert int(state.count) == 300
        np.testing.assert_allclose(values["scale"], 0.97, rtol=1e-4)
        ends.append(float(values["kernel"].astype(jnp.float32).mean()))
    assert ends[0] == pytest.approx(0.97, abs=5e-4)
    assert ends[1] == 1.0


def bits(shape, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 2**16, shape, np.uint32))


@pytest.mark.parametrize("shape", [(64, 3), (3, 2, 128), (70, 9), (5,), (1, 1)])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_quantised_moments_are_within_one_code_and_the_largest_are_exact(shape, spread):
    rng = np.random.default_rng(1)
    sizes = np.exp(spread * rng.standard_normal(shape)).astype(np.float32)
    for values, encode, decode in (
        (sizes * rng.choice([-1, 1], shape), eight_bit.encode_m, eight_bit.decode_m),
        (sizes, eight_bit.encode_v, eight_bit.decode_v),
    ):
        codes, scale = encode(jnp.asarray(values, jnp.float32), bits(shape))
        assert codes.dtype.itemsize == 1 and codes.shape == shape
        found = np.asarray(decode(codes, scale))
        axis = eight_bit.block_axis(shape)
        assert scale.shape[axis] == -(-shape[axis] // eight_bit.BLOCK)
        largest = np.asarray(eight_bit._of_elements(scale, shape))
        exact = np.abs(values) == largest
        assert exact.any()
        np.testing.assert_array_equal(found[exact], values[exact])
        share = np.abs(values) / largest
        if encode is eight_bit.encode_v:
            inside = share >= 2.0**-24
            allowed = 2 ** (24 / 254) - 1 + 1e-4
        else:
            inside, allowed = share > 1e-4, 4.5 / (127 * share**0.25)
        error = np.abs(found / values - 1)
        assert (error <= allowed)[inside].all()
        assert (np.sign(found) == np.sign(values))[inside].all()


def test_the_expectation_of_a_quantised_moment_is_the_moment():
    values = np.array([1.0, 0.7, 0.031, 2e-4, 3e-6, 0.0], np.float32)
    every = np.broadcast_to(np.arange(0, 2**16, 7, dtype=np.uint32), (6, 9363))
    wide = np.broadcast_to(values[:, None], every.shape)
    # One block is one column: every column has the same values and other bits.
    for encode, decode in (
        (eight_bit.encode_m, eight_bit.decode_m),
        (eight_bit.encode_v, eight_bit.decode_v),
    ):
        tall = np.pad(wide, [(0, 58), (0, 0)])
        assert eight_bit.block_axis(tall.shape) == 0
        codes, scale = encode(jnp.asarray(tall), jnp.pad(every, [(0, 58), (0, 0)]))
        mean = np.asarray(decode(codes, scale)).mean(axis=1, dtype=np.float64)
        np.testing.assert_allclose(mean[:6], values, rtol=2e-4)
        np.testing.assert_array_equal(mean[6:], 0.0)


def test_a_second_moment_is_never_rounded_to_0():
    v = np.zeros((64, 1), np.float32)
    v[:3, 0] = 1.0, 1e-12, 1e-30
    codes, scale = eight_bit.encode_v(jnp.asarray(v), bits(v.shape))
    found = np.asarray(eight_bit.decode_v(codes, scale))[:, 0]
    assert codes.ravel().tolist()[:3] == [255, 1, 1]
    np.testing.assert_array_equal(found[3:], 0.0)
    assert found[1] == pytest.approx(2.0**-24)


def test_moments_follow_those_of_float32():
    """Also when they fall by 0.1 % a step, less than a code."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.standard_normal((64, 128)))
    chains = [optax.scale_by_adam(), eight_bit.scale_by_adam_8bit()]
    params = {"kernel": jnp.zeros((64, 128)), "scale": jnp.zeros(5000)}
    assert not eight_bit._is_quantised(
        (jax.tree_util.DictKey("scale"),), params["scale"]
    )
    states = [chain.init(params) for chain in chains]
    assert states[1].v["kernel"].dtype == jnp.uint8
    assert states[1].v["scale"].dtype == jnp.float32
    updates = [jax.jit(chain.update) for chain in chains]
    for step in range(400):
        noise = rng.standard_normal((64, 128)) + 0.3
        # The second half has gradients of a tenth.
        gradient = {
            "kernel": jnp.asarray(sizes * noise * (1.0 if step < 200 else 0.1)),
            "scale": jnp.full(5000, float(step)),
        }
        gradient = jax.tree.map(jnp.float32, gradient)
        found = []
        for number, update in enumerate(updates):
            made, states[number] = update(gradient, states[number])
            found.append(made)
    exact, quantised = (np.asarray(one["kernel"]) for one in found)
    error = np.linalg.norm(quantised - exact) / np.linalg.norm(exact)
    assert error < 0.12  # the noise of rounding, 9 % of a step
    v = eight_bit.decode_v(states[1].v["kernel"], states[1].v_scale["kernel"])
    drift = float(jnp.mean(v / states[0].nu["kernel"]))
    assert drift == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(found[0]["scale"], found[1]["scale"], rtol=1e-5)


def test_blocks_are_divided_over_a_mesh_as_the_parameter_is():
    mesh = sharding.read_mesh("2x2x2")
    params = {"kernel": jax.ShapeDtypeStruct((1024, 256), jnp.float32)}
    axes = {"kernel_axes": ("embed", "mlp")}
    state = jax.eval_shape(eight_bit.scale_by_adam_8bit().init, params)
    places = sharding.state_shardings(mesh, params, axes, abstract_state=state)
    assert places.m["kernel"].spec == places.m_scale["kernel"].spec
    assert places.v_scale["kernel"].shard_shape((16, 256)) == (8, 128)
    # 3 blocks do not divide; the other axis does.
    other = sharding._of_shape(places.m["kernel"], (192, 256), (3, 256))
    assert other.shard_shape((3, 256)) == (3, 128)
    rng = np.random.default_rng(0)
    gradient = {"kernel": rng.standard_normal((1024, 256)).astype(np.float32)}
    values = {"kernel": rng.standard_normal((1024, 256)).astype(jnp.bfloat16)}
    chain = rounding.with_rounding(
        eight_bit.scale_by_adam_8bit(), seed=3, stochastic=True
    )
    ends = []
    for place in (None, places.m["kernel"]):
        given_values, given_gradient = (
            one if place is None else jax.device_put(one, place)
            for one in (values, gradient)
        )
        state = chain.init(given_values)
        if place is not None:
            whole = jax.eval_shape(chain.init, params)
            where = sharding.state_shardings(mesh, params, axes, abstract_state=whole)
            state = jax.device_put(state, where)
        update = jax.jit(chain.update)
        for _ in range(2):
            updates, state = update(given_gradient, state, given_values)
        ends.append(jax.device_get((updates, state)))
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lean") / "one"
    return tiny_run.observed(folder, 12, period=100, **LEAN)


def test_projections_are_saved_in_bfloat16_and_the_rest_in_float32(run):
    result, folder, seen = run
    for path, leaf in jax.tree_util.tree_leaves_with_path(result.params):
        narrow = path[-1].key == "kernel"
        assert leaf.dtype == (jnp.bfloat16 if narrow else jnp.float32), path
    assert {leaf.dtype.name for leaf in jax.tree.leaves(seen[-1])} == {"float32"}
    _, saved = step_folder.read_metadata(folder / "checkpoints" / "12")
    assert any("m_scale" in name and "wi_0" in name for name in saved)


def test_it_is_the_trajectory_of_float32(tmp_path):
    options = {**LEAN, "dropout": 0.0}
    tiny_run.run(tmp_path / "lean", 12, **options)
    tiny_run.run(tmp_path / "wide", 12, **{**options, "lean": {}, "optimizer": "adamw"})
    wide, lean = losses(tmp_path / "wide"), losses(tmp_path / "lean")
    np.testing.assert_allclose(lean, wide, rtol=2e-3)
    assert np.mean(wide[-4:]) < np.mean(wide[:4]) - 0.1
    assert lean != wide


@pytest.mark.slow
def test_the_trajectory_on_a_mesh_is_that_of_one_device(tmp_path):
    options = {**LEAN, "scan_layers": True}
    for name, mesh in (("one", "1"), ("eight", "2x2x2")):
        found = tiny_run.run(tmp_path / name, 12, mesh=mesh, **options)
    np.testing.assert_allclose(
        losses(tmp_path / "eight"),
        losses(tmp_path / "one"),
        rtol=1e-3,
    )
    leaves = jax.tree.leaves(found.params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in leaves)


def test_the_gradient_of_bfloat16_is_bfloat16_and_that_of_several_parts_float32():
    params = {"kernel": jnp.ones(4, jnp.bfloat16), "scale": jnp.ones(4)}
    batch = {"x": jnp.full((256, 4), 1 / 256)}

    def loss_sums(values, part, key):
        total = sum(jnp.sum(part["x"] @ leaf) for leaf in values.values())
        return LossSums(total, jnp.ones(()), {})

    for parts, types in ((1, ("bfloat16", "float32")), (128, ("float32",) * 2)):
        _, gradient = gradient_sums(loss_sums, params, batch, jax.random.key(0), parts)
        assert tuple(leaf.dtype.name for leaf in gradient.values()) == types
        for leaf in gradient.values():
            np.testing.assert_allclose(np.float32(leaf), 1.0, rtol=1e-6)


def test_every_reader_reads_it(run, tmp_path):
    result, folder, seen = run
    for name, params in (("", result.params), ("#ema", seen[-1])):
        source = f"{folder}{name}"
        verify_run(open_checkpoint(source, activation="gelu"))
        done = convert(source, str(tmp_path / f"hf{name}"), activation="gelu")
        found = open_checkpoint(str(tmp_path / f"hf{name}"))
        kernel = "encoder/layers_0/mlp/wo/kernel"
        expected = params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
        np.testing.assert_array_equal(
            found.tensors[kernel].read().astype(np.float32),
            np.asarray(expected).astype(np.float32),
        )
        assert convert(str(tmp_path / f"hf{name}"), None).fingerprint == (
            done.fingerprint
        )
        student = load_student(tiny_run.student(width=64), source, "1")
        leaf = student.params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
        np.testing.assert_array_equal(
            np.float32(leaf), np.asarray(expected).astype(np.float32)
        )
    under_t5x = convert(str(folder), str(tmp_path / "t5x"), to="t5x")
    assert any("dropped: T5X has no AdamW with mom" in note for note in under_t5x.notes)
    begun = tiny_run.run(
        tmp_path / "wide", 1, learning_rate=0.0, width=64,
        initial_checkpoint_path=str(folder),
    )  # fmt: skip
    for before, now in zip(
        *(jax.tree.leaves(one.params) for one in (result, begun)), strict=True
    ):
        assert now.dtype == jnp.float32
        np.testing.assert_array_equal(np.float32(before), now)


def test_another_type_or_optimizer_is_another_run(run):
    _, folder, _ = run
    for changed, said in (
        ({"lean": {}}, "PARAM_DTYPE was 'bfloat16', is 'float32'"),
        ({"optimizer": "adamw"}, "optimizer was 'adamw_8bit', is 'adamw'"),
    ):
        with pytest.raises(InputError, match=said):
            tiny_run.run(folder, 13, **{**LEAN, **changed})


@pytest.mark.slow
def test_a_kill_leaves_no_trace(tmp_path, start, same_parameters):
    lean = {name: LEAN[name] for name in ("lean", "optimizer", "width")}
    lean["scan_layers"] = True
    survive_kills(
        *(tmp_path, start, same_parameters), kills=1, steps=40, seed=0, **lean
    )


def test_what_has_no_meaning_is_refused():
    from specialize.student.adapters.spec import AdapterSpec

    with pytest.raises(InputError, match="the weights that are trained are adapters"):
        OptimizerSpec(total_steps=9, adapters=AdapterSpec(rank=4), **NARROW)
    with pytest.raises(InputError, match="param_dtype"):
        OptimizerSpec(total_steps=9, param_dtype="float16")
    with pytest.raises(InputError, match="rounds no weight stochastically"):
        neutral.optimizer("adamw", param_dtype="bfloat16", adamw=lambda: "made")
    with pytest.raises(InputError, match="T5X's run file offers adamw, adafactor"):
        neutral.optimizer("adamw_8bit", adamw=list, adafactor=list)
    files = ["runs/train.gin", "recipes/flan_t5_base.gin"]
    for bindings, said in (
        (["STOCHASTIC_ROUNDING = False"], "PARAM_DTYPE = 'float32'"),
        (["STOCHASTIC_ROUNDING = False", "PARAM_DTYPE = 'bfloat16'"], None),
    ):
        read = config.read(files, bindings)
        messages = [one.message for one in config.lint(read, imports=False)]
        found = [one for one in messages if "STOCHASTIC_ROUNDING" in one]
        assert bool(found) == bool(said) and all(said in one for one in found)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor"])
def test_state_of_bfloat16_weights_is_not_bfloat16(name):
    chain = make_optimizer(
        OptimizerSpec(name, schedule="constant", ema_decay=0.9, **NARROW)
    )
    params = {"kernel": jnp.ones((128, 128), jnp.bfloat16)}
    state = chain.init(params)
    assert "bfloat16" not in {leaf.dtype.name for leaf in jax.tree.leaves(state)}
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, state = chain.update(gradient, state, params)
    new = optax.apply_updates(params, updates)
    assert new["kernel"].dtype == jnp.bfloat16
    share = min(0.9, 2 / 11)
    np.testing.assert_allclose(
        weights_of({"opt_state": state}, "ema")["kernel"],
        share + (1 - share) * np.asarray(new["kernel"], np.float32),
        rtol=1e-6,
    )
