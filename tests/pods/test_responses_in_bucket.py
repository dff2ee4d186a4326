"""A response database in a bucket: what was uploaded is never asked for again."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from specialize import cli, paths
from specialize.corpus.sampling import sample, uploads
from specialize.corpus.sampling.responses import ResponseStore
from specialize.corpus.sampling.spec import (
    Endpoint,
    PaceSpec,
    RequestSpec,
    SamplingSpec,
)
from specialize.corpus.sampling.teachers import Unusable
from specialize.corpus.tasks.known import read_problems
from specialize.errors import InputError
from specialize.outputs import lease
from specialize.outputs.replaced_object import ReplacedObject
from specialize.paths import store as objects

from fault_server import FaultServer  # isort: skip

CONCURRENCY = 2
# What depends little on the store is shown with both in the slow tests only.
MOSTLY_S3 = pytest.mark.parametrize(
    "store", ["s3", pytest.param("gs", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def problems(data):
    return read_problems(data / "bench/gsm8k/train.jsonl", "gsm8k")[:8]


@pytest.fixture
def server(problems):
    server = FaultServer({p.question: p.answers[0] for p in problems})
    with server.running() as server.url:
        yield server


def ask(server, problems, responses, *, upload_every_s=30.0, max_tokens=256, **pace):
    pace = {"concurrency": CONCURRENCY, "backoff_s": 0.01} | pace
    return sample.sample(
        problems,
        Endpoint(server.url, "tiny", request=RequestSpec(max_tokens=max_tokens)),
        responses,
        SamplingSpec(2, samples_per_request=1, pace=PaceSpec(**pace)),
        convention="unknown",
        upload_every_s=upload_every_s,
    )


def exported(responses, folder):
    sample.export(responses, folder / "out.jsonl")
    return (folder / "out.jsonl").read_bytes()


def uploaded(url):
    """Question and seed of every response in the bucket."""
    with ResponseStore(paths.local(url)) as found:
        rows = found._database.execute(
            "SELECT questions.question, seed FROM responses "
            "JOIN questions ON questions.id = responses.question"
        )
        return set(rows)


def until_uploaded(url, process, count):
    end = time.monotonic() + 300
    while True:
        # It is replaced again and again, also while it is read.
        with contextlib.suppress(objects.ChangedError):
            if objects.stat(url) is not None and len(found := uploaded(url)) >= count:
                return found
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end, "nothing is uploaded"
        time.sleep(0.05)


def start(server, data, url, *words):
    line = [sys.executable, "-m", "specialize", "corpus", "sample"]
    line += ["--problems", f"{data}/bench/gsm8k/train.jsonl", "--limit", "8"]
    line += ["--base_url", server.url, "--model", "tiny", "--n", "2"]
    line += ["--n_per_request", "1", "--concurrency", str(CONCURRENCY)]
    line += ["--logprobs_are", "unknown", "--responses", url, *words]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_sampling_in_a_bucket_is_a_local_one_and_asks_nothing_twice(
    server, problems, root, tmp_path
):
    local, url = tmp_path / "r.sqlite", f"{root}/r.sqlite"
    ask(server, problems, local)
    total = len(server.requests)
    ask(server, problems[:3], url)
    assert objects.names(root) == ["r.sqlite"]
    tally = ask(server, problems, url)
    assert tally.cached == 6 and len(server.requests) == 2 * total
    assert exported(url, tmp_path) == exported(local, tmp_path)
    version = objects.stat(url)
    assert ask(server, problems, url).done == 0 and len(server.requests) == 2 * total
    # One file, which SQLite reads without a log beside it.
    objects.download(url, tmp_path / "copy.sqlite", objects.stat(url))
    place = f"file:{tmp_path}/copy.sqlite?mode=ro&immutable=1"
    database = sqlite3.connect(place, uri=True)
    assert database.execute("SELECT COUNT(*) FROM responses").fetchone() == (16,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    database.close()
    assert version is not None
    assert list((paths.folder() / "outputs").iterdir()) == []
    with pytest.raises(InputError, match="was sampled with other settings: max_tokens"):
        sample.sample(
            problems,
            Endpoint(server.url, "tiny", request=RequestSpec(max_tokens=7)),
            url,
            SamplingSpec(2, samples_per_request=1),
            convention="unknown",
        )
    with pytest.raises(InputError, match=f"{root}/none.sqlite does not exist"):
        sample.export(f"{root}/none.sqlite", tmp_path / "x")


@pytest.mark.parametrize("moves", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_after_kill_9_nothing_that_was_uploaded_or_is_left_here_is_asked_again(
    server, problems, data, root, store, tmp_path, monkeypatch, moves
):
    moves ^= store.scheme == "s3"  # each of the two in the ordinary tests
    url = f"{root}/r.sqlite"
    server.held = lambda request: request.number >= 8
    killed = start(server, data, url, "--upload_every", "0.3")
    until_uploaded(url, killed, 3)
    killed.kill()
    killed.communicate()
    kept, asked = uploaded(url), len(server.requests)
    assert 3 <= len(kept) < 16
    stored = {r.key[:2] for r in server.requests if r.answered}
    if moves:
        monkeypatch.setenv("SPECIALIZE_CACHE_DIR", str(tmp_path / "another"))
    server.held = lambda request: False
    tally = ask(server, problems, url)
    again = {r.key[:2] for r in server.requests[asked:]}
    assert not again & kept
    assert tally.cached + tally.done == 16
    if not moves:
        assert len(again & stored) <= CONCURRENCY  # what was under way
    ask(server, problems, tmp_path / "calm.sqlite")
    assert exported(url, tmp_path) == exported(tmp_path / "calm.sqlite", tmp_path)


def test_what_a_killed_command_asked_in_vain_is_known_to_the_next(
    problems, tmp_path, capfd
):
    """Texts without scores are not asked again, and their tokens count once."""
    ours, theirs = (
        ResponseStore(tmp_path / name, create=True, name=name) for name in "ab"
    )
    with ours, theirs:
        for store in (ours, theirs):
            store.add_questions(problems[:2])
            store.add_unscored(problems[0].id, "both", Unusable("malformed", "x"))
            store.add_unusable(10, 1)
        theirs.add_unscored(problems[1].id, "theirs", Unusable("no_logprobs", "y"))
        theirs.add_unusable(5, 0)
        uploads._adopt_vain(ours, theirs)
        uploads._adopt_vain(ours, theirs)
        assert ours.unscored() == theirs.unscored() and len(ours.unscored()) == 2
        assert ours.unscored([problems[0].id]).keys() == {(problems[0].id, "both")}
        assert ours.unusable() == theirs.unusable() == (15, 1)
        assert ours.usage()[1:] == (15, 1)


@MOSTLY_S3
def test_what_a_killed_command_left_is_added_to_what_another_machine_did(
    server, problems, root, tmp_path, monkeypatch
):
    url = f"{root}/r.sqlite"
    with monkeypatch.context() as broken:
        real = ReplacedObject.replace

        def fail(self, file):
            with sqlite3.connect(file) as database:
                count = database.execute("SELECT COUNT(*) FROM responses").fetchone()
            if count != (0,):
                raise InputError("s3://b/r.sqlite cannot be written: HTTP 503.")
            real(self, file)

        broken.setattr(ReplacedObject, "replace", fail)
        with pytest.raises(InputError, match="HTTP 503. What was not uploaded is kept"):
            ask(server, problems[4:], url)
    assert uploaded(url) == set()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("SPECIALIZE_CACHE_DIR", str(tmp_path / "another"))
        ask(server, problems[:5], url)
    asked = len(server.requests)
    assert ask(server, problems[:1], url).cached == 2
    tally = ask(server, problems, url)
    assert (tally.cached, len(server.requests)) == (16, asked)
    ask(server, problems, tmp_path / "calm.sqlite")
    calm = exported(tmp_path / "calm.sqlite", tmp_path)
    # Questions are in the order in which they were first asked.
    assert sorted(exported(url, tmp_path).splitlines()) == sorted(calm.splitlines())


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_what_a_killed_command_left_is_kept_while_the_bucket_has_other_settings(
    server, problems, root, tmp_path, monkeypatch, capfd
):
    url, problems = f"{root}/r.sqlite", problems[:2]

    def replaced(**settings):
        """Somebody on another machine removes the object and begins anew."""
        objects.remove([url])
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("SPECIALIZE_CACHE_DIR", str(tmp_path / "another"))
            ask(server, problems[:1], url, **settings)

    def fail(self, file):
        raise InputError("s3://b/r.sqlite cannot be written: HTTP 503.")

    with monkeypatch.context() as broken:
        broken.setattr(uploads.Uploads, "now", lambda self: None)
        broken.setattr(uploads, "_upload_the_rest", fail)
        with pytest.raises(InputError, match="HTTP 503"):
            ask(server, problems, url)
    replaced(max_tokens=7)
    capfd.readouterr()
    for _ in range(2):  # the second finds nothing but what is kept
        ask(server, problems, url, max_tokens=7)
        said = " ".join(capfd.readouterr().err.split())
        assert "4 responses of a killed command have other settings" in said
    replaced()
    asked = len(server.requests)
    tally = ask(server, problems, url)
    assert (tally.cached, len(server.requests)) == (4, asked)
    assert list((paths.folder() / "outputs").iterdir()) == []


@MOSTLY_S3
def test_every_stage_from_the_database_to_the_corpus_is_in_the_bucket(
    server, problems, data, root, tmp_path
):
    ask(server, problems, f"{root}/r.sqlite")
    objects.upload(data / "bench/gsm8k/train.jsonl", f"{root}/train.jsonl")
    objects.upload(data / "v.model", f"{root}/v.model")
    asked = ["--problems", f"{root}/train.jsonl"]
    spelt = ["--vocabulary", f"{root}/v.model"]

    def corpus(*words):
        assert cli.main(["corpus", *words]) == 0

    corpus("export", "--responses", f"{root}/r.sqlite", "--out", f"{root}/a.jsonl.gz")
    words = ["--completions", f"{root}/a.jsonl.gz", "--out", f"{root}/b.jsonl"]
    corpus("verify", *asked, *words, "--rejected", f"{root}/no.jsonl")
    words = ["--completions", f"{root}/b.jsonl", "--out", f"{root}/c.jsonl"]
    corpus("align", *asked, *spelt, *words)
    words = ["--aligned", f"{root}/c.jsonl", "--out", f"{root}/corpus"]
    corpus("write", *asked, *spelt, *words, "--processes", "1")
    card = json.loads(objects.read_bytes(f"{root}/corpus/corpus.json"))["card"]
    assert card["teacher"] == "human+tiny"
    lines = {
        n: objects.read_bytes(f"{root}/{n}.jsonl").count(b"\n") for n in ("b", "no")
    }
    assert min(lines.values()) > 0 and sum(lines.values()) == 16


@MOSTLY_S3
def test_a_signal_uploads_at_once_and_ends_with_what_was_under_way(
    server, problems, data, root
):
    url = f"{root}/r.sqlite"
    server.held = lambda request: request.number >= 3
    stopped = start(server, data, url, "--upload_every", "3000")
    while len(server.requests) < 5:
        assert stopped.poll() is None, stopped.stdout.read()
        time.sleep(0.02)
    assert uploaded(url) == set()
    stopped.terminate()
    assert len(until_uploaded(url, stopped, 2)) < len(server.requests)
    server.held = lambda request: False
    said = stopped.communicate(timeout=300)[0]
    assert stopped.returncode == 1 and "Run the same command again" in said
    assert uploaded(url) == {r.key[:2] for r in server.requests}


def test_a_busy_store_delays_uploads_and_loses_nothing(
    server, problems, root, store, tmp_path
):
    url = f"{root}/r.sqlite"
    server.delay_s = 0.05
    ask(server, problems[:1], url)
    store.faults(status=503, seconds=1.5, match="r.sqlite")
    assert ask(server, problems, url, upload_every_s=0.1).done == 14
    assert len(uploaded(url)) == len(server.requests) == 16


@MOSTLY_S3
def test_a_store_that_fails_ends_the_sampling_with_one_message(
    server, problems, root, monkeypatch
):
    url = f"{root}/r.sqlite"
    real, failing = ReplacedObject.replace, threading.Event()

    failed = threading.Event()

    def fail(self, file):
        if failing.is_set():
            failed.set()
            raise InputError("s3://b/r.sqlite cannot be written: HTTP 503.")
        real(self, file)

    def fault(request):
        if request.number == 4:
            failing.set()

    server.fault = fault
    server.held = lambda request: request.number > 5 and not failed.is_set()
    with monkeypatch.context() as broken:
        broken.setattr(ReplacedObject, "replace", fail)
        with pytest.raises(InputError, match="the same command on this machine adds"):
            ask(server, problems, url, upload_every_s=0.2)
    answered = len(server.requests)
    assert answered < 12  # no more was paid for
    assert ask(server, problems, url).cached == answered
    assert len(uploaded(url)) == len(server.requests) == 16


def test_a_second_sampling_is_refused_before_it_asks(
    server, problems, root, monkeypatch
):
    url = f"{root}/r.sqlite"
    monkeypatch.setattr(lease, "RENEWAL", 0.5)  # signs of life
    with lease.leased(url, is_file=True):
        with pytest.raises(InputError, match=f"another command writes {url} .process"):
            ask(server, problems, url)
    assert server.requests == []


def test_a_writer_that_was_taken_for_dead_overwrites_nothing(
    server, problems, root, tmp_path, monkeypatch
):
    """The precondition of the object, when the lease has not helped."""
    url = f"{root}/r.sqlite"
    monkeypatch.setattr(lease.Lease, "_is_dead", lambda *_: True)
    monkeypatch.setattr(lease.Lease, "check", lambda self: None)
    second_done, real = [], ReplacedObject.replace

    def replace(self, file):
        if threading.current_thread() is not threading.main_thread():
            return  # only the first and the last upload
        real(self, file)

    monkeypatch.setattr(ReplacedObject, "replace", replace)

    def fault(request):
        if request.number == 5:
            with monkeypatch.context() as elsewhere:
                elsewhere.setenv("SPECIALIZE_CACHE_DIR", str(tmp_path / "another"))
                with uploads.replaced_object(url) as place:
                    (tmp_path / "theirs").write_bytes(b"theirs")
                    real(place, tmp_path / "theirs")
            second_done.append(True)

    server.fault = fault
    with pytest.raises(InputError, match="was replaced by another command while"):
        ask(server, problems, url)
    assert second_done and objects.read_bytes(url) == b"theirs"
