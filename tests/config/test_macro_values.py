"""Every macro has a type and a range, and no value ends in a traceback."""

import itertools

import pytest
from hypothesis import given, settings, strategies

from specialize import cli, config
from specialize.config import reading, scanning
from specialize.errors import InputError

# What is right for each macro, and what is out of its range or of another kind.
WHOLE = ("0", "-1", "2.5", "1e3", "True", "'4'", "1e999", f"{2**70}", "[4]")
FROM_0 = WHOLE[1:]
REAL = ("-0.1", "'0.1'", "True", "1e999", "[1.0]", "{}")
FLAG = ("'False'", "0", "1", "2", "'no'", "None", "[True]")
WORD = ("'nonsense'", "5", "''", "['adamw']", "True", "{}")
TEXT = ("5", "''", "[1]", "True", "{'a': 1}")
PATH = ("5", "''", "[1]", "True", "{'a': 1}", "'a\\x00b'", "'a\\nb'", "1.5")
NONE = ("None",)
WRONG = {
    "MODEL_DIR": (*PATH, "'hdfs://n/run'", "'s3://'", "'gs:/b'"),
    "CHECKPOINT_DIR": (
        *(*PATH, "'s3://u:p@b/run'", "'http://h/x'", "'file:///x'", "'gs://'"),
        *("'hdfs:/x'", "'gs:/bucket'"),
    ),
    "OUTPUT_DIR": (*PATH, "'gs://bucket/../out'", "'hdfs://n/out'"),
    "INITIAL_CHECKPOINT_PATH": PATH,
    "CHECKPOINT_PATH": PATH,
    "CORPUS_DIR": PATH,
    "BASE_ANSWERS_DIR": PATH,
    "BENCHMARKS_DIR": PATH,
    "VOCABULARY_PATH": (*PATH, "'does/not/exist'"),
    "MIXTURE_OR_TASK_NAME": (
        *("5", "''", "[1]", "True", "'no_such_task'", "{}", "{1: 1}", "{'a': -1}"),
        *("{'a': '1'}", "{'a': 0}", "{'a': True}", "{'a': 1e999}", "{'nowhere': 1}"),
    ),
    "TASK_FEATURE_LENGTHS": (
        *("5", "'inputs'", "{}", "{1: 1}", "{'inputs': 8}", "[8, 8]"),
        *("{'inputs': 0, 'targets': 8}", "{'inputs': '8', 'targets': 8}"),
        *("{'inputs': 8.5, 'targets': 8}", "{('inputs',): 8, 'targets': 8}"),
    ),
    "TRAIN_STEPS": WHOLE,
    "BATCH_SIZE": (*WHOLE, *NONE),
    "MICROBATCHES": (*WHOLE, *NONE),
    "PACK": FLAG,
    "ORDER": (*WORD, *NONE),
    "SEED": (*FROM_0, *NONE),
    "OPTIMIZER": (*WORD, *NONE),
    "LEARNING_RATE": (*REAL, *NONE, "-1e-3"),
    "SCHEDULE": (*WORD, *NONE),
    "WARMUP_STEPS": (*FROM_0, *NONE),
    "WEIGHT_DECAY": (*REAL, *NONE),
    "CLIP_NORM": (*REAL, "0"),
    "EMA_DECAY": (*REAL, "0", "1"),
    "PARAM_DTYPE": (*WORD, *NONE, "'float16'", "'int8'"),
    "STOCHASTIC_ROUNDING": FLAG,
    "LORA_RANK": (*FROM_0, *NONE),
    "LORA_ALPHA": (*REAL, *NONE, "0"),
    "LORA_DROPOUT": (*REAL, *NONE, "1"),
    "LORA_TARGETS": ("'query'", "5", "()", "[1]", "None", "('nonsense',)", "['']"),
    "LORA_QUANTIZE_BASE": (*WORD, *NONE, "'nf4'"),  # the last without adapters
    "LORA_QUANTIZE_BLOCK": (*WHOLE, *NONE, "1", "3"),
    "LOSS_MODE": (*WORD, *NONE),
    "KL_WEIGHT": (*REAL, *NONE),
    "CE_WEIGHT": (*REAL, *NONE),
    "Z_LOSS": (*REAL, *NONE),
    "TEMPERATURE": (*REAL, *NONE, "0"),
    "JSD_BETA": (*REAL, *NONE, "0", "1"),
    "SKEW_ALPHA": (*REAL, *NONE, "0", "1"),
    "PART_WEIGHTS": ("5", "'a'", "[1]", "None", "{'a': 1}"),
    "ON_POLICY_SHARE": (*REAL, *NONE, "1.5", "0.5"),  # the last without a teacher
    "ROLLOUT_TEACHER": TEXT,
    "ROLLOUT_SERVER": (*TEXT, "'u:p@h'", "'ftp://h'", "'http://u:p@h/v1'"),
    "ROLLOUT_MODEL": TEXT,
    "ROLLOUT_PROMPT_PATH": PATH,
    "ROLLOUT_PROBLEMS_PATH": PATH,
    "ROLLOUT_TASK": ("5", "''", "'no_such_task'", "True", "1.5"),
    "ROLLOUT_STEPS": WHOLE,
    "ROLLOUT_BATCH_SIZE": (*WHOLE, *NONE),
    "ROLLOUT_TEMPERATURE": (*REAL, *NONE, "0"),
    "ROLLOUT_TOP_K": (*WHOLE, *NONE),
    "ROLLOUT_WHOLE_VOCABULARY": FLAG,
    "ROLLOUT_CONCURRENCY": (*WHOLE, *NONE),
    "ROLLOUT_API_KEY_ENV": ("5", "'a b'", "''", "None", "True"),
    "DROPOUT_RATE": (*REAL, *NONE, "1", "1.5"),
    "DTYPE": (*WORD, *NONE, "'float16'", "'int32'", "'bool'"),
    "SCAN_LAYERS": FLAG,
    "ATTENTION": (*WORD, *NONE),
    "ATTENTION_BLOCK": (*FROM_0, *NONE),
    "REMAT_POLICY": (*WORD, *NONE),
    "MESH": (
        *("'2x'", "5", "[1]", "{1: 2}", "{'data': 0}", "{'data': 1e999}", "True"),
        *("{'data': -1, 'fsdp': -1}", "{'data': '2'}", "'x'", "'" + "9" * 5000 + "'"),
        *("{'rows': 2}", "{'data': 2.0}", "{'data': True}", "{'data': None}"),
    ),
    "CHECKPOINT_PERIOD": (*WHOLE, *NONE),
    "KEEP": (*WHOLE, *NONE),
    "BEST_METRIC": TEXT,
    "LOG_PERIOD": (*WHOLE, *NONE),
    "EVAL_PERIOD": (*WHOLE, *NONE),
    "EVAL_SPLIT": TEXT,
    "EVAL_EXAMPLES": WHOLE,
    "EVAL_WEIGHTS": (*WORD, *NONE),
    "SUITES": ("'gsm8k'", "5", "[1]", "None", "{'gsm8k': 1}", "True"),
    "TASKS": ("'a.toml'", "5", "[1]", "None", "True"),
    "PROMPT": (*WORD, *NONE),
    "SPLIT": (*WORD, *NONE),
    "MAX_EXAMPLES": WHOLE,
    "RULE": (*WORD, *NONE),
    "DEMONSTRATIONS": (*WHOLE, *NONE),
    "INPUT_LENGTH": (*WHOLE, *NONE),
    "OUTPUT_LENGTH": (*WHOLE, *NONE),
    "EVAL_BATCH_SIZE": (*WHOLE, *NONE),
    "DECODING": (*WORD, *NONE),
    "DECODING_WEIGHTS": (*WORD, *NONE),
    "DECODING_TEMPERATURE": (*REAL, *NONE),
    "TOP_P": (*REAL, *NONE, "0", "1.5"),
    "NUM_SAMPLES": (*WHOLE, *NONE),
    "NUM_BEAMS": (*WHOLE, *NONE),
}
FILES = ["recipes/tiny_gsm8k.gin"]
ENTRY = "specialize.training.loop.train.train"


