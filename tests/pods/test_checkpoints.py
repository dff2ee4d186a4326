"""Checkpoints that Orbax writes into a bucket."""

import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from specialize import cli, paths
from specialize.checkpoints import merging, names, step_folder
from specialize.checkpoints.convert import convert
from specialize.checkpoints.formats import (
    huggingface,
    huggingface_companions,
    step_choice,
    t5x,
)
from specialize.checkpoints.lazy_tensors import from_array
from specialize.checkpoints.opening import open_checkpoint
from specialize.checkpoints.spec import CheckpointSpec
from specialize.checkpoints.step_folder import DamagedCheckpointError
from specialize.checkpoints.store import CheckpointStore
from specialize.errors import InputError
from specialize.evaluation.selection import steps_of
from specialize.inference import weights
from specialize.outputs import lease
from specialize.paths import arrays
from specialize.paths import store as objects
from specialize.student.network.architecture import T5Config
from specialize.training.loop import train


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
        store.amend(3, {"late": 2.0})
    with CheckpointStore(place, read_only=True) as store:
        assert store.steps() == [2, 3]
        found, metadata = store.restore(None, state)
        assert metadata == {"metrics": {"loss": 1 / 3, "late": 2.0}, "step": 3}
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


def test_a_run_in_a_folder_of_an_odd_name_writes_there_only(root, state):
    # What a shell, a URL or the libraries of the stores may read as something else.
    name = "a b~ü+%41&c=d'#1"
    place = f"{root}/{name}/checkpoints"
    with CheckpointStore(place, keep=1, asynchronous=False) as store:
        store.save(1, state, {})
        store.save(2, state, {})
    found, _ = CheckpointStore(place, read_only=True).restore(None, state)
    np.testing.assert_array_equal(found["params"]["a"], state["params"]["a"])
    assert objects.names(place) == ["2"]
    assert objects.names(root) == [name]


@pytest.mark.parametrize("name", ["a?1", "a*", "a[bc]1", "a/b?/c"])
@pytest.mark.parametrize("root", ["s3://bucket", "gs://bucket"])
def test_a_run_whose_folder_is_a_pattern_of_others_is_refused_at_once(root, name):
    place = f"{root}/{name}"
    for begin in (
        lambda: CheckpointStore(place),
        lambda: CheckpointSpec(dir=place),
        lambda: train._where(place),
    ):
        with pytest.raises(InputError, match="a pattern of names"):
            begin()


def test_every_reader_of_a_run_sees_its_finished_steps_only(root, state):
    run, marker = f"{root}/run", arrays.COMMIT
    place = f"{run}/checkpoints"
    with CheckpointStore(place) as store:
        store.save(1, state, {})
    whole = objects.find(f"{place}/1")
    fs = objects.filesystem(root)
    for step, left in {
        "4": whole,  # all but the object that ends it
        "10": [name for name in whole if "/d/" not in name],
        "04": [marker],  # no name of a step
        "\N{SUPERSCRIPT TWO}": [marker],
        "5.damaged": [],
    }.items():
        for name in left:
            if name != marker or not step.isdecimal() or step == "04":
                fs.cp_file(f"{place}/1/{name}", f"{place}/{step}/{name}")
    objects.write_bytes(f"{place}/30", b"a file")
    assert CheckpointStore(place, read_only=True).steps() == [1]
    assert steps_of(run) == [1]
    for named in (run, place, f"{place}/1", f"{place}/1/state"):
        found = step_choice.step_in(epath.Path(named))
        assert "checkpoints/1" in str(found) and weights._step(named, str(found)) == 1
    for named in ("4", "10", "4/state"):
        with pytest.raises(InputError, match=f"is not finished .*{marker}"):
            step_choice.step_in(epath.Path(f"{place}/{named}"))
    objects.remove([f"{place}/1/{marker}"])
    with pytest.raises(InputError, match="is not finished"):
        step_choice.step_in(epath.Path(run))
    with pytest.raises(InputError, match="has no checkpoints"):
        steps_of(run)


