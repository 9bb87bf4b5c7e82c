"""A server on this machine that breaks, refuses and lies in the ways that servers do."""

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK_BYTES = 1 << 18
SECRET = "s3cr3t"
QUERY = f"?Policy={SECRET}&Signature={SECRET}~-_&Key-Pair-Id={SECRET}"
BODY = random.Random(0).randbytes(3 * CHUNK_BYTES + 17)
HALF = 2 * CHUNK_BYTES  # what has been written when a connection breaks in the third chunk


class Server(ThreadingHTTPServer):
    """Serves `body`, with ranges, unless its fields say otherwise; lists each request's Range header."""

    daemon_threads = False  # so that closing waits for the last answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.status = 200
        self.headers: dict[str, str | None] = {}  # added to each answer, or with None left out of it
        self.breaks = 0  # how many of the next answers break within the third chunk
        self.stalls = False
        self.honours_ranges = True
        self.range_offset = 0  # an error in where a range starts
        self.range_bytes = len(BODY)  # the most that one answer to a range has
        self.ranges: list[str | None] = []
        self.endless = False  # goes on after the body
        self.paths: list[str] = []
        self.etags = False  # one for each body
        self.files: dict[str, bytes] | None = None  # by their names, instead of one body; others are not there

    def url(self, name: str = "model-08c60483.pth") -> str:
        return f"http://127.0.0.1:{self.server_port}/weights/{name}{QUERY}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.ranges.append(wanted)
        server.paths.append(self.path)
        status, body, headers = server.status, server.body, dict(server.headers)
        if server.files is not None:
            found = server.files.get(self.path.partition("?")[0].rpartition("/")[2])
            body = found or b""
            if found is None:
                status, headers["X-Error-Code"] = 404, "EntryNotFound"
        if server.etags:
            headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
        if status == 200 and wanted and server.honours_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                start += server.range_offset
                stop = min(start + server.range_bytes, len(body))
                status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{len(body)}"
                body = body[start:stop]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if server.breaks > 0:
            server.breaks -= 1
            body = body[: HALF + 100]
        with contextlib.suppress(ConnectionError):  # the client may hang up
            self.wfile.write(body[: HALF + 100])
            while server.stalls:
                time.sleep(0.01)
            self.wfile.write(body[HALF + 100 :])
            while server.endless:
                self.wfile.write(bytes(CHUNK_BYTES))

    def do_CONNECT(self) -> None:
        """As a proxy that asks for a password."""
        self.send_error(407)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing, so that the captured stderr is the client's."""


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that answers while the context lasts."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stalls = False
        server.shutdown()
        thread.join()
