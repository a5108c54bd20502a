"""A local server that answers like the Hugging Face Hub."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub with one repository, OWNER/small, at one commit, without revisions v*.

    `server.fetched` is the set of the names of the files that were read.
    """

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.partition("?")[0]
        files = {
            file.relative_to(self.server.folder).as_posix(): file
            for file in self.server.folder.rglob("*")
            if file.is_file()
        }
        name = path.removeprefix("/OWNER/small/resolve/").partition("/")[2]
        if path.startswith(("/api/models/OWNER/small/tree/v", "/api/models/OWNER/small/revision/v")):
            self.answer(b'{"error": "Revision not found"}', 404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/OWNER/small/tree/"):
            entries = [{"type": "file", "path": name, "size": 1, "oid": name} for name in sorted(files)]
            self.answer(json.dumps(entries).encode())
        elif path.startswith("/api/models/OWNER/small"):
            siblings = [{"rfilename": name} for name in sorted(files)]
            self.answer(json.dumps({"id": "OWNER/small", "sha": self.COMMIT, "siblings": siblings}).encode())
        elif path.startswith("/OWNER/small/resolve/") and name in files:
            if self.command == "GET":
                self.server.fetched.add(name)
            self.answer(files[name].read_bytes())
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


class LocalHub:
    """A running hub whose repository has the files of a folder, and a cache for what is downloaded from it."""

    def __init__(self, folder, work):
        """
        Args:
            work: where commands run and the cache is.
        """
        self._work = work
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        self._server.folder, self._server.daemon_threads, self._server.fetched = folder, True, set()
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self._variables = {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(work / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "*",
            "PYTHONSAFEPATH": "1",
        }

    @property
    def fetched(self):
        """The names of the files that were downloaded, sorted."""
        return sorted(self._server.fetched)

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def convert(self, *arguments, **variables):
        """Run `gpt2rt convert` with environment variables; return the finished process."""
        return subprocess.run(
            [sys.executable, "-m", "gpt2rt", "convert", *arguments],
            capture_output=True,
            text=True,
            cwd=self._work,
            env=os.environ | self._variables | variables,
            timeout=120,
            check=False,
        )
