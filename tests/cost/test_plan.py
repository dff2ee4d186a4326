"""A plan: the real step, compiled for what is not there; arithmetic that adds up."""

import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import pytest

from specialize import cli
from specialize.cost.plan import compiling, estimates, program, topologies
from specialize.cost.plan import planning as planning
from specialize.cost.plan.compiling import Verdict
from specialize.cost.plan.program import Memory
from specialize.errors import InputError
from specialize.student.adapters.spec import AdapterSpec
from specialize.student.model import Student
from specialize.student.network import T5Config, Transformer
from specialize.training.data.spec import DataSpec
from specialize.training.logging import throughput
from specialize.training.optimization.spec import OptimizerSpec

TINY = "recipes/tiny_gsm8k.gin"
SHALLOW = ("--gin_bindings", "network.T5Config.num_encoder_layers = 1")
SHALLOW += ("--gin_bindings", "network.T5Config.num_decoder_layers = 1")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra 'plan'"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """An empty cache of verdicts, for all tests of this module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("plan")
        patch.setenv("SPECIALIZE_CACHE", str(folder))
        yield folder


def planned(tmp_path, capsys, *words):
    """The plan of a command line, as JSON, and what it printed."""
    file = tmp_path / "plan.json"
    assert cli.main(["plan", *words, "--json", str(file)]) == 0
    return json.loads(file.read_text()), capsys.readouterr().out


def test_the_tiny_recipe_is_planned_once_and_remembered(cache, tmp_path, capsys):
    words = ("--gin_file", TINY, *SHALLOW, "--topology", "cpu:8", "--as_written")
    words += ("--price", "2", "--peak_flops", "1e12", "--mfu", "0.5")
    (first,), table = planned(tmp_path, capsys, *words)
    row = first["as_written"]
    memory = row["verdict"]["memory"]
    assert row["mesh"] == {"data": 2, "fsdp": 1, "model": 4}
    assert row["verdict"]["used"] == sum(memory.values())
    # float32 weights, split by four or not at all, and AdamW's two moments.
    assert row["parameters"] / 4 < memory["params"] / 4 < row["parameters"]
    assert memory["optimizer"] == pytest.approx(2 * memory["params"], rel=0.01)
    # 200 steps at half of 8 x 1 TFLOP/s, and two units of money a device-hour.
    assert row["step_seconds"] == pytest.approx(row["flops"] / 4e12)
    assert row["hours"] == pytest.approx(200 * row["step_seconds"] / 3600)
    assert row["price"] == pytest.approx(row["hours"] * 8 * 2)
    assert not row["verdict"]["cached"]
    assert "assumed, not measured" in table and "jaxlib" in table

    (again,), _ = planned(tmp_path, capsys, *words)
    assert again["as_written"]["verdict"] == {**row["verdict"], "cached": True}
    assert len(list((cache / "plan").glob("*.json"))) == 1


@pytest.mark.slow
def test_evaluation_is_planned_too(cache, tmp_path, capsys):
    words = ("--gin_file", "recipes/tiny_evaluate.gin", "--for", "evaluate")
    words += ("--topology", "cpu:1", "--as_written", "--questions", "65")
    (found,), table = planned(tmp_path, capsys, *words)
    row = found["as_written"]
    assert row["kind"] == "evaluate" and row["lengths"]["targets"] == 64
    assert row["steps"] == math.ceil(65 / 32)
    assert row["verdict"]["memory"]["optimizer"] == 0
    assert "each token reads the decoder's weights once" in table


@needs_libtpu
def test_a_tpu_slice_nobody_booked_is_compiled_for(cache, tmp_path, capsys):
    # Of 2 x 4 chips; its memory is the TPU compiler's, and it is far below a chip's.
    words = ("--gin_file", TINY, "--topology", "v5e:2x4", "--as_written")
    (found,), table = planned(tmp_path, capsys, *words)
    row = found["as_written"]
    assert row["source"].startswith("libtpu ") and "modelled" not in table
    assert row["verdict"]["fits"]
    assert 1e6 < row["verdict"]["used"] < 2e9
    assert 0 < row["verdict"]["peak"] <= row["verdict"]["used"]