def problems(*bindings, imports=True):
    found = config.read(FILES, ["MODEL_DIR = 'm'", *bindings], entry=ENTRY)
    return [str(problem) for problem in config.lint(found, imports=imports)]


def test_the_recipe_itself_is_right():
    assert problems() == problems(imports=False) == []


def test_the_light_checks_know_what_the_network_knows():
    from specialize.student import layers
    from specialize.student.network import architecture, spec

    assert tuple(architecture.REMAT_POLICIES) == spec.REMAT_POLICIES
    assert tuple(layers.ACTIVATIONS) == spec.ACTIVATIONS


def test_every_macro_is_in_this_table():
    scan = scanning.scan(["t5x_configs/runs/values.gin"])
    assert scan.macros().keys() == WRONG.keys()


@pytest.fixture(autouse=True)
def as_for_a_user(monkeypatch):
    """The tests' type checker would refuse a value before the specification does."""
    from jaxtyping import config as jaxtyping_config

    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.mark.parametrize("imports", [True, False])
@pytest.mark.parametrize("macro", WRONG)
def test_a_wrong_value_of_a_macro_is_refused_by_name(macro, imports):
    for value in WRONG[macro]:
        if value in ("'no_such_task'", "{'nowhere': 1}") and not imports:
            continue  # the tasks are those of the modules that are imported
        try:
            found = problems(f"{macro} = {value}", imports=imports)
        except InputError as error:
            found = [str(error)]
        assert any(macro in text for text in found), (macro, value, found)
        assert all(len(text) < 500 for text in found), (macro, value, found)


