"""Store emulators as processes of their own, behind a server that injects faults."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import urllib.request

from etils.epath import backend
from ports import free_port

from specialize.paths import store as objects

HERE = pathlib.Path(__file__).parent
# Nobody's; a test looks for them in everything that a run writes.
KEY, SECRET = "AKIAEMULATEDKEY00000", "EmulatedSecretOfNobody/0123456789abcdefg"
BUCKET = "bucket"
# What need not be repeated of the requests that the emulator of S3 has recorded.
READING = re.compile(r'"method": "(GET|HEAD)"')


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Store:
    """An emulated store.

    Args:
        scheme: "s3" or "gs".
        folder: of its log, and of its objects if they are durable.
        durable: whether it can be killed and started again with its objects. The one
            of S3 then records its requests in a file, and repeats them.

    Attributes:
        root: URL of a folder in it.
        variables: what a client's environment has to have.
    """

    def __init__(self, scheme, folder, *, durable=False):
        self.scheme, self._durable = scheme, durable
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
        recorded = self._folder / "recorded"
        is_new, variables = not recorded.exists(), {}
        if self.scheme == "s3":
            words = ["moto.server", "-H", "127.0.0.1", "-p", str(self._behind)]
            if self._durable:
                variables["MOTO_RECORDER_FILEPATH"] = str(recorded)
        else:
            words = ["gcp_storage_emulator"]
            words += [f"--data-dir={recorded}"] if self._durable else []
            words += ["start", "--host=127.0.0.1", f"--port={self._behind}", "--quiet"]
            words += [] if self._durable else ["--in-memory"]
            words += [f"--default-bucket={BUCKET}"] if is_new else []
        with open(self._folder / f"{self.scheme}.log", "ab") as log:
            self._emulator = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdout=log,
                stderr=log,
                env=os.environ | variables,
            )
            end = time.monotonic() + 300
            while not answers(self._behind):
                # Else another program's server would answer in its place.
                assert self._emulator.poll() is None, "the emulator has ended"
                assert time.monotonic() < end, "the emulator does not start"
                time.sleep(0.05)
            if variables and not is_new:
                kept = [line for line in open(recorded) if not READING.search(line)]
                recorded.write_text("".join(kept))
                self._call_moto("replay-recording")
            if variables:
                self._call_moto("start-recording")
            words = [str(HERE / "store_front.py"), str(self.port), str(self._behind)]
            words += ["gcs"] if self.scheme == "gs" else []
            words += ["recorded"] if variables else []
            self._front = subprocess.Popen(
                [sys.executable, *words], stdout=log, stderr=log
            )
        end = time.monotonic() + 300
        while not answers(self.port):
            assert self._front.poll() is None, "the server before it has ended"
            assert time.monotonic() < end, "the server before it does not start"
            time.sleep(0.05)
        if self.scheme == "s3" and is_new:
            self._call("PUT", f"/{BUCKET}", b"")

    def stop(self):
        """Kills it; the connections of its clients are cut."""
        self._front.kill()
        self._front.wait()
        # A store does not keep half an object; the emulator finishes what it has.
        time.sleep(0.3 if self._durable else 0)
        self._emulator.kill()
        self._emulator.wait()

    def use(self, monkeypatch, folder):
        """Makes it the store of this process and its children, without faults."""
        self.faults()
        for name in list(os.environ):
            if name.startswith(("AWS_", "GOOGLE_")) and name != "AWS_CA_BUNDLE":
                monkeypatch.delenv(name)
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SPECIALIZE_CACHE_DIR", str(folder / "cache"))
        # Clients are kept, and go on to use the store of an earlier test.
        type(objects.filesystem(self.root)).clear_instance_cache()
        backend._FileSystemSpecBackend._get_filesystem.cache_clear()

    def faults(self, **faults):
        """What happens to the requests that follow (`store_front.py`); none ends it."""
        self._call("POST", "/-/faults", json.dumps(faults).encode())

    def state(self):
        """The number of requests since the faults were set; whether one is held."""
        state = json.loads(self._call("GET", "/-/state", None))
        return state["count"], state["held"]

    def _call_moto(self, what):
        url = f"http://127.0.0.1:{self._behind}/moto-api/recorder/{what}"
        with urllib.request.urlopen(url, b"", timeout=300) as answer:
            answer.read()

    def _call(self, method, path, data):
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()
