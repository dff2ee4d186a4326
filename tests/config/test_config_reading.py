"""Gin files and flags become one account of values, each with its origin."""

import argparse
import json
import pathlib

import gin
import pytest

from specialize import cli, config, errors
from specialize.config import commands, neutral, reading
from specialize.config.rules import path_problems
from specialize.errors import InputError


@pytest.fixture
def write(tmp_path):
    def writer(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return writer


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    overrides = [word for word in words if word.startswith("--gin.")]
    found = parser.parse_args([word for word in words if word not in overrides])
    found.gin_overrides = overrides
    return found


def test_the_last_of_files_includes_and_flags_wins_and_says_where_it_stands(
    write, tmp_path
):
    write("inner.gin", "A = 1\nB = 1\nC = 1\n")
    outer = write("outer.gin", "include 'inner.gin'\n\nB = 2\nC = 2\nD = %C\n")
    found = config.read([outer], ["C = 3"], [str(tmp_path)])
    assert [found.value(name) for name in "ABCD"] == [1, 2, 3, 3]
    assert str(found.origin("A")).endswith("inner.gin:1")
    assert str(found.origin("B")).endswith("outer.gin:3")
    assert str(found.origin("C")) == "--gin.C"
    row = next(row for row in found.rows() if row["name"] == "C")
    assert [place.rpartition("/")[2] for place in row["overrides"]] == [
        "inner.gin:3",
        "outer.gin:4",
    ]


def test_macros_are_replaced_inside_nested_values(write):
    path = write("a.gin", "N = 4\nM = {'x': [%N, (%N, 'n')], 'y': @mod.f()}\n")
    value = config.read([path]).value("M")
    assert value["x"] == [4, (4, "n")]
    assert repr(value["y"]) == "@mod.f()"


def test_flags_take_t5xs_forms_and_a_bare_path_is_text():
    files, bindings, folders = config.words_of_flags(
        flags(
            "--gin_file=a.gin",
            "--gin_file",
            "b.gin",
            "--gin_search_paths=x,y",
            "--gin_search_paths=z",
            "--gin_bindings=E = 1",
            "--gin.MODEL_DIR=runs/tiny",
            "--gin.CORPUS_DIR=gs://bucket/a-b_c",
            "--gin.BATCH_SIZE=8",
            "--gin.NAME='quoted'",
            "--gin.SUITES=('a', 'b/c')",
        )
    )
    assert files == ["a.gin", "b.gin"]
    assert folders == ["x", "y", "z"]
    assert bindings == [
        "E = 1",
        "MODEL_DIR = 'runs/tiny'",
        "CORPUS_DIR = 'gs://bucket/a-b_c'",
        "BATCH_SIZE = 8",
        "NAME = 'quoted'",
        "SUITES = ('a', 'b/c')",
    ]


def test_a_flag_without_a_value_is_refused():
    with pytest.raises(InputError, match=r"--gin.SEED' has no value.*--gin.SEED=VALUE"):
        config.words_of_flags(flags("--gin.SEED"))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("A = 1\nB = [1, 2\n", 3, "EOF in multi-line"),
        ("A = 1\nB 2\n", 2, "Couldn't parse statement"),
        ("A = 1\n\nB = hello\n", 3, "hello"),
        ("A = 1\nB = %%C\n", 2, "Unexpected token"),
    ],
)
def test_what_is_not_gin_names_file_and_line(write, text, line, reason):
    path = write("broken.gin", text)
    with pytest.raises(InputError) as caught:
        config.read([path])
    assert f"broken.gin:{line}: not gin" in str(caught.value)
    assert reason in str(caught.value)


def test_text_without_quotes_on_the_command_line_is_told_how_to_quote(write):
    path = write("a.gin", "A = 1\n")
    with pytest.raises(InputError, match=r"--gin.A: not gin(?s:.*)--gin.NAME='\"value"):
        config.read([path], ["A = hello"])


