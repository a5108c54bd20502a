"""Battles: two contestants answer the same messages, and nobody knows which before the vote."""

from __future__ import annotations

import random
import re
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from gpt2rt.arena.contestants import Cast, Contestant, Performer
from gpt2rt.arena.votes import Outcome, Vote, Votes
from gpt2rt.errors import UsageError

ANSWER_SECONDS = 120.0  # in which both sides must have answered
WORDS_PER_SECOND = 12  # at which both answers appear
MAX_MESSAGE = 4000  # characters
MAX_ANSWER = 4000  # characters
MAX_TURNS = 20
MAX_ROUNDS = 1000  # open at the same time; the oldest are forgotten
LEAST_ROUNDS = 50  # added to each contestant's rounds, so that a new one is not always chosen
WEIGHT_POWER = 0.4
MAX_WEIGHT_RATIO = 3.0
VOID = "one of the sides did not answer: this round does not count"


class Turn(NamedTuple):
    """A message and its answers, in slots A and B."""

    message: str
    a: str
    b: str


class Revealed(NamedTuple):
    """Who answered in slots A and B, and whether the vote counts for the ratings."""

    a: Contestant
    b: Contestant
    counts: bool


@dataclass
class Round:
    """What people see of a battle: nothing here depends on who the contestants are, except their words.

    Attributes:
        id: can't be guessed. category: of the suggestion that was taken, or None.
        turns: what was said. state: "open" before the first answer and between turns, "answering", "voted" or "void".
    """

    id: str
    category: str | None = None
    turns: list[Turn] = field(default_factory=list)
    state: str = "open"

    @property
    def is_identical(self) -> bool:
        """Whether both sides gave the same answers, apart from white space."""
        return all(" ".join(turn.a.split()) == " ".join(turn.b.split()) for turn in self.turns)


@dataclass
class _Secret:
    """What nobody sees before the vote."""

    first: Contestant
    second: Contestant
    seeds: tuple[int, int]
    propensity: float
    answered: float = 0.0


class Arena:
    """Makes battles between contestants, and writes the votes. Any thread may use it."""

    def __init__(self, contestants: Iterable[Contestant], cast: Cast, votes: Votes, seed: int | None = None):
        """
        Args:
            contestants: those that play; they are in the file of votes.
            seed: of the choice of pairs, slots and seeds; None for one from the system.

        Raises:
            UsageError: there are fewer than two contestants, or one is there twice.
        """
        self.contestants = list(contestants)
        if len(self.contestants) < 2:
            raise UsageError(f"arena: got {len(self.contestants)} contestants, expected at least 2")
        ids = [one.id for one in self.contestants]
        for i, one in enumerate(self.contestants):
            if ids.index(one.id) < i:
                raise UsageError(f"arena: got {one.name} twice, expected contestants that differ (leave one out)")
        self._cast, self._votes = cast, votes
        self._random = random.Random(secrets.randbits(64) if seed is None else seed)
        self._rounds: dict[str, Round] = {}
        self._secrets: dict[str, _Secret] = {}
        self._lock = threading.Lock()

    def new_round(self, category: str | None = None) -> Round:
        """Start a battle between two contestants chosen at random; those with few rounds are chosen more often."""
        counts = self._votes.n_rounds()
        with self._lock:
            (i, j), propensity = chosen_pair([counts.get(one.id, 0) for one in self.contestants], self._random)
            seeds = self._random.getrandbits(32), self._random.getrandbits(32)
            secret = _Secret(self.contestants[i], self.contestants[j], seeds, propensity)
            one = Round(secrets.token_urlsafe(16), category)
            self._rounds[one.id], self._secrets[one.id] = one, secret
            while len(self._rounds) > MAX_ROUNDS:
                oldest = next(iter(self._rounds))
                del self._rounds[oldest], self._secrets[oldest]
        return one

    def round(self, id: str) -> Round:
        """Return an open or ended round. Raises UsageError: there is none with this id."""
        try:
            return self._rounds[id]
        except KeyError:
            raise UsageError("round: there is none with this id (start a new one)") from None

    def say(self, one: Round, message: str) -> Turn | None:
        """Let both sides answer a message, and return the turn when both have; None if the round is void now.

        Raises:
            UsageError: the message is empty or too long, or the round is not open.
        """
        if not message.strip() or len(message) > MAX_MESSAGE:
            raise UsageError(f"message: got {len(message)} characters, expected 1 to {MAX_MESSAGE}, not only spaces")
        with self._lock:
            if one.state != "open":
                raise UsageError(f"round: it is {one.state} (wait, or start a new one)")
            if len(one.turns) >= MAX_TURNS:
                raise UsageError(f"round: it has {MAX_TURNS} turns (vote, or start a new one)")
            one.state = "answering"
        secret = self._secrets[one.id]
        sides = [
            _Side(self._cast, contestant, _messages(one.turns, slot, message), (seed + len(one.turns)) % (1 << 32))
            for slot, contestant, seed in zip(("a", "b"), (secret.first, secret.second), secret.seeds, strict=True)
        ]
        deadline = monotonic() + ANSWER_SECONDS
        for side in sides:
            side.join(max(0.0, deadline - monotonic()))
        problems = [problem for side in sides if (problem := side.problem())]
        if problems:
            self._votes.record_void(one.id, secret.first.id, secret.second.id, "; ".join(problems))
            one.state = "void"
            return None
        turn = Turn(message, sides[0].text, sides[1].text)
        one.turns.append(turn)
        secret.answered = monotonic()
        one.state = "open"
        return turn

    def vote(self, one: Round, outcome: Outcome, voter: str = "", origin: str = "person") -> Revealed:
        """Record a vote, and then tell who answered.

        Raises:
            UsageError: there is nothing to vote on. VotesError: the vote could not be written, so nothing is told.
        """
        with self._lock:
            if one.state != "open" or not one.turns:
                what = one.state if one.state != "open" else "without an answer"
                raise UsageError(f"round: it is {what}, so there is nothing to vote on")
            one.state = "voted"
        secret = self._secrets[one.id]
        messages, first, second = (list(texts) for texts in zip(*one.turns, strict=True))
        try:
            self._votes.record(
                Vote(
                    one.id,
                    voter,
                    origin,
                    one.category,
                    secret.first.id,
                    secret.second.id,
                    *secret.seeds,
                    secret.propensity,
                    outcome,
                    one.is_identical,
                    messages,
                    first,
                    second,
                    monotonic() - secret.answered,
                )
            )
        except BaseException:
            one.state = "open"
            raise
        return Revealed(secret.first, secret.second, not one.is_identical)

    def undo(self, one: Round) -> None:
        """Withdraw the vote of a round, which can then be voted on again. Raises UsageError: it has none."""
        with self._lock:
            if one.state != "voted":
                raise UsageError("round: it has no vote to undo")
            self._votes.withdraw(one.id)
            one.state = "open"


