"""Servers of other programs, which tests marked `llama` start and end."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import time
import urllib.request

import pytest
from ports import free_port


def interpreter(extra, modules, variable):
    """A Python that has some modules, or a skip."""
    python = os.environ.get(variable)
    if python is None and all(map(importlib.util.find_spec, modules)):
        python = sys.executable
    if python is None:
        pytest.skip(f"needs the extra {extra!r}, or {variable} (docs/how-to/corpus)")
    return python


@contextlib.contextmanager
def serving(words, page, log, patience_s=300):
    """Starts a server; yields its address as soon as it answers.

    Args:
        words: its command; "PORT" is replaced by a free port.
        page: path that the server answers when it is ready.
        log: file for what it prints.
        patience_s: seconds until it must answer.
    """
    port = free_port()
    command = [str(port) if word == "PORT" else str(word) for word in words]
    with open(log, "wb") as stream:
        server = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(server, f"{url}{page}", log, patience_s)
        yield url
    finally:
        server.kill()
        server.wait(10)


def _wait(server, url, log, patience_s):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no server: {log.read_text()[-2000:]}")
