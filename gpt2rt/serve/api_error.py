"""ApiError: what a client is told when its request can't be answered."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gpt2rt.errors import ContextFullError, Gpt2rtError, UsageError, VocabularyError


class ApiError(Exception):
    """An error in the shape of OpenAI's API.

    Attributes:
        status: the HTTP status. headers: of the response.
        message: one sentence, without paths and internals.
        type, param, code: as in OpenAI's API; `param` names the field of the request, None if there is no such field.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def content(self) -> bytes:
        """Return the JSON of the error."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def invalid(param: str | None, what: str, *, code: str | None = None) -> ApiError:
    """Return the error for a field of a request: status 400, and `param: what` as the message."""
    return ApiError(400, f"{param}: {what}" if param else what, param=param, code=code)


def too_long(param: str, n_tokens: int, n_ctx: int, more: str = "") -> ApiError:
    """Return the error for a prompt that does not fit the model's context."""
    return invalid(
        param,
        f"got {n_tokens} tokens, but the model's context has {n_ctx}{more} (shorten it)",
        code="context_length_exceeded",
    )


def refused(error: Gpt2rtError, param: str | None = None) -> ApiError:
    """Return the error for a request that gpt2rt itself refused.

    Args:
        param: the field; None for the subject of the message, if it is a name.
    """
    message = str(error)
    subject = message.partition(":")[0]
    if param is None and subject.isidentifier():
        param = subject
    code = "context_length_exceeded" if isinstance(error, ContextFullError) else None
    if isinstance(error, (UsageError, ContextFullError, VocabularyError)):
        return ApiError(400, message, param=param, code=code)
    return ApiError(500, message, type="server_error")


def stopping() -> ApiError:
    """Return the error for requests that arrive or run while the server stops."""
    return ApiError(503, "the server is stopping", type="server_error", code="stopping")


def timed_out(seconds: float) -> ApiError:
    """Return the error for a request that took too long; trying again would take as long."""
    return ApiError(
        504,
        f"the request took longer than the server's limit of {seconds:g} s",
        type="server_error",
        code="timeout",
        headers={"x-should-retry": "false"},
    )
