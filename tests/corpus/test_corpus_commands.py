"""Every subcommand: bad input is one message, exit status 2, nothing left behind."""

import contextlib
import gzip
import json
import math
import pickle
import resource
import shutil
import subprocess
import sys

import pytest

from specialize import cli
from specialize.corpus.tasks.known import read_problems
from specialize.quickstart import miniature

from fault_server import FaultServer  # isort: skip


def run(capfd, *words):
    """Runs one command in this process; (status, standard error)."""
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as exit_:
        status = exit_.code
    return status, capfd.readouterr().err


@pytest.fixture
def place(world, tmp_path):
    """An empty folder to write into, and bad files beside it."""
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "half.jsonl").write_text('{"problem_id": "gsm8k-tr')
    (bad / "empty.jsonl").write_text("")
    (bad / "text.txt").write_text("hello")
    (bad / "theirs").mkdir()
    (bad / "theirs" / "thesis.tex").write_text("years of work")
    first, *rest = world.problems.read_text().splitlines()
    goldless = json.loads(first) | {"answer": "Nobody knows."}
    (bad / "goldless.jsonl").write_text("\n".join([json.dumps(goldless), *rest]))
    lines = [json.loads(line) for line in world.completions.read_text().splitlines()]
    for name, value in {"nan": math.nan, "sure": 0.3, "text": "-0.1"}.items():
        changed = json.loads(json.dumps(lines[4]))
        changed["token_logprobs"][2] = value
        text = [json.dumps(line) for line in [*lines[:4], changed, *lines[5:]]]
        (bad / f"{name}.jsonl").write_text("\n".join(text))
    sum_above_1 = json.loads(json.dumps(lines[4]))
    sum_above_1["top_logprobs"][2] = [["a", -0.1], ["b", -0.1]]
    (bad / "sum.jsonl").write_text(json.dumps(sum_above_1))
    (bad / "twice.jsonl").write_text("\n".join([json.dumps(lines[4])] * 2))
    (bad / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 99)[:-20])
    (tmp_path / "out").mkdir()
    return tmp_path


def words_of(world, place, command, **changes):
    """A command that would succeed, with some of its options changed."""
    out, data = place / "out", world
    options = {
        "sample": {
            "--problems": data.problems,
            "--responses": out / "r.sqlite",
            "--model": "m",
            "--base_url": "http://127.0.0.1:9/v1",
            "--attempts": 1,
        },
        "export": {"--responses": out / "r.sqlite", "--out": out / "e.jsonl"},
        "verify": {
            "--problems": data.problems,
            "--completions": data.completions,
            "--out": out / "right.jsonl",
            "--processes": 1,
        },
        "align": {
            "--problems": data.problems,
            "--completions": data.completions,
            "--vocabulary": data.vocabulary,
            "--out": out / "aligned.jsonl",
            "--processes": 1,
        },
        "write": {
            "--problems": data.problems,
            "--aligned": out / "aligned.jsonl",
            "--vocabulary": data.vocabulary,
            "--out": out / "corpus",
            "--processes": 1,
        },
        "build": {
            "--problems": data.problems,
            "--completions": data.completions,
            "--vocabulary": data.vocabulary,
            "--out": out / "corpus",
            "--processes": 1,
            "--demonstrations": 1,
        },
        "import-released": {
            "--pickles": out / "x.pkl",
            "--vocabulary": data.vocabulary,
            "--out": out / "corpus",
            "--processes": 1,
        },
        "inspect": {"--corpus": out / "corpus", "--vocabulary": data.vocabulary},
        "stats": {"--corpus": out / "corpus"},
    }[command] | changes
    flat = [word for pair in options.items() for word in pair]
    return ("corpus", command, *flat)


