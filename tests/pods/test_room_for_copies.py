"""Room for copies is made beside processes that make and remove copies."""

import os
import pathlib
import shutil

import pytest

from specialize.paths import cache

COPY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """Three copies of 1,000 bytes, one of which is being made, and no room."""
    monkeypatch.setenv(cache.CACHE_DIR, str(tmp_path))
    monkeypatch.setenv(cache.CACHE_GB, "0")
    folder = cache.copies()
    for name in (f"{COPY}.00000000.partial", "f" * 32, "e" * 32):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep/file").write_bytes(b"x" * 1000)
    return folder


def test_a_copy_that_another_process_makes_is_kept_and_one_of_a_killed_is_not(copies):
    with cache.locked(cache._making(copies / COPY)):
        cache._make_room(copies, 1)
        assert [one.name for one in copies.iterdir()] == [f"{COPY}.00000000.partial"]
    cache._make_room(copies, 1)
    assert list(copies.iterdir()) == []


def test_copies_that_vanish_meanwhile_take_no_room(copies, monkeypatch):
    is_dir = pathlib.Path.is_dir

    def vanishes_before_its_time_is_read(path):
        found = is_dir(path)
        if path.name == "f" * 32:
            shutil.rmtree(path)
        return found

    monkeypatch.setattr(pathlib.Path, "is_dir", vanishes_before_its_time_is_read)
    cache._make_room(copies, 0)
    assert list(copies.iterdir()) == []
    (copies / COPY / "deep").mkdir(parents=True)
    for name in ("deep/file", "file"):
        (copies / COPY / name).write_bytes(b"x")

    def vanishes_before_its_size_is_read(path):
        os.unlink(path)
        return os.stat(path)

    monkeypatch.setattr(cache.os, "lstat", vanishes_before_its_size_is_read)
    assert cache._size(copies / COPY) == 0
