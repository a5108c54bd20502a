"""gpt2rt arena: battles from a pipe and at a terminal, and what the other commands print."""

import json
import re
import shutil
import sys

import pytest
from demo import DEMO, demo_model
from terminal import Terminal

from gpt2rt.arena.votes import Outcome, Votes
from gpt2rt.cli.battle import side_by_side, wrapped


@pytest.fixture
def db(tmp_path):
    demo_model()
    return tmp_path / "arena.sqlite"


@pytest.fixture
def arena(cli, db):
    """Runs gpt2rt arena with a file of votes."""

    def call(*arguments, typed=""):
        return cli("arena", *arguments, "--db", db, typed=typed)

    return call


def votes_of(db):
    return Votes(str(db)).votes()


class TestBattle:
    def test_a_battle_from_a_pipe(self, arena, db):
        code, out, err = arena(
            "--seed", 3, typed="Hello!\nHow are you?\na\nn\nTell me a joke.\nt\nu\nx\nq\nnever read\n"
        )
        assert (code, err) == (0, "")
        first, second = votes_of(db)
        assert (first.outcome, first.messages) == (Outcome.A, ["Hello!", "How are you?"])
        assert (second.outcome, second.messages) == (Outcome.BAD, ["Tell me a joke."])
        shown, told = out.split("\nA  ", 1)[0], out
        names = {one.id: one.name for one in Votes(str(db)).contestants()}
        assert names[first.first] in told
        assert f"A  {first.first_answers[0]}" in out
        assert "The vote is withdrawn" in out
        assert names[first.first] not in shown

    def test_a_vote_before_an_answer_is_a_message(self, arena, db):
        arena("--seed", 1, typed="a\nb\n")
        assert [vote.messages for vote in votes_of(db)] == [["a"]]

    def test_suggestions_carry_their_category(self, arena, db):
        arena("--seed", 1, typed="Do you like music?\na\n")
        arena("--seed", 1, "--category", "mine", "--voter", "me", typed="Hello!\na\n")
        assert [(vote.category, vote.voter) for vote in votes_of(db)] == [("chat", ""), ("mine", "me")]

    def test_models_and_presets_play(self, arena, db):
        code, _, _ = arena(DEMO, "--preset", "cool", "--preset", "warm", "--seed", 1, typed="Hello!\ntell me\nb\n")
        assert code == 0
        names = {one.id: one.name for one in Votes(str(db)).contestants()}
        assert {names[votes_of(db)[0].first], names[votes_of(db)[0].second]} == {"demo cool", "demo warm"}

    def test_only_those_named_play(self, arena, db):
        arena("--only", "eliza", "--only", "lstm", "--seed", 1, typed="Hello!\nb\n")
        names = {one.id: one.name for one in Votes(str(db)).contestants()}
        assert {names[votes_of(db)[0].first], names[votes_of(db)[0].second]} == {"eliza", "lstm"}

    def test_contestants_come_from_a_file(self, arena, db, tmp_path):
        path = tmp_path / "c.toml"
        tables = 'name = "one"\nmodel = "demo"\ntemperature = 0.3\n', 'name = "two"\nbuiltin = "eliza"\n'
        path.write_text("".join(f"[[contestant]]\n{table}" for table in tables))
        code, out, _ = arena("--contestants", path, "--seed", 1, typed="Hello!\na\n")
        assert code == 0
        assert re.search(r"^[AB]  one ", out, re.MULTILINE)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--only", "nobody"], "no contestant has this name"),
            (["--only", "eliza"], "expected at least 2"),
            (["--only", "eliza", "--only", "lstm", "--only", "eliza"], "got eliza twice"),
            ([DEMO, DEMO], "got demo twice"),
            (["--preset", "cool"], "got no MODEL"),
            (["--judge", "demo"], "got no --self-play"),
            (["nothing.bin"], "nothing.bin: No such file"),
            (["--contestants", "nothing.toml"], "nothing.toml"),
        ],
    )
    def test_what_can_not_be_is_said(self, arena, arguments, message):
        code, _, err = arena(*arguments)
        assert code in (1, 2)
        assert message in err
        assert len(err.splitlines()) == 1

    def test_who_has_no_file_any_more_does_not_play(self, arena, db, tmp_path):
        shutil.copy(DEMO, tmp_path / "copy.bin")
        arena(tmp_path / "copy.bin", "--preset", "cool", "--preset", "warm", typed="q\n")
        (tmp_path / "copy.bin").write_bytes(b"another file")
        code, _, err = arena("--seed", 1, typed="Hello!\na\n")
        assert code == 0
        assert err.splitlines() == [
            f"gpt2rt: copy {preset} does not play: {tmp_path / 'copy.bin'} has changed"
            f" (gpt2rt arena retire 'copy {preset}')"
            for preset in ("cool", "warm")
        ]
        assert len(votes_of(db)) == 1

    def test_a_judge_plays_alone(self, arena, db):
        code, out, _ = arena("--self-play", 3, "--seed", 2)
        assert code == 0
        assert out.startswith("3 rounds: ")
        assert {vote.origin for vote in votes_of(db)} == {"judge"}
        assert arena("leaderboard")[1].count("likelihood") == 0
        assert "Nobody has voted yet." in arena("leaderboard")[1]
        assert "Nobody has voted yet." not in arena("leaderboard", "--judges")[1]


