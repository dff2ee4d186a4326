"""Options of `bench`, `plan` and others that no machine could take are refused."""

import dataclasses

import pytest
from hypothesis import given, strategies

from specialize import cli
from specialize.cost.bench import shapes
from specialize.cost.plan import topologies
from specialize.errors import InputError

FIELDS = [field.name for field in dataclasses.fields(shapes.BenchShape)][1:]
HUGE = "9" * 5000


@pytest.mark.parametrize(
    "change",
    [
        *("batch=0", "batch=-3", "vocabulary=0,num_heads=0", "dtype=x", "optimizer=x"),
        *("filled=5.0", "filled=0.0", "filled=-0.5", "filled=1e999", "dropout=1.0"),
        *("dropout=-0.1", "teacher_k=0", "teacher_k=513", "layers=0", "head_dim=0"),
        *("input_length=2", "target_length=2", "examples_per_row=0", "dtype=int32"),
        *("dtype=float16", "attention=none", "remat_policy=some", "scan_layers=1"),
        *("emb_dim=1.5", "batch=99999999999", f"batch={HUGE}", "batch=0x" + "f" * 5000),
        *("batch=[1]", "batch=" + "[" * 5000, "batch", "batch=", "=3", "batch=True"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_before_a_worker_starts(change, capsys):
    assert cli.main(["bench", "loss", "--shape", f"tiny:{change}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --shape ") and len(said.splitlines()) == 1
    assert len(said) < 600


@given(
    changes=strategies.dictionaries(
        strategies.sampled_from(FIELDS),
        strategies.one_of(
            strategies.integers().map(str),
            strategies.floats().map(repr),
            strategies.booleans().map(str),
            strategies.text(max_size=8),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_changed_shape_is_possible_or_refused(changes):
    text = ",".join(f"{name}={value}" for name, value in changes.items())
    try:
        shape = shapes.shape_named(f"tiny:{text}")
    except InputError:
        return
    assert 0 < shape.filled <= 1 and 0 < shape.tokens <= shapes.MOST**2


@pytest.mark.parametrize("repetitions", ["19", "0", "-5", "100001", HUGE])
def test_repetitions_have_a_range(repetitions, capsys):
    try:
        status = cli.main(["bench", "loss", "--repetitions", repetitions])
    except SystemExit as end:  # argparse reads no number of 5,000 digits
        status = end.code
    assert status == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "topology",
    [
        *("v5e:" + "9" * 5000, "v5e:" + "x".join(["9"] * 5000), "v5e:0x4", "v5e:-4x4"),
        *("v5e:99999x99999", "cpu:513", "cpu:0", "cpu:1.5", "cpu:", "cpu", "", ":"),
        *("v5p:4x4", "x" * 5000, "h200:8x8", "cpu:٣", "v5e:4x4x"),
    ],
)
def test_a_topology_that_nobody_has_is_refused(topology):
    with pytest.raises(InputError) as caught:
        topologies.parse(topology)
    assert len(str(caught.value)) < 400
    assert any(words in str(caught.value) for words in ("for example", "as in"))


@pytest.mark.parametrize(
    "words",
    [
        *("--mfu 0", "--mfu -0.5", "--mfu 1.01", "--mfu nan", "--mfu inf"),
        *("--price -1", "--price nan", "--peak_flops 0", "--peak_flops inf"),
        *("--teacher_k 0", "--teacher_k 99999", "--questions 0", "--questions -4"),
    ],
)
def test_a_plan_of_impossible_numbers_is_refused(words, capsys):
    line = ["plan", "--gin_file", "recipes/tiny_gsm8k.gin", "--topology", "cpu:8"]
    option, value = words.split()
    assert cli.main([*line, f"{option}={value}"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option} = ")


@pytest.mark.parametrize(
    ("line", "option", "values"),
    [
        ("convert --source x --target y", "--shard_size", "nan inf 0 -1 1e9"),
        ("config --gin_file recipes/tiny_gsm8k.gin", "--devices", "0 -1"),
        ("corpus inspect --corpus x --vocabulary v", "--index", "-1"),
        ("quickstart --out q", "--seed", "-1 4294967296"),
        ("quickstart --out q", "--steps", "0 -1 9999999999"),
        ("quickstart --out q", "--test_problems", "0"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(
    line, option, values, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for value in values.split():
        assert cli.main([*line.split(), f"{option}={value}"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {option} = ")
    assert list(tmp_path.iterdir()) == []
