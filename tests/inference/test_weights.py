"""The digest of weights is one number on every mesh, and another for other weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax.core import freeze
from jax.sharding import NamedSharding, PartitionSpec

from specialize import sharding
from specialize.checkpoints import integrity
from specialize.inference.weights import load_student, weights_digest


def test_a_checkpoint_has_one_digest_on_every_mesh(tmp_path):
    base, student = tiny_run.base(str(tmp_path / "hf")), tiny_run.student()
    meshes = ({"data": 1}, {"data": 4}, {"model": 4}, {"data": 2, "model": 2})
    found = {weights_digest(load_student(student, base, m).params) for m in meshes}
    assert len(found) == 1


@pytest.mark.parametrize("on_the_devices", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_every_change_of_a_weight_changes_the_digest(
    monkeypatch, on_the_devices, dtype
):
    if on_the_devices:  # as large arrays are summed
        monkeypatch.setattr(integrity, "_SMALL", 0)
    values = np.random.default_rng(0).normal(size=(8, 8)) * 20
    tree = {"a": {"w": jnp.asarray(values, dtype)}, "b": jnp.ones(3, dtype)}
    w = tree["a"]["w"]
    one = weights_digest(tree)
    assert one == weights_digest(freeze(tree)) and len(one) == 16
    others = [
        w.T,
        w.reshape(4, 16),
        -w,
        w[::-1],
        w.at[3, 4].add(1),
        w.astype(jnp.float16),
    ]
    for other in others:
        assert weights_digest({**tree, "a": {"w": other}}) != one
    assert weights_digest({"a": {"v": w}, "b": tree["b"]}) != one
    mesh = sharding.read_mesh({"data": 2, "model": 4})
    for spec in (("data", "model"), ("model", None), (None, ("data", "model"))):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        laid = {**tree, "a": {"w": jax.device_put(w, place)}}
        assert weights_digest(laid) == one
