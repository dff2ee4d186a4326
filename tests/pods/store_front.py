"""A server in front of a store emulator: injects faults, and mends what GCS needs.

    python store_front.py PORT EMULATOR_PORT [gcs|recorded]

`POST /-/faults` with JSON sets what happens to the requests that follow:

    {"status": 503, "seconds": 5}     answered by an error for some seconds
    {"status": 403, "code": "Word"}   refused by S3, which gives its word as the reason
    {"delay": 0.5, "seconds": 5}      answered late
    {"cut": 1000, "count": 2}         uploads longer than this many bytes are cut
    {"hold": 1}                       held until faults are set again, and then cut
    {"match": "text"}                 only requests whose line contains a text
    {"after": 5}                      only after this number of requests

`GET /-/state` says how many requests there were since, and whether one is held.

The GCS emulator knows neither preconditions nor the generation of a download, and
breaks off if an upload of type "media" is empty; the one of S3 ignores `If-Match` when
an upload of several parts is completed. The front mends this; it checks the condition
of a resumable upload when it begins and when it ends. A lock makes a conditional
request atomic among those through it.
"""

import http.client
import http.server
import json
import re
import sys
import threading
import time
import urllib.parse

CONDITIONS = ("ifGenerationMatch", "ifGenerationNotMatch")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}

EMPTY_TYPE = 'multipart/related; boundary="line"'
EMPTY = (
    b"--line\r\nContent-Type: application/json\r\n\r\n%s\r\n"
    b"--line\r\nContent-Type: application/octet-stream\r\n\r\n\r\n--line--"
)


