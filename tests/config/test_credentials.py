"""A URL with a password is refused before anything is written, and printed nowhere."""

import pytest

from specialize import cli, config
from specialize.config import scanning
from specialize.errors import InputError, credentials, message, named

SECRET = "HUNTER2"
URLS = [
    f"s3://AKIAX:{SECRET}@bucket/b",
    f"gs://AKIAX:{SECRET}/+{SECRET}@bucket",
    f"S3:/AKIAX:/{SECRET}@bucket/b",
    f"s3://AKIAX:{SECRET}@{SECRET}@bucket/b@c",
    f"s3://AKIAX:{SECRET}/bucket",
    f"https://{SECRET}@host:8000/b",
    f"hdfs://u:{SECRET}/x@host/b",
]
# Every macro of the recipes, and a parameter of a class.
FILE, RECIPE = "t5x_configs/runs/values.gin", "recipes/tiny_gsm8k.gin"
NAMES = [*scanning.scan([FILE]).macros(), "CheckpointSpec.dir"]
# Texts of a gin file and of a binding.
VALUES = {
    "quoted": "'{}'",
    "unquoted": "{}",
    "in a list": "['a', '{}']",
    "after a URL": "'s3://bucket/a,{}'",
    "in a mapping": "{{'a': {{'b': ('{}',)}}}}",
    "as a key": "{{'{}': 1}}",
    "not closed": "['{}",
}


def refused(act, *words):
    with pytest.raises(InputError) as caught:
        act(*words)
    said = str(caught.value)
    assert "a URL with a user name or password" in said and SECRET not in said
    return said


def test_there_are_macros_of_paths():
    assert {"MODEL_DIR", "BENCHMARKS_DIR", "VOCABULARY_PATH", "TASKS"} <= {*NAMES}


@pytest.mark.parametrize("form", VALUES)
def test_in_a_binding_of_any_macro(form):
    for number, name in enumerate(NAMES):
        value = VALUES[form].format(URLS[number % len(URLS)])
        said = refused(config.read, [FILE], [f"{name} = {value}"])
        assert said.startswith(f"--gin.{name} has ")


@pytest.mark.parametrize("form", VALUES)
def test_in_a_gin_file_with_its_line(form, tmp_path):
    file = tmp_path / "a.gin"
    for number, name in enumerate(NAMES):
        value = VALUES[form].format(URLS[number % len(URLS)])
        file.write_text(f"include '{FILE}'\n{name} = {value}\n")
        assert refused(config.read, [str(file)]).startswith(f"{file}:2 has ")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "line", ["# {}", "include '{}'", "import {}", "@{}", "A = 1  # {}", "{}.x = 1"]
)
def test_in_any_statement_of_an_included_file(line, url, tmp_path):
    (tmp_path / "b.gin").write_text("\n" + line.format(url))
    (tmp_path / "a.gin").write_text("include 'b.gin'\n")
    refused(config.read, ["a.gin"], [], [str(tmp_path)])


@pytest.mark.parametrize(
    "written",
    [f"'s3://A:{SECRET}' '@b/x'", f"'s3://A\\x3a{SECRET}\\100b/x'", "'gs://A:H 2@b'"],
)
def test_in_a_text_that_is_made_of_parts_or_of_escapes(written, tmp_path):
    (tmp_path / "a.gin").write_text(f"A = {{'a': [{written}]}}\n")
    refused(config.read, [str(tmp_path / "a.gin")])
    refused(config.read, [RECIPE], [f"TASKS = ({written},)"])


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "words",
    [
        f"train --gin_file {RECIPE} --gin.MODEL_DIR=new --gin.BENCHMARKS_DIR='{{}}'",
        f"train --gin_file {RECIPE} --gin.MODEL_DIR={{}}",
        f"train --gin_file {RECIPE} --gin_bindings TASKS=('{{}}',)",
        "config --gin_search_paths a,{} --gin_file q.gin",
        "config --gin_file {}",
        "config --gin_fil={}",
        "config --no-such-option {}",
        "no_such_command {}",
        "infer --prompts {} --out new.jsonl",
        "infer --prompts a --out {}",
        "merge {} b --target new",
        "corpus sample --base_url {} --responses new.sqlite",
    ],
)
def test_in_any_word_of_a_command_line(words, url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.format(url).split()) == 2
    said = "".join(capsys.readouterr())
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "a URL with a user name or password" in said and SECRET not in said
    assert not list(tmp_path.iterdir())


def test_the_table_of_a_configuration_does_not_show_it(tmp_path, capsys):
    file = tmp_path / "a.gin"
    file.write_text(f"include '{RECIPE}'\nBENCHMARKS_DIR = '{URLS[0]}'\n")
    for more in ([], ["--json"]):
        assert cli.main(["config", "--for", "train", "--gin_file", str(file), *more])
        out, error = capsys.readouterr()
        assert out == "" and f"{file}:2 has 's3://...@bucket/b'" in error


@pytest.mark.parametrize("url", URLS)
def test_no_message_shows_it(url, capsys):
    from specialize import progress

    for text in (url, f"not found: {url}, '{url}' or /here/{url}: {url}: {url}."):
        for said in (named(text), message(text), str(InputError(text))):
            assert SECRET not in said and said == named(said)
    progress.say(f"reads {url}")
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/user@x.org/text.txt",
        "gs://bucket/a:b@c",
        "http://localhost:8000/v1/a@b",
        "http://[::1]:80/a@b",
        "s3://bucket/a, from me@home",
        "s3://bucket/a: there is no me@home",
        "/data/x:/me@home",
        "mailto:me@home",
        "@module.function()",
    ],
)
def test_other_texts_are_left_as_they_are(text):
    assert credentials(text) is None and named(text) == text


def test_a_url_needs_no_quotes():
    url = "s3://bucket/user@x.org/a b%20c/text.txt"
    for name in ("CORPUS_DIR", "VOCABULARY_PATH"):
        flags = cli.parser().parse_args(["config", "--gin_file", RECIPE])
        flags.gin_overrides = [f"--gin.{name}={url}"]
        assert config.read(*config.words_of_flags(flags)).value(name) == url
