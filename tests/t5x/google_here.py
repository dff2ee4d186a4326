"""Runs a command for which this machine is Google Cloud Storage.

    python google_here.py FOLDER COMMAND ...

TensorFlow's client has fixed addresses and takes no proxy. So the command runs in
namespaces of its own, in which the names of Google's servers are names of this machine
(which needs root on Linux). There, an emulated store answers, through TLS with a
certificate that TensorFlow is told to trust. FOLDER/in is copied into the bucket before
the command, and the bucket to FOLDER/out after it.
"""

import contextlib
import datetime
import os
import pathlib
import socket
import socketserver
import ssl
import subprocess
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
INSIDE = """
mount --bind "$0" /etc/hosts && ip link set lo up && exec "$@"
"""


def enter(folder, words):
    """Replaces this process by one in new namespaces."""
    hosts = folder / "hosts"
    known = pathlib.Path("/etc/hosts").read_text()
    hosts.write_text(f"{known}\n127.0.0.1 {' '.join(HOSTS)}\n")
    again = [sys.executable, __file__, str(folder), *words]
    os.environ["IN_NAMESPACES"] = "1"
    os.execvp(
        "unshare", ["unshare", "-m", "-n", "bash", "-c", INSIDE, str(hosts), *again]
    )


def context(folder):
    """TLS with a new certificate for the hosts; the file of the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "emulated")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(one) for one in HOSTS])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file, secret = folder / "certificate.pem", folder / "key.pem"
    file.write_bytes(certificate.public_bytes(pem))
    secret.write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(file, secret)
    return found, file


def serve(port, store, tls=None):
    """Passes what arrives at a port on to the store."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self):
            client = self.request
            with contextlib.suppress(OSError):
                if tls is not None:
                    client = tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(("127.0.0.1", store))
                back = threading.Thread(target=pass_on, args=(server, client))
                back.start()
                pass_on(client, server)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", port), Connection)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def pass_on(source, target):
    """Copies bytes until one side ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def main(folder, words):
    from store_emulators import Store

    from specialize.paths import store as objects

    store = Store("gs", folder)
    store.start()
    try:
        tls, certificate = context(folder)
        serve(443, store.port, tls)
        serve(80, store.port)  # where the emulator wants its uploads
        os.environ.update(store.variables)
        for file in (folder / "in").rglob("*"):
            if file.is_file():
                name = file.relative_to(folder / "in").as_posix()
                objects.upload(file, f"{store.root}/{name}")
        told = {
            "CURL_CA_BUNDLE": str(certificate),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "of nobody",
            "NO_GCE_CHECK": "true",
        }
        status = subprocess.run(words, env=os.environ | told).returncode
        for name, entry in objects.find(store.root).items():
            file = folder / "out" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            objects.download(f"{store.root}/{name}", file, entry)
    finally:
        store.stop()
    return status


if __name__ == "__main__":
    place, command = pathlib.Path(sys.argv[1]), sys.argv[2:]
    if "IN_NAMESPACES" not in os.environ:
        enter(place, command)
    tests = pathlib.Path(__file__).parent.parent
    sys.path += [str(tests), str(tests / "pods")]
    sys.exit(main(place, command))
