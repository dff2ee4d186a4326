"""Every recipe resolves on both engines, and no listed mistake in one goes unseen."""

import importlib.util
import re

import pytest
from recipe_cases import (
    EVALUATION_RUNS,
    EVALUATIONS,
    LAUNCH,
    MODELS,
    ONE_SUITE,
    QUICKSTART,
    QUICKSTART_LAUNCH,
    RECIPES,
    TRAIN_RUNS,
    TRAININGS,
    combinations,
    evaluation,
    quickstart_run,
)

from specialize import config
from specialize.config.scanning import Macro, leaves

HERE = ("train", "evaluate", "infer", "sample")  # what needs no T5X
CHIPS = 16


def chips(files: tuple[str, ...]) -> int:
    """How many devices a recipe is for."""
    return 8 if "tiny" in files[0] else CHIPS


def resolves_here(run: str) -> bool:
    """Whether the modules that a run file names can be imported."""
    if run in HERE:
        return True
    try:  # tests/t5x is itself a package called t5x, but an empty one
        return importlib.util.find_spec("t5x.trainer") is not None
    except ModuleNotFoundError:
        return False


def problems(run: str, files: tuple[str, ...], *bindings: str, devices: int = CHIPS):
    found = config.read([f"runs/{run}.gin", *files], [*LAUNCH, *bindings])
    return config.lint(found, devices=devices, imports=resolves_here(run))


@pytest.mark.parametrize("run", TRAIN_RUNS)
@pytest.mark.parametrize("files", combinations(), ids=" + ".join)
def test_a_recipe_resolves_on_both_engines(run, files):
    assert problems(run, files, devices=chips(files)) == []


def test_the_quickstarts_recipes_resolve():
    for name in QUICKSTART:
        files = (f"recipes/{name}",)
        found = problems(quickstart_run(name), files, *QUICKSTART_LAUNCH, devices=1)
        assert found == []


@pytest.mark.parametrize("run", EVALUATION_RUNS)
@pytest.mark.parametrize("name", [*EVALUATIONS, *TRAININGS])
def test_an_evaluation_resolves_on_both_engines(run, name):
    files, bindings = evaluation(name)
    assert problems(run, files, *bindings, devices=chips(files[-1:])) == []


@pytest.mark.parametrize("run", [*TRAIN_RUNS, *EVALUATION_RUNS])
def test_a_run_file_uses_every_value_a_recipe_may_set(run):
    values = config.read(["runs/values.gin"]).scan.macros()
    found = config.read([f"runs/{run}.gin"])
    used = {
        leaf.name
        for binding in found.scan.bindings
        if not binding.is_macro
        for leaf in leaves(binding.value)
        if isinstance(leaf, Macro)
    }
    # Where a run reads and writes is a matter of its entry function, not of a recipe.
    places = {"MODEL_DIR", "INITIAL_CHECKPOINT_PATH", "CHECKPOINT_PATH", "OUTPUT_DIR"}
    assert set(values) - places <= used


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_holds_the_network_and_nothing_else(name):
    found = config.read([f"models/{name}.gin"])
    assert {binding.selector for binding in found.scan.bindings} == {
        "specialize.student.network.T5Config"
    }


# Rows are rounded up to a multiple of 128, so that they can be sharded.
@pytest.mark.parametrize("name", MODELS)
def test_the_rows_of_a_model_can_be_sharded(name):
    found = config.read([f"models/{name}.gin"])
    rows = {b.parameter: b.value for b in found.scan.effective().values()}["vocab_size"]
    assert rows % 128 == 0


