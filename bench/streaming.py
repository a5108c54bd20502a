"""A client for streamed completions over HTTP/1.1, small enough that many of them load a server on the same machine."""

import asyncio
import contextlib
import json
from collections import namedtuple
from time import perf_counter

MAX_HEAD = 1 << 16  # bytes of a status line and its headers
MAX_BODY = 1 << 26  # bytes
READ = 1 << 16  # bytes at a time
REQUEST_SECONDS = 600  # for a whole response

Completion = namedtuple("Completion", "n_prompt n_generated first seconds")
Completion.__doc__ = """A completion that was read to its end: its tokens, as its `usage` counts them; and the seconds
from the request, on an open connection, to the first piece of text, and to the end."""


class ResponseError(Exception):
    """A server refused a request, broke off its answer, or answered with something else than a completion."""


class Response:
    """One response, read from bytes as they come.

    Attributes:
        status: the status code; None until the head is complete.
        events: the data of the server-sent events so far, bytes each. Every event has one line of data.
        is_complete: whether the body has ended.
    """

    def __init__(self):
        self.status = None
        self.events = []
        self.is_complete = False
        self.body = b""  # all of it if it is no stream of events
        self._unread = b""  # bytes that are not a whole head, chunk or line yet
        self._line = b""
        self._left = 0  # bytes of the body, or of a chunk and its line end
        self._size = 0
        self._is_chunked = self._is_last = False

    def feed(self, content):
        """Read more bytes; none if the connection has ended. Raises ResponseError."""
        if not content:
            raise ResponseError("the connection ended before the response")
        self._unread += content
        if self.status is None:
            head, end, rest = self._unread.partition(b"\r\n\r\n")
            if not end:
                if len(head) > MAX_HEAD:
                    raise ResponseError(f"the response's head has more than {MAX_HEAD:,} bytes")
                return
            self._unread = rest
            self._read_head(head)
        if self._is_chunked:
            self._read_chunks()
        else:
            self._add(self._unread[: self._left])
            self._left -= len(self._unread)
            self._unread = b""
            self.is_complete = self._left <= 0

    def _read_head(self, head):
        status, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":")[::2] for line in lines)
        headers = {name.lower(): value.strip().lower() for name, value in pairs}
        try:
            self.status = int(status.split(" ")[1])
            self._left = int(headers.get("content-length", 0))
        except (IndexError, ValueError):
            raise ResponseError(f"not a response of HTTP/1.1: {status!r:.80}") from None
        self._is_chunked = headers.get("transfer-encoding") == "chunked"

    def _read_chunks(self):
        """Each chunk is its size, in hexadecimal digits, and its bytes, each of which ends with a line end."""
        while not self.is_complete:
            if not self._left:
                size, end, rest = self._unread.partition(b"\r\n")
                if not end:
                    return
                try:
                    self._left = int(size.partition(b";")[0], 16) + 2
                except ValueError:
                    raise ResponseError(f"got {size!r:.80}, expected the size of a chunk") from None
                self._unread = rest
                self._is_last = self._left == 2
            if len(self._unread) < self._left:
                return
            self._add(self._unread[: self._left - 2])
            self._unread = self._unread[self._left :]
            self._left = 0
            self.is_complete = self._is_last

    def _add(self, content):
        """Add a part of the body."""
        self._size += len(content)
        if self._size > MAX_BODY:
            raise ResponseError(f"the response has more than {MAX_BODY:,} bytes")
        if self.status != 200:
            self.body += content
            return
        *lines, self._line = (self._line + content).split(b"\n")
        self.events += [line[5:].strip() for line in lines if line.startswith(b"data:")]


@contextlib.asynccontextmanager
async def connection(address):
    """Connect to (host, port), and give a reader and a writer, for one request."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()


def head_of(method, path, address, n_bytes=0):
    """Return the head of a request with a JSON body of n bytes, as bytes."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Connection: close"]
    if n_bytes:
        lines += ["Content-Type: application/json", f"Content-Length: {n_bytes}"]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


async def get_status(address, path):
    """Return the status code of a GET request. Raises ResponseError."""
    response = Response()
    async with asyncio.timeout(REQUEST_SECONDS), connection(address) as (reader, writer):
        writer.write(head_of("GET", path, address))
        while response.status is None:
            response.feed(await reader.read(READ))
    return response.status


async def complete(address, request):
    """Send a request for a completion on a new connection, and read the stream to its end.

    Args:
        address: (host, port) of the server. request: a dict, without the options for a stream and its usage.

    Returns:
        A `Completion`.

    Raises:
        ResponseError: there is no completion, or it did not end with "length".
    """
    options = {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(request | options).encode()
    response, first, n_seen = Response(), None, 0
    async with asyncio.timeout(REQUEST_SECONDS), connection(address) as (reader, writer):
        begin = perf_counter()
        writer.write(head_of("POST", "/v1/completions", address, len(body)) + body)
        while not response.is_complete:
            response.feed(await reader.read(READ))
            if first is None:
                if any(text_of(event) for event in response.events[n_seen:]):
                    first = perf_counter() - begin
                n_seen = len(response.events)
        seconds = perf_counter() - begin
    n_prompt, n_generated = usage_of(response)
    if first is None:
        raise ResponseError("the completion has no text")
    return Completion(n_prompt, n_generated, first, seconds)


def text_of(event):
    """Return the text of an event; empty if it has none. Raises ResponseError if it reports an error."""
    if event == b"[DONE]":
        return ""
    content = parsed(event)
    if "choices" not in content:
        raise ResponseError(f"got {event.decode(errors='replace')!r:.200}, expected a completion")
    return "".join(choice.get("text") or "" for choice in content["choices"])


def parsed(event):
    """Return an event's JSON. Raises ResponseError."""
    try:
        content = json.loads(event)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ResponseError(f"got {event.decode(errors='replace')!r:.200}, expected a JSON object")
    return content


def usage_of(response):
    """Return the numbers of tokens of the prompt and the completion. Raises ResponseError if it is not complete."""
    if response.status != 200:
        raise ResponseError(f"status {response.status}: {response.body.decode(errors='replace'):.200}")
    if len(response.events) < 3 or response.events[-1] != b"[DONE]":
        last = response.events[-1] if response.events else b""
        raise ResponseError(f"the stream ended with {last.decode(errors='replace')!r:.200}, expected [DONE]")
    # The last events: one with the finish reason, one with the usage, [DONE].
    usage, reasons = None, []
    for event in map(parsed, response.events[-4:-1]):
        usage = event.get("usage") or usage
        reasons += [choice.get("finish_reason") for choice in event.get("choices", ())]
    if usage is None:
        raise ResponseError("the stream has no usage")
    if not reasons or reasons[-1] != "length":
        raise ResponseError(f"finish_reason: got {reasons[-1] if reasons else None!r}, expected 'length'")
    return usage["prompt_tokens"], usage["completion_tokens"]
