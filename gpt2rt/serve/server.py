"""The HTTP server: uvicorn, with a socket of our own and an end that does not wait for open streams."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from gpt2rt.errors import UsageError
from gpt2rt.serve.app import Service
from gpt2rt.serve.connection import SPARE, Connection

MAX_CONNECTIONS = 1024
BACKLOG = 128  # connections that wait to be accepted, which asyncio does all at once
OTHER_FILES = 32 + 4 * BACKLOG  # that the process may have open: asyncio accepts a few times before it closes some
STOP_SECONDS = 2  # in which clients can read the last chunk


def log_config(level: str) -> dict[str, Any]:
    """Return the logging settings: everything goes to standard error, also what uvicorn sends elsewhere."""
    own = level.upper()
    quieter = own if level in ("critical", "error", "debug") else "WARNING"  # not that it starts and stops
    levels = {"uvicorn.error": quieter, "uvicorn.access": own, "gpt2rt.serve": own}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "loggers": {name: {"handlers": ["stderr"], "level": own, "propagate": False} for name, own in levels.items()},
    }


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        UsageError: the address can't be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{host}:{port}: can't listen there: {reason} (choose another --host or --port)") from None


def max_connections() -> int:
    """Allow this process enough open files for all connections if possible; return how many it can serve."""
    try:
        import resource
    except ImportError:  # on Windows, where files are not counted
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, allowed - SPARE - OTHER_FILES)


def url_of(listening: socket.socket) -> str:
    """Return the address that clients on this machine use."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server. When it stops, it ends what the service is generating, instead of waiting for it."""

    def __init__(self, config: uvicorn.Config, service: Service, when_ready: Callable[[], None]):
        super().__init__(config)
        self._service, self._when_ready = service, when_ready
        self._failure: OSError | None = None  # of saying that it is ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until it is stopped. Raises OSError: nobody could be told that it is ready, so it has ended."""
        super().run(sockets)
        if self._failure:
            raise self._failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.start()  # not by its lifespan, whose exceptions are logged with their tracebacks
        await super().startup(sockets)
        if self.started:
            try:
                self._when_ready()
            except OSError as error:  # raised here, it would be logged with its traceback
                self._failure = error

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: also if the scheduler failed, so that a supervisor can start the process again."""
        return await super().on_tick(counter) or not self._service.is_running or self._failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop()
        await super().shutdown(sockets)


def make_server(service: Service, when_ready: Callable[[], None], log_level: str) -> Server:
    """Return a server; `run([socket])` serves until a signal stops it, or until `should_exit` is set."""
    config = uvicorn.Config(
        service.application(),
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=log_config(log_level),
        log_level=None,
        access_log=log_level in ("info", "debug"),
        server_header=False,
        proxy_headers=False,
        limit_concurrency=max_connections(),
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    # The event loop and the scheduler's thread take turns more often than every 5 ms: a step of a small model is short.
    sys.setswitchinterval(0.0005)
    return Server(config, service, when_ready)
