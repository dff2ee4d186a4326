"""Uploads with a precondition: of several writers one wins, whatever the size."""

import os
import threading

import pytest

from specialize.paths import conditional
from specialize.paths import store as objects


@pytest.fixture(params=["small", "in parts"])
def files(request, tmp_path, monkeypatch):
    """Makes files of the size of one request, or of several (S3's least is 5 MiB)."""
    size = 5_000
    if request.param == "in parts":
        size += 5 << 20
        monkeypatch.setattr(conditional, "PART", 5 << 20)

    def make(name):
        (tmp_path / name).write_bytes(os.urandom(size))
        return tmp_path / name

    return make


def test_a_file_replaces_only_the_version_that_it_knows(root, files):
    url, one, two = f"{root}/file", files("one"), files("two")
    first = conditional.replace(url, one, None)
    assert objects.stat(url).version == first
    with pytest.raises(objects.TakenError):
        conditional.replace(url, two, None)
    second = conditional.replace(url, two, first)
    assert objects.stat(url).version == second != first
    with pytest.raises(objects.TakenError):
        conditional.replace(url, files("three"), first)
    assert objects.read_bytes(url) == two.read_bytes()
    objects.remove([url])
    with pytest.raises(objects.TakenError):
        conditional.replace(url, one, second)
    assert objects.stat(url) is None


def test_of_many_who_replace_a_file_exactly_one_succeeds(root, files):
    url, won = f"{root}/file", []
    begun = conditional.replace(url, files("first"), None)

    def race(file):
        try:
            won.append((conditional.replace(url, file, begun), file.read_bytes()))
        except objects.TakenError:
            pass

    threads = [threading.Thread(target=race, args=(files(str(n)),)) for n in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert won == [(objects.stat(url).version, objects.read_bytes(url))]


def test_an_upload_whose_answer_was_lost_is_known_to_be_ours(
    root, tmp_path, monkeypatch
):
    url, file = f"{root}/file", tmp_path / "file"
    file.write_bytes(b"1")
    before = conditional.replace(url, file, None)
    file.write_bytes(b"2")
    lost, put = [], {"gs": "_put_google", "s3": "_put_s3"}[url[:2]]
    real = getattr(conditional, put)

    def cut(*words):
        found = real(*words)
        if not lost:
            lost.append(found)
            raise ConnectionError("cut")
        return found

    monkeypatch.setattr(conditional, put, cut)
    assert conditional.replace(url, file, before) == lost[0]
    assert objects.stat(url).version == lost[0]