VALUES = sorted({value for values in WRONG.values() for value in values})
ODD = strategies.one_of(
    strategies.sampled_from(VALUES),
    strategies.text(max_size=12),
    strategies.sampled_from("[({").map(lambda one: one * 3000),
    strategies.integers().map(str),
    strategies.floats().map(repr),
    strategies.sampled_from(["%NO", "@no()", "%SEED", "{[]: 1}", "9" * 5000]),
    strategies.sampled_from(["0x" + "f" * 5000, "-" * 5000 + "1", "'\\ud800'", "b'a'"]),
)


@settings(max_examples=80, deadline=None)
@given(macro=strategies.sampled_from(sorted(WRONG)), value=ODD)
def test_no_value_on_the_command_line_is_a_traceback(macro, value):
    words = ["config", "--no_imports", "--for", "train", "--gin_file", FILES[0]]
    status = cli.main([*words, "--gin.MODEL_DIR=m", f"--gin.{macro}={value}"])
    assert status in (0, 2)


@pytest.mark.parametrize(
    ("word", "text"),
    [("OPTIMIZER=adafactor", "adafactor"), ("BEST_METRIC=gsm8k/accuracy", None)]
    + [("MESH=2x4", "2x4"), ("MESH=data=2,model=4", None), ("EVAL_SPLIT=a-b", "a-b")],
)
def test_a_bare_word_is_a_text(word, text):
    name, _, value = word.partition("=")
    binding = reading.words.binding_of_flag(name, value)
    found = config.read(FILES, [binding], entry=ENTRY).value(name)
    assert found == (text or value)


@pytest.mark.parametrize(
    "value", ["None", "True", "8", "-1", "5e-4", "('a', 'b')", "'x'", "1,2", "%SEED"]
)
def test_a_literal_is_not_a_text(value):
    assert reading.words.binding_of_flag("X", value) == f"X = {value}"


@pytest.mark.parametrize("value", ["2024", "1e3", "True", "-1", "0x10", "1,2"])
@pytest.mark.parametrize("name", ["MODEL_DIR", "VOCABULARY_PATH", "CheckpointSpec.dir"])
def test_a_number_is_a_name_where_a_path_is_wanted(name, value):
    assert reading.words.binding_of_flag(name, value) == f"{name} = {value!r}"
    assert reading.words.binding_of_flag(name, "None") == f"{name} = None"
    assert reading.words.binding_of_flag(name, f"'{value}'") == f"{name} = {value!r}"


@pytest.mark.parametrize("ending", ["#ema", "#", "#ema#ema", "#8", "/400#ema", "#a=b"])
@pytest.mark.parametrize("start", ["8", "1e3", "True", "None", "a", "runs/a-b_1", "~"])
@pytest.mark.parametrize("name", ["CHECKPOINT_PATH", "MODEL_DIR", "a.b.path", "WORD"])
def test_a_number_sign_begins_no_comment_on_a_command_line(name, start, ending):
    for word in (start + ending, f"gs://bucket/{start}{ending}"):
        binding = reading.words.binding_of_flag(name, word)
        assert binding == f"{name} = {word!r}"
    quoted = f"'{start}{ending}'"
    assert reading.words.binding_of_flag(name, quoted) == f"{name} = {quoted}"


@pytest.mark.parametrize("word", ["20#ema", "runs/specialist/checkpoints/400#ema"])
def test_the_average_of_a_checkpoint_is_named_on_the_command_line(word):
    binding = reading.words.binding_of_flag("INITIAL_CHECKPOINT_PATH", word)
    read = config.read(FILES, [binding], entry=ENTRY)
    assert read.value("INITIAL_CHECKPOINT_PATH") == word


