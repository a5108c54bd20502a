"""Contestants that answer at once, for tests of battles and votes."""

from gpt2rt.arena.contestants import Contestant, ContestantError
from gpt2rt.errors import Gpt2rtError


def player(name, **settings):
    """Return a contestant of a kind that needs no file."""
    return Contestant(name, "url", {"name": name, **settings}, f"http://{name}.example/v1")


class Scripted:
    """A cast whose contestants say what a function returns for (name, messages, seed); an exception is raised
    after a piece."""

    def __init__(self, say=lambda name, messages, seed: f"{name} heard {messages[-1]['content']}"):
        self._say = say
        self.seeds = []

    def performer(self, contestant):
        cast, name = self, contestant.name

        class Performer:
            def answer(self, messages, seed):
                cast.seeds.append(seed)
                said = cast._say(name, messages, seed)
                if isinstance(said, BaseException):
                    yield "Half"
                    raise said
                yield from said.partition(" ")

        return Performer()


FAILURES = [ContestantError("its server is away"), Gpt2rtError("broken"), MemoryError(), RuntimeError("a fault")]