# Published sizes (Raffel et al. 2020, table of section 3.7; Chung et al. 2022;
# Tay et al. 2022), counted with the 128 rows of rounding; UL2's is the 19.5B of the
# card of google/flan-ul2, 19.46e9 with the embedding as its head (else 19.59e9).
PARAMETERS = {
    "t5_small": 60.5e6,
    "t5_base": 222.9e6,
    "t5_large": 737.7e6,
    "t5_3b": 2.852e9,
    "t5_11b": 11.307e9,
    "flan_t5_small": 77.0e6,
    "flan_t5_base": 247.6e6,
    "flan_t5_large": 783.2e6,
    "flan_t5_xl": 2.8498e9,
    "flan_t5_xxl": 11.135e9,
    "flan_ul2": 19.4596e9,
    # Xue et al. 2021 (2105.13626) and 2020 (2010.11934), Kudugunta et al. 2023
    # (2309.04662); umT5's as its published files.
    "byt5_small": 299.6e6,
    "byt5_base": 581.7e6,
    "byt5_large": 1.228e9,
    "byt5_xl": 3.738e9,
    "byt5_xxl": 12.907e9,
    "mt5_small": 300.2e6,
    "mt5_base": 582.4e6,
    "mt5_large": 1.2296e9,
    "mt5_xl": 3.7426e9,
    "mt5_xxl": 12.921e9,
    "umt5_small": 306.6e6,
    "umt5_base": 592.0e6,
    "umt5_xl": 3.768e9,
    "umt5_xxl": 12.973e9,
    "madlad400_3b": 2.940e9,
    "madlad400_7b": 8.297e9,
    "madlad400_10b": 10.713e9,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_its_published_number_of_parameters(name):
    found = config.read([f"models/{name}.gin"])
    n = {b.parameter: b.value for b in found.scan.effective().values()}
    d, kv = n["emb_dim"], n["num_heads"] * n["head_dim"]
    attention = 4 * d * kv
    mlp = (len(n["mlp_activations"]) + 1) * d * n["mlp_dim"]
    encoder = n["num_encoder_layers"] * (attention + mlp + 2 * d)
    decoder = n["num_decoder_layers"] * (2 * attention + mlp + 3 * d)
    heads = 1 if n["logits_via_embedding"] else 2
    total = encoder + decoder + heads * n["vocab_size"] * d + 2 * d
    layers = n["num_encoder_layers"] + n["num_decoder_layers"]
    tables = layers if n.get("relpos_per_layer") else 2
    total += tables * 32 * n["num_heads"]
    assert total == pytest.approx(PARAMETERS[name], rel=1e-3)


HEADER = ("command", "hardware", "memory", "hours", "accuracy")


@pytest.mark.parametrize("name", [*TRAININGS, *EVALUATIONS])
def test_a_recipes_header_states_its_price_and_its_promise(name):
    text = (RECIPES / name).read_text()
    header = text[
        : text.index("\ninclude") if "\ninclude" in text else text.index("\nSUITES")
    ]
    for word in HEADER:
        line = re.search(rf"^# {word}\s+(.+)$", header, re.MULTILINE)
        assert line, f"{name}: no {word!r} line"
        assert "@" not in line.group(1), f"{name}: {line.group(0)}"


# ---- The sweep: every listed mistake, in every recipe -------------------------------


def mistakes(found: config.Config) -> list[tuple[str, str, str]]:
    """(binding, kind that must be reported, words that must be in the message)."""
    listed = []
    own = [b.name for b in found.scan.macros().values() if "recipes" in b.origin.file]
    for name in own:
        typed = name.replace("_", "", 1) if "_" in name else name + "S"
        listed.append((f"{typed} = 1", "unused macro", f"Did you mean '{name}'?"))
    for name in ("TRAIN_STEPS", "TASK_FEATURE_LENGTHS", "MIXTURE_OR_TASK_NAME"):
        listed.append((f"{name} = %gin.REQUIRED", "requirement", f"{name} is required"))
    listed.append(("SEED = %SEEED", "unknown macro", "Did you mean"))
    lengths = found.value("TASK_FEATURE_LENGTHS")
    for name in lengths:
        without = {key: size for key, size in lengths.items() if key != name}
        kind = "value" if name in ("inputs", "targets") else "lengths"
        listed.append((f"TASK_FEATURE_LENGTHS = {without!r}", kind, f"'{name}'"))
    extra = {**lengths, "teacher_tails": lengths["targets"]}
    listed.append((f"TASK_FEATURE_LENGTHS = {extra!r}", "lengths", "teacher_tail'"))
    uneven = {**lengths, "teacher_ids": lengths["targets"] + 1}
    listed.append((f"TASK_FEATURE_LENGTHS = {uneven!r}", "lengths", "need one length"))
    typo = repr(found.value("MIXTURE_OR_TASK_NAME")).replace("gsm8k", "gms8k")
    typo = typo.replace("corpus", "copus")
    listed.append((f"MIXTURE_OR_TASK_NAME = {typo}", "task", "Did you mean"))
    listed.append(("TEMPERATURE = 2.0\nLOSS_MODE = 'tail'", "value", "temperature"))
    listed.append(("LOSS_MODE = 'conditional'", "value", "conditional"))
    listed.append(("LOSS_MODE = 'papre'", "value", "paper"))
    listed.append(("CE_WEIGHT = -1.0", "value", "ce_weight"))
    batch = found.value("BATCH_SIZE")
    listed.append((f"BATCH_SIZE = {batch + 1}", "batch", "does not divide"))
    listed.append((f"MICROBATCHES = {batch + 1}", "batch", "microbatches"))
    listed.append(("MESH = {'data': 3}", "mesh", "needs"))
    listed.append(("MESH = {'date': -1}", "mesh", "Did you mean 'data'?"))
    listed.append(("train.train.total_step = 1", "parameter", "'total_steps'"))
    listed.append(("loop.trian.seed = 1", "unknown name", "loop.trian"))
    return listed


@pytest.mark.parametrize("files", combinations(("base",)), ids=" + ".join)
def test_every_listed_mistake_in_a_recipe_is_found(files, tmp_path):
    sound = config.read(["runs/train.gin", *files], LAUNCH)
    for binding, kind, words in mistakes(sound):
        broken = config.read(
            ["runs/train.gin", *files], [*LAUNCH, *binding.split("\n")]
        )
        found = config.lint(broken, devices=chips(files))
        assert [p for p in found if p.kind == kind and words in str(p)], (
            f"{binding}: {[(p.kind, str(p)) for p in found]}"
        )


@pytest.mark.parametrize("files", combinations(("base",)), ids=" + ".join)
def test_a_batch_of_questions_that_the_mesh_does_not_divide_is_found(files):
    """Evaluation needs whole batches; training rounds its own up (`train`)."""
    broken = "EVAL_BATCH_SIZE = 3"
    found = problems("evaluate", files, *ONE_SUITE, broken, devices=chips(files))
    assert [p.kind for p in found] == ["batch"] and "does not divide" in str(found[0])
    assert problems("train", files, broken, devices=chips(files)) == []


@pytest.mark.parametrize("files", combinations(("base",)), ids=" + ".join)
def test_a_vocabulary_that_is_not_the_checkpoints_is_found_in_a_recipe(files, tmp_path):
    (tmp_path / "mine.model").write_bytes(b"mine")
    (tmp_path / "spiece.model").write_bytes(b"theirs")
    broken = config.read(
        ["runs/train.gin", *files],
        [
            *LAUNCH,
            f"VOCABULARY_PATH = {str(tmp_path / 'mine.model')!r}",
            f"INITIAL_CHECKPOINT_PATH = {str(tmp_path)!r}",
        ],
    )
    found = config.lint(broken, imports=False)
    assert [problem.kind for problem in found] == ["vocabulary"]
