"""Files in buckets: read, cached, written by one of several, repeated after faults."""

import argparse
import contextlib
import errno
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types

import pytest

from specialize import cli, outputs, paths
from specialize.config import words
from specialize.errors import InputError
from specialize.outputs import lease
from specialize.outputs.replaced_object import replaced_object
from specialize.paths import cache, failures
from specialize.paths import store as objects


def child(code, *words, **options):
    """A process that runs code; `words` are its arguments."""
    line = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def test_what_is_written_is_there_at_once_and_what_is_not_is_none(root):
    assert objects.stat(f"{root}/a") is None and objects.find(root) == {}
    assert objects.names(root) == [] and objects.read_bytes(f"{root}/a") is None
    objects.write_bytes(f"{root}/a/b", b"123")
    objects.write_bytes(f"{root}/c", b"")
    assert objects.read_bytes(f"{root}/a/b") == b"123"
    assert [*objects.find(root)] == ["a/b", "c"]
    assert objects.names(root) == ["a", "c"]
    assert objects.stat(f"{root}/a") is None and paths.exists(f"{root}/a")
    before = objects.stat(f"{root}/a/b")
    objects.write_bytes(f"{root}/a/b", b"124")
    assert before is not None and objects.stat(f"{root}/a/b") != before
    objects.remove([f"{root}/a/b", f"{root}/a/b", f"{root}/none"])
    assert [*objects.find(root)] == ["c"]


