"""Each class of mistake in a configuration is found, named and told how to mend."""

import hashlib
import json

import pytest

from specialize import config
from specialize.errors import InputError

HEAD = """from __gin__ import dynamic_registration
from specialize.config import neutral
"""


@pytest.fixture
def lint(tmp_path):
    """Writes a gin file and returns {kind: message} of what is wrong with it."""

    def linter(text: str, **options) -> dict[str, str]:
        path = tmp_path / "a.gin"
        path.write_text(HEAD + text)
        found = config.lint(config.read([str(path)]), **options)
        return {problem.kind: str(problem) for problem in found}

    return linter


USE = "neutral.microbatches.number = %BATCH_SIZE\n"


def test_a_sound_file_has_no_problem(lint):
    assert lint("BATCH_SIZE = 3\n" + USE) == {}


def test_an_unused_macro_names_the_one_meant(lint):
    found = lint("BATCH_SIZE = 3\nBATCHSIZE = 4\n" + USE)
    assert list(found) == ["unused macro"]
    assert "a.gin:4: BATCHSIZE is set but nothing uses it" in found["unused macro"]
    assert "Did you mean 'BATCH_SIZE'?" in found["unused macro"]


def test_a_macro_used_only_by_an_unused_macro_is_unused(lint):
    found = lint("A = %B\nB = 1\n")
    assert list(found) == ["unused macro"]


def test_a_use_without_a_value_names_the_one_meant(lint):
    found = lint("BATCH_SIZES = 3\n" + USE)
    assert "%BATCH_SIZE is used but nothing sets it" in found["unknown macro"]
    assert "Did you mean 'BATCH_SIZES'?" in found["unknown macro"]


def test_a_macro_that_another_binding_makes_vain_is_told(lint, tmp_path):
    (tmp_path / "run.gin").write_text(HEAD + "BATCH_SIZE = 1\n" + USE)
    recipe = tmp_path / "recipe.gin"
    # The recipe sets the value, then goes round it: which of the two did it mean?
    recipe.write_text(HEAD + "BATCH_SIZE = 8\nneutral.microbatches.number = 16\n")
    found = config.lint(config.read([str(tmp_path / "run.gin"), str(recipe)]))
    assert [problem.kind for problem in found] == ["unused macro"]
    assert "BATCH_SIZE has no effect" in str(found[0])


def test_a_default_beside_its_overridden_use_is_no_problem(lint, tmp_path):
    (tmp_path / "run.gin").write_text(HEAD + "BATCH_SIZE = 1\n" + USE)
    recipe = tmp_path / "recipe.gin"
    recipe.write_text(HEAD + "neutral.microbatches.number = 16\n")
    assert config.lint(config.read([str(tmp_path / "run.gin"), str(recipe)])) == []


def test_a_macro_defined_by_itself_is_found(lint):
    found = lint("A = %B\nB = [%A]\nneutral.microbatches.number = %A\n")
    assert "is defined by itself" in found["circular macro"]


def test_a_requirement_that_nobody_met_is_found_unless_it_is_not_needed(lint):
    text = "BATCH_SIZE = %gin.REQUIRED\n" + USE
    found = lint(text)
    assert "a.gin:3: BATCH_SIZE is required" in found["requirement"]
    assert "--gin.BATCH_SIZE=VALUE" in found["requirement"]
    assert lint(text, allow_missing=("BATCH_SIZE",)) == {}


def test_a_module_that_is_not_there_is_named_once(lint):
    found = lint("from specialize import nowhere\nnowhere.f.x = 1\n")
    assert list(found) == ["import"]
    assert "a.gin:3: cannot import 'specialize.nowhere'" in found["import"]
    assert (
        lint("from specialize import nowhere\nnowhere.f.x = 1\n", imports=False) == {}
    )


