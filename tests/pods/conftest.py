"""Emulated stores for every test of this folder."""

import os

import pytest
from store_emulators import Store


@pytest.fixture(scope="session")
def _stores(tmp_path_factory):
    """The emulators of the session, started when they are first asked for."""
    found = {}

    def store(scheme):
        if scheme not in found:
            found[scheme] = Store(scheme, tmp_path_factory.mktemp("emulator"))
            found[scheme].start()
        return found[scheme]

    yield store
    for one in found.values():
        one.stop()


@pytest.fixture(params=["s3", "gs"])
def store(request, _stores, tmp_path, monkeypatch):
    """An emulated store, which this process and its children use."""
    one = _stores(request.param)
    one.faults()
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_")) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    for name, value in one.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setenv("SPECIALIZE_CACHE_DIR", str(tmp_path / "cache"))
    return one


@pytest.fixture
def root(store, request):
    """The URL of a new folder."""
    return f"{store.root}/{abs(hash(request.node.nodeid)) % 10**8}"
