"""A run of adapters: what it trains, saves, resumes and refuses."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from test_loop import survive_kills
from tiny_run import losses

from specialize import config
from specialize.checkpoints import load_params, step_folder
from specialize.checkpoints.convert import convert
from specialize.checkpoints.merging import merge
from specialize.checkpoints.opening import open_checkpoint
from specialize.config import neutral
from specialize.errors import InputError
from specialize.inference.weights import load_student
from specialize.student.adapters import trees
from specialize.student.adapters.spec import AdapterSpec
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.state import adapted, plan_state

ADAPTERS = {"rank": 4, "dropout": 0.1, "targets": ("query", "value", "mlp")}
OPTIONS = {"adapters": ADAPTERS, **tiny_run.ADAPTED}
STEPS = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_run.base(tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return tiny_run.observed(folder, STEPS, initial_checkpoint_path=base, **OPTIONS)


def test_only_the_adapters_change_and_only_they_are_saved(run, base):
    result, folder, _ = run
    trained, frozen = trees.split(result.params)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(trained))
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=None), frozen
    )
    jax.tree.map(np.testing.assert_array_equal, frozen, load_params(base, shapes))
    metadata, saved = step_folder.read_metadata(folder / "checkpoints" / str(STEPS))
    weights = [name for name in saved if "encoder" in name or "decoder" in name]
    # Weights, two moments, average.
    assert len(weights) == 4 * len(jax.tree.leaves(trained))
    assert all(name.rpartition("/")[2] in trees.MATRICES for name in weights)
    about = metadata["adapters"]
    assert about["base"] == base and about["rank"] == 4
    assert about["fingerprint"] == convert(base, None).fingerprint


def test_the_trajectory_on_a_mesh_is_that_of_one_device(
    run, base, tmp_path, same_parameters
):
    result, folder, _ = run
    found = tiny_run.run(
        *(tmp_path / "run", STEPS),
        initial_checkpoint_path=base,
        mesh="2x4",
        **OPTIONS,
    )
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(folder), rtol=1e-5)
    params = [tiny_run.parameters(one) for one in (found, result)]
    same_parameters(*params, atol=1e-4)
    assert any(
        not leaf.sharding.is_fully_replicated
        for leaf in jax.tree.leaves(trees.split(found.params)[0])
    )


def test_every_reader_reads_it_as_whole_weights(run, base, tmp_path):
    result, folder, seen = run
    module = tiny_run.student().module
    rng = np.random.default_rng(0)
    tokens = [jnp.asarray(rng.integers(2, 48, (3, n)), jnp.int32) for n in (9, 5, 5)]

    def logits(network, params):
        return network.apply({"params": params}, *tokens, enable_dropout=False)

    unmerged = dataclasses.replace(
        module.config, scan_layers=True, adapters=AdapterSpec(**ADAPTERS)
    )
    # The run's own network, and what evaluate, infer, select and load read.
    for name, params in (("", result.params), ("#ema", seen[-1])):
        expected = logits(module.clone(config=unmerged), params)
        student = load_student(tiny_run.student(), f"{folder}{name}", "1")
        found = logits(module, student.params)
        assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
    done = convert(str(folder), str(tmp_path / "hf"), to="hf")
    assert done.step == STEPS and any("adapters" in note for note in done.notes)
    assert convert(str(tmp_path / "hf"), None).fingerprint == done.fingerprint
    # Half of the change, by a merge with the base.
    merge([base, str(folder)], str(tmp_path / "half"), activation="gelu")
    mean = open_checkpoint(str(tmp_path / "half")).tensors
    kernel = "encoder/layers_0/mlp/wo/kernel"
    ends = [open_checkpoint(str(one)).tensors[kernel].read() for one in (base, folder)]
    np.testing.assert_allclose(mean[kernel].read(), sum(ends) / 2, rtol=1e-5)


def test_peft_gets_the_adapters_and_gives_the_same_weights(run, tmp_path):
    _, folder, _ = run
    done = convert(str(folder), str(tmp_path / "peft"), to="peft")
    assert done.target_format == "peft" and done.parameters < 4000
    whole = convert(str(folder), None).fingerprint
    assert convert(str(tmp_path / "peft"), None).fingerprint == whole
    for source, options, said in (
        (tmp_path / "peft", {"to": "peft", "rows": 64}, "no --rows"),
        (tiny_run.base(tmp_path / "b"), {"to": "peft"}, "has no adapters"),
        (tmp_path / "b", {"base": "x"}, "has no adapters, and needs no base"),
    ):
        with pytest.raises(InputError, match=said):
            convert(str(source), None, **options)


def test_a_base_is_known_by_its_fingerprint(run, base, tmp_path, capfd):
    _, folder, _ = run
    kept, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(folder, kept)
    shutil.copytree(base, moved)
    other = tiny_run.base(tmp_path / "other", seed=1)
    again = {**OPTIONS, "evaluation": {"weights": "ema"}}
    tiny_run.run(kept, STEPS, initial_checkpoint_path=str(moved), **again)
    assert "was '" in (said := capfd.readouterr().err) and "does not read" not in said
    for changed, words in (
        ({"initial_checkpoint_path": other}, "the base weights were those of"),
        ({"initial_checkpoint_path": None}, "names no|no checkpoint is named"),
        ({"adapters": {**ADAPTERS, "rank": 8}}, "adapters' rank was 4, is 8"),
        ({"adapters": {**ADAPTERS, "alpha": 8.0}}, "adapters' alpha was 16.0"),
        ({"adapters": None}, "it has adapters, wanted are whole weights"),
        ({"initial_checkpoint_path": str(folder)}, "Merge them first"),
    ):
        options = {"initial_checkpoint_path": str(moved), **again, **changed}
        with pytest.raises(InputError, match=words):
            tiny_run.run(kept, STEPS + 1, **options)
    with pytest.raises(InputError, match="has adapters of weights with the finger"):
        convert(str(folder), None, base=other)
    assert convert(str(folder), None, base=str(moved)).step == STEPS


def test_a_kill_leaves_no_trace(tmp_path, start, same_parameters, base):
    adapters = {"adapters": ADAPTERS, "initial_checkpoint_path": base}
    survive_kills(
        *(tmp_path, start, same_parameters), kills=1, steps=40, seed=0, **adapters
    )


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path, start, same_parameters, base):
    adapters = {"adapters": ADAPTERS, "initial_checkpoint_path": base}
    survive_kills(
        *(tmp_path, start, same_parameters), kills=20, steps=1500, seed=1, **adapters
    )


def test_what_the_network_casts_is_frozen_in_its_type():
    spec = OptimizerSpec(total_steps=9, adapters=AdapterSpec(**ADAPTERS))
    optimizer = make_optimizer(spec)
    student = adapted(tiny_run.student(dtype="bfloat16"), optimizer)
    batch = {
        name: np.ones((2, 4), np.int32)
        for name in ("encoder_input_tokens", "decoder_input_tokens")
    }
    from specialize import sharding

    mesh = sharding.read_mesh("1")
    layout = plan_state(student, optimizer, batch, mesh, sharding.DEFAULT_RULES)
    types = {
        path[-1].key: str(leaf.dtype)
        for path, leaf in jax.tree_util.tree_leaves_with_path(layout.frozen)
    }
    assert types == {
        "kernel": "bfloat16",
        "embedding": "bfloat16",
        "scale": "float32",
        "rel_embedding": "float32",
    }
    assert {str(x.dtype) for x in jax.tree.leaves(layout.abstract["params"])} == {
        "float32"
    }


def test_the_lint_and_t5x_refuse_what_cannot_be():
    files = ["runs/train.gin", "recipes/flan_t5_base.gin"]

    def said(*bindings):
        read = config.read(files, list(bindings))
        return [one.message for one in config.lint(read, imports=False)]

    none = "INITIAL_CHECKPOINT_PATH = None"
    assert any("names no weights" in text for text in said("LORA_RANK = 4", none))
    assert not any("adapt" in text for text in said("LORA_RANK = 4"))
    assert not any("adapt" in text for text in said(none))
    assert neutral.optimizer("adamw", None, 0, adamw=lambda: "made") == "made"
    with pytest.raises(InputError, match="LORA_RANK = 8: T5X's trainer trains all"):
        neutral.optimizer("adamw", None, 8, adamw=lambda: "made")


def test_adapters_learn_from_texts_that_the_adapted_student_wrote(
    tmp_path, same_parameters
):
    """Its base may be its teacher; and it goes on within a window as if not stopped."""
    base = tiny_run.base(tmp_path / "hf", rows=tiny_run.BYTES)
    for whole in (False, True):
        options = {
            "adapters": ADAPTERS,
            "initial_checkpoint_path": base,
            "rollouts": {
                "share": 1.0, "teacher": base, "steps": 4, "whole_vocabulary": whole,
            },
            "log_period": 1,
            "period": 3,
            "learning_rate": 1e-2,
        }  # fmt: skip
        straight = tiny_run.run(tmp_path / f"straight-{whole}", 6, **options)
        tiny_run.run(tmp_path / f"stopped-{whole}", 3, **options)
        resumed = tiny_run.run(tmp_path / f"stopped-{whole}", 6, **options)
        same_parameters(*map(tiny_run.parameters, (resumed, straight)))
        lines = tiny_run.lines(tmp_path / f"straight-{whole}")
        # At first it is its teacher; after some steps on other parts it is not.
        assert lines[0]["train"]["on_policy/kl"] == pytest.approx(0, abs=1e-5)
        assert all(line["train"]["on_policy/share"] == 1 for line in lines)