@needs_libtpu
@pytest.mark.slow
def test_a_gpu_row_says_that_it_is_modelled(cache, tmp_path, capsys):
    words = ("--gin_file", TINY, "--topology", "h200:8", "--as_written")
    (found,), table = planned(tmp_path, capsys, *words)
    assert found["as_written"]["source"].startswith("modelled (libtpu ")
    assert "yes (modelled)" in table


@needs_libtpu
@pytest.mark.slow
def test_xxl_needs_at_most_five_gib_a_chip_on_sixty_four(cache, tmp_path, capsys):
    # float32 weights, AdamW, dropout, packed rows of 1024/256, global batch 128.
    features = "inputs targets teacher_ids teacher_probs teacher_tail format_id"
    lengths = {name: 256 for name in features.split()} | {"inputs": 1024}
    words = ("--gin_file", "recipes/flan_t5_xxl.gin", "--as_written")
    words += ("--gin_bindings", f"TASK_FEATURE_LENGTHS = {lengths}")
    words += ("--gin_bindings", "BATCH_SIZE = 128", "--topology", "v5e:16x4")
    (found,), _ = planned(tmp_path, capsys, *words)
    row = found["as_written"]
    assert row["optimizer"] == "adamw" and row["parameters"] > 11e9
    assert row["verdict"]["used"] <= 5 * 2**30


# ---- The search, over a compiler whose answers are a formula ------------------------

KEPT = dict(zip(planning.REMAT_POLICIES, (40, 22, 16, 12, 9, 5), strict=True))


def compiler(*, limit, batch=8, remat="full", kind="train"):
    """(ask, first row, what was asked): memory is 100 + kept · rows, up to `limit`."""
    asked = []

    def ask(**values):
        asked.append(values)
        size = values.get("BATCH_SIZE", values.get("EVAL_BATCH_SIZE", batch))
        policy = values.get("REMAT_POLICY", remat)
        used = 100 + KEPT[policy] * size
        fits = used <= limit
        memory = Memory(100, 0, 0, used - 100, 0) if fits else None
        verdict = Verdict(fits, memory, used, used, limit, 0.0, False, "formula")
        return estimates.Row(
            kind=kind,
            topology="v5e:2x4",
            chips=8,
            source="formula",
            mesh={"data": 4, "fsdp": 1, "model": 2},
            batch_size=size,
            microbatches=1,
            lengths={},
            optimizer="adamw",
            remat_policy=policy,
            parameters=1,
            trained=1,
            verdict=verdict,
            hbm_bytes=float(limit),
            flops=1.0,
            steps=1,
            step_seconds=None,
            hours=None,
            price=None,
        )

    first = ask()
    asked.clear()
    return ask, first, asked


@pytest.mark.parametrize("written", planning.REMAT_POLICIES)
@pytest.mark.parametrize(
    ("limit", "best"),
    [
        (420, "none"),
        (419, "save_dots"),
        (275, "minimal_attention"),
        (227, "minimal"),
        (173, "save_mlp"),
        (140, "full"),
        (139, None),
    ],
)
def test_the_cheapest_policy_that_fits_is_found(limit, best, written):
    ask, first, asked = compiler(limit=limit, remat=written)
    found = planning.cheapest_remat(ask, first)
    assert (found and found.remat_policy) == best
    assert len(asked) <= 3


@pytest.mark.parametrize("limit", [140, 159, 160, 161, 500, 12345])
def test_the_largest_batch_that_fits_is_found(limit):
    ask, first, asked = compiler(limit=limit)
    found = planning.largest_batch(ask, first)
    assert found is not None
    # The mesh splits rows four ways, so batches grow by four.
    assert found.batch_size == (limit - 100) // 5 // 4 * 4
    assert found.verdict.fits and len(asked) <= 5


