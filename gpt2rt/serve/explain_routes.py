"""The lesson of `gpt2rt explain` over HTTP, for the page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gpt2rt.errors import Gpt2rtError
from gpt2rt.sampling import SamplingParams
from gpt2rt.serve.api_error import ApiError, invalid, refused
from gpt2rt.serve.requests import Body
from gpt2rt.serve.served_model import ServedModel

Read = Callable[[Request, type[Any]], Awaitable[Any]]  # reads and checks a request's body

MOST_GIVEN, MOST_SAMPLED = 96, 32  # tokens
BRANCHED = 12  # last tokens that have continuations


class LessonRequest(Body):
    """POST /explain/lesson."""

    text: str
    model: str | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=MOST_SAMPLED)] = 0
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


class ExplainRoutes:
    """The route of lessons; one is made at a time, on a thread of its own."""

    def __init__(self, model: Callable[[str | None], ServedModel], read: Read):
        """
        Args:
            model: returns the model that a request names. read: reads and checks the body of a request.
        """
        self._model, self._read = model, read
        self._is_busy = False

    def routes(self) -> list[Route]:
        return [Route("/explain/lesson", self.lesson, methods=["POST"])]

    async def lesson(self, request: Request) -> Response:
        """POST /explain/lesson: what the page shows of a text."""
        asked = await self._read(request, LessonRequest)
        model = self._model(asked.model)
        ids = model.encode(asked.text, "text")
        if len(ids) > MOST_GIVEN:
            raise invalid("text", f"got {len(ids)} tokens, expected at most {MOST_GIVEN} (shorten it)")
        if self._is_busy:
            raise ApiError(503, "another text is being explained (try again)", type="server_error", code="busy")
        self._is_busy = True
        try:
            content = await asyncio.to_thread(_lesson, model, ids, asked)
        except Gpt2rtError as error:
            raise refused(error) from None
        finally:
            self._is_busy = False
        return Response(content, media_type="application/json")


def _lesson(model: ServedModel, ids: list[int], asked: LessonRequest) -> bytes:
    """Return the lesson as JSON."""
    from gpt2rt.explain.lesson import lesson_data  # imports numpy

    sampling = SamplingParams()
    trace = model.model.trace(ids, max_tokens=asked.max_tokens, seed=asked.seed, sampling=sampling)
    return msgspec.json.encode(lesson_data(trace, sampling, first_branch=max(0, trace.n_tokens - BRANCHED)))
