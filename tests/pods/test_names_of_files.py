"""Files in buckets have their URLs: recipes that include others, and all messages."""

import os
import stat
import textwrap

import pytest

from specialize import cli, config, paths
from specialize.errors import InputError
from specialize.paths import store as objects

RECIPE = "include 't5x_configs/recipes/tiny_gsm8k.gin'\nTRAIN_STEPS = 7\n"


def put(url, text):
    objects.write_bytes(url, textwrap.dedent(text).encode())


@pytest.mark.parametrize(
    ("include", "file", "searched"),
    [
        ("run.gin", "{root}/in/child.gin", ()),  # beside it
        ("../in/run.gin", "{root}/other/child.gin", ()),
        ("{root}/in/run.gin", "{root}/other/child.gin", ()),
        ("{root}/in/run.gin", "{here}/child.gin", ()),
        ("run.gin", "{root}/other/child.gin", ("{root}/none", "{root}/in/")),
        ("in/run.gin", "child.gin", ("{root}/other", "{root}")),
        ("run.gin", "{here}/child.gin", ("{root}/in",)),
    ],
)
def test_a_recipe_includes_others_of_a_bucket_and_gin_reads_the_same(
    root, tmp_path, include, file, searched
):
    def full(text):
        return text.format(root=root, here=tmp_path)

    put(f"{root}/in/run.gin", RECIPE)
    text = f"include '{full(include)}'\nMODEL_DIR = '{root}/run'\n"
    for place in (f"{root}/in", f"{root}/other"):
        put(f"{place}/child.gin", text)
    (tmp_path / "child.gin").write_text(text)
    found = config.read([full(file)], (), tuple(map(full, searched)))
    assert found.value("TRAIN_STEPS") == 7
    assert str(found.origin("TRAIN_STEPS")) == f"{root}/in/run.gin:2"
    from specialize.config import applying

    given = config.read([full(file)], ["MODEL_DIR = 'x'"], [*map(full, searched)])
    import gin

    try:
        with applying._reading(gin, given.scan.places):
            gin.parse_config_files_and_bindings(
                list(given.gin_files), None, skip_unknown=True, finalize_config=False
            )
        assert gin.query_parameter("%TRAIN_STEPS") == 7
        assert gin.query_parameter("%MODEL_DIR") == f"{root}/run"
    finally:
        config.forget()


def test_a_recipe_that_is_not_in_the_bucket_is_one_error(root, tmp_path, capsys):
    put(f"{root}/in/child.gin", "\ninclude 'run.gin'\n")
    put(f"{root}/in/circle.gin", "include 'circle.gin'\n")
    put(f"{root}/in/out.gin", "include '../../../run.gin'\n")
    put(f"{root}/in/other.gin", "include 'az://b/run.gin'\n")
    cases = {
        (
            f"{root}/in/child.gin",
        ): f"child.gin:2: gin file 'run.gin' not found in {root}",
        (
            f"{root}/in/circle.gin",
        ): f"{root}/in/circle.gin:1: 'circle.gin' includes its",
        (f"{root}/in/out.gin",): "not found in ",
        (f"{root}/in/other.gin",): "'az://b/run.gin', a URL of az:. Name a local file",
        (f"{root}/in/none.gin",): "does not exist. Check the name of bucket and file.",
        ("chil.gin", f"{root}/in"): f"{root}/in, ",
        ("child.gin", "az://b/in"): "--gin_search_paths is 'az://b/in', a URL of az:",
    }
    for (file, *folders), expected in cases.items():
        words = [f"--gin_search_paths={one}" for one in folders]
        assert cli.main(["config", "--gin_file", file, *words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and expected in said, said
    put(f"{root}/in/bad.gin", "\n\nA = [1,\n")
    with pytest.raises(InputError, match=rf"^{root}/in/bad.gin:\d: not gin"):
        config.read([f"{root}/in/bad.gin"])
    objects.write_bytes(f"{root}/in/latin.gin", b"\nA = '\xe9'\n")
    with pytest.raises(InputError, match=rf"^{root}/in/latin.gin:2: not UTF-8"):
        config.read([f"{root}/in/latin.gin"])


# Commands, and what the file in the bucket has that they read.
SAMPLE = "corpus sample --responses r.sqlite --base_url http://h --model m "
DOORS = [
    (SAMPLE + "--problems {}", "{]\n"),
    ("corpus stats --corpus {}", "not a folder\n"),
    ("corpus import --problems {} --completions {} --out out", '{"imput": 1}'),
    ("config --gin_file {}", "A = [1,\n"),
]


@pytest.mark.parametrize(("words", "text"), DOORS)
def test_a_mistake_in_a_file_of_a_bucket_is_at_its_url(
    root, words, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    put(f"{root}/bad.jsonl", text)
    assert cli.main(words.replace("{}", f"{root}/bad.jsonl").split()) == 2
    said = capsys.readouterr().err
    assert f"{root}/bad.jsonl" in said and str(paths.folder()) not in said, said


def test_copies_are_read_only_and_every_message_shows_the_url(root, capsys):
    from specialize import checks, progress

    put(f"{root}/d/a.txt", "x")
    put(f"{root}/d/in/b.txt", "x")
    file, folder = paths.local(f"{root}/d/a.txt"), paths.local(f"{root}/d")
    for one in (file, folder / "in/b.txt"):
        assert not stat.S_IMODE(one.stat().st_mode) & 0o222
    said = f"{file}:2: wrong, as {os.path.realpath(folder)}/in/b.txt"
    wanted = f"{root}/d/a.txt:2: wrong, as {root}/d/in/b.txt"
    assert str(InputError(said)) == wanted
    progress.say(said)
    assert capsys.readouterr().err == f"{wanted}\n"
    assert cli._complain(said) == 2
    assert capsys.readouterr().err == f"error: {wanted}\n"
    assert checks.shown(str(file)) == repr(f"{root}/d/a.txt")


def test_a_message_about_work_in_progress_names_the_folder_in_the_bucket(root):
    from specialize.inference import resumable

    url = f"{root}/told.jsonl.decoded.jsonl/decoded.jsonl"
    with pytest.raises(InputError) as caught:
        with resumable.unfinished(f"{root}/told.jsonl") as (file, _):
            file.write_text('{"settings": {"batch_size": 4, "network": 1}}\n')
            resumable._read(file, {"batch_size": 8, "network": 1})
    assert not file.exists()
    assert str(caught.value).startswith(f"{url} was decoded with other settings: batch")


@pytest.mark.parametrize("name", ["user@x.org/text.txt", "a:b@c", "@", "a@b/c@d"])
def test_a_key_may_have_an_at(root, name):
    url = f"{root}/{name}"
    put(url, "x")
    assert paths.checked(url) == url and paths.local(url).read_text() == "x"