class Front(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    emulator = 0
    is_gcs = is_recorded = False
    faults: dict = {}
    count = 0
    held = False
    lock = threading.RLock()
    resumable: dict = {}  # of every upload its place and conditions

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path == "/-/faults":
            found = json.loads(self.rfile.read(length))
            Front.faults = {**found, "end": time.time() + found.get("seconds", 1e9)}
            Front.count, Front.held = 0, False
            self.answer(200, {}, b"{}")
            return
        if self.path == "/-/state":
            state = {"count": Front.count, "held": Front.held}
            self.answer(200, {}, json.dumps(state).encode())
            return
        if self.headers.get("Expect", "").lower() == "100-continue":
            pass  # the base class has answered it
        fault = self.fault(length)
        if fault == "cut":
            self.rfile.read(min(length, 1000))
            self.close_connection = True
            self.connection.close()
            return
        body = self.read_body(length)
        if isinstance(fault, int):
            self.answer(fault, {"Content-Type": "text/plain"}, self.said())
            return
        if self.is_gcs:
            with self.lock:
                self.as_gcs(body)
        elif self.is_recorded:
            with self.lock:  # the emulator mixes the records of two requests
                found = self.forward(self.command, self.path, body)
            self.answer(*found)
        elif "uploadId=" in self.path and "If-Match" in self.headers:
            with self.lock:
                self.as_s3(body)
        elif {"If-Match", "If-None-Match"} & set(self.headers):
            with self.lock:  # the emulator checks first and writes later
                found = self.forward(self.command, self.path, body)
            self.answer(*found)
        else:
            self.answer(*self.forward(self.command, self.path, body))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_one

    def read_body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def fault(self, length: int) -> int | str | None:
        now = Front.faults
        if now.get("match", "") not in f"{self.command} {self.path}":
            return None
        Front.count += 1
        if Front.count <= now.get("after", 0):
            # The seconds of a fault begin when it does.
            now["end"] = time.time() + now.get("seconds", 1e9)
            return None
        if not now or time.time() > now["end"]:
            return None
        if "hold" in now:
            Front.held = True
            while Front.faults is now:
                time.sleep(0.01)
            return "cut"
        if "count" in now:
            if now["count"] <= 0:
                return None
            if "cut" not in now or length > now["cut"]:
                now["count"] -= 1
        time.sleep(now.get("delay", 0))
        if "cut" in now:
            return "cut" if length > now["cut"] else None
        return now.get("status")

    def said(self) -> bytes:
        code = Front.faults.get("code")
        xml = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        return xml.encode() if code else b"try again"

    def forward(self, method: str, path: str, body: bytes):
        client = http.client.HTTPConnection("127.0.0.1", self.emulator, timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        kept["Host"] = self.headers.get("Host", "")
        kept["Content-Length"] = str(len(body))
        kept.setdefault("Content-Type", "application/octet-stream")
        client.request(method, path, body, kept)
        answer = client.getresponse()
        data = answer.read()
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in HOP}
        if method == "HEAD":
            headers["Content-Length"] = answer.getheader("Content-Length") or "0"
        client.close()
        return answer.status, headers, data

    def answer(self, status: int, headers: dict, data: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def as_gcs(self, body: bytes) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        conditions = {name: query.pop(name) for name in CONDITIONS if name in query}
        place = self.place(url.path, query, body)
        upload = query.get("upload_id")
        if upload in self.resumable and self.is_last_part():
            place, conditions = self.resumable.pop(upload)
        generation = self.generation(place) if place else None
        current = generation or "0"
        media = query.get("alt") == "media"
        reading = self.command == "GET"
        if "ifGenerationMatch" in conditions:
            if conditions["ifGenerationMatch"] != current:
                self.refuse(404 if reading and not generation else 412)
                return
        if conditions.get("ifGenerationNotMatch") == current:
            self.refuse(304 if reading else 412)
            return
        if query.get("uploadType") == "media" and not body:
            query["uploadType"] = "multipart"
            del self.headers["Content-Type"]
            self.headers["Content-Type"] = EMPTY_TYPE
            body = EMPTY % json.dumps({"name": query["name"]}).encode()
        path = urllib.parse.urlunsplit(
            url._replace(query=urllib.parse.urlencode(query))
        )
        status, headers, data = self.forward(self.command, path, body)
        if query.get("uploadType") == "resumable" and not upload:
            (begun,) = re.findall(r"upload_id=([^&]+)", headers["Location"])
            self.resumable[urllib.parse.unquote_plus(begun)] = place, conditions
        if media and generation and status < 300:
            headers["x-goog-generation"] = generation
        self.answer(status, headers, data)

    def as_s3(self, body: bytes) -> None:
        """Completes an upload of several parts if the object is still the same."""
        headers = self.forward("HEAD", self.path.split("?")[0], b"")[1]
        found = {name.lower(): value for name, value in headers.items()}.get("etag", "")
        if found.strip('"') != self.headers["If-Match"].strip('"'):
            error = b"<Error><Code>PreconditionFailed</Code></Error>"
            self.answer(412, {"Content-Type": "text/xml"}, error)
            return
        self.answer(*self.forward(self.command, self.path, body))

    def refuse(self, status: int) -> None:
        error = {"error": {"code": status, "message": "conditionNotMet"}}
        self.answer(status, {}, b"" if status == 304 else json.dumps(error).encode())

    def is_last_part(self) -> bool:
        sent = re.search(r"-(\d+)/(\d+)$", self.headers.get("Content-Range", ""))
        return bool(sent) and int(sent[1]) + 1 == int(sent[2])

    def place(self, path: str, query: dict, body: bytes):
        """(bucket, object) of a request, or None."""
        if found := re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o/(.+)", path):
            return found[1], urllib.parse.unquote(found[2])
        found = re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path)
        if found is None:
            return None
        if "name" in query:
            return found[1], query["name"]
        named = re.search(rb'"name": ?"((?:[^"\\]|\\.)*)"', body)
        return (found[1], json.loads(b'"' + named[1] + b'"')) if named else None

    def generation(self, place) -> str | None:
        name = urllib.parse.quote(place[1], safe="")
        client = http.client.HTTPConnection("127.0.0.1", self.emulator, timeout=60)
        client.request("GET", f"/storage/v1/b/{place[0]}/o/{name}")
        answer = client.getresponse()
        data = answer.read()
        client.close()
        return json.loads(data)["generation"] if answer.status == 200 else None

    def log_message(self, format: str, *args: object) -> None:
        pass


def main(port: int, emulator: int, kind: str = "s3") -> None:
    Front.emulator, Front.is_gcs = emulator, kind == "gcs"
    Front.is_recorded = kind == "recorded"
    http.server.ThreadingHTTPServer.daemon_threads = True
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Front).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