def test_a_missing_file_names_the_nearest_and_a_missing_include_its_line(write):
    with pytest.raises(InputError, match="Did you mean 'runs/train.gin'") as caught:
        config.read(["runs/tain.gin"], (), ["/x", "/x"])
    assert str(caught.value).count("/x,") == 1
    path = write("a.gin", "A = 1\ninclude 'nowhere.gin'\n")
    with pytest.raises(InputError, match=r"a.gin:2: gin file 'nowhere.gin' not found"):
        config.read([path])


def test_a_file_that_includes_itself_is_refused(write, tmp_path):
    write("b.gin", "include 'a.gin'\n")
    path = write("a.gin", "include 'b.gin'\n")
    with pytest.raises(InputError, match=r"b.gin:1: 'a.gin' includes itself"):
        config.read([path], (), [str(tmp_path)])


def test_no_file_at_all_is_refused():
    with pytest.raises(InputError, match="--gin_file"):
        config.read([])


def test_files_are_found_by_package_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_package = config.read(["t5x_configs/models/tiny.gin"])
    by_folder = config.read(["models/tiny.gin"])
    assert by_package.rows() == by_folder.rows()
    assert by_package.rows()[0]["origin"].startswith("t5x_configs/models/tiny.gin:")


def test_a_search_path_comes_before_the_installed_files(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.gin").write_text("MINE = 1\n")
    assert config.read(["models/tiny.gin"], (), [str(tmp_path)]).value("MINE") == 1


def test_config_knows_the_run_file_of_every_command_with_one():
    found = commands.entries()
    names = "train evaluate select infer sample label study".split()
    assert sorted(found) == sorted(names)
    assert found["sample"].endswith("sample_checkpoint")
    assert found["select"] == found["evaluate"]
    flags = cli.parser().parse_args(["config", "--for", "select"])
    assert flags.entry == "select"


def test_a_recipe_alone_gets_the_run_file_of_the_command():
    entry = "specialize.training.loop.train.train"
    alone = config.read(["recipes/tiny_gsm8k.gin"], entry=entry)
    both = config.read(["runs/train.gin", "recipes/tiny_gsm8k.gin"], entry=entry)
    assert alone.gin_files[0] == reading.RUN_FILES[entry]
    assert len(both.gin_files) == 2
    assert alone.rows() == both.rows()


def test_names_are_made_full_by_each_files_own_imports(write):
    path = write(
        "a.gin",
        "from __gin__ import dynamic_registration\n"
        "import json\n"
        "from os import path as p\n"
        "from collections import abc\n"
        "json.dumps.indent = 2\n"
        "s/p.join.a = 'x'\n"
        "abc.Sized:\n  b = @json.loads\n",
    )
    found = config.read([path])
    assert [row["name"] for row in found.rows()] == [
        "collections.abc.Sized.b",
        "json.dumps.indent",
        "s/os.path.join.a",
    ]
    again = config.read([path], ["dumps.indent = 3"])
    assert len(again.rows()) == 3
    assert again.scan.effective()[("", "json.dumps", "indent")].value == 3


def test_rows_can_be_written_as_json(write):
    path = write("a.gin", "A = {1: (2, @m.f), 'b': None}\nm.g.x = %A\n")
    rows = json.loads(json.dumps(config.read([path]).rows()))
    assert rows[0]["value"] == {"1": [2, "@m.f"], "b": None}
    assert rows[1] == {
        "name": "m.g.x",
        "value": {"1": [2, "@m.f"], "b": None},
        "written": "%A",
        "origin": f"{pathlib.Path(path)}:2",
        "overrides": [],
        "macro": False,
    }


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("BATCHSIZE", "BATCH_SIZE"),
        ("LERNING_RATE", "LEARNING_RATE"),
        ("microbatch", "MICROBATCHES"),
    ],
)
def test_the_nearest_name_is_found_whatever_case_and_underscores(typed, meant):
    known = ["BATCH_SIZE", "LEARNING_RATE", "MICROBATCHES", "SEED"]
    assert errors.did_you_mean(typed, known) == f" Did you mean {meant!r}?"
    assert errors.did_you_mean("ENTIRELY_ELSE", known) == ""


