"""The routes of an arena with fixed texts, for tests of its page."""

import asyncio
import itertools
import json

from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

ANSWERS = {
    "a": "I'm very sorry. That must be hard. Have you called the vet?\n   /\\_/\\\n  ( o.o )",
    "b": "Can you elaborate on that? I am not sure I understand you fully.",
}
CONTESTANTS = {
    "a": {"name": "demo · int8", "details": ["temperature 0.7", "top p 0.9", "3f9a2c"]},
    "b": {"name": "ELIZA", "details": ["DOCTOR, 1966"]},
}
SUGGESTIONS = [
    {"name": "chat", "prompts": ["My dog is ill and I don't know what to do.", "What did you do today?"]},
    {"name": "facts", "prompts": ["Why is the sky blue?", "What do bees make?"]},
    {"name": "stories", "prompts": ["Tell me a story about a lighthouse."]},
]


def row(name, rating, low, high, ranks, rounds, wins, losses, ties, bad, **more):
    fields = {"provisional": False, "group": 0, "parent": None, "retired": False, **more}
    return {
        **{"name": name, "rating": rating, "low": low, "high": high, "rank_low": ranks[0], "rank_high": ranks[1]},
        **{"rounds": rounds, "wins": wins, "losses": losses, "ties": ties, "bad": bad, **fields},
    }


def pair(a, b, wins, losses, ties, low, high, *, decided=False):
    return {
        **{"a": a, "b": b, "wins": wins, "losses": losses, "ties": ties, "bad": 1},
        **{"low": low, "high": high, "decided": decided},
    }


BOARD = {
    "rows": [
        row("demo · int8", 1062, 1021, 1104, (1, 2), 121, 64, 32, 19, 6),
        row("demo · int4", 1038, 994, 1081, (1, 3), 104, 49, 37, 12, 6, parent="demo · int8"),
        row("ELIZA", 981, 930, 1029, (2, 4), 96, 36, 41, 9, 10),
        row("greedy", 919, 840, 998, (3, 4), 21, 4, 12, 3, 2, provisional=True),
        row("old demo", 900, 850, 950, (4, 5), 40, 9, 22, 5, 4, retired=True),
    ],
    "pairs": [
        pair("demo · int8", "demo · int4", 21, 17, 8, 0.42, 0.68),
        pair("demo · int8", "ELIZA", 32, 11, 6, 0.59, 0.86, decided=True),
        pair("demo · int4", "ELIZA", 20, 14, 3, 0.43, 0.74),
        pair("greedy", "ELIZA", 2, 7, 1, 0.06, 0.58),
    ],
    "notes": ["No pair is decided yet: what looks like a difference may be chance."],
}


class FixedArena:
    """
    Attributes:
        script: what the next messages become: "answers", "identical", "void", "cut" (the stream ends early), or "slow"
            (it does not end).
        requests: (path, body) of all requests.
    """

    def __init__(self):
        self.requests, self.script = [], []
        self._tokens = (f"round-{number}" for number in itertools.count(1))

    def routes(self):
        return [
            Route("/arena/suggestions", self.suggestions),
            Route("/arena/rounds", self.begin, methods=["POST"]),
            Route("/arena/rounds/{token}/messages", self.say, methods=["POST"]),
            Route("/arena/rounds/{token}/vote", self.vote, methods=["POST"]),
            Route("/arena/rounds/{token}/undo", self.undo, methods=["POST"]),
            Route("/arena/board", self.board),
        ]

    async def _note(self, request):
        self.requests.append((request.url.path.partition("/arena/")[2], await request.json()))

    async def suggestions(self, _):
        return JSONResponse({"categories": SUGGESTIONS})

    async def begin(self, request):
        await self._note(request)
        return JSONResponse({"round": next(self._tokens)}, 201)

    async def say(self, request):
        await self._note(request)
        what = self.script.pop(0) if self.script else "answers"

        async def events():
            words = [text.split(" ") for text in ANSWERS.values()]
            for pieces in itertools.islice(itertools.zip_longest(*words), 3 if what in ("cut", "slow") else None):
                found = {side: f"{piece} " for side, piece in zip("ab", pieces, strict=True) if piece is not None}
                yield event(found)
                await asyncio.sleep(0.005)
            while what == "slow":
                await asyncio.sleep(0.05)
            if what == "void":
                yield event({"void": "One of the two did not answer in time, so this round does not count."})
            elif what != "cut":
                yield event({"end": True, "identical": what == "identical"})
            if what != "cut":
                yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def vote(self, request):
        await self._note(request)
        if self.script and self.script[0] == "full":
            self.script.pop(0)
            error = {"message": "the vote can't be stored: the disk is full", "param": None, "code": "storage"}
            return JSONResponse({"error": error}, 500)
        return JSONResponse({**CONTESTANTS, "counts": True})

    async def undo(self, request):
        await self._note(request)
        return JSONResponse({"round": request.path_params["token"]})

    async def board(self, _):
        return JSONResponse(BOARD)


def event(content):
    return f"data: {json.dumps(content)}\n\n"