def test_a_gpus_stand_in_has_as_many_chips():
    for number in (1, 2, 4, 8, 16, 64):
        gpus = topologies.parse(f"h200:{number}")
        assert gpus.compiler == "modelled"
        assert topologies.stand_in(gpus).chips == number
    with pytest.raises(InputError, match="8, 16"):
        topologies.stand_in(topologies.parse("h200:6"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v7:4x4", "v5e, v5p"),
        ("v5e:4x4x4", "2 number"),
        ("v4:8", "3 number"),
        ("v5e:4by4", "not a shape"),
        ("cpu:0", "not a shape"),
    ],
)
def test_a_topology_that_cannot_be_is_refused(text, said):
    with pytest.raises(InputError, match=said):
        topologies.parse(text)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_have_an_optimizers_state_and_the_base_has_none(dtype):
    """Lowered, not compiled: what the step takes follows from its arguments."""
    network = T5Config(
        *(64, dtype, 16, 2, 1, 1, 8, 32, ("gelu", "linear")), scan_layers=True
    )
    lengths = {"inputs": 16, "targets": 8}

    def lowered(adapters):
        return program.train_program(
            Student(Transformer(network)),
            DataSpec("any", lengths, 2),
            OptimizerSpec(total_steps=99, adapters=adapters),
            jax.devices()[:1],
        )

    spec = AdapterSpec(rank=2, targets=("query", "wo"))
    found, whole = lowered(spec), lowered(None)
    # Three attentions of 16 x 16, and two MLPs of 32 x 16.
    assert found.trained == 3 * 2 * 32 + 2 * 2 * 48
    assert found.num_params == whole.num_params + found.trained
    assert whole.trained == whole.num_params
    # Two moments of what is trained, and a few counters.
    for one in (found, whole):
        assert one.state - one.params == pytest.approx(8 * one.trained, abs=24)
    least = 4 if dtype == "float32" else 2
    frozen = found.params - 4 * found.trained
    assert frozen == pytest.approx(least * whole.num_params, rel=0.15)
    # Backward, a frozen matrix has one product and not two.
    sizes = (2, *lengths.values())
    part = throughput.training_flops(
        dataclasses.replace(network, adapters=spec), *sizes
    )
    assert 2 / 3 < part / throughput.training_flops(network, *sizes) < 1
    assert throughput.training_flops(
        dataclasses.replace(network, adapters=AdapterSpec()), *sizes
    ) == throughput.training_flops(network, *sizes)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "adamw_8bit"])
def test_a_gpu_is_planned_with_one_more_moment_of_adamw(name, monkeypatch):
    """The compiler's answer is given; what a GPU adds to it follows from the state."""
    memory = program.Memory(params=0, optimizer=0, batch=0, temporaries=5, program=0)
    answer = compiling.Verdict(True, memory, 5, 4, None, 1.0, False, "given")
    monkeypatch.setattr(compiling, "judge", lambda *_, **__: answer)
    monkeypatch.setattr(topologies, "devices", lambda _: jax.devices()[:1])
    values = {"OPTIMIZER": name, "MESH": {"data": 1, "fsdp": 1, "model": 1}}

    def row(topology):
        asked = estimates.Request((TINY,), (), (), topologies.parse(topology))
        return estimates.train_row(asked, **values)

    assert row("v5p:1x1x1").verdict == answer
    found = row("h200:1")
    more = 4 * found.parameters if name == "adamw" else 0
    assert (found.verdict.used, found.verdict.peak) == (5 + more, 4 + more)
    assert found.verdict.memory.temporaries == found.verdict.memory.total == 5 + more
    assert found.verdict.fits


def test_a_quantised_base_is_counted_by_its_weights_and_takes_its_bytes():
    network = T5Config(
        *(64, "bfloat16", 64, 4, 2, 2, 16, 128, ("gelu", "linear")), scan_layers=True
    )

    def lowered(kind):
        return program.train_program(
            Student(Transformer(network)),
            DataSpec("any", {"inputs": 16, "targets": 8}, 2),
            OptimizerSpec(total_steps=99, adapters=AdapterSpec(2, quantize_base=kind)),
            jax.devices()[:1],
        )

    none = lowered("none")
    # Three attentions of four kernels and two MLPs of three, in two layers.
    weights = 2 * (12 * 64 * 64 + 6 * 64 * 128)
    found = lowered("nf4")
    assert (found.num_params, found.trained) == (none.num_params, none.trained)
    assert none.params - found.params == weights * (16 - 4.25) / 8


