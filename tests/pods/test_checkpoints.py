"""Checkpoints that Orbax writes into a bucket."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specialize.checkpoints import step_folder
from specialize.checkpoints.store import CheckpointStore
from specialize.paths import store as objects


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
    names = objects.find(f"{place}/3/{step_folder.STATE}")
    data = [name for name in names if "/d/" in name or name.startswith("d/")]
    for name in data:
        url = f"{place}/3/{step_folder.STATE}/{name}"
        objects.write_bytes(url, b"x" * names[name].size)
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
