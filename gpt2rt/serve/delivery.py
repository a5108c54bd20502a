"""Delivery: sends what a call generates, as one answer or as a stream, and notices when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gpt2rt.serve.answers import Usage, usage_of
from gpt2rt.serve.api_error import ApiError, timed_out
from gpt2rt.serve.call import Call, Update

GRACE = 5.0  # seconds after the deadline in which the scheduler must end the call
DONE = b"data: [DONE]\n\n"


class Writer(Protocol):
    """Turns updates into the structs of an answer."""

    def first_chunks(self) -> Iterable[msgspec.Struct]:
        """Return the chunks that a stream begins with."""
        ...

    def chunks(self, update: Update) -> Iterable[msgspec.Struct]:
        """Return the chunks for an update."""
        ...

    def usage_chunk(self, usage: Usage) -> msgspec.Struct:
        """Return the last chunk of a stream that reports usage."""
        ...

    def whole(self, updates: Mapping[int, Update], usage: Usage) -> msgspec.Struct:
        """Return the answer, given the only update of each choice by its index."""
        ...


class Delivery(Response):
    """The response to a request that generates. The call was submitted."""

    def __init__(
        self, call: Call, writer: Writer, *, is_stream: bool, includes_usage: bool, headers: Mapping[str, str]
    ):
        super().__init__(headers=headers, media_type="text/event-stream" if is_stream else "application/json")
        if is_stream:
            del self.headers["content-length"]
            self.headers["cache-control"] = "no-cache"
            self.headers["x-accel-buffering"] = "no"  # nginx would hold the pieces back
        self._call, self._writer = call, writer
        self._is_stream, self._includes_usage = is_stream, includes_usage
        self._n_tokens: dict[int, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer.

        Raises:
            ApiError: the call failed before anything was sent.
        """
        watch = asyncio.create_task(self._watch(receive))
        try:
            if self._is_stream:
                await self._send_stream(send)
            else:
                await self._send_whole(scope, receive, send)
        finally:
            self._call.leave()
            watch.cancel()

    async def _updates(self) -> list[Update]:
        """Wait for news; an empty list if the client left. How long the client reads is the connection's business.

        Raises:
            ApiError: the call failed, or took too long.
        """
        try:
            async with asyncio.timeout(self._call.deadline + GRACE - monotonic()):
                return await self._call.updates()
        except TimeoutError:
            raise timed_out(self._call.timeout) from None

    async def _watch(self, receive: Receive) -> None:
        """Leave the call when the client has closed the connection, also before the first byte was sent."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._call.leave()

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        found: dict[int, Update] = {}
        while len(found) < len(self._call.texts):
            updates = await self._updates()
            if not updates:
                return  # the client left
            for update in updates:
                found[update.text.index] = update
                self._n_tokens[update.text.index] = update.n_tokens
        self.body = msgspec.json.encode(self._writer.whole(found, self._usage()))
        self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)

    async def _send_stream(self, send: Send) -> None:
        # Nothing is sent before there is something to send, so that an error can still have its status.
        chunks = list(self._writer.first_chunks())
        n_ended, is_started = 0, False
        while n_ended < len(self._call.texts):
            try:
                updates = await self._updates()
            except ApiError as error:
                if not is_started:
                    raise
                await self._send(send, b"data: " + error.content() + b"\n\n", is_last=True)
                return
            if not updates:
                return  # the client left
            for update in updates:
                chunks += self._writer.chunks(update)
                n_ended += update.finish_reason is not None
                self._n_tokens[update.text.index] = update.n_tokens
            is_last = n_ended == len(self._call.texts)
            if is_last and self._includes_usage:
                chunks.append(self._writer.usage_chunk(self._usage()))
            content = b"".join([b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks])
            if not is_started:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                is_started = True
            await self._send(send, content + DONE if is_last else content, is_last)
            chunks = []

    async def _send(self, send: Send, content: bytes, is_last: bool) -> None:
        await send({"type": "http.response.body", "body": content, "more_body": not is_last})

    def _usage(self) -> Usage:
        return usage_of(self._call.texts, sum(self._n_tokens.values()))
