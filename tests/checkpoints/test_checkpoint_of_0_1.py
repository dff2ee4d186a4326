"""A checkpoint of a run of 0.1, and its export, are read; newer ones are refused."""

import json

import numpy as np
import pytest
from etils import epath
from flax import serialization

from specialize import versions
from specialize.checkpoints import load_params
from specialize.checkpoints.convert import convert
from specialize.checkpoints.opening import open_checkpoint, verify_run
from specialize.checkpoints.step_folder import METADATA, _seal, read_metadata
from specialize.checkpoints.store import CheckpointStore

NEWER = pytest.mark.parametrize("found", [2, "next"])


@pytest.mark.parametrize("place", ["run", "run/checkpoints", "run/checkpoints/2"])
def test_the_parameters_of_a_run_are_those_it_saved(of_0_1, recorded, place):
    opened = open_checkpoint(str(of_0_1 / place))
    assert (opened.format, opened.step) == ("specialize", 2)
    assert opened.config.mlp_activations == ("gelu", "linear")
    verify_run(opened)
    was = recorded["parameters"]["2"]
    assert opened.tensors.keys() == was.keys() and len(was) == 28
    for name, tensor in opened.tensors.items():
        array = np.asarray(tensor.read(), np.float64)
        np.testing.assert_allclose([array.sum(), (array**2).sum()], was[name], 1e-12)


@pytest.mark.parametrize("name", ["run/checkpoints/2", "hf"])
def test_the_fingerprint_of_weights_is_the_one_that_was_printed(of_0_1, recorded, name):
    fingerprint = convert(str(of_0_1 / name), None).fingerprint
    assert fingerprint == recorded["fingerprints"][name]


def test_the_metadata_hold_what_a_resumed_run_needs(of_0_1, recorded):
    with CheckpointStore(of_0_1 / "run" / "checkpoints", read_only=True) as store:
        assert store.steps() == [2]
        metadata = store.metadata(2)
    assert metadata["step"] == 2 and metadata["evaluation_due"] is False
    assert metadata["latest"]["train/loss"] == recorded["losses"]["2"]
    assert metadata["run"]["mixture"] == "specialize_gsm8k_zero_shot"
    digests = [one["digest"] for one in recorded["examples"].values()]
    assert metadata["run"]["examples"] == ":3.0-".join(digests) + ":7.0"


def state_version(folder, found):
    """Writes metadata as a later version would: sealed, with another version."""
    path = folder / METADATA / METADATA
    content = json.loads(path.read_text())["content"]
    path.write_text(json.dumps(_seal({"version": found, "step": content["step"]})))


@NEWER
def test_a_newer_checkpoint_is_refused_and_no_older_one_taken(of_0_1, refused, found):
    folder = of_0_1 / "run" / "checkpoints"
    (folder / "2").rename(folder / "3")
    (folder / "1").mkdir()  # what a run would go back to if 3 were damaged
    state_version(folder / "3", found)
    where = folder / "3" / METADATA
    with CheckpointStore(folder) as store:
        assert store.latest() == 3
        for read in (
            lambda: store.restore(None, {}),
            lambda: store.metadata(3),
            lambda: read_metadata(epath.Path(folder / "3")),
            lambda: open_checkpoint(str(folder)),
            lambda: load_params(str(folder / "3"), {}),
        ):
            refused(read, versions.CHECKPOINT, where, found)
        assert (folder / "3").is_dir() and not (folder / "3.damaged").exists()


def test_what_is_saved_now_states_its_version(tmp_path):
    import jax.numpy as jnp

    with CheckpointStore(tmp_path) as store:
        store.save(1, {"params": {"w": jnp.ones(2)}}, {})
        store.wait()
    sealed = json.loads((tmp_path / "1" / METADATA / METADATA).read_text())
    assert sealed["content"]["version"] == 1


@NEWER
def test_a_newer_configuration_beside_a_checkpoint_is_refused(
    of_0_1, restate, refused, found
):
    path = of_0_1 / "run" / "config.json"
    restate(path, version=found)
    source = str(of_0_1 / "run" / "checkpoints" / "2")
    refused(lambda: open_checkpoint(source), versions.CONFIGURATION, path, found)


@pytest.mark.parametrize("found", [4, "next"])
def test_a_newer_msgpack_checkpoint_of_t5x_is_refused(of_0_1, refused, found):
    convert(str(of_0_1 / "hf"), str(of_0_1 / "t5x"), to="t5x")
    path = of_0_1 / "t5x" / "checkpoint_0" / "checkpoint"
    content = serialization.msgpack_restore(path.read_bytes())
    assert content["version"] == 3
    path.write_bytes(serialization.msgpack_serialize(content | {"version": found}))
    refused(lambda: open_checkpoint(str(of_0_1 / "t5x")), versions.T5X, path, found)
