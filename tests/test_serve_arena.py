"""The arena over HTTP: a whole battle, and that nothing tells who answers before the vote."""

import json
import time

import pytest
from contestants import Scripted, player
from demo import DEMO, demo_model
from serving import serving, together

from gpt2rt.arena import battle
from gpt2rt.arena.battle import Arena
from gpt2rt.arena.contestants import Cast, ContestantError, builtin_contestants
from gpt2rt.arena.suggestions import SUGGESTIONS
from gpt2rt.arena.votes import Outcome, Votes
from gpt2rt.cli.serve import opened_arena


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Let answers appear at once."""
    monkeypatch.setattr("gpt2rt.serve.arena_routes.WORDS_PER_SECOND", 1e9)


@pytest.fixture
def votes(tmp_path):
    return Votes(str(tmp_path / "arena.sqlite"))


@pytest.fixture
def server(votes):
    def opened():
        cast = Scripted(lambda name, messages, seed: f"I heard: {messages[-1]['content']}\n  /\\_/\\ {seed}")
        return Arena([votes.add(player(name)) for name in ("anna", "berta", "clara")], cast, votes, 1), votes

    with serving({"demo": demo_model()}, opened) as server:
        yield server


def say(server, round, content):
    answer = server.post(f"/arena/rounds/{round}/messages", content=content)
    assert answer.status == 200, answer.content
    return answer.events


def texts(events):
    return tuple("".join(event.get(slot, "") for event in events) for slot in "ab")


class TestBattles:
    def test_a_whole_battle(self, server, votes):
        started = server.post("/arena/rounds", category="chat")
        assert started.status == 201
        id_ = started.json["round"]
        *pieces, end = say(server, id_, "Hello!")
        assert end == {"end": True, "identical": False}
        a, b = texts(pieces)
        assert a.startswith("I heard: Hello!\n  /\\_/\\ ")
        say(server, id_, "And now?")
        told = server.post(f"/arena/rounds/{id_}/vote", outcome="b").json
        [vote] = votes.votes()
        assert (vote.outcome, vote.category, vote.messages) == (Outcome.B, "chat", ["Hello!", "And now?"])
        assert (vote.first_answers[0], vote.second_answers[0]) == (a, b)
        names = {one.id: one.name for one in votes.contestants()}
        assert (told["a"]["name"], told["b"]["name"], told["counts"]) == (names[vote.first], names[vote.second], True)

    def test_a_vote_can_be_undone(self, server, votes):
        id_ = server.post("/arena/rounds").json["round"]
        say(server, id_, "Hello!")
        server.post(f"/arena/rounds/{id_}/vote", outcome="a")
        assert server.post(f"/arena/rounds/{id_}/undo").json == {"round": id_}
        assert votes.votes() == []
        server.post(f"/arena/rounds/{id_}/vote", outcome="bad")
        assert [vote.outcome for vote in votes.votes()] == [Outcome.BAD]

    def test_a_suggestion_has_its_category(self, server, votes):
        listed = server.get("/arena/suggestions").json["categories"]
        assert [one["name"] for one in listed] == list(SUGGESTIONS)
        id_ = server.post("/arena/rounds").json["round"]
        say(server, id_, listed[4]["prompts"][0])
        server.post(f"/arena/rounds/{id_}/vote", outcome="tie")
        assert votes.votes()[0].category == "puzzles"

    def test_the_board_has_what_was_voted(self, server):
        assert server.get("/arena/board").json["notes"] == ["Nobody has voted yet."]
        for outcome in ("a", "b", "tie", "bad"):
            id_ = server.post("/arena/rounds").json["round"]
            say(server, id_, "Hello!")
            server.post(f"/arena/rounds/{id_}/vote", outcome=outcome)
        board = server.get("/arena/board").json
        assert sum(row["rounds"] for row in board["rows"]) == 8
        assert {row["name"] for row in board["rows"]} == {"anna", "berta", "clara"}
        assert sum(pair["wins"] + pair["losses"] for pair in board["pairs"]) == 2
        assert server.get("/arena/board?category=stories").json["notes"] == ["Nobody has voted yet."]

    def test_battles_at_the_same_time(self, server, votes):
        def play():
            id_ = server.post("/arena/rounds").json["round"]
            say(server, id_, "Hello!")
            return server.post(f"/arena/rounds/{id_}/vote", outcome="a").status

        assert together([play] * 12) == [200] * 12
        assert len(votes.votes()) == 12

    def test_a_round_with_a_side_that_fails_is_void(self, votes):
        def opened():
            cast = Scripted(lambda *_: ContestantError("anna's server at http://anna.example is away"))
            return Arena([votes.add(player(name)) for name in ("anna", "berta")], cast, votes, 1), votes

        with serving({"demo": demo_model()}, opened) as server:
            id_ = server.post("/arena/rounds").json["round"]
            [event] = say(server, id_, "Hello!")
            assert event == {"void": battle.VOID}
            assert server.post(f"/arena/rounds/{id_}/vote", outcome="a").status == 409
        assert votes.n_voids() == 1

    def test_words_come_at_one_pace(self, server, monkeypatch):
        monkeypatch.setattr("gpt2rt.serve.arena_routes.WORDS_PER_SECOND", 50)
        id_ = server.post("/arena/rounds").json["round"]
        begin = time.monotonic()
        events = say(server, id_, "one two three")
        assert time.monotonic() - begin >= (len(events) - 2) / 50
        assert all(set(event) == {"a", "b"} for event in events[:-1])


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "fields", "status"),
        [
            ("/arena/rounds", {"category": "weather"}, 400),
            ("/arena/rounds", {"x": 1}, 400),
            ("/arena/rounds/unknown/messages", {"content": "Hi"}, 404),
            ("/arena/rounds/unknown/vote", {"outcome": "a"}, 404),
            ("/arena/rounds/unknown/undo", {}, 404),
            ("/arena/rounds/{}/messages", {}, 400),
            ("/arena/rounds/{}/messages", {"content": " "}, 400),
            ("/arena/rounds/{}/messages", {"content": "x" * 5000}, 400),
            ("/arena/rounds/{}/vote", {"outcome": "a"}, 409),
            ("/arena/rounds/{}/vote", {"outcome": "draw"}, 400),
            ("/arena/rounds/{}/undo", {}, 409),
        ],
    )
    def test_what_can_not_be_done_is_said(self, server, path, fields, status):
        id_ = server.post("/arena/rounds").json["round"]
        error = server.post(path.format(id_), fields).error
        assert error["status"] == status
        assert error["message"]

    def test_a_server_without_an_arena_has_no_such_paths(self):
        with serving({"demo": demo_model()}) as server:
            assert server.post("/arena/rounds").status == 404

    def test_an_arena_that_can_not_be_opened(self):
        def opened():
            raise ContestantError("/secret/model.bin: no such file")

        with serving({"demo": demo_model()}, opened) as server:
            answer = server.post("/arena/rounds")
            assert answer.status == 503
            assert b"secret" not in answer.content

    def test_a_key_is_needed(self, votes):
        with serving({"demo": demo_model()}, lambda: (None, votes), api_key="secret") as server:
            assert server.post("/arena/rounds").status == 401


def test_nothing_that_a_client_receives_before_the_vote_tells_who_answers(tmp_path, caplog):
    """Every answer of every kind of request, with its headers, and the server's log."""
    path = str(tmp_path / "votes.sqlite")
    votes = Votes(path)
    contestants = [votes.add(one) for one in builtin_contestants().values()]
    secret = {str(DEMO), str(DEMO.parent), path}
    for one in contestants:
        secret |= {one.id, one.name, one.kind, one.source, str(one.settings.get("digest", ""))[:8]}
        secret |= {f'"{name}"' for name in one.settings}
    secret -= {"", "demo"}  # the bundled model is served under its name, whoever plays

    def opened():
        return Arena(contestants, Cast(1), votes, 5), votes

    with serving({"demo": demo_model()}, opened) as server:
        for _ in range(6):
            received = []

            def ask(method, where, fields=None, received=received):
                body = None if fields is None else json.dumps(fields)
                answer = server.request(method, where, body, {"content-type": "application/json"})
                received.append(f"{where} {answer.status} {answer.headers} {answer.content.decode()}")
                return answer

            id_ = ask("POST", "/arena/rounds", {}).json["round"]
            said = [
                texts(ask("POST", f"/arena/rounds/{id_}/messages", {"content": c}).events) for c in ("Hello!", "Why?")
            ]
            ask("POST", f"/arena/rounds/{id_}/messages", {"content": ""})
            ask("POST", f"/arena/rounds/{id_}/undo", {})
            ask("POST", f"/arena/rounds/{id_}/vote", {"outcome": "x"})
            ask("GET", "/arena/suggestions")
            ask("GET", "/metrics")
            for suspect in secret:
                for text in (*received, caplog.text):
                    without_words = text
                    for answer in (word for pair in said for word in pair):
                        without_words = without_words.replace(answer, "")
                    assert suspect not in without_words, suspect
            assert ask("POST", f"/arena/rounds/{id_}/vote", {"outcome": "tie"}).json["a"]["name"]


def test_served_models_play(tmp_path):
    from gpt2rt.serve.served_model import ServedModel

    arena, votes = opened_arena([ServedModel("mine", demo_model())], str(tmp_path / "votes.sqlite"), 1)
    assert [one.name for one in arena.contestants] == ["demo", "greedy", "eliza", "lstm"]  # mine is the demo
    votes.retire(votes.named("greedy"))
    arena, _ = opened_arena([ServedModel("mine", demo_model())], str(tmp_path / "votes.sqlite"), 1)
    assert [one.name for one in arena.contestants] == ["demo", "eliza", "lstm"]
    one = arena.new_round()
    assert arena.say(one, "Hello!") is not None