def test_the_command_prints_every_value_with_its_origin_and_all_problems(
    write, tmp_path, capsys
):
    write("inner.gin", "N = 1\n")
    text = "from __gin__ import dynamic_registration\n"
    text += "from specialize.config import neutral\ninclude 'inner.gin'\n"
    text += "neutral.microbatches.number = %N\nTYPPO = 1\n"
    outer = write("outer.gin", text)
    words = ["config", "--gin_file", outer, "--gin_search_paths", str(tmp_path)]
    assert cli.main([*words, "--gin.N=2"]) == 2
    printed = capsys.readouterr()
    rows = [row.split() for row in printed.out.splitlines()]
    line = next(row for row in rows if row[:1] == ["N"])
    assert line[:3] == ["N", "2", "--gin.N"]
    assert line[-1].endswith("inner.gin:1")
    assert "outer.gin:4" in printed.out
    assert "TYPPO is set but nothing uses it" in printed.err


def test_a_second_configuration_may_name_a_class_by_another_module(tmp_path):
    from specialize.student.network import transformer

    sizes = "vocab_size emb_dim num_heads num_encoder_layers num_decoder_layers "
    values = "".join(f"  {name} = 2\n" for name in (sizes + "head_dim mlp_dim").split())
    for module in ("network", "transformer", "network"):
        place = "specialize.student" + ".network" * (module == "transformer")
        file = tmp_path / f"{module}.gin"
        file.write_text(
            "from __gin__ import dynamic_registration\n"
            f"from {place} import {module}\n"
            f"{module}.Transformer.config = @{module}.T5Config()\n"
            f"{module}.T5Config:\n{values}  mlp_activations = ('gelu', 'linear')\n"
        )
        config.parse([str(file)])
        assert list(config.arguments(transformer.Transformer)) == ["config"]
        gin.clear_config()


@pytest.mark.parametrize(
    ("given", "path", "formats"),
    [
        ("corpora/cold", "corpora/cold", ""),
        ("corpora/cold:zero_shot", "corpora/cold", "zero_shot"),
        ("run:1/corpus", "run:1/corpus", ""),
        ("run:1/corpus:in_context", "run:1/corpus", "in_context"),
        ("s3://bucket/corpus", "s3://bucket/corpus", ""),
        ("gs://bucket/corpus:zero_shot_cot", "gs://bucket/corpus", "zero_shot_cot"),
        ("more.jsonl", "more.jsonl", ""),
    ],
)
def test_a_part_of_a_mixture_is_a_path_and_formats(given, path, formats):
    assert neutral.part_of_mixture(given) == (path, formats)


@pytest.mark.parametrize("url", ["s3:///x.jsonl", "gs:/b/x", "az://b/x", "https://h/x"])
@pytest.mark.parametrize("place", ["MODEL_DIR", "OUTPUT_DIR", "--prompts", "--out"])
def test_a_url_that_is_not_read_or_written_is_refused_with_what_is(place, url, capsys):
    words = ["infer", "--gin_file", "recipes/tiny_gsm8k.gin"]
    if place.startswith("--"):
        others = {"--prompts": "none", "--out": "none"} | {place: url}
        assert cli.main([*words, *(w for pair in others.items() for w in pair)]) == 2
        said = capsys.readouterr().err
    else:
        read = config.read(["recipes/tiny_gsm8k.gin"], [f"{place} = '{url}'"])
        (said,) = map(str, path_problems(read))
    assert f"{place} is '{url}', " in said
    assert "gs://" in said.replace(url, "") or "s3://BUCKET" in said
    assert "mounted folder" not in said and "only gs://" not in said
