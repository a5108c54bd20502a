"""The arena over HTTP, for the page. Before a vote, no answer says anything of the contestants but their words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gpt2rt.arena.battle import VOID, WORDS_PER_SECOND, Arena, Round, ticks
from gpt2rt.arena.contestants import Contestant
from gpt2rt.arena.suggestions import SUGGESTIONS, category_of
from gpt2rt.arena.votes import Outcome, Votes, VotesError
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.serve.api_error import ApiError
from gpt2rt.serve.delivery import DONE
from gpt2rt.serve.requests import Body

Read = Callable[[Request, type[Any]], Awaitable[Any]]  # reads and checks a request's body
Opened = Callable[[], tuple[Arena, Votes]]

log = logging.getLogger("gpt2rt.serve")


class NewRound(Body):
    """POST /arena/rounds."""

    category: str | None = None

    def check(self) -> None:
        if self.category is not None and self.category not in SUGGESTIONS:
            raise ApiError(400, f"category: expected one of {', '.join(SUGGESTIONS)}", param="category")


class NewMessage(Body):
    """POST /arena/rounds/ID/messages."""

    content: str


class NewVote(Body):
    """POST /arena/rounds/ID/vote."""

    outcome: Outcome


class ArenaRoutes:
    """The routes of an arena."""

    def __init__(self, opened: Opened, read: Read):
        """
        Args:
            opened: opens the arena and its file of votes; called with the first request, since digests of large files
                take time.
            read: reads and checks the body of a request.
        """
        self._open, self._read = cache(opened), read
        self._lock = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route("/arena/suggestions", self.suggestions),
            Route("/arena/rounds", self.start, methods=["POST"]),
            Route("/arena/rounds/{id}/messages", self.say, methods=["POST"]),
            Route("/arena/rounds/{id}/vote", self.vote, methods=["POST"]),
            Route("/arena/rounds/{id}/undo", self.undo, methods=["POST"]),
            Route("/arena/board", self.board),
        ]

    async def suggestions(self, _: Request) -> Response:
        """GET /arena/suggestions."""
        listed = [{"name": name, "prompts": prompts} for name, prompts in SUGGESTIONS.items()]
        return _json({"categories": listed})

    async def start(self, request: Request) -> Response:
        """POST /arena/rounds."""
        asked = await self._read(request, NewRound)
        arena, _ = await self._opened()
        one = await _in_thread(arena.new_round, asked.category)
        return _json({"round": one.id}, 201)

    async def say(self, request: Request) -> Response:
        """POST /arena/rounds/ID/messages: both answers, word by word, at one pace."""
        asked = await self._read(request, NewMessage)
        arena, one = await self._round(request)
        if one.category is None and not one.turns:
            one.category = category_of(asked.content)
        turn = await _in_thread(arena.say, one, asked.content)

        async def events() -> AsyncIterator[bytes]:
            if turn is None:
                yield _event({"void": VOID}) + DONE
                return
            for a, b in ticks(turn):
                yield _event({slot: piece for slot, piece in (("a", a), ("b", b)) if piece})
                await asyncio.sleep(1 / WORDS_PER_SECOND)
            yield _event({"end": True, "identical": one.is_identical}) + DONE

        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    async def vote(self, request: Request) -> Response:
        """POST /arena/rounds/ID/vote: the vote is on the disk before the names are told."""
        asked = await self._read(request, NewVote)
        arena, one = await self._round(request)
        revealed = await _in_thread(arena.vote, one, asked.outcome)
        return _json({"a": _told(revealed.a), "b": _told(revealed.b), "counts": revealed.counts})

    async def undo(self, request: Request) -> Response:
        """POST /arena/rounds/ID/undo."""
        await self._read(request, Body)
        arena, one = await self._round(request)
        await _in_thread(arena.undo, one)
        return _json({"round": one.id})

    async def board(self, request: Request) -> Response:
        """GET /arena/board, with `category` for the rounds of one."""
        from gpt2rt.arena.standings import Standings  # imports numpy

        category = request.query_params.get("category")
        _, votes = await self._opened()
        return _json(await _in_thread(lambda: Standings(votes, category=category).as_dict()))

    async def _opened(self) -> tuple[Arena, Votes]:
        """Return the arena and its votes. Raises ApiError: there are none."""
        async with self._lock:
            try:
                return await asyncio.to_thread(self._open)
            except Gpt2rtError:
                log.exception("the arena can't be opened")
                raise ApiError(
                    503, "the arena can't be opened (the server's log says why)", type="server_error"
                ) from None

    async def _round(self, request: Request) -> tuple[Arena, Round]:
        """Return the arena, and the round that a request is about. Raises ApiError: there is no such round."""
        arena, _ = await self._opened()
        try:
            return arena, arena.round(request.path_params["id"])
        except UsageError as error:
            raise ApiError(404, str(error), code="round_not_found") from None


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on another thread. Raises ApiError: it refused."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except UsageError as error:
        raise ApiError(409 if str(error).startswith("round") else 400, str(error)) from None
    except VotesError:
        raise ApiError(500, "the vote could not be written", type="server_error") from None


def _told(one: Contestant) -> dict[str, object]:
    return {"name": one.name, "details": one.details()}


def _event(content: object) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