def test_of_many_who_create_or_replace_exactly_one_succeeds(root):
    won = []

    def race(act, name):
        try:
            act(name.encode())
            won.append(name)
        except objects.TakenError:
            pass

    def all_at_once(act):
        won.clear()
        threads = [
            threading.Thread(target=race, args=(act, f"writer {n}")) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_at_once(lambda data: objects.create(f"{root}/x", data))
    assert len(won) == 1 and objects.read_bytes(f"{root}/x") == won[0].encode()
    version = objects.stat(f"{root}/x").version
    all_at_once(lambda data: objects.replace(f"{root}/x", data + b"!", version))
    assert len(won) == 1 and objects.read_bytes(f"{root}/x") == won[0].encode() + b"!"


def test_a_file_and_a_folder_are_copied_once_and_again_when_they_change(root):
    objects.write_bytes(f"{root}/d/one.txt", b"1")
    objects.write_bytes(f"{root}/d/in/two.txt", b"2")
    assert paths.local(f"{root}/d/one.txt").read_text() == "1"
    folder = paths.local(f"{root}/d")
    assert folder.name == "d" and (folder / "in/two.txt").read_text() == "2"
    os.utime(folder / "one.txt", (5, 5))  # would be lost in another copy
    assert paths.local(f"{root}/d") == folder
    assert (folder / "one.txt").stat().st_mtime == 5
    objects.write_bytes(f"{root}/d/one.txt", b"3")
    again = paths.local(f"{root}/d")
    assert again != folder and (again / "one.txt").read_text() == "3"
    assert (folder / "one.txt").read_text() == "1"
    only = paths.local(f"{root}/d", only=["in/*"])
    assert sorted(p.name for p in only.rglob("*.txt")) == ["two.txt"]
    rest = paths.local(f"{root}/d", but=["in/*"])
    assert sorted(p.name for p in rest.rglob("*.txt")) == ["one.txt"]
    assert paths.local("a/local/path").parts == ("a", "local", "path")


@pytest.mark.parametrize("changes", [1, 2])
def test_a_copy_is_of_one_version_though_files_of_the_same_size_replace_others(
    root, changes, monkeypatch
):
    def write(text):
        for name in ("a", "b"):
            objects.write_bytes(f"{root}/d/{name}", f"{text} {name}".encode())

    write("old")
    fs = objects.filesystem(root)
    get, left = fs.get_file, list(range(changes))

    def get_file(url, file):
        if left and url.endswith("b"):
            write(f"n{left.pop()}w")
        return get(url, file)

    monkeypatch.setattr(fs, "get_file", get_file)
    if changes == 1:
        found = paths.local(f"{root}/d")
        assert {one.read_text() for one in found.iterdir()} == {"n0w a", "n0w b"}
        return
    with pytest.raises(objects.ChangedError, match="d/b was changed .* it was read"):
        paths.local(f"{root}/d")
    found = paths.local(f"{root}/d")
    assert {one.read_text() for one in found.iterdir()} == {"n0w a", "n0w b"}
    assert not list(cache.copies().glob("*.partial"))


def test_old_copies_that_nobody_uses_are_removed_when_there_is_no_room(
    root, tmp_path, monkeypatch
):
    for name in "abc":
        objects.write_bytes(f"{root}/{name}", b"x" * 1000)
    code = "from specialize import paths; import sys; print(paths.local(sys.argv[1]))"
    old = child(code, f"{root}/a").communicate()[0].strip().splitlines()[-1]
    assert os.path.exists(old)
    used = paths.local(f"{root}/b")  # by this process
    monkeypatch.setenv(cache.CACHE_GB, "0.0000025")
    new = paths.local(f"{root}/c")
    assert new.exists() and used.exists() and not os.path.exists(old)
    monkeypatch.setenv(cache.CACHE_GB, "much")
    with pytest.raises(InputError, match="CACHE_GB is 'much'"):
        objects.write_bytes(f"{root}/d", b"1")
        paths.local(f"{root}/d")


def test_processes_of_a_machine_share_a_copy(root, store):
    objects.write_bytes(f"{root}/d/x", b"x" * 100_000)
    code = "from specialize import paths; import sys; print(paths.local(sys.argv[1]))"
    started = [child(code, f"{root}/d") for _ in range(2)]
    found = {one.communicate()[0].strip().splitlines()[-1] for one in started}
    assert found == {str(paths.local(f"{root}/d"))}


@pytest.mark.parametrize("name", ["../up", "a//b", "./x"])
def test_an_object_whose_name_leads_out_of_the_folder_is_refused(
    root, name, monkeypatch
):
    fs = objects.filesystem(root)
    place = f"{root.partition('://')[2]}/{name}"
    listed = {place: {"type": "file", "size": 1, "ETag": "1"}}
    monkeypatch.setattr(fs, "find", lambda *a, **k: listed)
    with pytest.raises(InputError, match="no name of a file"):
        paths.local(root)


@pytest.mark.parametrize(
    "url",
    ["s3://u:HUNTER2@bucket/x", "gs://b/../x", "s3://b/a//b", "s3:///x", "ftp://h/x"],
)
def test_a_url_that_names_no_object_is_refused_without_its_password(url):
    with pytest.raises(InputError) as caught:
        paths.checked(url, "MODEL_DIR")
    assert "MODEL_DIR is" in str(caught.value) and "HUNTER2" not in str(caught.value)


def test_a_folder_appears_with_its_marker_and_only_once(root):
    with outputs.staged_directory(f"{root}/corpus", "corpus") as folder:
        (folder / "in").mkdir()
        (folder / "in/shard").write_bytes(b"1")
        assert objects.find(root) == {}
    assert [*objects.find(f"{root}/corpus")] == ["in/shard", paths.MARKER]
    assert outputs.kind_of(f"{root}/corpus") == "corpus"
    with pytest.raises(InputError, match="already holds"):
        outputs.staged_directory(f"{root}/corpus", "corpus").__enter__()
    with pytest.raises(InputError, match="holds a corpus of specialize"):
        outputs.check_writable(f"{root}/corpus", "run")
    replaced = outputs.staged_directory(f"{root}/corpus", "corpus", replace=True)
    with replaced as folder:
        (folder / "new").write_bytes(b"2")
    assert [*objects.find(f"{root}/corpus")] == ["new", paths.MARKER]
    objects.write_bytes(f"{root}/foreign/file", b"")
    with pytest.raises(InputError, match="not written by specialize"):
        outputs.check_writable(f"{root}/foreign", "run")


def test_a_file_hides_no_folder_and_a_folder_is_not_in_a_file(root):
    objects.write_bytes(f"{root}/corpus/in/shard", b"1")
    objects.write_bytes(f"{root}/file.jsonl", b"2")
    before = objects.find(root)

    def write_file(url):
        with outputs.staged_file(url) as staged:
            staged.write_bytes(b"3")

    def write_folder(url):
        with outputs.staged_directory(url, "weights", replace=True):
            raise AssertionError("no work before the refusal")

    def work(url):
        with outputs.working_folder(url, "run"):
            raise AssertionError("no work before the refusal")

    def go_on(url):
        with replaced_object(url):
            raise AssertionError("no work before the refusal")

    def options(url):
        for name in words.OUTPUTS:
            given = {name: url, "output_files": {name}, "in_buckets": (name,)}
            cli._check_outputs(argparse.Namespace(**given))

    for write in (write_file, go_on, options):
        for url in (f"{root}/corpus", f"{root}/corpus/in", f"{root}/corpus/"):
            with pytest.raises(InputError, match="is a folder, expected the name of"):
                write(url)
    for write in (write_folder, work):
        with pytest.raises(InputError, match=r"file.jsonl is a file; the output must"):
            write(f"{root}/file.jsonl")
    for write in (write_file, go_on, options, write_folder, work):
        for name in ("file.jsonl/a", "file.jsonl/a/b", "corpus/in/shard/x"):
            with pytest.raises(InputError, match="which is a file. Name another place"):
                write(f"{root}/{name}")
    assert objects.find(root) == before
    write_file(f"{root}/file.jsonl")
    assert objects.read_bytes(f"{root}/file.jsonl") == b"3"


def test_a_folder_that_no_disk_can_hold_is_refused_with_its_names(root):
    for name in ("d/a", "d/a/b/c", "d/a.x", "run/" + paths.MARKER, "run/x", "run/x/y"):
        objects.write_bytes(f"{root}/{name}", b'{"kind": "run"}')
    with pytest.raises(InputError, match=r"/d .*: a is an object and a folder \(a/b"):
        paths.local(f"{root}/d")
    assert paths.local(f"{root}/d", but=["*/*"]).is_dir()
    assert paths.local(f"{root}/d/a").is_file()
    with pytest.raises(InputError, match="x is an object and a folder"):
        outputs.working_folder(f"{root}/run", "run").__enter__()


def test_a_failed_block_leaves_nothing(root):
    with pytest.raises(KeyError):
        with outputs.staged_directory(f"{root}/corpus", "corpus") as folder:
            (folder / "x").write_bytes(b"1")
            raise KeyError
    with pytest.raises(KeyError):
        with outputs.working_folder(f"{root}/run", "run"):
            raise KeyError
    with pytest.raises(KeyError):
        with outputs.staged_file(f"{root}/file"):
            raise KeyError
    assert objects.find(root) == {}


def test_two_processes_start_in_one_folder_and_one_is_refused(root):
    code = """
    import sys, time
    from specialize import outputs
    from specialize.errors import InputError
    from specialize.outputs import lease
    from specialize.paths import store
    lease.RENEWAL = 1.0
    refused = sys.argv[1] + "-refused"
    try:
        with outputs.working_folder(sys.argv[1], "run") as working:
            (working.path / "who").write_text(sys.argv[2])
            while store.stat(refused) is None:
                time.sleep(0.2)
            print("won")
    except InputError as error:
        store.write_bytes(refused, b"")
        print(error)
    """
    started = [child(code, f"{root}/run", n) for n in range(2)]
    said = [one.communicate()[0].splitlines()[-1] for one in started]
    winner = said.index("won")
    assert "another command writes in" in said[1 - winner]
    assert objects.read_bytes(f"{root}/run/who") == str(winner).encode()
    assert paths.WRITING not in objects.names(f"{root}/run")


def test_a_killed_upload_is_not_read_and_the_next_one_takes_its_place(root, store):
    code = """
    import sys
    from specialize import outputs
    with outputs.staged_directory(sys.argv[1], "corpus") as folder:
        for n in range(40):
            (folder / f"{n:02}").write_bytes(b"x" * 1000)
    """
    store.faults(hold=1, after=25)
    writer = child(code, f"{root}/corpus")
    while not store.state()[1]:
        assert writer.poll() is None
        time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    store.faults()
    assert paths.MARKER not in objects.names(f"{root}/corpus")
    with pytest.raises(InputError, match="is not complete"):
        paths.local(f"{root}/corpus")
    with outputs.staged_directory(f"{root}/corpus", "corpus") as folder:
        (folder / "whole").write_bytes(b"1")
    assert [*objects.find(f"{root}/corpus")] == [paths.MARKER, "whole"]


def test_a_writer_without_a_sign_of_life_loses_its_place(root, monkeypatch):
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(lease, "_host", lambda: "another machine")
        elsewhere.setattr(lease.Lease, "_renew", lambda self: None)
        first = lease.Lease(root)  # shows no sign of life
    monkeypatch.setattr(lease, "EXPIRY", 1.5)
    monkeypatch.setattr(lease, "RENEWAL", 0.2)
    second = lease.Lease(root)
    assert second.inherited
    first._renew_once()
    with pytest.raises(InputError, match="another command has begun"):
        first.check()
    second.check()
    monkeypatch.setattr(lease, "EXPIRY", 60)
    with pytest.raises(InputError, match="another command writes"):
        lease.Lease(root)
    first.release()
    assert paths.WRITING in objects.names(root)
    second.release()
    assert objects.names(root) == []


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "seconds": 1},
        pytest.param({"status": 429, "count": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_busy_store_is_asked_again(root, store, fault):
    store.faults(**fault)
    objects.write_bytes(f"{root}/a", b"1")
    store.faults(**fault)
    assert objects.read_bytes(f"{root}/a") == b"1"
    store.faults(**fault)
    assert [*objects.find(root)] == ["a"]


def test_an_upload_that_is_cut_is_repeated_and_is_whole(root, store, tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(300_000))
    store.faults(cut=100_000, count=2)
    with outputs.staged_file(f"{root}/file") as staged:
        staged.write_bytes((tmp_path / "file").read_bytes())
    assert objects.read_bytes(f"{root}/file") == (tmp_path / "file").read_bytes()


@pytest.mark.slow  # the libraries try for half a minute
def test_a_store_that_does_not_answer_is_one_message(root, store, monkeypatch):
    monkeypatch.setattr(objects, "DELAYS", ())
    store.faults(status=503)
    with pytest.raises(InputError, match="cannot be read: .*Run the same command"):
        objects.read_bytes(f"{root}/a")


@pytest.mark.parametrize("in_cause", [True, False])
@pytest.mark.parametrize(
    ("status", "said", "passing"),
    [
        (401, "no valid credentials were found", False),
        (403, "access is denied", False),
        (503, "the store does not answer", True),
    ],
)
def test_what_a_library_of_a_store_raises_has_one_reason(
    status, said, passing, in_cause
):
    error: Exception = OSError(errno.EIO, "An error occurred")
    answered = Exception(f"status {status}")
    answered.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
    if status == 403:
        error = PermissionError("Forbidden")  # as both libraries say
    if in_cause:
        error.__cause__ = answered
    else:
        error = answered
    assert failures.is_passing(error) is passing
    try:
        raise ValueError("of Orbax") from error
    except ValueError as outer:
        assert said in str(failures.reason_of(outer))
        with pytest.raises(InputError, match="s3://b/x cannot be read: ") as caught:
            with objects.explained("s3://b/x"):
                raise outer
        assert ("Run the same command again" in str(caught.value)) is passing
    for defect in (ValueError("x"), KeyError("x"), PermissionError(13, "no", "/file")):
        with pytest.raises(type(defect)):
            with objects.explained("s3://b/x"):
                raise defect


def test_google_asked_without_credentials_is_the_message_of_missing_ones(monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(objects, "DELAYS", ())
    asked = types.SimpleNamespace(credentials=types.SimpleNamespace(method="anon"))
    monkeypatch.setattr(objects, "filesystem", lambda url: asked)

    def fail():
        raise ConnectionError(-2, "Name or service not known")

    with pytest.raises(InputError) as caught:
        objects.repeated("gs://b/x", "read", fail)
    assert str(caught.value) == (
        "gs://b/x cannot be read: no valid credentials were found. Set AWS_PROFILE or "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3://; for gs:// run 'gcloud "
        "auth application-default login' or set GOOGLE_APPLICATION_CREDENTIALS. Asked "
        "without any, it fails (Name or service not known)."
    )
    asked.credentials.method = "google_default"
    with pytest.raises(InputError, match="not known. Run the same command again"):
        objects.repeated("gs://b/x", "read", fail)


def test_what_gcsfs_logs_beside_our_message_is_not_shown(monkeypatch):
    logger = logging.getLogger("gcsfs")
    level = logger.level
    monkeypatch.delenv("GCSFS_DEBUG", raising=False)
    objects.prepare()
    assert not logger.isEnabledFor(logging.ERROR)
    assert not logging.getLogger("gcsfs.credentials").isEnabledFor(logging.ERROR)
    logger.setLevel(level)


def test_a_running_log_is_uploaded_and_continued(root, monkeypatch):
    from specialize.outputs import in_buckets

    monkeypatch.setattr(in_buckets, "PERIOD", 0.0)
    with outputs.working_folder(f"{root}/run", "run", but=["large/*"]) as working:
        (working.path / "large").mkdir()
        (working.path / "large/x").write_text("x")
        log = working.path / "log"
        log.write_text("1\n")
        working.publish()
        end = time.monotonic() + 300
        while objects.read_bytes(f"{root}/run/log") is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        with open(log, "a") as file:
            file.write("2\n")
    assert objects.read_bytes(f"{root}/run/log") == b"1\n2\n"
    with outputs.working_folder(f"{root}/run", "run", but=["large/*"]) as working:
        assert [p.name for p in working.path.iterdir()] == ["log"]
    assert objects.read_bytes(f"{root}/run/large/x") == b"x"


def test_results_beside_others_keep_their_own_predictions(root, tmp_path):
    from specialize.evaluation.evaluate import _beside
    from specialize.evaluation.results import Results

    key, name = "gsm8k:zero_shot_cot", "gsm8k.zero_shot_cot.jsonl"
    # Beside the predictions, elsewhere, and elsewhere without an ending.
    copies = ("evals/{}.json", "others/{}.json", "others/{}-plain")
    for who in ("base", "student"):  # what it decoded is in a copy of its folder
        (tmp_path / who).mkdir()
        line = {"suite": "gsm8k", "id": "1", "prediction": who, "correct": False}
        text = json.dumps(line | {"value": None, "how": "none", "golds": ["1"]})
        (tmp_path / who / name).write_text(text + "\n")
        url = f"{root}/evals/{who}-ev"
        objects.upload(tmp_path / who / name, f"{url}/{name}")
        found = Results({}, {}, {}, {}, {key: name}, 1.0, tmp_path / who)
        for copy in copies:
            file = f"{root}/{copy.format(who)}"
            _beside(found, file, url).save(file)
    for copy in copies:
        (line,) = Results.load(f"{root}/{copy.format('base')}").lines(key)
        assert line["prediction"] == "base"


def test_another_machine_goes_on_with_the_texts_that_infer_has_decoded(
    root, tmp_path, monkeypatch
):
    from specialize.inference.resumable import unfinished

    with contextlib.suppress(KeyError), unfinished(f"{root}/told.jsonl") as (file, _):
        file.write_text("1\n")
        raise KeyError
    monkeypatch.setenv("SPECIALIZE_CACHE_DIR", str(tmp_path / "another machine"))
    with unfinished(f"{root}/told.jsonl") as (file, publish):
        assert file.read_text() == "1\n"
        file.write_text("1\n2\n")
        publish()
        file.unlink()
    assert objects.find(root) == {}


def test_a_task_file_is_read_with_the_data_beside_it(root, tmp_path):
    from specialize.corpus.tasks.known import find

    task = (
        'name = "cold"\n[files]\ntrain = "data/cold.jsonl"\n'
        '[fields]\nquestion = "q"\nanswer = "a"\n[answer]\ntype = "number"\n'
    )
    objects.write_bytes(f"{root}/cold/cold.toml", task.encode())
    objects.write_bytes(f"{root}/cold/data/cold.jsonl", b'{"q": "1 + 1?", "a": "2"}\n')
    found = find(f"{root}/cold/cold.toml")
    assert found.name == "cold" and found.folder is not None
    assert os.path.isfile(os.path.join(found.folder, "data/cold.jsonl"))
    with pytest.raises(InputError, match="does not exist"):
        find(f"{root}/none/cold.toml")


def test_vocabularies_in_buckets_are_compared_before_a_run(root, tmp_path):
    from specialize import config
    from specialize.config.rules import vocabulary_problems

    objects.write_bytes(f"{root}/v.model", b"mine")
    digests = {
        text: hashlib.sha256(text.encode()).hexdigest() for text in ("a", "mine")
    }

    def found(digest):
        manifest = {"fingerprint": {"vocabulary_sha256": digest}}
        objects.write_bytes(f"{root}/c/corpus.json", json.dumps(manifest).encode())
        text = f"VOCABULARY_PATH = '{root}/v.model'\nCORPUS_DIR = '{root}/c'\n"
        (tmp_path / "a.gin").write_text(text)
        read = config.read([str(tmp_path / "a.gin")])
        return [str(problem) for problem in vocabulary_problems(read)]

    assert found(digests["mine"]) == []
    (problem,) = found(digests["a"])
    assert f"is not the vocabulary of CORPUS_DIR '{root}/c'" in problem
