"""The file of votes: what is in it, what it refuses, and that nothing acknowledged is lost."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from contestants import player

from gpt2rt.arena.contestants import Contestant
from gpt2rt.arena.votes import Outcome, Vote, Votes, VotesError
from gpt2rt.errors import UsageError

A, B = player("a"), player("b")


@pytest.fixture
def votes(tmp_path):
    votes = Votes(str(tmp_path / "arena.sqlite"))
    votes.add(A)
    votes.add(B)
    return votes


def vote(round="1", outcome=Outcome.A, **changes):
    facts = Vote(round, "me", "person", "chat", A.id, B.id, 1, 2, 0.5, outcome, False, ["Hi"], ["Hello"], ["What"], 1.5)
    return dataclasses.replace(facts, **changes)


class TestContestants:
    def test_identity_is_every_setting_and_nothing_else(self):
        one = Contestant("x", "model", {"digest": "00", "temperature": 0.7}, "/a")
        assert one.id == Contestant("y", "model", {"temperature": 0.7, "digest": "00"}, "/b", retired=True).id
        others = [{"digest": "01", "temperature": 0.7}, {"digest": "00", "temperature": 0.71}, {"digest": "00"}]
        assert len({one.id, *(Contestant("x", "model", other).id for other in others)}) == 4
        assert one.id != Contestant("x", "lstm", one.settings).id

    @pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 61, 7, "\x00"])
    def test_names_are_printable(self, name):
        with pytest.raises(UsageError):
            Contestant(name, "url", {})

    def test_the_same_contestant_is_added_once(self, votes):
        assert votes.add(Contestant("other name", "url", A.settings, "elsewhere")).name == "a"
        assert [one.name for one in votes.contestants()] == ["a", "b"]
        assert votes.named("a").source == "elsewhere"

    def test_a_name_is_given_once(self, votes):
        assert votes.add(player("a", more=1)).name == "a (2)"
        assert votes.add(player("a", more=2)).name == "a (3)"

    def test_retiring_hides_and_deletes_nothing(self, votes):
        votes.record(vote())
        votes.retire(A)
        assert [one.retired for one in votes.contestants()] == [True, False]
        assert len(votes.votes()) == 1
        votes.retire(A, False)
        assert not votes.named("a").retired

    def test_an_unknown_name_is_refused(self, votes):
        with pytest.raises(UsageError, match="expected one of a, b"):
            votes.named("c")

    def test_settings_that_were_edited_in_the_file_are_noticed(self, votes):
        with sqlite3.connect(votes.path) as database:
            database.execute("""UPDATE contestants SET settings = '{"name": "z"}' WHERE name = 'a'""")
        with pytest.raises(VotesError, match="edited"):
            votes.contestants()


class TestRounds:
    @pytest.mark.parametrize("outcome", Outcome)
    def test_a_vote_is_read_as_it_was_written(self, votes, outcome):
        written = vote(outcome=outcome, voted=1e9, messages=["ä", "€"], first_answers=["1", "2"], propensity=None)
        votes.record(written)
        assert votes.votes() == [written]

    def test_a_round_has_one_vote(self, votes):
        votes.record(vote())
        with pytest.raises(VotesError, match="has a vote"):
            votes.record(vote(outcome=Outcome.B))
        assert [one.outcome for one in votes.votes()] == [Outcome.A]

    def test_a_vote_that_is_withdrawn_stays_in_the_file(self, votes):
        votes.record(vote())
        assert votes.withdraw("1")
        assert not votes.withdraw("1")
        votes.record(vote(outcome=Outcome.BAD))
        assert [one.outcome for one in votes.votes()] == [Outcome.BAD]
        with sqlite3.connect(votes.path) as database:
            assert database.execute("SELECT count(*) FROM rounds").fetchone() == (2,)

    def test_outcomes_are_a_closed_list(self, votes):
        with pytest.raises(ValueError, match="draw"):
            votes.record(vote(outcome="draw"))
        with sqlite3.connect(votes.path) as database, pytest.raises(sqlite3.IntegrityError):
            database.execute(
                "INSERT INTO rounds (round, voted, voter, origin, first, second, first_seed, second_seed, outcome,"
                " identical, messages, first_answers, second_answers) VALUES ('2', 0, '', 'person', ?, ?, 0, 0, 'draw',"
                " 0, '', '', '')",
                (A.id, B.id),
            )

    def test_a_contestant_that_is_not_in_the_file_is_refused(self, votes):
        with pytest.raises(VotesError):
            votes.record(vote(first="unknown"))

    def test_rounds_are_counted_by_contestant(self, votes):
        c = votes.add(player("c"))
        votes.record(vote("1"))
        votes.record(vote("2", first=c.id))
        votes.record(vote("3"))
        votes.withdraw("3")
        assert votes.n_rounds() == {A.id: 1, B.id: 2, c.id: 1}

    def test_origins_are_kept_apart(self, votes):
        votes.record(vote("1"))
        votes.record(vote("2", origin="judge"))
        assert [one.round for one in votes.votes(("person",))] == ["1"]
        assert [one.round for one in votes.votes(("judge",))] == ["2"]

    def test_no_column_could_hold_an_address(self, votes):
        with sqlite3.connect(votes.path) as database:
            columns = {
                row[1] for table in ("rounds", "voids") for row in database.execute(f"PRAGMA table_info({table})")
            }
        assert not columns & {"ip", "address", "host", "user_agent", "client"}


class TestFiles:
    def test_votes_of_several_threads_are_all_there(self, votes):
        def write(k):
            for i in range(25):
                votes.record(vote(f"{k}-{i}"))

        threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(votes.votes()) == 100

    def test_two_processes_can_have_the_file_open(self, votes):
        other = Votes(votes.path)
        other.record(vote("1"))
        votes.record(vote("2"))
        assert len(other.votes()) == len(votes.votes()) == 2

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
    def test_no_acknowledged_vote_is_lost_when_the_process_is_killed(self, votes):
        code = (
            "import sys; from test_arena_votes import *; votes = Votes(sys.argv[1]); i = 0\n"
            "while True:\n  votes.record(vote(str(i))); print(i, flush=True); i += 1"
        )
        folder = os.path.dirname(__file__)
        environment = {**os.environ, "PYTHONPATH": folder}
        command = [sys.executable, "-c", code, votes.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            acknowledged = [int(process.stdout.readline()) for _ in range(30)]
            process.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout.read().split("\n") if line]
        recorded = {one.round for one in Votes(votes.path).votes()}
        assert recorded >= set(map(str, acknowledged))

    def test_what_is_no_file_of_votes_is_refused(self, tmp_path):
        (tmp_path / "text").write_text("no database, just text" * 100)
        with pytest.raises(VotesError, match="not a database"):
            Votes(str(tmp_path / "text"))
        other = tmp_path / "other.sqlite"
        with sqlite3.connect(other) as database:
            database.execute("CREATE TABLE mine (x)")
        with pytest.raises(VotesError, match="another program"):
            Votes(str(other))
        with sqlite3.connect(tmp_path / "new.sqlite") as database:
            database.execute("PRAGMA user_version = 7")
        with pytest.raises(VotesError, match="version 7"):
            Votes(str(tmp_path / "new.sqlite"))

    def test_a_folder_that_can_not_be_written_is_reported(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(VotesError, match="choose another --db"):
            Votes(str(tmp_path / "file" / "arena.sqlite"))