class _Side(threading.Thread):
    """A thread in which one contestant answers."""

    def __init__(self, cast: Cast, contestant: Contestant, messages: list[dict[str, str]], seed: int):
        super().__init__(daemon=True)
        self._cast, self._contestant, self._messages, self._seed = cast, contestant, messages, seed
        self._error: Exception | None = None
        self.text = ""
        self.start()

    def run(self) -> None:
        try:
            performer: Performer = self._cast.performer(self._contestant)
            for piece in performer.answer(self._messages, self._seed):
                self.text += piece
                if len(self.text) > MAX_ANSWER:
                    raise UsageError(f"more than {MAX_ANSWER} characters")
            self.text = self.text.strip()
        except Exception as error:  # whatever it is, half an answer must not count
            self._error = error

    def problem(self) -> str:
        """Return why there is no answer; "" if there is one."""
        if self.is_alive():
            return f"{self._contestant.name}: no answer after {ANSWER_SECONDS:.0f} s"
        if self._error is not None:
            return f"{self._contestant.name}: {self._error}"
        return "" if self.text else f"{self._contestant.name}: an empty answer"


def _messages(turns: Sequence[Turn], slot: str, message: str) -> list[dict[str, str]]:
    """Return the conversation of one side, up to a message."""
    found = []
    for turn in turns:
        found += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": getattr(turn, slot)}]
    return [*found, {"role": "user", "content": message}]


def pair_weights(counts: Sequence[int]) -> list[float]:
    """Return how likely each contestant is to be chosen, given its rounds; nothing else may count.

    The ratio of two weights is at most 3. Source: ComparIA's sampling.
    """
    weights = [(n + LEAST_ROUNDS) ** -WEIGHT_POWER for n in counts]
    least = max(weights) / MAX_WEIGHT_RATIO
    return [max(weight, least) for weight in weights]


def chosen_pair(counts: Sequence[int], generator: random.Random) -> tuple[tuple[int, int], float]:
    """Choose two contestants, in random slots.

    Returns:
        Their indices, first slot A; and the probability of this pair, in either order.
    """
    weights = pair_weights(counts)
    pairs = [(i, j) for i in range(len(weights)) for j in range(i)]
    products = [weights[i] * weights[j] for i, j in pairs]
    [at] = generator.choices(range(len(pairs)), products)
    i, j = pairs[at]
    return ((i, j) if generator.random() < 0.5 else (j, i)), products[at] / sum(products)


def ticks(turn: Turn) -> list[tuple[str, str]]:
    """Return the pieces that appear together, word by word, `WORDS_PER_SECOND` for both sides, whoever was faster."""
    a, b = (re.findall(r"\s*\S+|\s+$", text) for text in (turn.a, turn.b))
    n = max(len(a), len(b))
    return list(zip(a + [""] * (n - len(a)), b + [""] * (n - len(b)), strict=True))
