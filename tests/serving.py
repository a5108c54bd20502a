"""A server in this process, and a client without dependencies, for tests of gpt2rt serve."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time

import pytest

pytest.importorskip("starlette", reason="the extra 'server' is not installed")

from gpt2rt.serve.app import Service, Settings
from gpt2rt.serve.served_model import ServedModel
from gpt2rt.serve.server import listening_socket, make_server

JSON = {"content-type": "application/json"}
PATIENCE = 300 if "TSAN_OPTIONS" in os.environ else 60  # seconds; sanitizers are slow


class Answer:
    """An HTTP answer, read to its end."""

    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.content = response.read()

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def error(self):
        """The error of the answer, with its status."""
        return {**self.json["error"], "status": self.status}

    @property
    def events(self):
        """The objects of a stream; the mark at its end is checked and left out."""
        assert self.headers["content-type"].startswith("text/event-stream")
        *events, end = [event.removeprefix("data: ") for event in self.content.decode().split("\n\n")[:-1]]
        assert end == "[DONE]"
        return [json.loads(event) for event in events]


class RunningServer:
    """A server on a thread of this process."""

    def __init__(self, models, arena=None, **settings):
        """models: {name: Model}. arena: opens an arena and its votes."""
        self.models = models
        served = [ServedModel(name, model) for name, model in models.items()]
        self.service = Service(served, Settings(**settings), arena)
        self._socket = listening_socket("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self._ready = threading.Event()
        self._server = make_server(self.service, self._ready.set, "critical")
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def stop(self):
        """Stop as a signal would, and wait for the end."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(self, method, path, body=None, headers=None):
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def post(self, path, fields=None, headers=None, **more):
        """Post JSON."""
        return self.request("POST", path, json.dumps({**(fields or {}), **more}), {**JSON, **(headers or {})})

    def complete(self, prompt, **fields):
        return self.post("/v1/completions", {"prompt": prompt, **fields})

    def chat(self, *messages, **fields):
        """Ask for an answer; the messages are those of the user and the assistant in turn."""
        roles = ["user", "assistant"] * len(messages)
        listed = [{"role": role, "content": content} for role, content in zip(roles, messages, strict=False)]
        return self.post("/v1/chat/completions", {"messages": listed, **fields})

    def metric(self, name):
        """Return the value of a metric."""
        for line in self.get("/metrics").content.decode().splitlines():
            if line.startswith(f"gpt2rt_{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def open_request(self, path, **fields):
        """Send a request, and return the socket without reading from it."""
        body = json.dumps(fields).encode()
        one = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        one.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return one


@contextlib.contextmanager
def serving(models, arena=None, **settings):
    """Serve models while the block runs."""
    server = RunningServer(models, arena, **settings)
    try:
        yield server
    finally:
        server.stop()


def together(calls):
    """Call functions at the same time; return what they return, in their order."""
    results = [None] * len(calls)

    def run(i, call):
        results[i] = call()

    threads = [threading.Thread(target=run, args=one) for one in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def eventually(condition):
    """Ask until something is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not become true"
