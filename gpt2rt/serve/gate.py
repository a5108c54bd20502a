"""Gate: refuses requests before anything reads them, and names each one.

Starlette has middleware for hosts and for the size of bodies; their errors are plain text, which clients of OpenAI's
API can't read, and the one for hosts can't allow all addresses.
"""

from __future__ import annotations

import hmac
import ipaddress
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2rt.serve.api_error import ApiError
from gpt2rt.serve.metrics import Metrics
from gpt2rt.serve.page import PAGES, PREFIX

# Paths that need no key: a browser sends none when it opens a page, which then asks for the key.
OPEN_PATHS = {"/health", *PAGES}
OPEN_PREFIX = PREFIX
MAX_HEADERS = 16 << 10  # bytes
MAX_BODY = 4 << 20  # bytes
KNOWN_PATHS = {
    *("/v1/models", "/v1/completions", "/v1/chat/completions"),
    *("/tokenize", "/detokenize", "/tokenizer_info", "/health", "/metrics"),
    "/explain/lesson",
    *PAGES,
}


class Gate:
    """ASGI middleware: checks the host and the key of each request, limits its body, and counts the answers.

    Names other than localhost must be allowed, since a page of any website can make its own name lead to this machine
    (DNS rebinding) and then read what the server answers. An address is no name, and can't be made to lead elsewhere.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str], key: str | None, metrics: Metrics):
        """
        Args:
            hosts: names that requests may use for this machine, besides localhost and addresses; "*" for any.
            key: that requests must have as `Authorization: Bearer KEY`; None if they need none.
        """
        self._app, self._metrics = app, metrics
        self._hosts = {host.lower().rstrip(".") for host in hosts}
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"].removeprefix(scope.get("root_path", ""))  # below the path that a proxy serves us at
        path = route if route in KNOWN_PATHS else OPEN_PREFIX if route.startswith(OPEN_PREFIX) else "other"
        request_id = uuid.uuid4().hex
        n_read = 0

        async def limited_receive() -> Message:
            nonlocal n_read
            message = await receive()
            n_read += len(message.get("body", b""))
            if n_read > MAX_BODY:
                raise body_too_large()
            return message

        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests[path, message["status"]] += 1
                MutableHeaders(raw=message.setdefault("headers", []))["x-request-id"] = request_id
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check(headers, route)
        except ApiError as error:
            await respond_with(error, counting_send)
            return
        await self._app(scope, limited_receive, counting_send)

    def _check(self, headers: Headers, path: str) -> None:
        """Raises ApiError."""
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADERS:
            raise ApiError(431, f"the request's headers are too large, expected at most {MAX_HEADERS} bytes")
        host = host_name(headers.get("host", ""))
        if not ("*" in self._hosts or is_local_or_address(host) or host in self._hosts):
            raise ApiError(
                421,
                f"host {host!r:.80}: not allowed (start the server with --allow-host to allow it)",
                code="host_not_allowed",
            )
        given = headers.get("authorization", "").removeprefix("Bearer ")
        is_open = self._key is None or path in OPEN_PATHS or path.startswith(OPEN_PREFIX)
        if not is_open and not hmac.compare_digest(given.encode("latin-1", "replace"), self._key or b""):
            raise ApiError(
                401,
                "the request has no valid key, expected `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may read it otherwise
            raise ApiError(
                400,
                "content-length: got a transfer-encoding too, expected one of them",
                headers={"connection": "close"},
            )
        if headers.get("content-length", "0").isdecimal() and int(headers.get("content-length", "0")) > MAX_BODY:
            raise body_too_large()


def body_too_large() -> ApiError:
    return ApiError(413, f"the request's body is too large, expected at most {MAX_BODY} bytes", code="body_too_large")


async def respond_with(error: ApiError, send: Send) -> None:
    """Send an error as the whole answer."""
    content = error.content()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        *((name.encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def host_name(host: str) -> str:
    """Return a Host header's name, in lower case, without the port and the brackets of an IPv6 address."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower().rstrip(".")


def is_local_or_address(name: str) -> bool:
    """Whether a host's name is localhost or below it, or an address."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
