"""A run of adapters beside a quantised base: what it computes, saves and refuses."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax.traverse_util import flatten_dict
from test_loop import survive_kills
from tiny_run import losses

from specialize import cli, config, sharding
from specialize.checkpoints import step_folder
from specialize.checkpoints.convert import convert
from specialize.checkpoints.merging import merge
from specialize.checkpoints.opening import open_checkpoint
from specialize.errors import InputError
from specialize.evaluation import pareto
from specialize.inference.weights import load_student
from specialize.student.adapters import quantization, trees
from specialize.student.adapters.spec import AdapterSpec
from specialize.training.data.mixtures import Mixture
from specialize.training.optimization.optimizers import make_optimizer
from specialize.training.optimization.spec import OptimizerSpec
from specialize.training.optimization.state import adapted, plan_state

ALL = ("attention", "mlp")
# Blocks of 4: eight shards of an axis of 32 have one each.
ADAPTERS = {
    "rank": 4,
    "dropout": 0.1,
    "targets": ("query", "value", "mlp", "logits_dense"),
    "quantize_base": "nf4",
    "quantize_block": 4,
}
OPTIONS = {"adapters": ADAPTERS, **tiny_run.ADAPTED}
STEPS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_run.base(tmp_path_factory.mktemp("base") / "hf")


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("runs") / "one"
    return tiny_run.observed(
        folder, STEPS, initial_checkpoint_path=base, data={"microbatches": 2}, **OPTIONS
    )


def test_the_base_is_codes_and_scales_and_only_adapters_are_saved(run, base):
    result, folder, _ = run
    _, frozen = trees.split(result.params)
    kept = open_checkpoint(base).tensors
    # Scanned, of one layer: its axis is 1.
    stored = frozen["decoder"]["decoder"]["mlp"]["wo"]
    assert set(stored) == {quantization.CODES, quantization.SCALES}
    kernel = kept["decoder/layers_0/mlp/wo/kernel"].read()
    codes, scales = quantization.quantize(kernel, "nf4", 4)
    np.testing.assert_array_equal(stored[quantization.CODES][:, 0], codes)
    np.testing.assert_array_equal(stored[quantization.SCALES][:, 0], scales)
    # The head and the embedding are as they were.
    head = frozen["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(head, kept["decoder/logits_dense/kernel"].read())
    metadata, saved = step_folder.read_metadata(folder / "checkpoints" / str(STEPS))
    weights = [name for name in saved if "encoder" in name or "decoder" in name]
    assert all(name.rpartition("/")[2] in trees.MATRICES for name in weights)
    about = metadata["adapters"]
    assert (about["quantize_base"], about["quantize_block"]) == ("nf4", 4)
    # That of the base before it was quantised.
    assert about["fingerprint"] == convert(base, None).fingerprint


@pytest.mark.slow
def test_the_trajectory_on_a_mesh_is_that_of_one_device(
    run, base, tmp_path, same_parameters
):
    result, folder, _ = run
    found = tiny_run.run(
        *(tmp_path / "run", STEPS),
        initial_checkpoint_path=base,
        mesh="2x4",
        data={"microbatches": 2},
        **OPTIONS,
    )
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(folder), rtol=1e-5)
    params = [tiny_run.parameters(one) for one in (found, result)]
    same_parameters(*params, atol=1e-4)
    sharded = {
        path[-1]
        for path, leaf in flatten_dict(found.params).items()
        if not leaf.sharding.is_fully_replicated
    }
    assert {quantization.CODES, quantization.SCALES} <= sharded


def test_what_is_read_is_the_student_that_was_trained(run, base, tmp_path):
    result, folder, seen = run
    module = tiny_run.student().module
    rng = np.random.default_rng(0)
    tokens = [jnp.asarray(rng.integers(2, 48, (3, n)), jnp.int32) for n in (9, 5, 5)]

    def logits(network, params):
        return network.apply({"params": params}, *tokens, enable_dropout=False)

    def away(found, expected):
        return np.linalg.norm(found - expected) / np.linalg.norm(expected)

    unmerged = dataclasses.replace(
        module.config, scan_layers=True, adapters=AdapterSpec(**ADAPTERS)
    )
    for name, params in (("", result.params), ("#ema", seen[-1])):
        expected = logits(module.clone(config=unmerged), params)
        student = load_student(tiny_run.student(), f"{folder}{name}", "1")
        assert away(logits(module, student.params), expected) < 1e-6
        for quantized in (True, False):
            target = str(tmp_path / f"hf{name}-{quantized}")
            done = convert(f"{folder}{name}", target, to="hf", quantized_base=quantized)
            said = "that were trained" if quantized else "its original weights"
            assert any("nf4 in blocks of 4" in n and said in n for n in done.notes)
            student = load_student(tiny_run.student(), target, "1")
            distance = away(logits(module, student.params), expected)
            assert distance < 1e-6 if quantized else 1e-3 < distance < 0.5
    # Into the original: its own weights with the change of the adapters.
    kernel = "encoder/layers_0/attention/key/kernel"  # has no adapter
    written = open_checkpoint(str(tmp_path / "hf-False")).tensors[kernel].read()
    np.testing.assert_array_equal(written, open_checkpoint(base).tensors[kernel].read())
    merge([base, str(folder)], str(tmp_path / "half"), activation="gelu")
    half = open_checkpoint(str(tmp_path / "half")).tensors[kernel].read()
    np.testing.assert_array_equal(half, written)
    # PEFT gets the adapters alone, and they mean those beside the original weights.
    done = convert(str(folder), str(tmp_path / "peft"), to="peft")
    assert any("base that was nf4 in blocks of 4" in note for note in done.notes)
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == base
    whole = convert(str(folder), None).fingerprint
    assert convert(str(tmp_path / "peft"), None).fingerprint == whole
    with pytest.raises(InputError, match="no adapters that were trained on a quantis"):
        convert(base, None, quantized_base=True)


def test_a_merge_that_pareto_scores_is_the_one_that_its_command_writes(
    run, base, tmp_path, capsys
):
    student, kept = tiny_run.student(), str(run[1] / "checkpoints" / str(STEPS))
    half = convert(base, str(tmp_path / "bf16"), to="hf", dtype="bfloat16").target

    def written(*sources, share, **options):
        target = str(tmp_path / f"m{len(list(tmp_path.iterdir()))}")
        words = ["merge", *sources, "--alpha", str(share), "--target", target]
        assert cli.main([*words, *options.get("more", ())]) == 0
        return tiny_run.parameters(load_student(student, target, "1"))

    def scored(*sources, share):
        parts = tuple(zip(sources, (1 - share, share), strict=True))
        params, mesh = pareto._weights(student, pareto.Candidate("m", parts), "2x2")
        assert dict(mesh.shape)["model"] == 2
        return {"/".join(k): np.asarray(v) for k, v in flatten_dict(params).items()}

    for sources, more in (
        ((base, kept), ["--quantized_base"]),
        ((half, half), []),  # of one type, in which a mean is rounded
        ((half, base), []),
    ):
        expected = scored(*sources, share=0.3)
        found = written(*sources, share=0.3, more=more)
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(array, found[name], err_msg=name)
    other = written(base, kept, share=0.3)  # with the original base
    kernel = "encoder/layers_0/mlp/wo/kernel"
    assert np.abs(other[kernel] - scored(base, kept, share=0.3)[kernel]).max() > 1e-3
    refused = ["merge", base, half, "--quantized_base", "--target", str(tmp_path / "n")]
    assert cli.main(refused) == 2 and not (tmp_path / "n").exists()
    assert "none of the checkpoints has adapters" in capsys.readouterr().err


@pytest.mark.parametrize("quantized", [True, False])
def test_the_command_of_a_choice_names_the_base_of_training(
    run, base, quantized, monkeypatch, capsys
):
    kept = str(run[1] / "checkpoints" / str(STEPS)) if quantized else base
    start = pareto.Candidate("start", ((base, 1.0),))
    mean = pareto.Candidate("alpha_0.3", ((base, 0.7), (kept, 0.3)))
    score = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 3}
    monkeypatch.setattr(pareto.tables, "show", lambda results: None)
    scored = [pareto.Scored(one, score, score, "none") for one in (start, mean)]
    choice = pareto.ParetoChoice("rule", mean, scored, None)
    pareto._show(choice, pareto.Rule(), "a", "b", "gelu")
    said = " ".join(capsys.readouterr().err.split())
    more = "--alpha 0.3 --quantized_base --target" if quantized else "0.3 --target DIR"
    assert f"merge {base} {kept} " in said and more in said


def test_another_quantisation_is_refused_and_the_same_goes_on(run, base, tmp_path):
    _, folder, _ = run
    again = {
        **OPTIONS,
        "initial_checkpoint_path": base,
        "evaluation": {"weights": "ema"},
    }
    tiny_run.run(folder, STEPS, **again)
    for fields, said in (
        ({"quantize_base": "int4"}, "adapters' quantize_base was nf4, is int4"),
        ({"quantize_base": "none"}, "adapters' quantize_base was nf4, is none"),
        ({"quantize_block": 8}, "adapters' quantize_block was 4, is 8"),
    ):
        changed = {**again, "adapters": {**ADAPTERS, **fields}}
        with pytest.raises(InputError, match=said):
            tiny_run.run(folder, STEPS + 1, **changed)


@pytest.mark.slow
def test_the_loss_falls_about_as_beside_the_base_itself(base, tmp_path):
    few = Mixture("few", [tiny_run.examples("a", 16)], [1.0])
    adapters = {"rank": 8, "alpha": 32.0, "targets": (*ALL, "logits_dense")}
    ends = {}
    for kind in ("none", "nf4"):
        tiny_run.run(
            *(tmp_path / kind, 60),
            data={"mixture": few},
            adapters={**adapters, "quantize_base": kind},
            initial_checkpoint_path=base,
            learning_rate=3e-2,
            log_period=20,
            period=60,
        )
        ends[kind] = losses(tmp_path / kind)
    # Of 1.8 nats at the start.
    assert ends["none"][-1] < 0.4
    np.testing.assert_allclose(ends["nf4"], ends["none"], rtol=0.15)


@pytest.mark.slow
def test_a_kill_leaves_no_trace(tmp_path, start, same_parameters, base):
    adapters = {"adapters": ADAPTERS, "initial_checkpoint_path": base}
    survive_kills(
        *(tmp_path, start, same_parameters), kills=1, steps=40, seed=0, **adapters
    )


@pytest.mark.slow
def test_adapters_learn_from_texts_that_the_quantised_student_wrote(
    tmp_path, same_parameters
):
    base = tiny_run.base(tmp_path / "hf", rows=tiny_run.BYTES)
    options = {
        "adapters": ADAPTERS,
        "initial_checkpoint_path": base,
        "rollouts": {"share": 1.0, "teacher": base, "steps": 4},
        "log_period": 1,
        "period": 3,
        "learning_rate": 1e-2,
    }
    straight = tiny_run.run(tmp_path / "straight", 6, **options)
    tiny_run.run(tmp_path / "stopped", 3, **options)
    resumed = tiny_run.run(tmp_path / "stopped", 6, **options)
    same_parameters(*map(tiny_run.parameters, (resumed, straight)))
    lines = tiny_run.lines(tmp_path / "straight")
    assert all(line["train"]["on_policy/share"] == 1 for line in lines)


def layout_on(mesh, **fields):
    spec = AdapterSpec(**{**ADAPTERS, **fields})
    optimizer = make_optimizer(OptimizerSpec(total_steps=9, adapters=spec))
    student = adapted(tiny_run.student(dtype="bfloat16"), optimizer)
    names = ("encoder_input_tokens", "decoder_input_tokens")
    batch = {name: np.ones((8, 4), np.int32) for name in names}
    read = sharding.read_mesh(mesh)
    return plan_state(student, optimizer, batch, read, sharding.DEFAULT_RULES)


def test_types_of_what_is_frozen():
    frozen = flatten_dict(layout_on("1").frozen)
    assert {path[-1]: str(leaf.dtype) for path, leaf in frozen.items()} == {
        "kernel": "bfloat16",
        "embedding": "bfloat16",
        "scale": "float32",
        "rel_embedding": "float32",
        quantization.CODES: "uint8",
        quantization.SCALES: "bfloat16",
    }


def test_a_mesh_that_cuts_blocks_is_refused_before_compiling():
    mesh = {"data": 1, "fsdp": 8, "model": 1}
    # One block of two inputs in each shard of 16.
    place = layout_on(mesh, quantize_block=2).frozen["encoder"]["layers_0"]
    codes = place["attention"]["query"][quantization.CODES]
    assert codes.sharding.shard_shape(codes.shape) == (1, 16)
    with pytest.raises(InputError, match="they are 1 quantised blocks, which cannot"):
        layout_on(mesh, quantize_block=64)


def test_the_lint_refuses_what_cannot_be():
    files = ["runs/train.gin", "recipes/flan_t5_base.gin"]

    def said(*bindings):
        read = config.read(files, list(bindings))
        return [one.message for one in config.lint(read, imports=False)]

    nf4 = "LORA_QUANTIZE_BASE = 'nf4'"
    assert any("only frozen ones can be quantised" in text for text in said(nf4))
    assert not any("quantis" in text for text in said(nf4, "LORA_RANK = 4"))
    wrong = [nf4, "LORA_RANK = 4", "LORA_QUANTIZE_BLOCK = 50"]
    found = [one.message for one in config.lint(config.read(files, wrong))]
    assert any("LORA_QUANTIZE_BLOCK: " in one and "= 64." in one for one in found)