def test_a_mistyped_function_and_parameter_name_the_ones_meant(lint):
    found = lint("neutral.micro_batches.number = 1\n")
    assert "no 'specialize.config.neutral.micro_batches'" in found["unknown name"]
    assert "Did you mean 'microbatches'?" in found["unknown name"]
    found = lint("neutral.microbatches.numbr = 1\n")
    assert "has no parameter 'numbr'. Did you mean 'number'?" in found["parameter"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("LOSS_MODE = 'tail'\nTEMPERATURE = 2.0", "temperature"),
        ("LOSS_MODE = 'conditional'\nCE_WEIGHT = 0.0", "conditional"),
        ("LOSS_MODE = 'tial'", "tail"),
        ("LOSS_MODE = 'tail'\nKL_WEIGHT = -1.0", "kl_weight"),
    ],
)
def test_a_loss_that_contradicts_itself_is_refused_by_its_own_constructor(
    lint, values, said
):
    text = (
        "from specialize.student.loss import losses\n"
        "LOSS_MODE = 'tail'\nTEMPERATURE = 1.0\nCE_WEIGHT = 0.0\nKL_WEIGHT = 1.0\n"
        "losses.LossConfig:\n  mode = %LOSS_MODE\n  temperature = %TEMPERATURE\n"
        "  ce_weight = %CE_WEIGHT\n  kl_weight = %KL_WEIGHT\n"
        "neutral.shuffle.data = @losses.LossConfig()\n"
    )
    assert lint(text) == {}
    found = lint(text + values + "\n")
    assert list(found) == ["value"]
    assert said in found["value"]


MESH = """MESH = {'data': 2, 'fsdp': 4, 'model': 2}
neutral.model_partitions.mesh = %MESH
"""
DATA = """from specialize.training.data import spec
BATCH_SIZE = 32
MICROBATCHES = 1
TASK_FEATURE_LENGTHS = {'inputs': 8, 'targets': 4}
spec.DataSpec:
  mixture = None
  feature_lengths = %TASK_FEATURE_LENGTHS
  batch_size = %BATCH_SIZE
  microbatches = %MICROBATCHES
neutral.shuffle.data = @spec.DataSpec()
"""


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ("BATCH_SIZE = 12", "batch", "BATCH_SIZE = 12 does not divide over 8 dev"),
        ("MICROBATCHES = 8", "batch", "over 8 microbatches and 8 devices"),
        ("MICROBATCHES = 0", "value", "MICROBATCHES: microbatches = 0; it must be at"),
        ("BATCH_SIZE = -8", "value", "a.gin:15: BATCH_SIZE: batch_size = -8; it must"),
        ("MESH = {'data': 2, 'modle': 2}", "mesh", "Did you mean 'model'?"),
        ("MESH = {'data': -1, 'model': -1}", "mesh", "one at most is -1"),
        ("MESH = {'data': -1, 'model': 0}", "mesh", "sizes are positive"),
        ("MESH = 'two by four'", "mesh", "it gives data, fsdp, model"),
        ("MESH = [2, 4]", "mesh", "it gives data, fsdp, model"),
        ("MESH = {'data': 2, 'model': 4}", "mesh", "needs 8 devices; there are 16"),
        ("MESH = {'data': -1, 'model': 3}", "mesh", "a multiple of 3 devices"),
        ("MESH = '1x1'", "mesh", "needs 1 devices; there are 16"),
    ],
)
def test_batches_that_the_mesh_does_not_divide_are_found(lint, values, kind, said):
    assert lint(MESH + DATA, devices=16) == {}
    found = lint(MESH + DATA + values + "\n", devices=16)
    assert list(found) == [kind]
    assert said in found[kind]


def test_a_batch_of_decoding_that_the_mesh_does_not_divide_is_found(lint):
    text = (
        MESH + "EVAL_BATCH_SIZE = 32\nneutral.microbatches.number = %EVAL_BATCH_SIZE\n"
    )
    assert lint(text, devices=16) == {}
    found = lint(text + "EVAL_BATCH_SIZE = 4\n", devices=16)
    assert list(found) == ["batch"]
    assert "EVAL_BATCH_SIZE = 4 does not divide" in found["batch"]