class TestColumns:
    def test_two_texts_side_by_side(self):
        assert side_by_side("one two three", "x", 8) == ["one two  │ x", "three    │ "]

    def test_white_space_is_kept(self):
        assert wrapped("  /\\_/\\\n ( o.o )", 20) == ["  /\\_/\\", " ( o.o )"]
        assert wrapped("", 5) == [""]


class TestCommands:
    def test_help(self, cli):
        for words in (["arena"], ["arena", "battle"], ["arena", "split"], ["arena", "plan"]):
            code, out, _ = cli(*words, "-h")
            assert code == 0
            assert "Example" in out

    def test_list_and_split_and_retire(self, arena):
        assert [line.split()[0] for line in arena("list")[1].splitlines()] == [
            "name",
            "demo",
            "greedy",
            "eliza",
            "lstm",
        ]
        code, out, _ = arena("split", "demo", "--vary", "temperature=0.5..1.0", "--children", 3)
        assert code == 0
        assert [line.split("  ")[1] for line in out.splitlines()] == [
            f"demo · temperature {t:g}" for t in (0.5, 0.75, 1)
        ]
        arena("retire", "greedy")
        lines = arena("list")[1].splitlines()
        assert lines[2].startswith("  demo · temperature 0.5")
        assert next(line for line in lines if line.endswith("retired")).startswith("greedy")
        rows = [json.loads(line) for line in arena("list", "--json")[1].splitlines()]
        assert [row["parent"] for row in rows if "·" in row["name"]] == ["demo"] * 3
        arena("retire", "greedy", "--undo")
        assert "retired" not in arena("list")[1]

    def test_the_leaderboard_in_three_forms(self, arena, tmp_path):
        for seed in range(4):
            arena("--seed", seed, typed="Hello!\na\n")
        code, out, _ = arena("leaderboard")
        assert code == 0
        assert "●" in out
        assert "Wins of the row against the column:" in out
        found = json.loads(arena("leaderboard", "--json")[1])
        assert sum(row["rounds"] for row in found["rows"]) == 8
        arena("leaderboard", "--html", tmp_path / "board.html")
        page = (tmp_path / "board.html").read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>")
        assert "<script" not in page
        assert "http" not in page
        for row in found["rows"]:
            assert row["name"] in page

    def test_votes_go_out_and_in(self, arena, cli, tmp_path):
        arena("--seed", 1, typed="Hello!\na\n")
        (tmp_path / "votes.jsonl").write_text(arena("export")[1], encoding="utf-8")
        other = ["--db", tmp_path / "other.sqlite"]
        assert cli("arena", "import", tmp_path / "votes.jsonl", *other)[1] == "1 vote added, 0 there already\n"
        assert cli("arena", "import", tmp_path / "votes.jsonl", *other)[1] == "0 votes added, 1 there already\n"

    def test_a_wrong_file_adds_nothing(self, arena, tmp_path):
        (tmp_path / "votes.jsonl").write_text('{"winner": "draw", "model_a": "x", "model_b": "y"}')
        code, _, err = arena("import", tmp_path / "votes.jsonl")
        assert code == 2
        assert "line 1: got the outcome 'draw'" in err

    def test_plan(self, cli):
        code, out, _ = cli("arena", "plan", "--win-rate", 0.7)
        assert code == 0
        assert len(out.splitlines()) == 2
        more = cli("arena", "plan", "--win-rate", 0.7, "--contestants", 5)[1]
        assert int(more.split()[-1]) > int(out.split()[-1])

    @pytest.mark.parametrize("name", ["eliza", "lstm", "demo", "greedy"])
    def test_talk_with_one(self, arena, name):
        code, out, err = arena("chat", name, typed="Hello!\n\nHow are you?\n")
        assert (code, err) == (0, "")
        assert len(out.splitlines()) == 2
        assert arena("chat", name, typed="Hello!\n\nHow are you?\n")[1] == out

    def test_elizas_scripts(self, arena, tmp_path):
        assert arena("chat", "eliza", "--strict", typed="Hello!\n")[1].isupper()
        script = tmp_path / "script.txt"
        script.write_text(
            "(WELCOME)\nSTART\n(HELLO ((0) (WHAT A DAY)))\n(MEMORY HELLO (0 = A) (0 = B) (0 = C) (0 = D))\n"
            "(NONE ((0) (AND THEN)))\n"
        )
        code, out, _ = arena("chat", "eliza", "--script", script, typed="Hello\nNo\n")
        assert code == 0
        assert out.splitlines()[0].upper().startswith("WHAT A DAY")
        assert arena("chat", "lstm", "--strict")[0] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_at_a_terminal_both_sides_stand_side_by_side(db, tmp_path):
    terminal = Terminal(tmp_path, ["--db", str(db), "--seed", "3"], 100, "arena")
    try:
        terminal.read_to("q  leave")
        terminal.type("Hello!\n")
        terminal.read_to("│ B")
        terminal.type("b\n")
        terminal.read_to("file ")
        terminal.type("q\n")
        assert terminal.exit_code() == 0
    finally:
        terminal.close()
    assert [vote.outcome for vote in votes_of(db)] == [Outcome.B]
