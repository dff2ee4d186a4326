"""T5X's own checkpoints load here, and T5X loads ours."""

import functools

import jax
import numpy as np
import pytest

pytest.importorskip("t5x.checkpoints")

import t5x_cases as cases
from t5x import state_utils

from specialize.checkpoints import names
from specialize.checkpoints.convert import convert
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.opening import open_checkpoint

WEIGHTS_ONLY = functools.partial(
    state_utils.apply_assignment_map,
    assignment_map=[(r"state\/param_states.*", None)],
)


@pytest.mark.parametrize("kind", ["legacy", "orbax"])
@pytest.mark.parametrize(
    ("network", "optimizer"),
    [
        ("t5_1_1", "adamw"),
        ("t5_1_0", "adafactor"),
        ("scanned", "adafactor"),
        ("scalable", "adamw"),
    ],
)
def test_a_checkpoint_that_t5x_wrote_loads_bit_for_bit(
    tmp_path, kind, network, optimizer
):
    made, partitioner, state = cases.initializer(network, optimizer)
    cases.save(kind, tmp_path / "model", made, partitioner, state)
    opened = open_checkpoint(str(tmp_path / "model"), activation="gelu")
    assert opened.format == ("t5x" if kind == "legacy" else "orbax")
    assert opened.step == 7 and len(opened.optimizer) > 0
    assert opened.config.logits_via_embedding == (network == "t5_1_0")
    # As stored, and in the one form that every layout becomes.
    written = cases.flat(state)
    assert opened.stored.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(opened.stored[name].read(), array, err_msg=name)
    canonical = names.unrolled(
        {name: from_array(array) for name, array in written.items()}, "T5X"
    )
    for name, tensor in opened.tensors.items():
        np.testing.assert_array_equal(tensor.read(), canonical[name].read())
    assert names.shapes(opened.config) == {
        name: tensor.shape for name, tensor in opened.tensors.items()
    }


@pytest.mark.parametrize("kind", ["legacy", "orbax"])
@pytest.mark.parametrize("network", ["t5_1_1", "scanned"])
def test_t5x_restores_the_weights_we_write(tmp_path, kind, network):
    """T5X -> HF -> here -> T5X, as fine-tuning starts: weights alone."""
    made, partitioner, state = cases.initializer(network, "adamw")
    cases.save("legacy", tmp_path / "model", made, partitioner, state)
    layers = "scalable" if network == "scanned" else "unrolled"
    to = "t5x" if kind == "legacy" else "orbax"
    convert(str(tmp_path / "model"), str(tmp_path / "hf"), to="hf", activation="gelu")
    convert(str(tmp_path / "hf"), str(tmp_path / "back"), to=to, layers=layers)
    other, partitioner, fresh = cases.initializer(network, "adamw", seed=1)
    restored = cases.restore(
        kind,
        tmp_path / "back" / "checkpoint_0",
        other,
        partitioner,
        state_transformation_fns=[WEIGHTS_ONLY],
        fallback_state=fresh.state_dict(),
    )
    expected = cases.flat(state)
    for name, array in cases.flat(restored).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


@pytest.mark.parametrize("kind", ["legacy", "orbax"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_t5x_goes_on_from_a_converted_state_with_its_optimizer(
    tmp_path, kind, optimizer
):
    """Older layout to newer and back, moments included."""
    made, partitioner, state = cases.initializer("t5_1_1", optimizer)
    first, to = ("orbax", "t5x") if kind == "legacy" else ("legacy", "orbax")
    cases.save(first, tmp_path / "model", made, partitioner, state)
    summary = convert(
        str(tmp_path / "model"), str(tmp_path / "out"), to=to, activation="gelu"
    )
    assert any("optimizer state kept" in note for note in summary.notes)
    other, partitioner, _ = cases.initializer("t5_1_1", optimizer, seed=1)
    restored = cases.restore(
        kind, tmp_path / "out" / "checkpoint_7", other, partitioner
    )
    assert int(restored.step) == 7
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(np.asarray, state.state_dict()),
        jax.tree.map(np.asarray, restored.state_dict()),
    )