def test_a_share_above_one_is_refused():
    request = estimates.Request((TINY,), (), (), topologies.parse("cpu:8"))
    with pytest.raises(InputError, match="above 0 and at most 1"):
        planning.plan(dataclasses.replace(request, mfu=40.0))


def test_the_smallest_slice_that_fits_is_found(monkeypatch):
    slices = topologies.slices("v5e")
    assert [one.chips for one in slices] == [1, 4, 8, 16, 32, 64, 128, 256]
    asked, needed = [], [1]

    def plan(request, **options):
        asked.append(request.topology.text)
        if request.topology.chips == 4:
            raise InputError("BATCH_SIZE does not divide")
        _, row, _ = compiler(limit=139 + (request.topology.chips >= needed[0]))
        return planning.Plan(row, None, None, {})

    monkeypatch.setattr(planning, "plan", plan)
    request = estimates.Request((TINY,), (), (), slices[0])
    for needed[0], found in ((1, 1), (2, 3), (8, 3), (256, 8)):
        asked.clear()
        assert planning.smallest(request, slices).fits
        assert asked == [one.text for one in slices[:found]]
    needed[0] = 512
    assert not planning.smallest(request, slices).fits
    with pytest.raises(InputError, match="does not divide"):
        planning.smallest(request, slices[1:2])
    for kind in ("cpu", "v7"):
        with pytest.raises(InputError, match="must be one of v4, v5e"):
            topologies.slices(kind)
    assert [one.chips for one in topologies.slices("h200")][:3] == [1, 2, 4]


def test_chips_must_be_named(capsys):
    assert cli.main(["plan", "--gin_file", TINY]) == 2
    assert "--smallest v5e" in capsys.readouterr().err


@needs_libtpu
def test_a_state_that_is_too_large_is_not_compiled(cache, tmp_path, capsys):
    words = ["plan", "--gin_file", "recipes/flan_t5_xxl.gin", "--topology", "v5e:1x1"]
    words += ["--gin_bindings", "MESH = '1'", "--as_written"]
    words += ["--gin_bindings", "network.T5Config.num_encoder_layers = 4"]
    words += ["--gin_bindings", "network.T5Config.num_decoder_layers = 4"]
    assert cli.main([*words, "--json", str(tmp_path / "plan.json")]) == 1
    (found,) = json.loads((tmp_path / "plan.json").read_text())
    verdict = found["as_written"]["verdict"]
    assert verdict["used"] > 12 * found["as_written"]["parameters"]
    assert verdict["memory"] is None and verdict["seconds"] == 0
    assert "too large" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Used 20.50G of 15.75G hbm", (20.5, 15.75)),
        ("HLO temporaries (97.5G) exceeds available HBM (95.75G).", (99.5, 95.75)),
        ("no numbers", (None, None)),
    ],
)
def test_what_a_compiler_refuses_has_a_size(message, expected):
    found = compiling._numbers(message, 2 * 2**30)
    assert found == tuple(one and one * 2**30 for one in expected)


def test_a_gpu_is_planned_without_scores():
    """Arguments and results of the planned kernels are those of the kernels."""
    from specialize.student.attention import fused_attention, gpu_kernels
    from specialize.student.attention import planned_kernels as planned

    rows = jnp.ones((2, 128, 4, 16), "bfloat16")
    bias, mask = jnp.ones((1, 4, 128, 128)), jnp.ones((2, 1, 128, 128), "bool")
    given = [rows, rows, rows, bias, mask]
    for name in ("forward", "gradients"):
        real, other = (
            jax.eval_shape(getattr(one, name), *given) for one in (gpu_kernels, planned)
        )
        assert jax.tree.map(lambda a: (a.shape, a.dtype), real) == jax.tree.map(
            lambda a: (a.shape, a.dtype), other
        )
        given += [*real, rows]
    with fused_attention.planned():
        assert fused_attention.suits(rows, rows)
        lowered = jax.jit(
            jax.grad(lambda *x: fused_attention.attend(*x).sum().astype("float32"))
        ).lower(*given[:5])
    assert not fused_attention.suits(rows, rows)
    assert "2x4x128x128" not in lowered.as_text()