CASES = [
    ("sample", {"--problems": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("sample", {"--problems": "bad/absent"}, "absent does not exist. Check the path."),
    (
        "build",
        {"--problems": "https://x/p.jsonl"},
        "--problems is 'https://x/p.jsonl', a URL of https:. Name a local",
    ),
    (
        "verify",
        {"--completions": "ftp://u:pw@x/c"},
        "--completions is 'ftp://...@x/c', a URL with a user name",
    ),
    ("sample", {"--responses": "bad/text.txt"}, "text.txt is not a database"),
    ("sample", {"--prompt": "bad/absent"}, "cannot be read as a prompt"),
    ("sample", {"--temperature": 9}, "temperature = 9"),
    ("sample", {"--n": 0}, "--n = 0; it must be at least 1"),
    ("sample", {"--extra_body": "[1]"}, "--extra_body must be a JSON object; what was"),
    ("sample", {"--max_n": 2}, "--max_n is 2, less than --n (8)"),
    ("sample", {"--n_per_request": 0}, "error: --n_per_request = 0; it must be"),
    ("sample", {"--max_tokens": 0}, "error: --max_tokens = 0; it must be"),
    ("sample", {"--timeout": -1}, "error: --timeout = -1.0; it must be"),
    ("sample", {"--backoff": -1}, "error: --backoff = -1.0; it must be"),
    ("sample", {"--price_input": -1}, "error: --price_input = -1.0; it must be"),
    ("sample", {"--extra_body": '{"model": 1}'}, "error: --extra_body sets ['model']"),
    ("sample", {"--concurrency": 5}, "connection"),
    ("export", {}, "r.sqlite does not exist"),
    ("export", {"--responses": "bad/text.txt"}, "text.txt is not a database"),
    ("verify", {"--completions": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("verify", {"--completions": "bad/empty.jsonl"}, "empty.jsonl is empty"),
    ("verify", {"--near_duplicates": 2}, "near_duplicates = 2"),
    ("verify", {"--unwritable": "drop"}, "--unwritable drop needs --vocabulary"),
    ("sample", {"--unwritable": "keep"}, "--unwritable keep needs --vocabulary"),
    ("align", {"--completions": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("align", {"--vocabulary": "bad/text.txt"}, "text.txt"),
    ("align", {"--k": 0}, "--k = '0'; it must be a whole number, at least 1"),
    ("sample", {"--problems": "bad/goldless.jsonl"}, "goldless.jsonl:1"),
    ("verify", {"--problems": "bad/goldless.jsonl"}, "goldless.jsonl:1"),
    ("sample", {"--responses": "bad/theirs"}, "theirs is a folder"),
    ("sample", {"--responses": "bad/text.txt/x"}, "is a file, not a folder"),
    ("verify", {"--problems": "bad/absent"}, "absent does not exist"),
    ("verify", {"--completions": "bad/nan.jsonl"}, "nan.jsonl:5, token 2"),
    ("verify", {"--completions": "bad/sum.jsonl"}, "more than 1"),
    ("verify", {"--completions": "bad/absent"}, "absent does not exist"),
    ("align", {"--problems": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("align", {"--problems": "bad/goldless.jsonl"}, "goldless.jsonl:1"),
    ("verify", {"--completions": "bad/cut.jsonl.gz"}, "cut.jsonl.gz"),
    ("verify", {"--completions": "bad/twice.jsonl"}, "was already given at"),
    ("verify", {"--out": "bad/theirs"}, "theirs is a folder"),
    ("verify", {"--out": "bad/text.txt/x.jsonl"}, "is a file, not a folder"),
    ("verify", {"--rejected": "bad/theirs"}, "theirs is a folder"),
    ("verify", {"--max_samples": 0}, "max_samples = 0"),
    ("verify", {"--processes": 0}, "--processes = '0'; it must be a whole number"),
    ("align", {"--completions": "bad/nan.jsonl"}, "nan.jsonl:5, token 2"),
    ("align", {"--completions": "bad/sure.jsonl"}, "sure.jsonl:5, token 2"),
    (
        "align",
        {"--completions": "bad/text.jsonl"},
        "text.jsonl:5: token_logprobs[2]: expected",
    ),
    ("align", {"--completions": "bad/sum.jsonl"}, "more than 1"),
    ("align", {"--rows": 100}, "100 rows"),
    ("align", {"--out": "bad/theirs"}, "theirs is a folder"),
    ("write", {"--formats": "cot"}, "cot"),
    ("build", {"--completions": "bad/nan.jsonl"}, "nan.jsonl:5, token 2"),
    ("build", {"--completions": "bad/sure.jsonl"}, "sure.jsonl:5, token 2"),
    ("build", {"--problems": "bad/goldless.jsonl"}, "goldless.jsonl:1"),
    ("build", {"--problems": "bad/absent"}, "absent does not exist"),
    ("build", {"--formats": "cot"}, "cot"),
    ("build", {"--demonstrations": -1}, "demonstrations = -1"),
    ("build", {"--max_target_tokens": 1}, "is kept"),
    ("export", {"--responses": "bad/absent"}, "absent does not exist"),
    ("stats", {"--corpus": "bad/text.txt"}, "text.txt"),
    ("write", {}, "has no card"),
    ("write", {"--out": "bad/theirs"}, "was not written by specialize"),
    ("build", {"--out": "bad/theirs"}, "was not written by specialize"),
    ("build", {"--out": "bad/text.txt"}, "text.txt is a file"),
    ("build", {"--out": "bad/text.txt/x"}, "is a file, not a folder"),
    ("build", {"--problems": "bad/empty.jsonl"}, "holds no problem"),
    ("build", {"--completions": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("build", {"--vocabulary": "bad/text.txt"}, "text.txt"),
    ("build", {"--demonstrations_from": "bad/half.jsonl"}, "half.jsonl:1: not JSON"),
    ("build", {"--shards": 1001}, "error: --shards is 1001, expected 1 to 1000"),
    ("build", {"--formats": "cot"}, "error: --formats ['cot'] are not among"),
    ("build", {"--max_input_tokens": 0}, "error: --max_input_tokens = 0; it must be"),
    ("build", {"--shards": 0}, "error: --shards = 0; it must be at least 1"),
    ("import-released", {}, "x.pkl does not exist"),
    ("import-released", {"--pickles": "bad/text.txt"}, "not a readable pickle"),
    ("inspect", {}, "is not a corpus"),
    ("stats", {}, "is not a corpus"),
    ("stats", {"--corpus": "bad/theirs"}, "is not a corpus"),
]


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    CASES,
    ids=[f"{command} {' '.join(map(str, c))}" for command, c, _ in CASES],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    world, place, capfd, command, changes, message
):
    changed = {
        name: place / value if str(value).startswith("bad/") else value
        for name, value in changes.items()
    }
    before = contents(place)
    status, said = run(capfd, *words_of(world, place, command, **changed))
    check_refusal(status, said, message)
    # What a run began to pay for stays: an empty database is no half-written output.
    left = {p: data for p, data in contents(place).items() if "r.sqlite" not in p.name}
    assert left == before


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_refusal(status, said, message):
    assert status == 2
    errors = [line for line in said.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def built(world, tmp_path_factory):
    """What the commands write, and what can become of it."""
    root = tmp_path_factory.mktemp("built")
    (root / "out").mkdir()
    for command in ("align", "build"):
        assert cli.main([*map(str, words_of(world, root, command))]) == 0
    out = root / "out"
    miniature.train_vocabulary(world.folder / "text.txt", out / "other.model", size=300)
    shutil.copytree(out / "corpus", out / "cut")
    shutil.copytree(out / "corpus", out / "gone")
    for shard in (out / "cut").glob("*.gz"):
        shard.write_bytes(shard.read_bytes()[:-40])
    for shard in (out / "gone").glob("*.gz"):
        shard.unlink()
    (out / "short.pkl").write_bytes(pickle.dumps([{"question": "How many?"}]))
    (out / "half.jsonl").write_text((out / "aligned.jsonl").read_text()[:-60])
    shutil.copy(out / "aligned.jsonl.card.json", out / "half.jsonl.card.json")
    return out


ALIGNED = {"--aligned": "built/aligned.jsonl"}
CORPUS = {"--corpus": "built/corpus"}
PICKLE = {"--pickles": "built/short.pkl"}
OTHER = "Name the one that it was built with."
BUILT_CASES = [
    ("align", {"--completions": "built/corpus"}, "corpus is a folder"),
    ("write", {"--aligned": "built/half.jsonl"}, "half.jsonl:72: not JSON"),
    ("write", {"--problems": "bad/half.jsonl", **ALIGNED}, "half.jsonl:1: not JSON"),
    ("write", {"--problems": "bad/goldless.jsonl", **ALIGNED}, "goldless.jsonl:1"),
    ("write", {"--vocabulary": "built/other.model", **ALIGNED}, "vocabulary_sha256"),
    ("write", {"--vocabulary": "bad/text.txt", **ALIGNED}, "not a SentencePiece"),
    ("write", {"--out": "built/corpus", **ALIGNED}, "already holds a corpus"),
    ("write", {"--out": "bad/text.txt/x", **ALIGNED}, "text.txt"),
    ("build", {"--out": "built/corpus"}, "already holds a corpus"),
    ("import-released", PICKLE, "short.pkl#0: 'answer' is missing"),
    ("import-released", {"--vocabulary": "bad/text.txt", **PICKLE}, "not a Sentence"),
    ("import-released", {"--problems": "bad/half.jsonl", **PICKLE}, "not JSON"),
    ("import-released", {"--out": "bad/theirs", **PICKLE}, "not written by specialize"),
    ("inspect", {**CORPUS, "--vocabulary": "built/other.model"}, OTHER),
    ("inspect", {**CORPUS, "--vocabulary": "bad/text.txt"}, "not a SentencePiece"),
    ("inspect", {**CORPUS, "--id": "nobody/0/zero_shot_cot"}, "has no 'nobody/0"),
    ("inspect", {**CORPUS, "--index": 99999}, "has no record 99999"),
    ("inspect", {**CORPUS, "--html": "bad/theirs"}, "theirs is a folder"),
    ("inspect", {**CORPUS, "--html": "bad/text.txt/x"}, "is a file, not"),
    ("inspect", {"--corpus": "built/cut"}, "corpus.json says"),
    ("stats", {"--corpus": "built/cut"}, "corpus.json says"),
    ("stats", {"--corpus": "built/gone"}, "is missing"),
]


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    BUILT_CASES,
    ids=[
        f"{command} {' '.join(map(str, c.values()))}" for command, c, _ in BUILT_CASES
    ],
)
def test_what_does_not_fit_what_was_built_is_one_message_and_changes_nothing(
    world, built, place, capfd, command, changes, message
):
    roots = {"bad": place / "bad", "built": built}
    changed = {}
    for name, value in changes.items():
        root, _, rest = str(value).partition("/")
        changed[name] = roots[root] / rest if root in roots else value
    before = contents(place) | contents(built)
    status, said = run(capfd, *words_of(world, place, command, **changed))
    check_refusal(status, said, message)
    assert contents(place) | contents(built) == before


@pytest.mark.parametrize("command", ["build", "sample", "verify", "align", "write"])
def test_a_missing_option_is_named(world, place, capfd, command):
    words = words_of(world, place, command)
    status, said = run(capfd, *words[:2], *words[4:])
    assert status == 2
    assert "--problems" in said


def test_the_commands_go_from_completions_to_a_corpus_one_can_look_at(
    world, place, capfd
):
    out = place / "out"
    assert run(capfd, *words_of(world, place, "verify"))[0] == 0
    right = {"--completions": out / "right.jsonl"}
    assert run(capfd, *words_of(world, place, "align", **right))[0] == 0
    status, said = run(
        capfd, *words_of(world, place, "write", **{"--demonstrations": 1})
    )
    assert status == 0
    assert "records in_context_cot" in said
    assert cli.main(["corpus", "stats", "--corpus", str(out / "corpus"), "--json"]) == 0
    value = json.loads(capfd.readouterr().out)
    assert value["funnel"]["read"] == 24 * 3
    assert value["funnel"]["human"]["read"] == 24
    words = words_of(world, place, "inspect", **{"--html": out / "page.html"})
    assert run(capfd, *words)[0] == 0
    assert "<table>" in (out / "page.html").read_text()
    assert run(capfd, *words_of(world, place, "inspect"))[0] == 0


def test_a_build_that_was_refused_succeeds_once_its_input_is_mended(
    world, place, capfd
):
    lines = world.completions.read_text().splitlines()
    file = place / "samples.jsonl"
    file.write_text("\n".join([*lines[:5], lines[5][:40], *lines[6:]]))
    words = words_of(world, place, "build", **{"--completions": file})
    assert run(capfd, *words)[0] == 2
    file.write_text("\n".join(lines))
    assert run(capfd, *words)[0] == 0


@contextlib.contextmanager
def files_of_at_most(size):
    """A disk with little room, as far as this process can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("command", ["verify", "align", "build"])
def test_a_full_disk_is_one_message_and_leaves_nothing(world, place, capfd, command):
    with files_of_at_most(4096):
        status, said = run(capfd, *words_of(world, place, command))
    assert status == 2
    assert "Make room and run the same command again" in said
    assert "Traceback" not in said
    assert not list((place / "out").iterdir())
    assert run(capfd, *words_of(world, place, command))[0] == 0


def test_a_full_disk_ends_sampling_and_what_came_before_is_continued(
    world, place, capfd
):
    problems = read_problems(world.problems, "gsm8k")
    server = FaultServer({p.question: p.answers[0] for p in problems})
    with server.running() as url:
        # Two at once: with more, all may be under way before the first does not fit.
        options = {"--base_url": url, "--n": 4, "--logprobs_are": "unknown"}
        options["--concurrency"] = 2
        words = words_of(world, place, "sample", **options)
        with files_of_at_most(150_000):
            status, said = run(capfd, *words)
        assert status == 2
        assert "make room and run the same command again" in said
        assert "Traceback" not in said
        asked = len(server.requests)
        assert 0 < asked < len(problems)
        assert run(capfd, *words)[0] == 0
    # Only what was under way when there was no room is asked for twice.
    assert len(server.requests) <= len(problems) + 2


def test_verify_lists_why_nothing_stays(world, place, capfd):
    lines = [json.loads(line) for line in world.completions.read_text().splitlines()]
    line = {key: lines[0][key] for key in ("problem_id", "sample")}
    (place / "wrong.jsonl").write_text(json.dumps(line | {"text": "I do not know."}))
    rejected = place / "out" / "why.jsonl"
    options = {"--completions": place / "wrong.jsonl", "--rejected": rejected}
    status, said = run(capfd, *words_of(world, place, "verify", **options))
    assert status == 2
    assert "none of 1 samples is kept" in said
    assert json.loads(rejected.read_text())["reason"] in said
    assert [path.name for path in (place / "out").iterdir()] == ["why.jsonl"]


def test_importing_the_commands_imports_nothing_heavy():
    code = (
        "import sys, argparse; from specialize.corpus import commands;"
        "commands.register(argparse.ArgumentParser().add_subparsers());"
        "heavy = {'numpy', 'tensorflow', 'jax', 'openai', 'rich', 'sentencepiece'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_world_has_what_the_cases_count_on(world):
    assert len(read_problems(world.problems, "gsm8k")) == 24
