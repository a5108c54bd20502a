"""Battles: pairs, turns, anonymity, votes."""

import collections
import contextlib
import json
import random
import threading

import pytest
from contestants import FAILURES, Scripted, player

from gpt2rt.arena import battle
from gpt2rt.arena.battle import Arena, Turn, chosen_pair, pair_weights, ticks
from gpt2rt.arena.votes import Outcome, Votes
from gpt2rt.errors import UsageError

NAMES = ["anna", "berta", "clara"]


@pytest.fixture
def votes(tmp_path):
    return Votes(str(tmp_path / "arena.sqlite"))


def arena_of(votes, cast=None, names=NAMES, seed=1):
    return Arena([votes.add(player(name)) for name in names], cast or Scripted(), votes, seed)


class TestPairs:
    def test_few_rounds_weigh_more_but_at_most_three_times(self):
        assert pair_weights([0, 0]) == [50**-0.4] * 2
        rare, common = pair_weights([0, 100])
        assert rare / common == pytest.approx((150 / 50) ** 0.4)
        rare, common = pair_weights([0, 10**6])
        assert rare / common == pytest.approx(3)

    def test_pairs_come_as_often_as_their_propensity_says(self):
        generator, counts, n = random.Random(1), [0, 30, 200, 1000], 20_000
        seen, stated = collections.Counter(), {}
        for _ in range(n):
            (i, j), propensity = chosen_pair(counts, generator)
            seen[frozenset((i, j))] += 1
            stated[frozenset((i, j))] = propensity
        assert sum(stated.values()) == pytest.approx(1)
        for pair, times in seen.items():
            assert times / n == pytest.approx(stated[pair], abs=0.015)

    def test_slots_are_a_fair_coin(self):
        generator = random.Random(2)
        first = sum(chosen_pair([0, 0], generator)[0][0] for _ in range(4000))
        assert abs(first - 2000) < 150

    def test_a_seed_repeats_the_choices(self, votes):
        secrets = []
        for _ in range(2):
            arena = arena_of(votes, seed=7)
            for _ in range(5):
                one = arena.new_round()
                secret = arena._secrets[one.id]
                secrets.append((secret.first.name, secret.second.name, secret.seeds))
        assert secrets[:5] == secrets[5:]
        assert len(set(secrets)) == 5

    def test_one_contestant_is_no_arena(self, votes):
        with pytest.raises(UsageError, match="at least 2"):
            arena_of(votes, names=["anna"])


class TestTurns:
    def test_both_sides_hear_the_message_and_only_their_own_answers(self, votes):
        heard = {}

        def say(name, messages, seed):
            heard.setdefault(name, []).append([message["content"] for message in messages])
            return f"{name} {len(messages)}"

        arena = arena_of(votes, Scripted(say), names=["anna", "berta"])
        one = arena.new_round()
        arena.say(one, "Hello!")
        arena.say(one, "And now?")
        assert sorted(heard) == ["anna", "berta"]
        for name, talks in heard.items():
            assert talks == [["Hello!"], ["Hello!", f"{name} 1", "And now?"]]
        assert [turn.message for turn in one.turns] == ["Hello!", "And now?"]

    def test_sides_have_seeds_of_their_own(self, votes):
        cast = Scripted()
        arena = arena_of(votes, cast)
        one = arena.new_round()
        arena.say(one, "Hello!")
        arena.say(one, "Again.")
        assert len(set(cast.seeds)) == 4

    @pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
    def test_a_side_that_fails_voids_the_round(self, votes, failure):
        def say(name, messages, seed):
            return failure if name == "anna" else "Hello!"

        arena = arena_of(votes, Scripted(say), names=["anna", "berta"])
        one = arena.new_round()
        assert arena.say(one, "Hi") is None
        assert one.state == "void"
        with pytest.raises(UsageError):
            arena.vote(one, Outcome.A)
        assert (votes.n_voids(), votes.votes()) == (1, [])

    @pytest.mark.parametrize("answer", ["", " \n ", "x" * 5000])
    def test_so_do_empty_and_endless_answers(self, votes, answer):
        arena = arena_of(votes, Scripted(lambda *_: answer))
        assert arena.say(arena.new_round(), "Hi") is None

    def test_so_does_one_that_takes_too_long(self, votes, monkeypatch):
        monkeypatch.setattr(battle, "ANSWER_SECONDS", 0.05)
        go_on = threading.Event()

        def say(name, messages, seed):
            if name == "anna":
                go_on.wait(60)
            return "Hello!"

        arena = arena_of(votes, Scripted(say), names=["anna", "berta"])
        assert arena.say(arena.new_round(), "Hi") is None
        go_on.set()

    @pytest.mark.parametrize("message", ["", " \n", "x" * 4001])
    def test_messages_that_say_nothing_or_too_much_are_refused(self, votes, message):
        arena = arena_of(votes)
        with pytest.raises(UsageError, match="message"):
            arena.say(arena.new_round(), message)

    def test_a_round_has_an_end(self, votes):
        arena = arena_of(votes)
        one = arena.new_round()
        for _ in range(battle.MAX_TURNS):
            arena.say(one, "Hi")
        with pytest.raises(UsageError, match="20 turns"):
            arena.say(one, "Hi")

    def test_old_rounds_are_forgotten(self, votes, monkeypatch):
        monkeypatch.setattr(battle, "MAX_ROUNDS", 3)
        arena = arena_of(votes)
        rounds = [arena.new_round() for _ in range(5)]
        assert arena.round(rounds[2].id) is rounds[2]
        with pytest.raises(UsageError, match="none with this id"):
            arena.round(rounds[1].id)