def test_a_checkpoint_that_may_not_be_read_is_one_message_and_no_damage(
    root, store, state, monkeypatch
):
    monkeypatch.setattr(objects, "_S3_TRIES", 1)
    run = f"{root}/run"
    place = f"{run}/checkpoints"
    with CheckpointStore(place, asynchronous=False) as kept:
        kept.save(1, state, {})
        kept.save(2, state, {})
    kept = CheckpointStore(place, read_only=True)
    denied, unknown = "access is denied", "no valid credentials were found"
    for status, match, read in (
        (403, "checkpoints", steps_of),
        (403, "checkpoints", lambda _: CheckpointStore(place)),
        (403, "state", open_checkpoint),
        (403, "metadata", lambda _: kept.restore(None, state)),
        (403, "ocdbt", lambda _: kept.restore(None, state)),
        (403, "_METADATA", lambda _: open_checkpoint(f"{place}/2")),
        (401, "checkpoints", open_checkpoint),
        (401, "ocdbt", open_checkpoint),
    ):
        store.faults(status=status, match=match)
        with pytest.raises(InputError, match=denied if status == 403 else unknown) as e:
            read(run)
        assert str(e.value).startswith(run)
        assert not isinstance(e.value, DamagedCheckpointError)
    store.faults()
    assert kept.steps() == [1, 2]


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "credentials have expired. Renew them"),
        (400, "TokenRefreshRequired", "credentials have expired. Renew them"),
        (403, "RequestTimeTooSkewed", "the clock of this machine is wrong. Set it"),
        (403, "InvalidAccessKeyId", "does not accept the credentials. Check AWS"),
        (403, "SignatureDoesNotMatch", "does not accept the credentials. Check AWS"),
        (403, "AccessDenied", "access is denied"),
        (400, "InvalidArgument", "the store refuses the request"),
    ],
)
def test_what_s3_refuses_has_its_reason_in_every_call(
    root, store, monkeypatch, status, code, said
):
    monkeypatch.setattr(objects, "_S3_TRIES", 1)
    store.faults(status=status, code=code)
    for call, data in (
        (objects.stat, ()),
        (objects.find, ()),
        (objects.read_bytes, ()),
        (objects.write_bytes, (b"x",)),
        (objects.create, (b"x",)),
    ):
        with pytest.raises(InputError, match=said):
            call(f"{root}/1", *data)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "the credentials have expired.* Renew them"),
        (403, "RequestTimeTooSkewed", "the clock of this machine is wrong.* Set it"),
    ],
)
def test_credentials_that_expire_are_no_damage_of_a_checkpoint(
    root, store, state, monkeypatch, status, code, said
):
    monkeypatch.setattr(objects, "_S3_TRIES", 1)
    place = f"{root}/run/checkpoints"
    with CheckpointStore(place, asynchronous=False) as kept:
        kept.save(1, state, {})
        kept.save(2, state, {})
    for match in ("metadata", "state"):
        store.faults(status=status, code=code, match=match)
        with pytest.raises(InputError, match=said) as caught:
            kept.restore(None, state)
        assert not isinstance(caught.value, DamagedCheckpointError)
    store.faults()
    kept = CheckpointStore(place)
    assert kept.steps() == [1, 2]
    store.faults(status=status, code=code)
    with pytest.raises(InputError, match=said):
        kept.save(3, state, {})
        kept.wait()
    store.faults()
    assert kept.restore(None, state)[1]["step"] == 2


def test_a_store_that_permits_no_deletes_says_that_an_old_step_stays(
    root, store, state, monkeypatch
):
    monkeypatch.setattr(objects, "_S3_TRIES", 1)
    place = f"{root}/run/checkpoints"
    kept = CheckpointStore(place, keep=1, asynchronous=False)
    kept.save(1, state, {})
    # S3 deletes several objects with a POST.
    store.faults(status=403, match="?delete" if store.scheme == "s3" else "DELETE")
    with pytest.raises(InputError, match="older one cannot be removed: access is deni"):
        kept.save(2, state, {})
        kept.wait()
    store.faults()
    _, metadata = CheckpointStore(place, read_only=True).restore(None, state)
    assert metadata["step"] == 2


def test_the_newest_finished_checkpoint_of_t5x_is_read(root):
    for step in (1, 2, 3):
        objects.write_bytes(f"{root}/checkpoint_{step}/_METADATA", b"{}")
    place = epath.Path(root)  # copied from a disk
    assert sorted(t5x.steps(place)) == [1, 2, 3]
    for step in (1, 2):
        objects.write_bytes(f"{root}/checkpoint_{step}/{arrays.COMMIT}", b"")
    objects.write_bytes(f"{root}/checkpoint_0/checkpoint", b"older layout")
    assert sorted(t5x.steps(place)) == [0, 1, 2]


@pytest.fixture
def weights_folder(tmp_path):
    """A Hugging Face folder of a small network."""
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
    folder = tmp_path / "weights"
    folder.mkdir()
    huggingface.write_weights(folder, tensors)
    huggingface_companions.write_settings(folder, config, "float32")
    return str(folder)


def test_weights_are_converted_and_merged_in_buckets(root, weights_folder):
    wanted = convert(weights_folder, f"{root}/t5x").fingerprint
    words = ["merge", weights_folder, f"{root}/t5x", "--target", f"{root}/merged"]
    assert cli.main(words) == 0
    assert convert(f"{root}/merged", None).fingerprint == wanted


def test_a_series_of_merges_that_was_killed_goes_on_in_a_bucket(
    root, weights_folder, monkeypatch, capsys
):
    pair = [weights_folder, weights_folder]
    words = ["merge", *pair, "--alpha", "0.5,1", "--target", f"{root}/grid"]
    real = merging.write

    def killed(mean, target, export, **more):
        real(mean, target, export, **more)
        raise KeyboardInterrupt  # as soon as the folder is in its place

    monkeypatch.setattr(merging, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        merging.merge(pair, f"{root}/grid/alpha_0.5", weights=[0.5, 0.5])
    monkeypatch.setattr(merging, "write", real)
    # The upload of another one was killed after that of its record.
    ended = subprocess.Popen(["true"])
    ended.wait()
    record = objects.read_bytes(f"{root}/grid/alpha_0.5/merge.json")
    objects.write_bytes(f"{root}/grid/alpha_1/merge.json", record)
    writer = {"host": lease._host(), "process": ended.pid}
    objects.write_bytes(
        f"{root}/grid/alpha_1/{paths.WRITING}", json.dumps(writer).encode()
    )
    capsys.readouterr()
    assert cli.main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("kept: this merge was finished before") == 1
    found = objects.names(f"{root}/grid/alpha_1")
    assert {"model.safetensors", "merge.json", paths.MARKER} <= {*found}
    assert paths.WRITING not in found
