"""A local server that answers like the Hugging Face Hub."""

import hashlib
import http.server
import json


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one repository, OWNER/small, at one commit."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        names = sorted(path.name for path in self.server.folder.iterdir())
        if path.startswith("/api/models/OWNER/small/tree/"):
            self.answer(json.dumps([{"type": "file", "path": name, "size": 1, "oid": name} for name in names]).encode())
        elif path.startswith("/api/models/OWNER/small"):
            siblings = [{"rfilename": name} for name in names]
            self.answer(json.dumps({"id": "OWNER/small", "sha": self.COMMIT, "siblings": siblings}).encode())
        elif path.startswith("/OWNER/small/resolve/") and path.rpartition("/")[2] in names:
            self.answer((self.server.folder / path.rpartition("/")[2]).read_bytes())
        else:
            self.answer(b'{"error": "Repository not found"}', 404, {"X-Error-Code": "RepoNotFound"})

    def answer(self, content, status=200, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("X-Repo-Commit", self.COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