def test_a_specification_that_no_function_is_given_is_not_checked(lint):
    unused = DATA.replace("neutral.shuffle.data = @spec.DataSpec()\n", "")
    assert lint(unused + "BATCH_SIZE = 0\n") == {}


def test_a_specification_inside_another_is_checked_under_its_scope(lint):
    text = (
        "from specialize.evaluation import spec\n"
        "from specialize.inference import spec as decoding\n"
        "BEAMS = 4\ndecoding.DecodingSpec.num_beams = 2\n"
        "wide/decoding.DecodingSpec.num_beams = %BEAMS\n"
        "spec.EvaluationSpec.decoding = @wide/decoding.DecodingSpec()\n"
        "neutral.shuffle.data = @spec.EvaluationSpec()\n"
    )
    for imports in (True, False):
        assert lint(text, imports=imports) == {}
        found = lint(text + "BEAMS = 0\n", imports=imports)
        assert "a.gin:10: BEAMS: num_beams = 0" in found["value"]


def test_the_macros_that_all_runs_share_need_not_be_used(tmp_path):
    values = tmp_path / "runs" / "values.gin"
    values.parent.mkdir()
    values.write_text("KEEP = 3\n")
    recipe = tmp_path / "recipe.gin"
    recipe.write_text("include 'runs/values.gin'\nKEEP = 4\nKEP = 5\n")
    [found] = config.lint(config.read([str(recipe)], (), [str(tmp_path)]))
    assert "KEP is set but nothing uses it. Did you mean 'KEEP'?" in str(found)


def vocabulary_text(folder, path) -> str:
    return (
        f"VOCABULARY_PATH = {str(path)!r}\nINITIAL_CHECKPOINT_PATH = {str(folder)!r}\n"
        "neutral.evaluation_task:\n  prompt = %VOCABULARY_PATH\n"
        "  suites = [%INITIAL_CHECKPOINT_PATH]\n"
    )


def test_a_vocabulary_that_is_not_the_checkpoints_is_found(lint, tmp_path):
    mine = tmp_path / "mine.model"
    mine.write_bytes(b"mine")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    text = vocabulary_text(folder, mine)
    assert lint(text) == {}, "nothing is known of the checkpoint's vocabulary"
    (folder / "spiece.model").write_bytes(b"mine")
    assert lint(text) == {}
    (folder / "spiece.model").write_bytes(b"theirs")
    found = lint(text)
    assert list(found) == ["vocabulary"]
    assert hashlib.sha256(b"theirs").hexdigest()[:12] in found["vocabulary"]


def test_a_vocabulary_that_is_not_the_manifests_is_found(lint, tmp_path):
    mine = tmp_path / "mine.model"
    mine.write_bytes(b"mine")
    folder = tmp_path / "corpus"
    folder.mkdir()
    digest = hashlib.sha256(b"theirs").hexdigest()
    fingerprint = {"fingerprint": {"vocabulary_sha256": digest}}
    (folder / "corpus.json").write_text(json.dumps(fingerprint))
    assert list(lint(vocabulary_text(folder, mine))) == ["vocabulary"]


@pytest.mark.parametrize("inner", ["checkpoint_7", "checkpoints/7", "checkpoints", "."])
def test_a_checkpoint_inside_a_folder_belongs_to_its_vocabulary(lint, tmp_path, inner):
    for name in ("mine", "theirs"):
        (tmp_path / f"{name}.model").write_bytes(name.encode())
    run = tmp_path / "run"
    (run / inner).mkdir(parents=True, exist_ok=True)
    text = vocabulary_text(run / inner, tmp_path / "mine.model")
    row = {"name": "VOCABULARY_PATH", "value": str(tmp_path / "theirs.model")}
    (run / "config.json").write_text(json.dumps({"values": [row]}))
    assert list(lint(text)) == ["vocabulary"]
    row["value"] = str(tmp_path / "mine.model")
    (run / "config.json").write_text(json.dumps({"values": [row]}))
    assert lint(text) == {}
    (run / "spiece.model").write_bytes(b"theirs")
    assert list(lint(text)) == ["vocabulary"]


