"""Servers of the page: the real application, also behind a slow link or below a path, and one with a fixed arena."""

import asyncio
import contextlib
import threading

import pytest

pytest.importorskip("starlette", reason="the extra 'server' is not installed")

import uvicorn
from starlette.applications import Starlette

from gpt2rt.serve.app import Service, Settings
from gpt2rt.serve.page import page_routes
from gpt2rt.serve.served_model import ServedModel
from gpt2rt.serve.server import listening_socket

PATIENCE = 60  # seconds


class ReadyServer(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config):
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.ready.set()


@contextlib.contextmanager
def serving_application(application):
    """Serve an application while the block runs. Yields its address."""
    listening = listening_socket("127.0.0.1", 0)
    config = uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=1)
    server = ReadyServer(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        assert server.ready.wait(PATIENCE)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def application(models, **settings):
    """Return the real application. models: {name: Model}."""
    return Service([ServedModel(name, model) for name, model in models.items()], Settings(**settings)).application()


def with_slow_link(inner, seconds):
    """Return an application whose streams come event by event, with a pause after each."""

    async def outer(scope, receive, send):
        async def slow_send(message):
            if message["type"] == "http.response.body" and message["body"].startswith(b"data: "):
                *events, _ = message["body"].split(b"\n\n")
                for event in events:
                    await send({"type": "http.response.body", "body": event + b"\n\n", "more_body": True})
                    await asyncio.sleep(seconds)
                message = {**message, "body": b""}
            await send(message)

        await inner(scope, receive, slow_send)

    return outer


def below_path(inner, path):
    """Return an application at a path, as a reverse proxy offers it; it answers nothing elsewhere."""

    async def outer(scope, receive, send):
        if scope["type"] == "http":
            if not scope["path"].startswith(path):
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
            scope = {**scope, "root_path": path}
        await inner(scope, receive, send)

    return outer


def arena_application(arena):
    """Return an application of the page and a `FixedArena`."""
    return Starlette(routes=[*page_routes(), *arena.routes()])
