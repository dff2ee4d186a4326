"""The lease of a folder in a bucket: who may write is never in doubt."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from specialize import outputs, paths
from specialize.errors import InputError
from specialize.outputs import lease
from specialize.paths import store as objects


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes a lease of another machine, which is renewed only by the test."""
    monkeypatch.setattr(lease, "RENEWAL", 3600)

    def make(url):
        with pytest.MonkeyPatch.context() as machine:
            machine.setattr(lease, "_host", lambda: "another machine")
            return lease.Lease(url)

    return make


# What does not depend on the store is tested with one.
one_store = pytest.mark.parametrize("store", ["s3"], indirect=True)


def cut_off(*_, **__):
    raise InputError("the store does not answer")


@one_store
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "the credentials have expired. Renew them"),
        (403, "AccessDenied", "access is denied. Give this account the right"),
    ],
)
def test_a_lease_whose_renewal_is_refused_says_why(
    root, store, elsewhere, monkeypatch, status, code, said
):
    first = elsewhere(root)
    monkeypatch.setattr(lease, "EXPIRY", 0.2)
    store.faults(status=status, code=code)
    time.sleep(0.3)
    with pytest.raises(InputError, match="the store has refused for .* " + said):
        first.check()
    store.faults()
    first.check()
    first.release()


@one_store
def test_a_lease_that_was_not_renewed_in_time_is_not_valid(
    root, elsewhere, monkeypatch
):
    first = elsewhere(root)
    monkeypatch.setattr(lease, "EXPIRY", 1.2)
    first.check()
    with pytest.MonkeyPatch.context() as network:
        network.setattr(objects, "replace", cut_off)
        time.sleep(1.3)
        with pytest.raises(InputError, match="not reached for .* may have begun"):
            first.check()
    first.check()  # the store answers again, and nobody has taken its place
    second = lease.Lease(root)
    assert second.inherited
    with pytest.raises(InputError, match="another command has begun to write in"):
        first.check()
    first.release()
    second.check()
    second.release()
    assert objects.names(root) == []


@one_store
def test_the_end_of_a_lease_that_has_expired_leaves_that_of_another(
    root, elsewhere, monkeypatch
):
    first = elsewhere(root)
    monkeypatch.setattr(lease, "EXPIRY", 1.2)
    second = lease.Lease(root)
    first.release()
    second.check()
    second.release()


@pytest.mark.parametrize("lost", ["stat", "read_bytes"])
def test_a_renewal_that_arrived_and_was_not_confirmed_is_ones_own(
    root, elsewhere, lost
):
    one = elsewhere(root)
    before = objects.stat(f"{root}/{paths.WRITING}")
    with pytest.MonkeyPatch.context() as network:
        network.setattr(objects, lost, cut_off)
        one._renew_once()
    arrived = objects.stat(f"{root}/{paths.WRITING}")
    assert arrived != before
    one._renew_once()
    one.check()
    # Whoever watches the unconfirmed one must see a change.
    assert objects.stat(f"{root}/{paths.WRITING}") != arrived
    one.release()
    assert objects.names(root) == []


def test_processes_of_two_containers_are_told_apart_where_the_names_are_equal():
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    code = "from specialize.outputs import lease; print(lease._host())"
    line = [sys.executable, "-c", code]
    inside = subprocess.run(
        ["unshare", "-p", "-f", *line], capture_output=True, text=True
    )
    if inside.returncode:
        pytest.skip(f"no new PID namespace here: {inside.stderr}")
    host = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert host.strip() == lease._host() != inside.stdout.strip()
    assert host.split()[0] == inside.stdout.split()[0]


def build(url, text, during=lambda: None):
    with outputs.staged_directory(url, "corpus", replace=True) as folder:
        (folder / "data").write_text(text)
        during()


def test_of_two_commands_that_replace_a_folder_the_last_is_refused(root):
    url = f"{root}/corpus"
    build(url, "old")
    with pytest.raises(InputError, match="written by another command while"):
        build(url, "begun first", lambda: build(url, "ended first"))
    assert objects.read_bytes(f"{url}/data") == b"ended first"
    assert [*objects.find(url)] == ["data", paths.MARKER]


@one_store
def test_what_a_killed_command_left_is_replaced_but_not_what_it_has_finished(
    root, elsewhere, monkeypatch
):
    url = f"{root}/corpus"
    build(url, "old")
    killed = []

    def left(*, finished):
        killed.append(elsewhere(url))
        objects.write_bytes(f"{url}/data", b"other")
        objects.remove([f"{url}/{paths.MARKER}"])
        if finished:
            objects.write_bytes(f"{url}/{paths.MARKER}", b'{"kind": "corpus"}')
        monkeypatch.setattr(lease, "EXPIRY", 1.0)

    with pytest.raises(InputError, match="written by another command while"):
        build(url, "new", lambda: left(finished=True))
    assert objects.read_bytes(f"{url}/data") == b"other"
    build(url, "new", lambda: left(finished=False))
    assert objects.read_bytes(f"{url}/data") == b"new"
    for one in killed:
        one.release()


@one_store
def test_a_writer_that_has_lost_its_place_removes_nothing(root, monkeypatch):
    url = f"{root}/corpus"
    upload = objects.upload

    def taken(file, place):
        upload(file, place)
        content = objects.read_bytes(f"{url}/{paths.WRITING}")
        objects.write_bytes(f"{url}/{paths.WRITING}", content + b" ")
        monkeypatch.setattr(lease, "EXPIRY", 0.0)

    monkeypatch.setattr(objects, "upload", taken)
    with pytest.raises(InputError, match="another command has begun"):
        build(url, "new")
    assert [*objects.find(url)] == ["data", paths.WRITING]


@one_store
def test_the_end_of_a_decoding_leaves_what_a_second_command_has_begun(
    root, monkeypatch
):
    """It begins with the same output at once when the first gives its lease back."""
    from specialize.inference.resumable import unfinished

    out, release, second = f"{root}/told.jsonl", lease.Lease.release, []

    def begin_the_second(self):
        release(self)
        if not second:
            second.append(unfinished(out))
            second.append(second[0].__enter__())
            file, publish = second[1]
            file.write_text("texts of the second\n")

    monkeypatch.setattr("specialize.outputs.in_buckets.PERIOD", 0)
    monkeypatch.setattr(lease.Lease, "release", begin_the_second)
    with unfinished(out) as (file, _):
        file.write_text("texts of the first\n")
    names = {outputs.MARKER, paths.WRITING}
    assert set(objects.names(f"{out}.decoded.jsonl")) == names
    second[1][1]()
    with pytest.MonkeyPatch.context() as ended:
        ended.setattr(lease.Lease, "release", release)
        second[0].__exit__(None, None, None)
    assert objects.names(root) == []
