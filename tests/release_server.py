"""A local server with OpenAI's release, and faults: it truncates, sends wrong lengths, refuses and redirects."""

import contextlib
import http.server
import re
import threading
from collections import defaultdict

SIZE = "355M"  # a size whose files have no known SHA-256


class Server(http.server.ThreadingHTTPServer):
    """Serves {path: bytes} with ETags and ranges, except for its faults.

    Attributes:
        files: {path: bytes}.
        faults: {(method, path): [fault]}, each for one request, in order; a fault is called with the handler and
            returns whether it has answered.
        requests: [(method, path, headers)], in order.
        etag: the version of all files, None to send none. ranges: whether ranges are supported.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.requests = {}, defaultdict(list), []
        self.etag, self.ranges = '"v1"', True

    def handle_error(self, request, client_address):
        """Ignore errors: a client that disconnects is expected."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/models"

    def asked(self, method, name):
        """Return the headers of the requests for a file."""
        return [headers for m, path, headers in self.requests if (m, path) == (method, f"/models/{SIZE}/{name}")]

    def fail(self, name, *faults, method="GET", size=SIZE):
        self.faults[method, f"/models/{size}/{name}"] += faults


@contextlib.contextmanager
def serving(files):
    """A server that runs meanwhile. Args: files: {name: bytes} of the model `SIZE`."""
    server = Server()
    server.files = {f"/models/{SIZE}/{name}": content for name, content in files.items()}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        server = self.server
        server.requests.append((self.command, self.path, dict(self.headers)))
        faults = server.faults[self.command, self.path]
        if faults and faults.pop(0)(self):
            return
        content = server.files.get(self.path)
        if content is None:
            self.say(404)
            return
        begin = 0
        if server.ranges and "Range" in self.headers and self.headers.get("If-Range") == server.etag:
            begin = int(re.fullmatch("bytes=([0-9]+)-", self.headers["Range"])[1])
        if begin >= len(content) > 0:
            self.say(416, {"Content-Range": f"bytes */{len(content)}"})
        elif begin:
            self.say(206, {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}, content[begin:])
        else:
            self.say(200, {}, content)

    def say(self, status, headers=None, body=b"", length=None):
        self.send_response(status)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def answers(status, **headers):
    def fault(handler):
        handler.say(status, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def cuts_after(n_bytes):
    """Announce the whole length, and close after some bytes of the body."""

    def fault(handler):
        content = handler.server.files[handler.path]
        handler.say(200, {}, content[:n_bytes], length=len(content))
        handler.close_connection = True
        return True

    return fault


def says_length(difference):
    """Send the whole file with a wrong length, and close."""

    def fault(handler):
        content = handler.server.files[handler.path]
        handler.say(200, {"Connection": "close"}, content, length=len(content) + difference)
        handler.close_connection = True
        return True

    return fault


def closes(handler):
    handler.close_connection = True
    return True


def talks_nonsense(handler):
    handler.wfile.write(b"\0\xff what?\r\n\r\n")
    handler.close_connection = True
    return True


def stalls(handler):
    handler.say(200, {}, b"", length=1000)
    handler.rfile.read(1)  # until the client disconnects
    handler.close_connection = True
    return True