def test_a_vocabulary_that_is_not_there_is_found(lint, tmp_path):
    found = lint(vocabulary_text(tmp_path, tmp_path / "absent.model"))
    assert "absent.model' does not exist" in found["vocabulary"]


@pytest.mark.parametrize(
    "lengths", ["1024", "{'inputs': 0, 'targets': 4}", "{'inputs': '8', 'targets': 4}"]
)
def test_lengths_that_are_no_lengths_are_found(lint, lengths):
    found = lint(DATA + f"TASK_FEATURE_LENGTHS = {lengths}\n")
    assert "a.gin:13: TASK_FEATURE_LENGTHS: " in found["value"]


def test_parse_tells_all_problems_at_once_and_leaves_gin_alone(tmp_path):
    import gin

    path = tmp_path / "a.gin"
    path.write_text(
        HEAD
        + "BATCHSIZE = 4\nBATCH_SIZE = %gin.REQUIRED\n"
        + USE
        + "neutral.microbatches.numbr = 1\n"
    )
    with pytest.raises(InputError) as caught:
        config.parse([str(path)])
    message = str(caught.value)
    assert message.startswith("3 problems in the configuration:")
    for part in ("BATCHSIZE is set", "BATCH_SIZE is required", "parameter 'numbr'"):
        assert part in message
    assert gin.config_str().strip() == ""


def test_a_sound_configuration_reaches_gin_and_the_call(tmp_path):
    from specialize.config import neutral

    path = tmp_path / "a.gin"
    path.write_text(HEAD + "N = 3\nneutral.microbatches.number = %N\n")
    parsed = config.parse([str(path)], ["N = 4"])
    assert config.call(neutral.microbatches) == 4
    assert config.arguments(neutral.microbatches) == {"number": 4}
    assert config.current() is parsed
    config.save(tmp_path / "run")
    config.save_operative(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {row["name"]: row["origin"] for row in kept["values"]}["N"] == "--gin.N"
    assert "microbatches.number = %N" in (tmp_path / "run" / "config.gin").read_text()
    operative = (tmp_path / "run" / "operative_config.gin").read_text()
    assert "microbatches.number = %N" in operative
    # What a run kept can be given to --gin_file again.
    again = config.parse([str(tmp_path / "run" / "config.gin")])
    assert again.value("N") == 4


def test_a_module_may_register_with_gin_after_an_earlier_configuration(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "registers_late.py"
    module.write_text("import gin\n@gin.configurable\ndef late(x=1):\n  return x\n")
    first, second = tmp_path / "first.gin", tmp_path / "second.gin"
    first.write_text(HEAD + "neutral.microbatches.number = 1\n")
    second.write_text("import registers_late\nregisters_late.late.x = 2\n")
    config.parse([str(first)])  # gin is locked from here on
    config.parse([str(second)], ["import registers_late"])
    import registers_late  # pyright: ignore[reportMissingImports]

    assert registers_late.late() == 2


def test_a_call_that_nothing_configures_names_the_run_file(tmp_path):
    path = tmp_path / "a.gin"
    path.write_text(HEAD + "neutral.microbatches.number = 1\n")
    config.parse([str(path)])
    with pytest.raises(InputError, match="No gin file configures .*runs/train.gin"):
        config.call(config.lint)


def test_an_input_error_inside_a_call_stands_without_gins_lines(tmp_path):
    from specialize.config import neutral

    path = tmp_path / "a.gin"
    path.write_text(HEAD + "neutral.model_partitions.mesh = {'data': 1, 'model': -1}\n")
    config.parse([str(path)])
    with pytest.raises(InputError) as caught:
        config.call(neutral.model_partitions)
    assert "In call to configurable" not in str(caught.value)
    assert "give 'model' a number" in str(caught.value)
