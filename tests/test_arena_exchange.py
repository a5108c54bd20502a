"""Votes of other arenas, in and out; and judges."""

import itertools
import json

import pytest
from contestants import Scripted, player
from demo import demo_model

from gpt2rt.arena.battle import Arena, Round, Turn
from gpt2rt.arena.exchange import export_votes, import_votes, read_votes
from gpt2rt.arena.judge import LikelihoodJudge, UrlJudge, self_play
from gpt2rt.arena.votes import Outcome, Votes
from gpt2rt.errors import UsageError

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
OTHER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "What?"}]
LMARENA = {
    **{"question_id": "1", "model_a": "gpt-x", "model_b": "gpt-y", "winner": "model_b", "judge": "j", "turn": 1},
    **{"conversation_a": TALK, "conversation_b": OTHER, "anony": True, "language": "English", "tstamp": 1.5e9},
}
STATE = {"template_name": "t", "offset": 0, "conv_id": "c", "model_name": "gpt-x"}
FASTCHAT = {
    **{"tstamp": 1.5e9, "type": "leftvote", "models": ["", "gpt-y"], "ip": "10.0.0.1"},
    "states": [
        {**STATE, "messages": [["USER", "Hi"], ["ASSISTANT", "Hello"]]},
        {**STATE, "model_name": "gpt-y", "messages": [["USER", "Hi"], ["ASSISTANT", "What?"]]},
    ],
}


@pytest.fixture
def votes(tmp_path):
    return Votes(str(tmp_path / "arena.sqlite"))


def read(record):
    [(a, b, vote)] = read_votes([json.dumps(record)])
    return a.name, b.name, vote


class TestImport:
    @pytest.mark.parametrize(
        ("winner", "outcome"),
        [
            ("model_a", Outcome.A),
            ("model_b", Outcome.B),
            ("tie", Outcome.TIE),
            ("tie (bothbad)", Outcome.BAD),
        ],
    )
    def test_lmarena(self, winner, outcome):
        a, b, vote = read({**LMARENA, "winner": winner})
        assert (a, b, vote.outcome, vote.voted, vote.voter) == ("gpt-x", "gpt-y", outcome, 1.5e9, "j")
        assert (vote.messages, vote.first_answers, vote.second_answers) == (["Hi"], ["Hello"], ["What?"])

    @pytest.mark.parametrize(
        ("kind", "outcome"),
        [
            ("leftvote", Outcome.A),
            ("rightvote", Outcome.B),
            ("tievote", Outcome.TIE),
            ("bothbad_vote", Outcome.BAD),
        ],
    )
    def test_fastchat(self, kind, outcome):
        a, b, vote = read({**FASTCHAT, "type": kind})
        assert (a, b, vote.outcome) == ("gpt-x", "gpt-y", outcome)
        assert (vote.messages, vote.first_answers, vote.second_answers) == (["Hi"], ["Hello"], ["What?"])
        assert "10.0.0.1" not in repr(vote)

    def test_fastchats_log_of_other_things_is_skipped(self):
        assert list(read_votes([json.dumps({"type": "chat", "state": {}}), "", "\n"])) == []

    @pytest.mark.parametrize(
        "record",
        [
            {**LMARENA, "winner": "draw"},
            {**LMARENA, "winner": None},
            {**LMARENA, "winner": "Model_A"},
            {**FASTCHAT, "type": "leftvoted"},
            {**FASTCHAT, "type": None},
        ],
    )
    def test_an_outcome_that_is_not_known_is_never_taken_for_a_tie(self, record):
        with pytest.raises(UsageError, match="line 1: got the outcome"):
            read(record)

    @pytest.mark.parametrize(
        "line", ["{", "[]", "7", '{"winner": "tie"}', '{"type": "leftvote"}', '{"type": "leftvote", "states": 3}']
    )
    def test_lines_that_are_no_votes_are_refused(self, line):
        with pytest.raises(UsageError, match="line 2"):
            list(read_votes([json.dumps(LMARENA), line]))

    def test_nothing_is_added_if_a_line_is_wrong(self, votes):
        with pytest.raises(UsageError):
            import_votes(votes, [json.dumps(LMARENA), "{"])
        assert votes.contestants() == votes.votes() == []

    def test_a_file_can_be_imported_twice(self, votes):
        lines = [json.dumps(LMARENA), json.dumps(FASTCHAT)]
        assert import_votes(votes, lines) == (2, 0)
        assert import_votes(votes, lines) == (0, 2)
        assert [one.name for one in votes.contestants()] == ["gpt-x", "gpt-y"]


@pytest.mark.parametrize("form", ["fastchat", "lmarena"])
def test_what_is_exported_can_be_imported(votes, tmp_path, form):
    arena = Arena([votes.add(player(name)) for name in ("anna", "berta")], Scripted(), votes, 1)
    for outcome in Outcome:
        one = arena.new_round()
        arena.say(one, "Hi")
        arena.say(one, "More")
        arena.vote(one, outcome)
    lines = list(export_votes(votes, form))
    other = Votes(str(tmp_path / "other.sqlite"))
    assert import_votes(other, lines) == (4, 0)
    names = [{one.id: one.name for one in file.contestants()} for file in (votes, other)]
    for before, after in zip(votes.votes(), other.votes(), strict=True):
        assert (after.outcome, after.messages) == (before.outcome, before.messages)
        assert (after.first_answers, after.second_answers) == (before.first_answers, before.second_answers)
        assert names[1][after.first] == names[0][before.first]


class TestJudges:
    def test_the_likelier_answer_wins_in_either_slot(self):
        judge = LikelihoodJudge(demo_model())
        good, bad = "I'm fine, thank you. How are you?", "Purple the seven of if under quickly banana."
        assert judge.outcome(Round("1", turns=[Turn("How are you?", good, bad)])) is Outcome.A
        assert judge.outcome(Round("1", turns=[Turn("How are you?", bad, good)])) is Outcome.B
        assert judge.outcome(Round("1", turns=[Turn("How are you?", good, good)])) is Outcome.TIE

    @pytest.mark.parametrize(
        ("said", "outcome"),
        [
            (["A", "B"], Outcome.A),
            (["b.", "A"], Outcome.B),
            (["A", "A"], Outcome.TIE),
            (["TIE", "tie"], Outcome.TIE),
            (["A", "tie"], Outcome.TIE),
        ],
    )
    def test_a_judge_who_contradicts_himself_has_no_opinion(self, said, outcome):
        judge = UrlJudge("http://127.0.0.1:1/v1")
        answers = iter(said)
        judge._performer.answer = lambda messages, seed: iter([next(answers)])
        assert judge.outcome(Round("1", turns=[Turn("Hi", "x", "y")])) is outcome

    def test_self_play_is_kept_apart(self, votes):
        class First:
            name = "first"

            def outcome(self, one):
                return Outcome.A

        arena = Arena([votes.add(player(name)) for name in ("anna", "berta", "clara")], Scripted(), votes, 1)
        assert list(itertools.islice(self_play(arena, First(), 5, 0), 9)) == [Outcome.A] * 5
        assert votes.votes(("person",)) == []
        assert {(vote.origin, vote.voter) for vote in votes.votes()} == {("judge", "first")}
        assert {vote.category for vote in votes.votes()} <= {
            "chat",
            "coding",
            "web pages",
            "ASCII art",
            "puzzles",
            "stories",
        }
