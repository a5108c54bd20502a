"""Judges: votes without people. They are kept apart from people's votes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Protocol

from gpt2rt.arena.battle import Arena, Round
from gpt2rt.arena.contestants import ContestantError, UrlPerformer
from gpt2rt.arena.suggestions import SUGGESTIONS
from gpt2rt.arena.votes import Outcome
from gpt2rt.chat_format import chat_format
from gpt2rt.model import Model

MARGIN = 0.05  # nats per token: answers that are closer than that are a tie
QUESTION = """\
A person wrote:

{message}

Two answers follow. Which one is better? Say only A, B, or TIE.

Answer A:
{a}

Answer B:
{b}
"""


class Judge(Protocol):
    """Decides between the two last answers of a round."""

    name: str

    def outcome(self, one: Round) -> Outcome: ...


class LikelihoodJudge:
    """A model, preferably a larger one: the answer that it finds likelier after the message wins.

    The order of the answers can't matter, since each is scored by itself. A likely answer is a fluent one, not a true
    one.
    """

    def __init__(self, model: Model):
        self.name = "likelihood"
        self._model = model
        self._format = chat_format(model)

    def outcome(self, one: Round) -> Outcome:
        turn = one.turns[-1]
        a, b = (self._score(turn.message, answer) for answer in (turn.a, turn.b))
        if abs(a - b) < MARGIN:
            return Outcome.TIE
        return Outcome.A if a > b else Outcome.B

    def _score(self, message: str, answer: str) -> float:
        """Return the mean log probability of an answer's tokens, and of the end of its turn."""
        made = self._format
        prompt = [*made.opening_tokens, *made.prompt(made.clean(message))]
        tokens = [*made.answer(answer), *made.closing_tokens]
        n_ctx = self._model.hyperparameters.n_ctx
        prompt = prompt[-(n_ctx // 2) :]
        scores = self._model.score((prompt + tokens)[:n_ctx])[len(prompt) :]
        return sum(score for score in scores if score is not None) / max(1, len(scores))


class UrlJudge:
    """A chat model behind OpenAI's API, asked in both orders: if it contradicts itself, the round is a tie."""

    def __init__(self, url: str, model: str | None = None):
        self.name = "judge"
        fields = {"temperature": 0, "max_tokens": 5, **({"model": model} if model else {})}
        self._performer = UrlPerformer(url, fields)

    def outcome(self, one: Round) -> Outcome:
        turn = one.turns[-1]
        first = self._ask(turn.message, turn.a, turn.b)
        second = self._ask(turn.message, turn.b, turn.a)
        swapped = {Outcome.A: Outcome.B, Outcome.B: Outcome.A}.get(second, second)
        return first if first == swapped else Outcome.TIE

    def _ask(self, message: str, a: str, b: str) -> Outcome:
        content = QUESTION.format(message=message, a=a, b=b)
        said = "".join(self._performer.answer([{"role": "user", "content": content}], 0)).strip().strip(".*\"'").upper()
        known = {"A": Outcome.A, "B": Outcome.B, "TIE": Outcome.TIE}
        word = said.split()[0].strip(".,:*") if said else ""
        if word not in known:
            raise ContestantError(f"the judge said {said!r:.40}, expected A, B or TIE")
        return known[word]


def self_play(arena: Arena, judge: Judge, n: int, seed: int) -> Iterator[Outcome | None]:
    """Play rounds of one turn each, on suggestions in random order, and let a judge vote.

    Yields:
        The outcome of each round; None if it is void.
    """
    generator = random.Random(seed)
    prompts = [(name, prompt) for name, prompts in SUGGESTIONS.items() for prompt in prompts]
    for _ in range(n):
        category, prompt = generator.choice(prompts)
        one = arena.new_round(category)
        if arena.say(one, prompt) is None:
            yield None
            continue
        outcome = judge.outcome(one)
        arena.vote(one, outcome, judge.name, "judge")
        yield outcome
