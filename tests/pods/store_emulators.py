"""Store emulators as processes of their own, behind a server that injects faults."""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
# Nobody's; a test looks for them in everything that a run writes.
KEY, SECRET = "AKIAEMULATEDKEY00000", "EmulatedSecretOfNobody/0123456789abcdefg"
BUCKET = "bucket"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Store:
    """An emulated store.

    Attributes:
        root: URL of a folder in it.
        variables: what a client's environment has to have.
    """

    def __init__(self, scheme, folder):
        self.scheme = scheme
        self.root = f"{scheme}://{BUCKET}"
        self.port, self._behind = free_port(), free_port()
        self._folder = folder
        here = f"http://127.0.0.1:{self.port}"
        self.variables = (
            {
                "AWS_ENDPOINT_URL": here,
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            if scheme == "s3"
            else {"STORAGE_EMULATOR_HOST": here, "TENSORSTORE_GCS_HTTP_URL": here}
        )
        self._front = self._emulator = None

    def start(self):
        if self.scheme == "s3":
            words = ["moto.server", "-H", "127.0.0.1", "-p", str(self._behind)]
        else:
            words = ["gcp_storage_emulator", "start", "--host=127.0.0.1"]
            words += [f"--port={self._behind}", "--in-memory"]
            words += [f"--default-bucket={BUCKET}"]
        with open(self._folder / f"{self.scheme}.log", "ab") as log:
            self._emulator = subprocess.Popen(
                [sys.executable, "-m", *words], stdout=log, stderr=log
            )
            words = [str(HERE / "store_front.py"), str(self.port), str(self._behind)]
            words += ["gcs"] if self.scheme == "gs" else []
            self._front = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while not (answers(self.port) and answers(self._behind)):
            assert time.monotonic() < end, "the emulator does not start"
            time.sleep(0.05)
        if self.scheme == "s3":
            self._call("PUT", f"/{BUCKET}", b"")

    def stop(self):
        for process in (self._front, self._emulator):
            process.kill()
            process.wait()

    def faults(self, **faults):
        """What happens to the requests that follow (`store_front.py`); none ends it."""
        self._call("POST", "/-/faults", json.dumps(faults).encode())

    def _call(self, method, path, data):
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()
