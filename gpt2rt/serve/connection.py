"""Connection: uvicorn's side of an HTTP connection, with limits for clients that hold it and do nothing."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0  # in which a client must send the head of a request
READ_SECONDS = 300.0  # in which a client must read some of what it was sent
CHECKS = 4  # in the shorter of these times
SPARE = 64  # connections above the limit, whose requests are refused; more are closed at once


class Connection(H11Protocol):
    """Closes a connection whose client neither sends a request nor reads an answer when that is what is to be done.

    uvicorn itself waits for both without a limit: as many such clients as there may be connections would keep out all
    others. How long a body may take is the business of the application, and how long an answer, of the scheduler.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._n_resumed = 0
        self._state: tuple[object, ...] = ()
        self._n_unsent = 0
        self._check()
        if self.limit_concurrency is not None and len(self.connections) > self.limit_concurrency + SPARE:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        self._n_resumed += 1
        super().resume_writing()

    def _check(self) -> None:
        """Abort the connection if it has waited for its client for too long, and check again later."""
        now, n_unsent = self.loop.time(), self.transport.get_write_buffer_size()
        is_between = self.cycle is None or self.cycle.response_complete
        is_waiting = is_between or self.flow.write_paused
        state = (self.cycle, self._n_resumed, is_waiting, n_unsent > 0)
        if not is_waiting or state != self._state or n_unsent < self._n_unsent:
            self._since = now
        elif now - self._since >= (READ_SECONDS if n_unsent else HEAD_SECONDS):
            self.transport.abort()
            return
        self._state, self._n_unsent = state, n_unsent
        self._timer = self.loop.call_later(min(HEAD_SECONDS, READ_SECONDS) / CHECKS, self._check)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; if the request that it belongs to was answered already, only close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