class TestVotes:
    def test_a_vote_is_written_and_then_the_names_are_told(self, votes):
        arena = arena_of(votes)
        one = arena.new_round("chat")
        turn = arena.say(one, "Hello!")
        revealed = arena.vote(one, Outcome.B, "me")
        [written] = votes.votes()
        assert (written.first, written.second) == (revealed.a.id, revealed.b.id)
        assert turn == Turn("Hello!", f"{revealed.a.name} heard Hello!", f"{revealed.b.name} heard Hello!")
        assert (written.outcome, written.voter, written.category) == (Outcome.B, "me", "chat")
        assert (written.first_answers, written.second_answers) == ([turn.a], [turn.b])
        assert 0 < written.propensity < 1
        assert written.reading >= 0
        assert revealed.counts

    def test_a_vote_needs_an_answer(self, votes):
        arena = arena_of(votes)
        with pytest.raises(UsageError, match="without an answer"):
            arena.vote(arena.new_round(), Outcome.A)

    def test_a_round_is_voted_on_once(self, votes):
        arena = arena_of(votes)
        one = arena.new_round()
        arena.say(one, "Hi")
        arena.vote(one, Outcome.A)
        for again in (lambda: arena.vote(one, Outcome.B), lambda: arena.say(one, "More")):
            with pytest.raises(UsageError):
                again()

    def test_a_vote_can_be_undone_and_given_again(self, votes):
        arena = arena_of(votes)
        one = arena.new_round()
        arena.say(one, "Hi")
        with pytest.raises(UsageError, match="no vote to undo"):
            arena.undo(one)
        arena.vote(one, Outcome.A)
        arena.undo(one)
        assert votes.votes() == []
        arena.vote(one, Outcome.TIE)
        assert [vote.outcome for vote in votes.votes()] == [Outcome.TIE]

    def test_identical_answers_are_not_rated(self, votes):
        arena = arena_of(votes, Scripted(lambda name, *_: "Same  here" if name == "anna" else "Same here"))
        one = arena.new_round()
        arena.say(one, "Hi")
        assert one.is_identical
        assert not arena.vote(one, Outcome.A).counts
        assert votes.votes()[0].identical

    def test_a_vote_that_can_not_be_written_reveals_nothing(self, votes, monkeypatch):
        arena = arena_of(votes)
        one = arena.new_round()
        arena.say(one, "Hi")

        def full(_):
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(votes, "record", full)
            with pytest.raises(OSError, match="no space"):
                arena.vote(one, Outcome.A)
        arena.vote(one, Outcome.A)

    def test_only_one_of_many_votes_at_once_counts(self, votes):
        arena = arena_of(votes)
        one = arena.new_round()
        arena.say(one, "Hi")
        done = []

        def vote():
            with contextlib.suppress(UsageError):
                done.append(arena.vote(one, Outcome.A))

        threads = [threading.Thread(target=vote) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == len(votes.votes()) == 1


class TestAnonymity:
    def test_a_round_has_no_field_that_depends_on_who_the_contestants_are(self, votes):
        arena = arena_of(votes, Scripted(lambda *_: "Hello there"))
        for _ in range(20):
            one = arena.new_round()
            arena.say(one, "Hi")
            shown = json.dumps({name: value for name, value in vars(one).items() if name != "id"})
            assert shown == json.dumps(
                {"category": None, "turns": [["Hi", "Hello there", "Hello there"]], "state": "open"}
            )
            for contestant in arena.contestants:
                assert contestant.name not in one.id
                assert contestant.id not in one.id

    def test_ids_can_not_be_guessed(self, votes):
        arena = arena_of(votes)
        ids = {arena.new_round().id for _ in range(50)}
        assert len(ids) == 50
        assert min(map(len, ids)) >= 20

    @pytest.mark.parametrize(
        ("a", "b"), [("one", "one two  three"), ("", "x"), (" a\n\n  b ", "c"), ("ASCII\n  /\\_/\\\n ( o.o )", "ok")]
    )
    def test_pieces_come_word_by_word_at_the_same_times(self, a, b):
        pieces = ticks(Turn("", a, b))
        assert "".join(piece for piece, _ in pieces) == a
        assert "".join(piece for _, piece in pieces) == b
        assert len(pieces) == max(len(a.split()), len(b.split())) + any(t != t.rstrip() and t.split() for t in (a, b))
