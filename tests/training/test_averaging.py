"""The moving average of the weights: its formula, where it is kept, how it is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run

from specialize import config
from specialize.checkpoints.convert import convert
from specialize.checkpoints.merging import merge
from specialize.checkpoints.opening import identified, open_checkpoint, verify_run
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.config import neutral
from specialize.errors import InputError
from specialize.training.optimization import averaging
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec

DECAY = 0.9


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Eight steps on a mesh of eight devices: (result, folder)."""
    folder = tmp_path_factory.mktemp("ema") / "run"
    mesh = "data=2,fsdp=2,model=2"
    return tiny_run.run(folder, 8, ema_decay=DECAY, mesh=mesh, period=1), folder


def test_an_average_is_that_of_the_weights_after_each_step(run):
    """Against the checkpoints of every step, in float64."""
    _, folder = run
    kept = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    assert kept[-3:] == [6, 7, 8]
    for step in kept[-2:]:
        before = tiny_run.average(folder / "checkpoints" / str(step - 1))
        now = tiny_run.average(folder / "checkpoints" / str(step))
        opened = open_checkpoint(
            str(folder / "checkpoints" / str(step)), activation="gelu"
        )
        share = min(DECAY, (1 + step) / (10 + step))
        for name, tensor in opened.tensors.items():
            expected = share * before[name].astype(np.float64)
            expected += (1 - share) * tensor.read()
            np.testing.assert_allclose(now[name], expected, rtol=1e-5, atol=1e-7)
            assert not np.array_equal(now[name], tensor.read())


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_weights_are_those_of_a_run_without_an_average(name, decay):
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
    plain, kept = (
        make_optimizer(OptimizerSpec(name, schedule="constant", ema_decay=one))
        for one in (None, decay)
    )
    ways = []
    for chain in (plain, kept):
        values, state = params, chain.init(params)
        mean = jax.tree.map(np.float64, params)
        for step in range(1, 30):
            gradient = jax.tree.map(lambda x, n=step: jnp.sin(x * n), values)
            updates, state = chain.update(gradient, state, values)
            values = optax.apply_updates(values, updates)
            share = min(decay, (1 + step) / (10 + step))
            mean = jax.tree.map(
                lambda old, new, d=share: d * old + (1 - d) * np.float64(new),
                mean,
                values,
            )
        ways.append(values)
    for one in params:
        np.testing.assert_array_equal(ways[0][one], ways[1][one])
        found = averaging.weights_of({"opt_state": state}, "ema")[one]
        np.testing.assert_allclose(found, mean[one], rtol=1e-5)


def test_the_average_is_divided_over_the_mesh_as_the_weights_are(run):
    result, _ = run
    params = jax.tree.leaves(result.params)
    assert any(not leaf.sharding.is_fully_replicated for leaf in params)


def test_it_is_converted_merged_and_begun_from_by_its_name(run, tmp_path):
    _, folder = run
    named = f"{folder}#ema"
    done = convert(named, str(tmp_path / "hf"), activation="gelu")
    assert done.step == 8 and any("moving average" in note for note in done.notes)
    expected = tiny_run.average(folder)
    written = open_checkpoint(str(tmp_path / "hf"))
    for name, tensor in written.tensors.items():
        np.testing.assert_array_equal(tensor.read(), expected[name], err_msg=name)
    last = convert(str(folder), None, activation="gelu").fingerprint
    assert done.fingerprint != last
    known = [identified(one) for one in (named, str(folder))]
    place = str(folder / "checkpoints" / "8")
    assert known == [(f"{place}#ema", done.fingerprint), (place, last)]
    same = merge([named, named], str(tmp_path / "twice"), activation="gelu")
    assert same.fingerprint == done.fingerprint
    begun = tiny_run.run(
        tmp_path / "next", 1, learning_rate=0.0, initial_checkpoint_path=named
    )
    found = tiny_run.parameters(begun)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_evaluations_may_read_the_average(tmp_path):
    seen = []
    result = tiny_run.run(
        tmp_path / "run",
        4,
        ema_decay=DECAY,
        learning_rate=1e-2,
        evaluation={"period": 4, "weights": "ema"},
        evaluators=[lambda params, _: seen.append(total(params)) or {}],
    )
    assert seen == pytest.approx([total(tiny_run.average(tmp_path / "run"))], rel=1e-5)
    assert seen != pytest.approx([total(result.params)], rel=1e-5)


def total(params):
    leaves = map(np.float64, jax.tree.leaves(params))
    return float(sum(np.square(leaf).sum() for leaf in leaves))


def test_a_damaged_average_is_noticed(run):
    _, folder = run
    opened = open_checkpoint(f"{folder}#ema", activation="gelu")
    verify_run(opened)
    name = next(iter(opened.stored))
    broken = dict(opened.stored) | {name: opened.stored[name].scaled(1.5)}
    object.__setattr__(opened, "stored", broken)
    with pytest.raises(DamagedCheckpointError, match=name):
        verify_run(opened)


def test_a_run_without_an_average_has_none(run, tmp_path):
    tiny_run.run(tmp_path / "run", 1)
    with pytest.raises(InputError, match="has no average of the weights"):
        open_checkpoint(f"{tmp_path / 'run'}#ema", activation="gelu")
    with pytest.raises(InputError, match="none is kept. Set EMA_DECAY"):
        tiny_run.run(tmp_path / "other", 1, evaluation={"weights": "ema"})
    for folder, now in ((tmp_path / "run", 0.9), (run[1], None)):
        with pytest.raises(InputError, match="one of them keeps an average"):
            tiny_run.run(folder, 9, ema_decay=now)


def test_the_lint_and_t5x_refuse_it_where_it_has_no_meaning():
    files = ["runs/train.gin", "recipes/flan_t5_base.gin"]
    read = config.read(files, ["EVAL_WEIGHTS = 'ema'"])
    messages = [one.message for one in config.lint(read, imports=False)]
    assert any("EVAL_WEIGHTS = 'ema', but no average is" in one for one in messages)
    read = config.read(files, ["EVAL_WEIGHTS = 'ema'", "EMA_DECAY = 0.9"])
    messages = [one.message for one in config.lint(read, imports=False)]
    assert not any("average" in one for one in messages)
    assert neutral.optimizer("adamw", adamw=lambda: "made") == "made"
    with pytest.raises(InputError, match="T5X's trainer keeps no average"):
        neutral.optimizer("adamw", 0.99, adamw=lambda: "made")


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_decay_is_between_0_and_1(value):
    with pytest.raises(InputError, match="ema_decay"):
        OptimizerSpec(total_steps=10, ema_decay=value)
