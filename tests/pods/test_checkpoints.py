"""Checkpoints that Orbax writes into a bucket."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specialize import cli
from specialize.checkpoints import names, step_folder
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import huggingface, huggingface_companions
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.store import CheckpointStore
from specialize.paths import store as objects
from specialize.student.network.architecture import T5Config


@pytest.fixture
def state():
    key = jax.random.key(0)
    return {"params": {"a": jax.random.normal(key, (4, 8)), "b": jnp.ones(3)}}


def test_steps_are_saved_kept_restored_and_skipped_if_damaged(root, state):
    place = f"{root}/run/checkpoints"
    with CheckpointStore(place, keep=2) as store:
        for step in (1, 2, 3):
            changed = jax.tree.map(lambda x, by=step: x * by, state)
            store.save(step, changed, {"metrics": {"loss": 1.0 / step}})
            store.wait()
        assert store.steps() == [2, 3]
    with CheckpointStore(place, read_only=True) as store:
        assert store.steps() == [2, 3]
        found, metadata = store.restore(None, state)
        assert metadata["step"] == 3
        np.testing.assert_array_equal(found["params"]["a"], 3 * state["params"]["a"])
    found = objects.find(f"{place}/3/{step_folder.STATE}")
    data = [name for name in found if "/d/" in name or name.startswith("d/")]
    for name in data:
        url = f"{place}/3/{step_folder.STATE}/{name}"
        objects.write_bytes(url, b"x" * found[name].size)
    with CheckpointStore(place) as store:
        found, metadata = store.restore(None, state)
        assert metadata["step"] == 2
        store.save(3, state, {})
        store.wait()
        assert "3.damaged" in objects.names(place)
        found, metadata = store.restore(None, state)
        assert metadata["step"] == 3


def test_a_step_that_was_not_finished_is_none(root, state):
    place = f"{root}/checkpoints"
    with CheckpointStore(place) as store:
        store.save(1, state, {})
        store.save(2, state, {})
    objects.remove([f"{place}/2/commit_success.txt"])  # as a kill leaves it
    with CheckpointStore(place) as store:
        assert store.steps() == [1]
        store.save(2, state, {})
        store.wait()
        assert store.steps() == [1, 2]


def test_weights_are_converted_and_merged_in_buckets(root, tmp_path):
    config = T5Config(
        vocab_size=256,
        emb_dim=8,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=4,
        mlp_dim=16,
        mlp_activations=("gelu", "linear"),
    )
    rng = np.random.default_rng(0)
    tensors = {
        name: from_array(rng.standard_normal(shape, np.float32))
        for name, shape in names.shapes(config).items()
    }
    huggingface.write_weights(tmp_path, tensors)
    huggingface_companions.write_settings(tmp_path, config, "float32")
    wanted = convert(str(tmp_path), f"{root}/t5x").fingerprint
    words = ["merge", f"{tmp_path}", f"{root}/t5x", "--target", f"{root}/merged"]
    assert cli.main(words) == 0
    assert convert(f"{root}/merged", None).fingerprint == wanted
