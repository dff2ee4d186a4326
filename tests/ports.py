"""Ports for servers that a test starts, which nobody else gets before they listen."""

import itertools
import os
import socket

# Below those that systems give to clients and to whoever asks for any port; each worker
# of pytest-xdist has its own thousand.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 20
_NEXT = itertools.count(os.getpid())


def free_port():
    """A port of 127.0.0.1 that nobody uses, another one each time."""
    while True:
        port = 10_000 + _WORKER * 1000 + next(_NEXT) % 1000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