HERE = ("'~/here'", "")


@pytest.mark.parametrize("alias", ["spec", "checkpoint_spec", "other"])
@pytest.mark.parametrize("by_macro", [False, True])
def test_a_tilde_in_a_parameter_is_the_home_folder(
    tmp_path, monkeypatch, alias, by_macro
):
    """Whatever name a file, read now or before, has for the configurable."""
    import gin

    from specialize.checkpoints.spec import CheckpointSpec

    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.gin"
    place, macro = ("%PLACE_DIR", "PLACE_DIR = '~/here'\n") if by_macro else HERE
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        f"from specialize.checkpoints import spec as {alias}\n"
        f"{macro}"
        f"{alias}.CheckpointSpec:\n  dir = {place}\n  best_metric = '~/no/path'\n"
    )
    config.parse([str(file)])
    assert gin.get_bindings(CheckpointSpec) == {
        "dir": f"{tmp_path}/here",
        "best_metric": "~/no/path",
    }


def test_a_tilde_in_the_environment_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("SPECIALIZE_VOCABULARY", "~/spiece.model")
    found = config.place(None, "VOCABULARY_PATH", "VOCABULARY")
    assert found == "/home/ann/spiece.model"
    assert config.place("~/b", "BENCHMARKS_DIR", "BENCHMARKS_DIR") == "/home/ann/b"


@pytest.mark.parametrize("name", ["MODEL_DIR", "CORPUS_DIR", "CHECKPOINT_PATH"])
def test_a_tilde_in_a_path_is_the_home_folder(name, tmp_path, monkeypatch):
    import gin

    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from specialize.config import neutral\n"
        f"{name} = '~/here'\nneutral.microbatches.number = %{name}\n"
    )
    config.parse([str(file)])
    assert config.current().value(name) == f"{tmp_path}/here"
    assert gin.query_parameter(f"{name}/gin.macro.value") == f"{tmp_path}/here"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"# caf\xe9\nSEED = 7\n", "a.gin:1: not UTF-8 (byte 5 is 0xe9)"),
        ("SEED = 7\n".encode("utf-16"), "UTF-16"),
        (b"SEED = " + b"[" * 100_000, "a.gin"),
        (b"SEED = " + b"[" * 200 + b"]" * 200, "a.gin"),
        (b"SEED = {[]: 1}\n", "a.gin"),
        (b"SEED = " + b"9" * 5000, "a.gin"),
        (b"SEED = 0x" + b"f" * 5000, "a.gin"),
        (b"SEED = \x00\n", "a.gin"),
    ],
)
def test_a_file_that_is_not_gin_is_one_message(tmp_path, data, named):
    file = tmp_path / "a.gin"
    file.write_bytes(data)
    with pytest.raises(InputError) as caught:
        config.read([str(file)])
    assert named in str(caught.value) and len(str(caught.value)) < 600


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    inner, outer = tmp_path / "inner.gin", tmp_path / "outer.gin"
    head = "from __gin__ import dynamic_registration\n"
    use = "from specialize.config import neutral\nneutral.microbatches.number = %SEED\n"
    inner.write_bytes(f"\ufeff{head}SEED = 7\n{use}".encode())
    outer.write_bytes(f"\ufeffinclude '{inner}'\nSEED = 8\n".encode())
    assert config.parse([str(outer)]).value("SEED") == 8


@pytest.mark.parametrize("width", [1, 2, 10])
def test_macros_of_macros_are_bounded(tmp_path, width):
    file = tmp_path / "laughs.gin"
    lines = [f"A{i} = [{', '.join([f'%A{i + 1}'] * width)}]" for i in range(5000)]
    file.write_text("\n".join([*lines, "A5000 = 1", ""]))
    with pytest.raises(InputError, match="macros inside macros. Write it out"):
        config.read([str(file)])


def test_a_circle_of_macros_is_named(tmp_path):
    file = tmp_path / "a.gin"
    for length in (1, 2, 60, 3000):
        names = [f"A{i}" for i in range(length)]
        pairs = itertools.pairwise([*names, names[0]])
        file.write_text("".join(f"{a} = %{b}\n" for a, b in pairs))
        try:
            found = [str(one) for one in config.lint(config.read([str(file)]))]
        except InputError as error:
            found = [str(error)]
        assert any("itself" in text or "inside macros" in text for text in found)
